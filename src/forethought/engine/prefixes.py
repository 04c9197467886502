"""A radix tree over token ids whose nodes own spans of pages, so that no prefix is computed twice."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from forethought.engine.pages import PAGE, Pages, Span, pages_of

CROWD = 1 << 12  # token reads a layer that reading a crowded node once saves, for all requests that need it


@dataclass(eq=False, slots=True)
class Node:
    """A span of tokens after its parent's; `end` is the length of the text up to here.

    `outputs` is what a classifier said after each token; empty for generators. `locks` counts the requests that
    need it. `ends` has the last hidden state of texts that end here, by their lengths: from there a new draft begins without
    computing anything.
    """

    tokens: tuple[int, ...]
    span: Span
    outputs: tuple[float, ...]
    parent: Node | None
    end: int
    used: int = 0
    locks: int = 0
    children: dict[int, Node] = field(default_factory=dict)
    ends: dict[int, Tensor] = field(default_factory=dict)

    @property
    def start(self) -> int:
        return self.end - len(self.tokens)


class PrefixTree:
    """Matches, inserts, locks, and evicts the least recently used leaves that nobody has locked."""

    def __init__(self, pages: Pages) -> None:
        self.pages = pages
        self.root = Node((), Span(0, 0), (), None, 0)
        self.crowded = set[Node]()
        self._clock = 0

    def match(self, ids: Sequence[int]) -> tuple[int, Node]:
        """The length of the longest known beginning of `ids`, and the last node it takes something of. A fork is no more
        than to match the text that it goes on from.
        """
        self._clock += 1
        node, length = self.root, 0
        while length < len(ids):
            child = node.children.get(ids[length])
            if child is None:
                break
            taken = common(child.tokens, ids, length)
            node, length, child.used = child, length + taken, self._clock
            if taken < len(child.tokens):
                break
        return length, node

    def path(self, node: Node, length: int) -> list[tuple[Node, int]]:
        """The nodes down to `node` with how much of each a text of `length` tokens takes."""
        found, here = list[tuple[Node, int]](), node
        while here.parent is not None:
            if here.start < length:
                found.append((here, min(here.end, length) - here.start))
            here = here.parent
        return found[::-1]

    def cut(self, node: Node, length: int) -> Node:
        """The node on the way to `node` that ends at `length`; it is made of the upper part of one if there is none."""
        while length <= node.start and node.parent is not None:
            node = node.parent
        return node if length == node.end else self._split(node, length - node.start)

    def lock(self, node: Node, by: int = 1, below: Node | None = None) -> None:
        """Keep a node and all above it, or all of these `below` another, from eviction, until as many locks are taken back
        (`by` = -1).
        """
        here: Node | None = node
        while here is not below and here is not None:
            here.locks += by
            if (here.locks - 1) * len(here.tokens) >= CROWD:
                self.crowded.add(here)
            elif self.crowded:
                self.crowded.discard(here)
            here = here.parent

    def insert(self, ids: Sequence[int], start: int, kv: Tensor, outputs: Sequence[float]) -> tuple[int, Node]:
        """Add what follows the known beginning of `ids`: `kv` [layers, 2, kv_heads, tokens, head_dim] and `outputs` are those
        of ids[start:].

        Evicts to make room. Returns what `match` would, with a node that ends there: less than all of `ids` where the pool is
        full of what is locked, or where the beginning up to `start` is not known any more.
        """
        length, node = self.match(ids)
        if length < start:
            return length, node
        node = self.cut(node, length)
        if self.pages.room < pages_of(len(ids) - length):
            self.lock(node)
            self.evict(pages_of(len(ids) - length))
            self.lock(node, -1)
        while length < len(ids):
            after = node.span.at + node.span.length if node.parent is not None else None
            span = self.pages.take(len(ids) - length, after)
            if span is None:
                break
            stop = length + span.length
            self.pages.view(span).copy_(kv[:, :, :, length - start : stop - start])
            said = tuple(outputs[length - start : stop - start])
            child = Node(tuple(ids[length:stop]), span, said, node, stop, self._clock)
            node.children[child.tokens[0]] = child
            node, length = child, stop
        return length, node

    def _split(self, node: Node, at: int) -> Node:
        """Cut a node in two and return the upper part, which takes its place. Keys and values stay where they are."""
        assert node.parent is not None
        (place, length), end = node.span, node.start + at
        upper = Node(node.tokens[:at], Span(place, at), node.outputs[:at], node.parent, end, node.used, node.locks)
        node.parent.children[upper.tokens[0]] = upper
        node.tokens, node.span, node.outputs = node.tokens[at:], Span(place + at, length - at), node.outputs[at:]
        node.parent, upper.children = upper, {node.tokens[0]: node}
        upper.ends = {length: node.ends.pop(length) for length in list(node.ends) if length <= end}
        self.lock(node, 0, upper.parent)  # what is crowded is counted anew
        if (place + at) % PAGE:
            self.pages.share(Span(place + at, 1))
        return upper

    def evict(self, need: int) -> None:
        """Forget the leaves that were used longest ago, and their parents once they are leaves, until `need` pages are free
        (and a tenth of the pool with them, so that this is rare) or all that is left is locked.
        """
        if self.pages.room >= need:
            return
        leaves = [(n.used, id(n), n) for n in self.nodes() if not n.children and not n.locks]
        heapq.heapify(leaves)
        while leaves and self.pages.room < max(need, self.pages.count // 10):
            leaf = heapq.heappop(leaves)[2]
            assert leaf.parent is not None
            del leaf.parent.children[leaf.tokens[0]]
            self.pages.free(leaf.span)
            parent = leaf.parent
            if parent is not self.root and not parent.children and not parent.locks:
                heapq.heappush(leaves, (parent.used, id(parent), parent))

    def nodes(self) -> Iterator[Node]:
        stack = list(self.root.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def check_integrity(self) -> None:
        """Raise AssertionError if links, lengths, locks or the count of pages do not agree."""
        users = self.pages.users() * 0
        assert self.crowded == {n for n in self.nodes() if (n.locks - 1) * len(n.tokens) >= CROWD}
        for node in self.nodes():
            assert node.tokens
            assert node.span.length == len(node.tokens)
            assert node.parent is not None
            assert node.parent.children[node.tokens[0]] is node
            assert node.start == node.parent.end
            assert all(node.start < length <= node.end for length in node.ends)
            assert node.locks >= sum(child.locks for child in node.children.values())
            users[node.span.pages] += 1
        assert (users == self.pages.users()).all()
        assert self.pages.used == (users > 0).sum()
        assert 0 <= self.pages.used + self.pages.reserved <= self.pages.count


def common(tokens: Sequence[int], ids: Sequence[int], start: int) -> int:
    """How many of `tokens` agree with ids[start:]."""
    count = min(len(tokens), len(ids) - start)
    if tokens[:count] == ids[start : start + count]:
        return count
    same, differ = 0, count  # so many agree, so many do not all
    while differ - same > 1:
        middle = (same + differ) // 2
        if tokens[same:middle] == ids[start + same : start + middle]:
            same = middle
        else:
            differ = middle
    return same
