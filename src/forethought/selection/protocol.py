"""What a selection is: a rule from a population to a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from forethought.core.draft import Draft
from forethought.core.population import Population
from forethought.core.problem import Problem
from forethought.core.registry import Registry
from forethought.core.scope import Scope
from forethought.methods.by import By

if TYPE_CHECKING:
    from forethought.selection.votes import Tally, Votes

Need = Literal["grades", "logprobs", "texts", "comparisons", "instructions"]
"""grades: a verifier. logprobs: the log-probabilities of the drafts' tokens. texts: the drafts' whole texts, which only
recorded samples may lack. comparisons: a verifier that compares drafts. instructions: a model that reads what it is told
besides the problem. Parameters may add to an instance's needs."""


class Ranked(NamedTuple):
    answer: str
    probability: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Answers with probabilities, best first, and the draft that speaks for the first of them.

    The probabilities and `abstained`, the share that speaks for no answer, sum to one. With nothing ranked, the verdict
    abstains. `notes` are further numbers that the selection found, by name.
    """

    ranked: tuple[Ranked, ...] = ()
    chosen: Draft | None = None
    abstained: float = 1.0
    notes: Mapping[str, float] = field(default_factory=dict)

    @property
    def answer(self) -> str | None:
        return self.ranked[0].answer if self.ranked else None

    @property
    def confidence(self) -> float:
        return self.ranked[0].probability if self.ranked else 0.0

    @property
    def leading(self) -> Sequence[str]:
        """The answers that share the first place: each gets an equal share of the credit."""
        top = self.confidence
        return [r.answer for r in self.ranked if r.probability >= top * (1 - 1e-12)]


class Selection(Protocol):
    """A frozen dataclass whose fields are its parameters.

    It counts finished drafts only, grades those that it needs and that have no grade yet, inside the same budget, and
    answers from what could be graded if that ends.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]]
    paper: ClassVar[str]

    async def __call__(self, pop: Population[Draft], problem: Problem, by: By, at: Scope) -> Verdict: ...


class Counting(Protocol):
    """An array program over a table of ballots: it counts, for many choices of them at once, and asks nobody."""

    needs: ClassVar[frozenset[Need]]

    def tally(self, votes: Votes) -> Tally: ...


@runtime_checkable
class Tallying(Selection, Counting, Protocol):
    """A selection that only counts."""


Known = tuple["Votes", NDArray[np.bool_]]
"""Ballots of problems whose answers are known: which of (rows, classes) are right."""


@runtime_checkable
class Fitted(Tallying, Protocol):
    """A selection with parameters that are learnt from problems other than those it is used on."""

    def fit(self, known: Sequence[Known]) -> Self:
        """The same selection with what was learnt. Raises UsageError where these problems cannot teach it."""
        ...


def wants_grades(selection: Selection) -> bool:
    """Whether it reads the grades of finished drafts."""
    return "grades" in selection.needs


selections: Registry[Selection] = Registry("selection")
