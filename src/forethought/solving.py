"""From a problem to a solution: one run of one method, with its bill."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import anyio.to_thread

from forethought.core.budget import ENTRIES, Budget, amount
from forethought.core.cost import Cost
from forethought.core.draft import Draft
from forethought.core.errors import BudgetEnded, UsageError
from forethought.core.population import Population
from forethought.core.problem import Problem
from forethought.core.registry import brief
from forethought.core.scope import Failures, Run, Scope, Seeded
from forethought.core.store import RunRow, RunStore
from forethought.core.trace import MemoryTrace, Trace
from forethought.methods import By, Method
from forethought.models.names import is_reasoner
from forethought.models.price import Price
from forethought.models.probing import prepare, settle
from forethought.models.protocol import Loads, Request, price_of, weights_in
from forethought.selection import Selection, Verdict, wants_grades
from forethought.tasks import GENERATED
from forethought.tasks.text import Text
from forethought.verifiers import Comparer

NO_ABILITIES = frozenset(
    {"grades", "process", "instructions", "self-evaluation", "comparisons", "texts"}
)  # needs that no model declares
# entries that are limited even where no model counts them: others do, or there is nothing to count
NOT_COUNTED = frozenset({"cached_tokens", "verifier_calls", "verifier_tokens", "seconds", "usd"})
WEIGHTS = ("weights", "verifier_weights")  # the entries of a spec that tell the model's and the verifier's
DEFAULT_BUDGET = Budget({"tokens": 16_000, "seconds": 120})
WAYS_ON = "pull a general model with `forethought pull smollm2` and pass --model smollm2, or name an endpoint with --model openai:MODEL@http://host:port/v1"


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that a run is made of besides its problem and its seed."""

    by: By
    method: Method
    selection: Selection
    budget: Budget = DEFAULT_BUDGET
    failures: Failures = "fail"

    def run(self, seed: int, trace: Trace) -> Run:
        """A run of these parts, about to begin."""
        return Run(Seeded(seed), trace, failures=self.failures, ordered="ordered" in self.by.model.abilities)

    def spec(self) -> dict[str, Any]:
        """The parts by their spellings: what is stored, and what has to agree for a run to be resumed."""
        price = str(price_of(self.by.model) or "")
        return {
            "model": self.by.model.name,
            "task": self.by.task.name,
            "method": repr(self.method),
            "verifier": None if self.by.verifier is None else str(self.by.verifier),
            "selection": repr(self.selection),
            "budget": str(self.budget),
            "failures": self.failures,
            **({"price": price} if price else {}),
            **weights_of(self.by),
        }


def weights_of(by: By) -> dict[str, str]:
    """What the parts that run here are, by the content of their files: other weights make another run."""
    parts: tuple[object, object] = (by.model, by.verifier)
    return {entry: found for entry, part in zip(WEIGHTS, parts, strict=True) if (found := weights_in(part))}


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


def check(problem: Problem, parts: Parts) -> None:
    """Refuse what cannot work, before anything is spent."""
    by, method = parts.by, parts.method
    if is_reasoner(by.model) and by.task.name not in GENERATED:
        raise UsageError(f"the embedded reasoner solves only the tasks {', '.join(GENERATED)}: {WAYS_ON}")
    for part in (method, parts.selection):
        missing = sorted(part.needs - NO_ABILITIES - by.model.abilities)
        if missing:
            able = "the local models (reasoner, smollm2, local:PATH) have it"
            raise UsageError(
                f"{part.name} needs a model with the ability '{missing[0]}', which {by.model.name} lacks; {able}"
            )
        if "instructions" in part.needs and is_reasoner(by.model):
            raise UsageError(
                f"{brief(part)} needs a model that reads instructions; the embedded reasoner reads problems only"
            )
    if "process" in method.needs and (by.verifier is None or not by.verifier.process):
        have = "none was given" if by.verifier is None else f"{by.verifier.name} grades whole drafts only"
        raise UsageError(f"{method.name} needs a verifier that grades steps, such as process; {have}")
    judged = by.verifier is not None and by.verifier.process
    if "self-evaluation" in method.needs and is_reasoner(by.model) and not judged:
        raise UsageError(
            f"{method.name} asks its model about its own steps, and the embedded reasoner reads problems only; "
            "a verifier that grades steps can judge in its place: add --verifier process"
        )
    if "usd" in parts.budget.limits and price_of(by.model) == Price():
        raise UsageError(f"a budget in usd needs the prices of {by.model.name}: add --price prompt=0.15,new=0.6")
    if "grades" in method.needs and by.verifier is None:
        raise UsageError(f"{method.name} needs a verifier: add --verifier")
    if "comparisons" in parts.selection.needs and not isinstance(by.verifier, Comparer):
        have = "none was given" if by.verifier is None else f"{by.verifier.name} cannot"
        raise UsageError(f"{parts.selection.name} needs a verifier that compares drafts, such as judge; {have}")
    if wants_grades(parts.selection) and by.verifier is None:
        raise UsageError(f"the selection {parts.selection.name} needs a verifier: add --verifier")
    check_limits(problem, parts)


def check_limits(problem: Problem, parts: Parts) -> None:
    """Refuse a limit on what the model does not count: it would hold nothing back."""
    model, limits = parts.by.model, parts.budget.limits
    if not limits.keys() - NOT_COUNTED - {"tokens", "calls"}:
        return  # what every model counts
    bound = model.bound(Request(parts.by.task.prompt(problem), max_tokens=1))
    for name in limits:
        if name not in NOT_COUNTED and not amount(bound, name):
            can = ", ".join(n for n in ENTRIES if amount(bound, n) or n in NOT_COUNTED - {"usd"})
            raise UsageError(f"{model.name} does not count {name}, so no budget can limit it; it can limit {can}")


async def solve_with(parts: Parts, problem: Problem, seed: int, store: RunStore | None = None) -> Solution:
    """Run the method within the budget and select from what it made; in a store, go on with a run that was cut off.

    Raises UsageError before anything is spent, ModelError if the model fails and nothing may be dropped.
    """
    await prepare(parts.by.model, parts.budget)
    check(problem, parts)
    await load(parts.by)
    if store is None:
        return await _solved(parts, problem, seed, MemoryTrace())
    spec = asked(parts, problem, seed, "solve")
    row = store.begin(key_of(spec), spec)
    done = row.status == "done"
    try:
        found = await _solved(parts, problem, seed, store.trace(row.id))
    except BaseException:
        if not done:
            store.end(row.id, "interrupted")
        raise
    found = replace(found, run=row.id, recorded=done)
    if not done:
        found = replace(found, notes=[*found.notes, *other_weights(store, row)])
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


def asked(parts: Parts, problem: Problem, seed: int, kind: Literal["solve", "bench"]) -> dict[str, Any]:
    """What a run was asked, as the store keeps it."""
    told = {"problem": problem.text, "reference": problem.reference, "name": problem.name}
    return parts.spec() | told | {"seed": seed, "kind": kind}


def key_of(spec: Mapping[str, Any]) -> str:
    return "|".join(f"{name}={value}" for name, value in sorted(spec.items()))


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
        (at,) = self.at.fork(1)
        verdict = await selection(self.population, problem, by, at)
        self.at.account.join([at.account])
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
            [*notes(parts.by, self), *(f"{name}: {value:.3g}" for name, value in verdict.notes.items())],
            trace=self.at.run.trace,
        )


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
    (at,) = outer.fork(1)
    run.seconds = parts.budget.limits.get("seconds", math.inf)
    try:
        with at.timed():
            made = await parts.method(problem, parts.by, at)
            return Made(made, outer, "budget" if run.short else "done")
    except BudgetEnded:
        pass
    finally:
        outer.account.join([at.account])
        settle(parts.by.model, outer)
    return Made(at.kept or [], outer, "budget")
