"""Recorded runs in the format of recorded samples: each run is done once more from its records, and nothing is asked again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from forethought.bench.prefix import as_made, with_grades
from forethought.core.cost import Cost
from forethought.core.draft import Draft
from forethought.core.errors import ForethoughtError, UsageError
from forethought.core.problem import Problem
from forethought.core.scope import Call
from forethought.core.store import RunRow, RunStore
from forethought.methods import methods
from forethought.methods.sample import Sample
from forethought.models.protocol import Ability, Completion, Model, Request
from forethought.parts import Parts
from forethought.selection import Selection, selections, wants_grades
from forethought.selection.votes import graded, mean_logprob
from forethought.solving import Made, populate
from forethought.verifiers import grade_of


class Silent:
    """A model that has said all that it will say."""

    def __init__(self, model: Model) -> None:
        self.name, self._bound = model.name, model.bound
        self.abilities: frozenset[Ability] = model.abilities

    def bound(self, request: Request) -> Cost:
        return self._bound(request)

    async def extend(self, request: Request, call: Call) -> Completion:
        raise ForethoughtError("a record of this run is missing, so it cannot be exported")


def chosen(store: RunStore, number: int | None, method: str | None) -> Sequence[RunRow]:
    """The finished runs to export, which have to be of one method: of this name, or with these parameters.

    Raises UsageError where there is none, or more than one.
    """
    rows = [store.run(number)] if number is not None else list(store.runs())
    if method is not None:
        exact = repr(methods.parse(method))
        rows = [row for row in rows if exact == row.spec["method"] or method == row.spec["method"].split("(")[0]]
    done = [row for row in rows if row.status == "done"]
    if not done:
        why = f"run {number} is {rows[0].status}" if number is not None and rows else "there is none"
        raise UsageError(f"{store.path} has no finished run to export: {why}")
    kinds = sorted({row.spec["method"] for row in done})
    if len(kinds) > 1:
        raise UsageError(f"the runs are of several methods, {'; '.join(kinds)}: say which with --method")
    return done


def rule_of(row: RunRow) -> Selection:
    """The selection of a run, or of those of a bench the first that wants grades."""
    rules = [selections.parse(rule) for rule in split(row.spec["selection"])]
    return next((rule for rule in rules if wants_grades(rule)), rules[0])


async def exported(store: RunStore, row: RunRow, parts: Parts) -> dict[str, Any]:
    """One run, which was made of these parts, as a line of recorded samples."""
    spec = row.spec
    parts = replace(parts, by=replace(parts.by, model=Silent(parts.by.model)))
    problem = Problem(spec["problem"], spec["reference"], spec["name"])
    made = await populate(parts, problem, parts.run(spec["seed"], store.trace(row.id)))
    pop = await with_known_grades(made, parts, problem, rule_of(row), spec["kind"])
    samples = [sample(p.state, problem, parts) for p in pop]
    reference = None if spec["reference"] is None else str(spec["reference"])
    return {"task": spec["task"], "problem": problem.text, "reference": reference, "samples": samples}


async def with_known_grades(made: Made, parts: Parts, problem: Problem, rule: Selection, kind: str) -> Any:
    """The population with the grades that its selection had asked for, at the places where it had."""
    if not wants_grades(rule) or parts.by.verifier is None:
        return made.population
    if kind == "bench":
        cut = isinstance(parts.method, Sample)
        reading = await with_grades(made, as_made(made), parts.by, problem, parts.budget, cut)
        known = {id(old.state): new for old, new in zip(finished(made.population), reading.population, strict=False)}
    else:
        with made.at.inside() as at:
            again = await graded(made.population, problem, parts.by, at)
        known = {id(old.state): new for old, new in zip(finished(made.population), again, strict=True)}
    return [known.get(id(p.state), p) for p in made.population]


def finished(pop: Any) -> Iterator[Any]:
    return (p for p in pop if p.state.finished)


def split(spellings: str) -> list[str]:
    """Spellings that were joined by commas, whose brackets may hold commas too."""
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(spellings):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append(spellings[start:i].strip())
            start = i + 1
    return [*parts, spellings[start:].strip()]


def sample(draft: Draft, problem: Problem, parts: Parts) -> dict[str, Any]:
    """A draft as a recorded sample. Unfinished ones say nothing."""
    answer = parts.by.task.answer(draft.text, problem) if draft.finished else None
    right = False if answer is None else parts.by.task.correct(answer, problem)
    logprob, tokens = mean_logprob(draft), sum(piece.cost.new_tokens for piece in draft.lineage())
    told: dict[str, Any] = {"answer": answer, "text": draft.text}
    if right is not None:
        told["correct"] = bool(right)
    told["new_tokens"] = tokens
    if not math.isnan(logprob):
        told["mean_logprob"] = min(logprob, 0.0)
    verifier = parts.by.verifier
    grade = grade_of(draft, verifier) if verifier is not None else None
    if grade is not None and grade.value is not None:
        told["grades"] = {verifier.name if verifier else "": list(grade.steps) or grade.value}
    return told
