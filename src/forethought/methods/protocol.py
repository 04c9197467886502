"""What a method is: a program from a problem to a population of drafts."""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol, runtime_checkable

from forethought.core.draft import Draft
from forethought.core.population import Population
from forethought.core.problem import Problem
from forethought.core.registry import Registry
from forethought.core.scope import Scope
from forethought.methods.by import By

Law = Literal["proper", "invariant", "greedy"]
"""proper: keeps the unnormalised measure in expectation. invariant: a Markov kernel that keeps its target. greedy: neither."""

Need = Literal[
    "continue", "logprobs", "loglikelihood", "controls", "grades", "process", "instructions", "self-evaluation"
]
"""An ability of the model; `grades`: a verifier; `process`: one that grades unfinished drafts; `instructions`: a model that
reads what it is told besides the problem, which the embedded reasoner does not; `self-evaluation`: such a model, or `process`
in its place. Parameters may add to an instance's needs."""


class Method(Protocol):
    """A frozen dataclass whose fields are its parameters, called once a problem."""

    name: ClassVar[str]
    law: ClassVar[Law]
    needs: ClassVar[frozenset[Need]]
    paper: ClassVar[str]

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]: ...


@runtime_checkable
class Saving(Protocol):
    """A method that, on an easy problem, ends before it has begun all `n` drafts."""

    n: int

    def saved(self, made: Population[Draft]) -> int:
        """How many of its `n` drafts a run that made these, without failures, has not begun."""
        ...


methods: Registry[Method] = Registry("method")
