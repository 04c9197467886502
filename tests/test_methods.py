"""What every registered method promises, and the cases in which methods must agree with one another."""

from __future__ import annotations

import inspect
import re
from contextlib import nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import get_args

import pytest

import forethought.methods
from forethought.core.budget import Budget, amount
from forethought.core.cost import ZERO, Cost
from forethought.core.draft import UNKNOWN, Draft, Grade
from forethought.core.errors import ModelError, UsageError
from forethought.core.population import Population
from forethought.core.problem import Problem
from forethought.core.scope import Call, Run, Scope, Seeded
from forethought.methods import By, Need, methods
from forethought.models.protocol import Completion, Request
from forethought.selection import selections
from forethought.solving import Parts, Solution, solve_with
from forethought.tasks.protocol import Task
from tests.toy import PROBLEM, TableVerifier, ToyModel, ToyTask, texts

pytestmark = pytest.mark.anyio
every = pytest.mark.parametrize("name", list(methods))
FILES = sorted(Path(inspect.getfile(forethought.methods)).parent.glob("*.py"))


class Counted(TableVerifier):
    """The table of the toy world, which counts what it is asked."""

    def __init__(self) -> None:
        self.spent = ZERO

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        grade, cost = await super().grade(draft, problem, task, call)
        self.spent += cost
        return grade, cost


@dataclass
class Constant(TableVerifier):
    """Gives every draft the same grade."""

    given: Grade = field(default_factory=lambda: Grade(0.5))

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        return self.given, Cost(verifier_calls=1, verifier_tokens=1)


def toy(seed: int = 0) -> ToyModel:
    return ToyModel(Seeded(seed))


async def population(
    spelling: str, by: By, seed: int = 0, budget: Budget | None = None
) -> tuple[Population[Draft], Scope]:
    at = Scope.root(Run(Seeded(seed)), budget)
    return await methods.parse(spelling)(PROBLEM, by, at), at


async def solved(spelling: str, by: By, budget: Budget, seed: int = 0) -> Solution:
    return await solve_with(Parts(by, methods.parse(spelling), selections.parse("first"), budget), PROBLEM, seed)


def read(pop: Population[Draft]) -> list[str]:
    return [p.state.text for p in pop]


# every method


@every
def test_says_what_it_is(name: str) -> None:
    part = methods[name]
    assert part.law in ("proper", "invariant", "greedy")
    assert part.needs <= set(get_args(Need))
    assert part.paper
    text = inspect.getdoc(part) or ""
    assert "Law: " + part.law in text
    assert text.split("\n\n")[0].endswith(".")


@every
def test_is_found_again_by_its_spelling(name: str) -> None:
    method = methods.parse(name)
    assert methods.parse(repr(method)) == method
    assert repr(methods.parse(repr(method))) == repr(method)
    assert method.name == name


@every
@pytest.mark.parametrize("tokens", [0, 1])
async def test_one_token_is_not_enough_but_no_harm(name: str, tokens: int) -> None:
    by = By(toy(), ToyTask(), Counted())
    found = await solved(name, by, Budget({"tokens": tokens}))
    assert found.stopped == "budget"
    assert found.cost.tokens <= tokens
    assert found.answer in (None, ".")


@every
async def test_any_budget_is_kept_and_said(name: str) -> None:
    whole = (await solved(name, By(toy(), ToyTask(), Counted()), Budget({"tokens": 10_000}))).cost.tokens
    for tokens in range(0, min(whole, 40), 3):
        found = await solved(name, By(toy(), ToyTask(), Counted()), Budget({"tokens": tokens}))
        assert found.cost.tokens <= tokens
        if tokens < whole:
            assert found.stopped == "budget"


@every
async def test_the_ledger_is_the_count_of_the_model_and_the_verifier(name: str) -> None:
    by = By(toy(), ToyTask(), Counted())
    _, at = await population(name, by)
    spent = at.account.spent
    assert spent.calls > 0
    entries = ("calls", "prompt_tokens", "cached_tokens", "new_tokens")
    assert [amount(spent, e) for e in entries] == [amount(by.model.spent, e) for e in entries]  # type: ignore[attr-defined]
    assert (spent.verifier_calls, spent.verifier_tokens) == by.verifier.spent[4:6]  # type: ignore[union-attr]


@every
async def test_the_same_seed_gives_the_same_drafts(name: str) -> None:
    first, again = [(await population(name, By(toy(), ToyTask(), Counted()), seed=3))[0] for _ in range(2)]
    assert [(p.state.text, p.logw) for p in first] == [(p.state.text, p.logw) for p in again]


@every
async def test_makes_drafts_of_the_model(name: str) -> None:
    """Of the model alone; but fractured traces have a word in them that the model did not choose."""
    pop, _ = await population(name, By(toy(), ToyTask(), Counted()))
    assert pop
    assert all(p.state.finished and p.done for p in pop)
    chosen = [re.sub("\n?answer: ", "", text) for text in read(pop)] if name == "fractured" else read(pop)
    assert set(chosen) <= texts().keys()


class OutOfOrder(ToyModel):
    """Every call fails."""

    async def extend(self, request: Request, call: Call) -> Completion:
        await super().extend(request, call)
        raise ModelError("the model is out of order")


@every
async def test_where_every_call_fails_and_failures_are_dropped_no_draft_is_finished(name: str) -> None:
    at = Scope.root(Run(Seeded(0), failures="drop"))
    ordered = name in ("confidence-stop", "eager")  # they know a chain by its place, so one that fails ends them
    with pytest.raises(ModelError) if ordered else nullcontext():
        pop = await methods.parse(name)(PROBLEM, By(OutOfOrder(Seeded(0)), ToyTask(), Counted()), at)
        assert not any(p.state.finished for p in pop)


@every
async def test_an_unreadable_verifier_stops_nothing(name: str) -> None:
    pop, _ = await population(name, By(toy(), ToyTask(), Constant(UNKNOWN)))
    assert all(p.state.finished for p in pop)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_method_is_a_short_program(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 110


@pytest.mark.parametrize("spelling", [
    "sample(n=0)", "sample(temperature=-1)", "beam(width=0)", "beam(expand=0)", "beam(temperature=-0.1)",
    "particle-filter(n=0)", "particle-filter(ess=1.5)", "particle-filter(temper=0)", "particle-filter(temperature=-1)",
    "particle-filter-published(n=0)", "particle-filter-published(temper=0.0)", "particle-filter-published(temperature=-1)",
    "sample(temperature=1e999)", "beam(temperature=1e999)", "particle-filter(temper=1e999)",
    "particle-filter(temper_end=0)", "particle-filter(temper_steps=0)", "particle-filter-published(temper_end=-1.0)",
    "entropic-particle-filter(n=0)", "entropic-particle-filter(horizon=0)", "entropic-particle-filter(temperature=-1)",
    "entropic-particle-filter-published(n=0)", "steer(n=0)", "steer(form=product)", "steer(strength=-1)", "steer(ess=2)",
    "steer(of=odds)", "steer(temperature=-1)", "particle-gibbs(n=1)", "particle-gibbs(sweeps=0)", "particle-gibbs(temper=0)",
    "particle-gibbs(temperature=-1)", "parallel-tempering(chains=0)", "parallel-tempering(n=1)",
    "parallel-tempering(hottest=0.5)", "parallel-tempering(sweeps=0)", "metropolis-hastings(chains=0)",
    "metropolis-hastings(moves=-1)", "metropolis-hastings(temper=0)", "metropolis-hastings(temperature=-1)",
])  # fmt: skip
def test_senseless_parameters_are_refused(spelling: str) -> None:
    with pytest.raises(UsageError, match=spelling.partition("(")[0] + ": ") as caught:
        methods.parse(spelling)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", list(methods))
def test_every_number_of_a_method_has_a_least(name: str) -> None:
    anything = {"stop", "threshold"}  # limits of grades and of entropies
    for part in fields(methods.parse(name)):  # type: ignore[arg-type]
        if ("int" in str(part.type) or "float" in str(part.type)) and part.name not in anything:
            with pytest.raises(UsageError, match=f"{name}: .*{part.name}"):
                methods.parse(f"{name}({part.name}=-1001)")


@pytest.mark.parametrize("spelling", [
    "self-eval-beam(rho=1000)", "self-eval-beam(rho=-1000)",
    "sample(n=1, temperature=0)", "beam(width=1, expand=1)", "particle-filter(n=1, ess=0, temper_end=0.1, temper_steps=1)",
    "particle-filter(ess=1)", "entropic-particle-filter(n=1, horizon=1)", "entropic-particle-filter-published(n=1, horizon=1)",
    "steer(n=1, ess=0, strength=0)", "steer(ess=1)", "particle-gibbs(n=2, sweeps=1)", "metropolis-hastings(chains=1, moves=0)",
    "parallel-tempering(chains=1, n=2, hottest=1, sweeps=1)", "best-first(expand=1, draws=1, depth=1, nodes=1, rounds=1)",
    "mcts(n=1, expand=1, batch=1, explore=0)", "ab-mcts-a(n=1, batch=1)", "ab-mcts-m(n=1, batch=1)", "dvts(n=1, expand=1)",
    "rebase(n=1, temper=0)", "ets(n=1, temper=0, cost=0, coverage=0, likeness=0)", "a-star(n=1, expand=1, weight=0)",
    "early-rejection(width=1, expand=1, tokens=1, keep=1)", "self-eval-beam(width=1, expand=1, tau=0, decay=0)",
    "phi-decoding(width=1, expand=1, depth=0, clusters=1, sigma=0, foresight=0, least=0)",
])  # fmt: skip
async def test_the_least_that_makes_sense_is_taken(spelling: str) -> None:
    pop, _ = await population(spelling, By(toy(), ToyTask(), Counted()))
    assert pop
    assert all(p.state.finished for p in pop)


# degenerate cases agree


@pytest.mark.parametrize("spelling", [
    "sample(n=1, temperature=0.0)", "beam(width=1, expand=1, temperature=0)", "beam(width=3, expand=2, temperature=0)",
    "particle-filter(n=1, temperature=0)", "particle-filter-published(n=1, temperature=0)",
    "entropic-particle-filter(n=3, temperature=0)", "entropic-particle-filter-published(n=3, temperature=0)",
    "steer(n=3, temperature=0)", "particle-gibbs(temperature=0)", "parallel-tempering(temperature=0)",
    "metropolis-hastings(temperature=0)",
])  # fmt: skip
async def test_at_temperature_zero_all_are_greedy(spelling: str) -> None:
    by = By(toy(), ToyTask(), Counted())
    assert set(read((await population(spelling, by))[0])) == set(read((await population("greedy", by))[0])) == {"aa."}


@pytest.mark.parametrize("grade", [Grade(0.5), UNKNOWN])
async def test_indifferent_grades_never_resample(grade: Grade) -> None:
    by = By(toy(), ToyTask(), Constant(grade))
    pop, at = await population("particle-filter(n=16, ess=1.0)", by)
    assert "resample" not in {event.kind for event in at.run.trace.events}  # type: ignore[attr-defined]
    assert len({p.logw for p in pop}) == 1
    drawn, _ = await population("particle-filter(n=16, ess=0.0)", By(toy(), ToyTask(), Counted()))
    assert sorted(read(pop)) == sorted(read(drawn))


async def test_a_grade_that_differs_does_resample() -> None:
    _, at = await population("particle-filter(n=16, ess=1.0)", By(toy(), ToyTask(), Counted()))
    assert "resample" in {event.kind for event in at.run.trace.events}  # type: ignore[attr-defined]


async def test_one_sample_is_one_draft_of_weight_one() -> None:
    (particle,), at = await population("sample(n=1)", By(toy(), ToyTask()))
    assert (particle.logw, at.account.spent.calls) == (0.0, 1)


async def test_the_first_samples_do_not_depend_on_how_many_are_drawn() -> None:
    few, many = [(await population(f"sample(n={n})", By(toy(), ToyTask())))[0] for n in (4, 16)]
    assert read(few) == read(many)[:4]


async def test_samples_without_a_number_use_the_budget() -> None:
    model = toy()
    found = await solved("sample(n=None)", By(model, ToyTask()), Budget({"tokens": 100}))
    assert found.stopped == "budget"
    assert 97 < found.cost.new_tokens <= 100
    assert found.cost.new_tokens == model.spent.new_tokens
    assert sum(p.state.finished for p in found.population) >= 100 / 3 - 1


async def test_samples_without_a_number_or_a_budget_are_refused() -> None:
    model = toy()
    for budget in (Budget(), Budget({"seconds": 1})):
        with pytest.raises(UsageError, match="needs a budget in tokens or calls"):
            await solved("sample(n=None)", By(model, ToyTask()), budget)
    assert model.spent == ZERO


async def test_grading_as_it_draws_pays_for_both_or_for_neither() -> None:
    verifier = Counted()
    found = await solved("sample(n=16)", By(toy(), ToyTask(), verifier, grade_drafts=True), Budget({"tokens": 24}))
    finished = [p.state for p in found.population if p.state.finished]
    assert finished
    assert all("table" in draft.grades for draft in finished)
    assert found.cost.verifier_calls == len(finished) == verifier.spent.verifier_calls


async def test_a_beam_keeps_its_width_and_starts_as_wide_as_it_goes_on() -> None:
    pop, at = await population("beam(width=2, expand=3)", By(toy(), ToyTask(), Counted()))
    first = [e for e in at.run.trace.events if e.kind == "sample"][:6]  # type: ignore[attr-defined]
    assert len(pop) == 2
    assert {event.place[:-2] for event in first} == {first[0].place[:-2]}


async def test_a_beam_of_one_that_expands_into_many_takes_the_best_step() -> None:
    pop, _ = await population("beam(width=1, expand=64, temperature=1.0)", By(toy(), ToyTask(), Counted()))
    assert read(pop) == ["bb."]


async def test_a_cut_within_a_character_is_a_cut_and_an_empty_step_is_an_end() -> None:
    class Half(ToyModel):
        async def extend(self, request: Request, call: Call) -> Completion:
            return Completion("", "length", Cost(calls=1, new_tokens=1, critical_tokens=1))

    by = By(Half(Seeded(0)), ToyTask(), Counted())
    assert [p.state.finish for p in (await population("sample(n=1)", by))[0]] == ["length"]
    assert [p.state.finish for p in (await population("beam(width=1, expand=1)", by))[0]] == ["end"]


async def test_a_long_step_goes_on_and_a_draft_ends_at_its_caps() -> None:
    class Long(ToyModel):
        async def extend(self, request: Request, call: Call) -> Completion:
            cost = Cost(calls=1, new_tokens=request.max_tokens, critical_tokens=request.max_tokens)
            return Completion("a" * request.max_tokens, "length", cost)

    class Task10(ToyTask):
        step_break, step_tokens, draft_tokens, max_steps = "\n", 4, 10, 5

    pop, at = await population("beam(width=1, expand=1)", By(Long(Seeded(0)), Task10(), Counted()))
    assert [len(step) for step in pop[0].state.steps] == [4, 4, 2]
    assert pop[0].state.finish == "length"
    assert at.account.spent.critical_tokens == 10
