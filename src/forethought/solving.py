"""From a problem to a solution: one run of one method, with its bill."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import anyio.lowlevel
import anyio.to_thread

from forethought.core.cost import Cost
from forethought.core.draft import Draft
from forethought.core.errors import BudgetEnded
from forethought.core.population import Population
from forethought.core.problem import Problem
from forethought.core.scope import Run, Scope
from forethought.core.store import RunRow, RunStore
from forethought.core.trace import MemoryTrace, Trace
from forethought.methods import By
from forethought.models.probing import prepare, settle
from forethought.models.protocol import Loads
from forethought.parts import WEIGHTS, Parts, asked, key_of
from forethought.refusals import check
from forethought.selection import Selection, Verdict, wants_grades
from forethought.tasks.text import Text
from forethought.verifiers.asking import look


@dataclass(frozen=True, slots=True)
class Solution:
    """An answer with its confidence, its bill, and why the method stopped.

    `recorded` says that the whole run had been made before, and was read from the store.
    """

    answer: str | None
    text: str | None
    confidence: float
    cost: Cost
    stopped: Literal["done", "budget"]
    verdict: Verdict
    population: Population[Draft] = field(repr=False)
    seed: int
    spec: Mapping[str, Any]
    oracle: bool = False
    notes: Sequence[str] = ()
    run: int | None = None
    recorded: bool = False
    trace: Trace = field(default_factory=MemoryTrace, repr=False)

    def as_json(self) -> dict[str, Any]:
        """The solution as the command line prints it with --json."""
        names = ("model", "task", "method", "selection", "verifier", "budget")
        return {
            "answer": self.answer,
            "text": self.text,
            "confidence": self.confidence,
            "cost": self.cost._asdict(),
            "stopped": self.stopped,
            "ranked": [{"answer": r.answer, "probability": r.probability} for r in self.verdict.ranked],
            "seed": self.seed,
            **{name: self.spec[name] for name in names},
            "oracle": self.oracle,
            "notes": list(self.notes),
            "run": self.run,
            "recorded": self.recorded,
        }


async def solve_with(parts: Parts, problem: Problem, seed: int, store: RunStore | None = None) -> Solution:
    """Run the method within the budget and select from what it made; in a store, go on with a run that was cut off.

    A run that is done is read: nothing is asked again, so neither its endpoint nor its weights have to be there to answer.
    Raises UsageError before anything is spent, ModelError if the model fails and nothing may be dropped.
    """
    if store is None:
        await ready([(problem, parts)])
        return await _solved(parts, problem, seed, MemoryTrace())
    spec = asked(parts, problem, seed, "solve")
    row = store.find(key_of(spec), spec)
    if row is not None and row.status == "done" and row.outcome is not None:
        found = await _solved(parts, problem, seed, store.trace(row.id))
        return replace(found, cost=Cost(**row.outcome["cost"]), run=row.id, recorded=True)
    await ready([(problem, parts)])
    return await _stored(parts, problem, seed, store, store.begin(key_of(spec), spec))


async def _stored(parts: Parts, problem: Problem, seed: int, store: RunStore, row: RunRow) -> Solution:
    try:
        found = await _solved(parts, problem, seed, store.trace(row.id))
    except BaseException:
        store.end(row.id, "interrupted")
        raise
    found = replace(found, run=row.id, notes=[*found.notes, *other_weights(store, row)])
    store.end(row.id, "done", found.as_json())
    return found


async def _solved(parts: Parts, problem: Problem, seed: int, trace: Trace) -> Solution:
    made = await populate(parts, problem, parts.run(seed, trace))
    verdict = await made.select(parts.selection, parts.by, problem)
    return made.solution(parts, problem, verdict, seed)


def other_weights(store: RunStore, row: RunRow) -> list[str]:
    """A line where the store has earlier runs of the same words on weights that are not those of this new run."""
    if not row.spec.keys() & set(WEIGHTS):
        return []
    others = ", ".join(str(other.id) for other in store.earlier(row, WEIGHTS))
    return [f"run {others} asked the same of a model with other weights, so this run is a new one"] if others else []


async def ready(wanted: Sequence[tuple[Problem, Parts]]) -> None:
    """Refuse what cannot work, look at the endpoint, refuse what it has shown not to work, and read what runs here.

    Raises UsageError. `wanted` is of one model and one budget.
    """
    for problem, parts in wanted:
        check(problem, parts)
    for _, parts in wanted[:1]:
        await prepare(parts.by.model, parts.budget)
        await look(parts.by.verifier)
    for problem, parts in wanted:
        check(problem, parts)
    for _, parts in wanted[:1]:
        await load(parts.by)


async def load(by: By) -> None:
    """Read what runs here before a run's clock starts: a budget of seconds is for thinking."""
    for part in (by.model, by.verifier, by.task):
        if isinstance(part, Loads):
            await anyio.to_thread.run_sync(part.load)


@dataclass(slots=True)
class Made:
    """A population, the place in which it was made, and whether the budget ended it."""

    population: Population[Draft] = field(repr=False)
    at: Scope
    stopped: Literal["done", "budget"]

    async def select(self, selection: Selection, by: By, problem: Problem) -> Verdict:
        """A verdict within what the budget has left; one grading that does not fit stops it as the method's would."""
        with self.at.inside() as at:
            verdict = await selection(self.population, problem, by, at)
        if at.run.short:
            self.stopped = "budget"
        return verdict

    def solution(self, parts: Parts, problem: Problem, verdict: Verdict, seed: int) -> Solution:
        verifier, chosen = parts.by.verifier, verdict.chosen
        return Solution(
            verdict.answer,
            chosen.text if chosen else None,
            verdict.confidence,
            self.at.cost(),
            self.stopped,
            verdict,
            self.population,
            seed,
            parts.spec(),
            bool(verifier and verifier.oracle(parts.by.task)),
            [
                *silence(parts, problem, self, verdict),
                *notes(parts.by, self),
                *(f"{name}: {value:.3g}" for name, value in verdict.notes.items()),
            ],
            trace=self.at.run.trace,
        )


def silence(parts: Parts, problem: Problem, made: Made, verdict: Verdict) -> list[str]:
    """Why there is no answer, where there is none."""
    by, rule = parts.by, parts.selection
    finished = [p.state for p in made.population if p.state.finished]
    if verdict.answer is not None:
        return []
    if not finished:
        return ["no draft was finished" if any(p.state.text for p in made.population) else "nothing was drawn"]
    if not any(by.task.answer(draft.text, problem) for draft in finished):
        return ["no finished draft states an answer that can be read"]
    graded = " with a grade above 0" if wants_grades(rule) else ""
    return [f"drafts were finished, but {rule.name} found no answer{graded} of which it is sure enough"]


def notes(by: By, made: Made) -> list[str]:
    """What a reader of the solution should know besides, one line each."""
    found, verifier = [], by.verifier
    finished = [p.state.text for p in made.population if p.state.finished]
    if verifier and getattr(verifier, "sandbox", None) == "plain" and made.at.cost().verifier_calls:
        found.append(f"{verifier.name} ran programs with sandbox=plain, which is weaker: no walls, only limits")
    if isinstance(by.task, Text) and len(finished) > 1 and not any(map(by.task.short_answer, finished)):
        found.append("no draft states a short answer, so whole texts were compared and votes cannot merge")
    if made.at.run.dropped:
        found.append(f"{made.at.run.dropped} failed drafts were dropped")
    return found


async def populate(parts: Parts, problem: Problem, run: Run) -> Made:
    """Run the method alone. When the budget ends first, the population is what was last kept."""
    outer = Scope.root(run, parts.budget)
    run.seconds = parts.budget.limits.get("seconds", math.inf)
    try:
        with outer.inside() as at, suppress(BudgetEnded), at.timed():
            await anyio.lowlevel.checkpoint()  # no time at all starts nothing
            made = await parts.method(problem, parts.by, at)
            return Made(made, outer, "budget" if run.short else "done")
    finally:
        settle(parts.by.model, outer)
    return Made(at.kept or [], outer, "budget")
