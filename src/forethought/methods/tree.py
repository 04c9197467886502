"""The tree that searches share: nodes that are drafts, scores backed up along a path, counts of what is pending."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from forethought.core.draft import Draft, Finish


@dataclass(slots=True)
class Scores:
    """How many scores there were, their sum and the sum of their squares."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, score: float) -> None:
        self.n += 1
        self.total += score
        self.squares += score * score

    @property
    def mean(self) -> float:
        return self.total / self.n


@dataclass(slots=True, eq=False)
class Node:
    """A draft in the tree. A step that a sibling has already is that sibling, not another node.

    `below` has the scores of all simulations that ended here or deeper, `wider` of those that ended in a child,
    `deeper` of those that ended further down.
    `pending` simulations through here are in flight, `drawing` of them draw a step from here; `drawn` counts all steps drawn
    from here, in flight or not.
    `closed`: nothing new can come from here.
    """

    draft: Draft
    parent: Node | None = None
    children: dict[tuple[str, Finish | None], Node] = field(default_factory=dict)
    below: Scores = field(default_factory=Scores)
    wider: Scores = field(default_factory=Scores)
    deeper: Scores = field(default_factory=Scores)
    pending: int = 0
    drawing: int = 0
    drawn: int = 0
    closed: bool = False

    def path(self) -> Iterator[Node]:
        """This node, its parent, and so on to the root."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def child(self, draft: Draft) -> Node:
        """The child whose step this draft has just added."""
        key = (draft.new, draft.finish)
        if key not in self.children:
            self.children[key] = Node(draft, self, closed=draft.finish is not None)
        return self.children[key]

    def leave(self) -> None:
        """This step is no longer in the tree."""
        if self.parent is not None:
            self.parent.children.pop((self.draft.new, self.draft.finish), None)

    def begin(self) -> None:
        """A simulation sets out to draw a step from here."""
        self.drawn += 1
        self.drawing += 1
        for node in self.path():
            node.pending += 1

    def end(self) -> None:
        """That simulation is over."""
        self.drawing -= 1
        for node in self.path():
            node.pending -= 1


def back_up(node: Node, score: float) -> None:
    """Book the score of a simulation that drew this node's step."""
    for distance, above in enumerate(node.path()):
        above.below.add(score)
        if distance:
            (above.wider if distance == 1 else above.deeper).add(score)
