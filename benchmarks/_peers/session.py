"""One problem as a peer's method sees it: our model and verifier behind it, counted as ours are."""

from __future__ import annotations

from typing import Protocol

from forethought.core.cost import ZERO, Cost
from forethought.core.draft import ROOT, Draft
from forethought.core.problem import Problem
from forethought.core.scope import Call, Seeded
from forethought.methods import By
from forethought.models.protocol import Request

END = "<end>"  # its-hub knows the end of a text by a string in it


class Session(Protocol):
    """What a peer may ask for on one problem."""

    async def extend(self, so_far: str, stop: str | None) -> str:
        """What comes after `so_far`, with END where the model ended its text."""
        ...

    async def grade(self, text: str) -> float: ...


class Counted:
    """A session on our model and verifier. Concurrent calls meet in the same engines as ours do.

    Tokens are counted as our ledger counts them: each once when it is generated, each once when the verifier reads it,
    and nothing again for a text that has a grade.
    """

    def __init__(self, by: By, problem: Problem, seed: int, temperature: float) -> None:
        self._by, self._problem, self._seeds, self._temperature = by, problem, Seeded(seed), temperature
        self._drafts: dict[str, Draft] = {"": ROOT}
        self._asked = 0
        self.spent: Cost = ZERO

    async def extend(self, so_far: str, stop: str | None) -> str:
        task, draft = self._by.task, self._drafts[so_far]
        most = task.draft_tokens if stop is None else task.step_tokens
        request = Request(
            task.prompt(self._problem), draft, most, (stop,) if stop else (), temperature=self._temperature
        )
        done = await self._by.model.extend(request, self._call())
        self.spent += done.cost
        size = draft.size + done.cost.new_tokens
        finish = "end" if done.finish == "end" else None
        whole = so_far + done.text
        if whole not in self._drafts or finish:
            self._drafts[whole] = Draft(draft, done.text, done.tokens, done.logprobs, size, finish, done.cost)
        return done.text + (END if finish else "")

    async def grade(self, text: str) -> float:
        verifier, draft = self._by.verifier, self._drafts[text]
        assert verifier is not None
        if str(verifier) not in draft.grades:
            grade, cost = await verifier.grade(draft, self._problem, self._by.task, self._call())
            self.spent += cost
            draft = self._drafts[text] = draft.graded(str(verifier), grade)
        value = draft.grades[str(verifier)].value
        return 0.0 if value is None else value

    def _call(self) -> Call:
        self._asked += 1
        return Call((self._asked,), self._seeds.seed((self._asked,)))
