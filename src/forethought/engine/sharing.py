"""What live rows read together: spans of the tree that are long enough and shared by enough of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence, Set

from forethought.engine.pages import Span
from forethought.engine.prefixes import Node, PrefixTree
from forethought.engine.rows import Place, Row

SAVING = 512  # token reads a layer that a shared span must save: a few more kernels have to be paid
Spans = tuple[Span, ...]


def plan(rows: Sequence[Row], tree: PrefixTree) -> list[tuple[Spans, Spans]]:
    """For each row the spans of its known tokens that it reads where they lie, and those that it copies to its slot.

    A span of any level of the tree is shared if reading it once saves `SAVING` token reads. What few rows would copy so much
    of that the slots of all were longer stays where it is, too.
    """
    paths = [tree.path(row.seat.node, row.seat.known) for row in rows]
    users = Counter(node for path in paths for node, _ in path)
    shared = {node for node, count in users.items() if (count - 1) * len(node.tokens) >= SAVING}
    copied = [sum(len(node.tokens) for node, _ in path if node not in shared) for path in paths]
    shared |= {node for i in _long(copied) for node, _ in paths[i]}
    return [_split(path, shared) for path in paths]


def in_place(place: Place, tree: PrefixTree, crowded: Set[Node]) -> tuple[Spans, Spans]:
    """The spans of its known tokens that a row reads together with others, because these are `crowded`, and those that it reads
    alone, where nothing has to be copied.
    """
    return _split(tree.path(place.node, place.known), crowded)


def _long(copied: Sequence[int]) -> list[int]:
    """The rows that copy most, as many as make the rectangle of all slots and the one in which these are read smallest."""
    order = sorted(range(len(copied)), key=copied.__getitem__, reverse=True)
    lengths = [*(copied[i] for i in order), 0]  # of the slots if so many stay where they are
    areas = [len(order) * rest + n * lengths[0] + SAVING * (n > 0) for n, rest in enumerate(lengths)]
    return order[: areas.index(min(areas))]


def _split(path: Iterable[tuple[Node, int]], shared: Set[Node]) -> tuple[Spans, Spans]:
    """Whole nodes: a row's known tokens end with one."""
    together, own = list[Span](), list[Span]()
    for node, _ in path:
        _add(together if node in shared else own, node.span)
    return tuple(together), tuple(own)


def _add(spans: list[Span], span: Span) -> None:
    """Append a span, to the last one if it goes on there."""
    if spans and spans[-1].at + spans[-1].length == span.at:
        span = Span(spans[-1].at, spans.pop().length + span.length)
    spans.append(span)
