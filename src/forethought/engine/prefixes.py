"""A radix tree over token ids whose nodes own keys and values, so that no prefix is computed twice."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(eq=False, slots=True)
class Node:
    """A run of tokens after its parent's: keys and values [2, layers, kv_heads, tokens, head_dim].

    `outputs` [tokens] is what a classifier said after each token; empty for generators.
    """

    tokens: tuple[int, ...]
    kv: Tensor
    outputs: Tensor
    parent: Node | None
    used: int = 0
    children: dict[int, Node] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return self.kv.numel() * self.kv.element_size()


class PrefixTree:
    """Matches, inserts, and evicts the least recently used leaves above `capacity` bytes."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.bytes = capacity, 0
        self._root = Node((), torch.empty(0), torch.empty(0), None)
        self._clock = 0

    def match(self, ids: Sequence[int]) -> tuple[int, list[tuple[Node, int]]]:
        """The longest known beginning of `ids`: its length, and the nodes with how much of each it takes."""
        self._clock += 1
        node, length, path = self._root, 0, list[tuple[Node, int]]()
        while length < len(ids):
            child = node.children.get(ids[length])
            if child is None:
                break
            taken = common(child.tokens, ids, length)
            path.append((child, taken))
            length, child.used = length + taken, self._clock
            if taken < len(child.tokens):
                break
            node = child
        return length, path

    def insert(self, ids: Sequence[int], start: int, kv: Tensor, outputs: Tensor) -> None:
        """Add what follows the known beginning of `ids`. `kv` and `outputs` are those of ids[start:].

        Nothing is added if the beginning up to `start` is not known any more.
        """
        length, path = self.match(ids)
        if length < start or length == len(ids):
            return
        node, taken = path[-1] if path else (self._root, 0)
        if taken < len(node.tokens):
            node = self._split(node, taken)
        skip = length - start
        child = Node(tuple(ids[length:]), kv[:, :, :, skip:].clone(), outputs[skip:].clone(), node, self._clock)
        node.children[child.tokens[0]] = child
        self.bytes += child.bytes
        self._evict()

    def _split(self, node: Node, at: int) -> Node:
        """Cut a node in two and return the upper part, which takes its place."""
        assert node.parent is not None
        upper = Node(node.tokens[:at], node.kv[:, :, :, :at].clone(), node.outputs[:at], node.parent, node.used)
        node.parent.children[upper.tokens[0]] = upper
        node.tokens, node.kv, node.outputs = node.tokens[at:], node.kv[:, :, :, at:].clone(), node.outputs[at:]
        node.parent, upper.children = upper, {node.tokens[0]: node}
        return upper

    def _evict(self) -> None:
        """Forget the leaves that were used longest ago, and their parents once they are leaves, down to some headroom."""
        if self.bytes <= self.capacity:
            return
        leaves = [(n.used, id(n), n) for n in self.nodes() if not n.children]
        heapq.heapify(leaves)
        while leaves and self.bytes > self.capacity * 0.9:
            leaf = heapq.heappop(leaves)[2]
            assert leaf.parent is not None
            del leaf.parent.children[leaf.tokens[0]]
            self.bytes -= leaf.bytes
            if leaf.parent is not self._root and not leaf.parent.children:
                heapq.heappush(leaves, (leaf.parent.used, id(leaf.parent), leaf.parent))

    def nodes(self) -> Iterator[Node]:
        stack = list(self._root.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def check_integrity(self) -> None:
        """Raise AssertionError if links, sizes or the byte count do not agree."""
        for node in self.nodes():
            assert node.tokens
            assert node.kv.shape[3] == len(node.tokens)
            assert node.parent is not None
            assert node.parent.children[node.tokens[0]] is node
        assert self.bytes == sum(node.bytes for node in self.nodes())


def common(tokens: Sequence[int], ids: Sequence[int], start: int) -> int:
    """How many of `tokens` agree with ids[start:]."""
    count = min(len(tokens), len(ids) - start)
    return next((i for i in range(count) if tokens[i] != ids[start + i]), count)
