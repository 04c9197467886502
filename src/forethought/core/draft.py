"""Drafts: immutable generations that share their beginnings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from forethought.core.cost import ZERO, Cost

Finish = Literal["end", "length"]
"""Why a draft goes no further: the model ended it, or a cap cut it off. A cut draft is unfinished and never votes."""


@dataclass(frozen=True, slots=True)
class Grade:
    """What a verifier thinks of a draft: `value` in [0, 1] where it is a probability, and one entry a step if it has them.

    `cost` is what grading took.
    `value` is None where the verifier could not read its own output: unknown is never a made-up middle value.
    """

    value: float | None
    steps: tuple[float, ...] = ()
    cost: Cost = ZERO


UNKNOWN = Grade(None)
UNGRADED: Mapping[str, Grade] = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A partial or finished generation: a link to its parent and what was added to it.

    `new` is the added text, `tokens` and `logprobs` its token ids and their natural log-probabilities where the backend
    tells them (else empty), `size` the number of tokens generated from the root to here, `cost` what `new` cost.
    `vocabulary` is the one that `tokens` are ids of: in another they would be other words.
    A fork is a shared reference.
    `eq` is identity: two samples that read the same are still two samples.
    """

    parent: Draft | None = field(default=None, repr=False)
    new: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    size: int = 0
    finish: Finish | None = None
    cost: Cost = ZERO
    grades: Mapping[str, Grade] = field(default_factory=lambda: UNGRADED)
    vocabulary: str = ""

    def lineage(self) -> Iterator[Draft]:
        """This draft, its parent, and so on to the root."""
        draft: Draft | None = self
        while draft is not None:
            yield draft
            draft = draft.parent

    @property
    def text(self) -> str:
        """The whole text, from the root to here."""
        if self.parent is None or self.parent.parent is None:
            return self.new if self.parent is None else self.parent.new + self.new
        pieces = [self.new]
        draft: Draft | None = self.parent
        while draft is not None:  # not by `lineage`: this is on the path of every call
            pieces.append(draft.new)
            draft = draft.parent
        return "".join(pieces[::-1])

    @property
    def ids(self) -> tuple[int, ...]:
        """The token ids from the root to here; empty unless the backend told all of them."""
        pieces = [d.tokens for d in self.lineage()][::-1]
        return tuple(i for piece in pieces for i in piece)

    @property
    def steps(self) -> list[str]:
        """The pieces in order, one a step where the draft was made step by step."""
        return [d.new for d in self.lineage() if d.new][::-1]

    def graded(self, name: str, grade: Grade) -> Draft:
        """The same draft with one more grade."""
        grades = MappingProxyType({**self.grades, name: grade})
        own = self.new, self.tokens, self.logprobs, self.size, self.finish, self.cost
        return Draft(self.parent, *own, grades, self.vocabulary)

    @property
    def finished(self) -> bool:
        return self.finish == "end"


ROOT = Draft()
