"""What live rows read together: runs of the tree that are long enough and shared by enough of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from forethought.engine.pages import Run
from forethought.engine.prefixes import Node, PrefixTree
from forethought.engine.rows import Row

SAVING = 512  # token reads a layer that a shared run must save: a few more kernels have to be paid
Runs = tuple[Run, ...]


def plan(rows: Sequence[Row], tree: PrefixTree) -> list[tuple[Runs, Runs]]:
    """For each row the runs of its known tokens that it reads with others, and those that it copies to its slot.

    A run of any level of the tree is shared if reading it once saves `SAVING` token reads.
    """
    paths = [tree.path(row.place.node, row.place.known) for row in rows if row.place is not None]
    users = Counter(node for path in paths for node, _ in path)
    reach = dict[Node, int]()
    for node, taken in (step for path in paths for step in path):
        reach[node] = min(taken, reach.get(node, taken))
    shared = {node: reach[node] for node, count in users.items() if (count - 1) * reach[node] >= SAVING}
    return [_split(path, shared) for path in paths]


def _split(path: Iterable[tuple[Node, int]], shared: dict[Node, int]) -> tuple[Runs, Runs]:
    together, own = list[Run](), list[Run]()
    for node, taken in path:
        reached = shared.get(node, 0)
        if reached:
            _add(together, Run(node.run.at, reached))
        if taken > reached:
            _add(own, Run(node.run.at + reached, taken - reached))
    return tuple(together), tuple(own)


def _add(runs: list[Run], run: Run) -> None:
    """Append a run, to the last one if it goes on there."""
    if runs and runs[-1].at + runs[-1].length == run.at:
        run = Run(runs[-1].at, runs.pop().length + run.length)
    runs.append(run)
