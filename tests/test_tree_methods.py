"""All searches over a tree of steps: degenerate cases, budgets, failures, resumption, schedules, speed."""

from __future__ import annotations

import gc
import random
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Sequence

import anyio
import numpy as np
import pytest

from forethought.api import solve_sync
from forethought.core.budget import Budget
from forethought.core.draft import Draft
from forethought.core.errors import UsageError
from forethought.core.population import Population
from forethought.core.scope import Scope
from forethought.core.trace import MemoryTrace
from forethought.methods import By, methods
from forethought.methods.ab_mcts_a import AbMctsA
from forethought.methods.mcts import Mcts
from forethought.methods.mixed import fit
from forethought.methods.simulate import Search
from forethought.methods.thompson import Arms
from forethought.methods.tree import Node, back_up
from forethought.tasks import generated_task
from tests.ladder import PROBLEM, Grader, Ladder, LadderTask, climb
from tests.toy import PROBLEM as TOY
from tests.toy import Program, ToyTask, expected_measure, texts

pytestmark = pytest.mark.anyio
SEARCHES = [
    "mcts", "mcts(rollout=False)", "mcts(batch=1, n=12)", "ab-mcts-a", "ab-mcts-a(rollout=False)", "ab-mcts-a(prior=beta)",
    "ab-mcts-m", "ab-mcts-m(rollout=False)", "self-eval-beam(expand=4, width=3)", "phi-decoding",
    "phi-decoding(least=0, threshold=0.5)", "beam", "dvts", "rebase", "ets", "a-star", "a-star(path=drops, n=3)",
    "early-rejection(tokens=1)", "early-rejection(tokens=1, keep=8)", "best-first(draws=4, expand=2, nodes=5)",
]  # fmt: skip
every = pytest.mark.parametrize("spelling", SEARCHES)


class Whole(ToyTask):
    """A step is a whole draft."""

    step_tokens = 3


def program(spelling: str, equal: bool = False) -> Program:
    """The method on the toy world; with `equal`, its drafts have the same weight each and one in all."""

    async def run(by: By, at: Scope) -> Population[Draft]:
        pop = await methods.parse(spelling)(TOY, by, at)
        return [type(p)(p.state, -float(np.log(len(pop))), True) for p in pop] if equal else pop

    return run


# degenerate cases


@pytest.mark.parametrize("spelling", [
    "mcts(n=1)", "mcts(n=2, expand=2, explore=0.0)", "mcts(n=2, expand=5, batch=1)",  # never below the root
    "mcts(n=9, expand=1, rollout=False)", "mcts(n=9, expand=1, rollout=False, explore=0.0, batch=1)",  # one path
    "ab-mcts-a(n=1)", "ab-mcts-m(n=1)", "ab-mcts-a(n=2, batch=2)", "ab-mcts-m(n=2, batch=2)",  # an empty tree goes wider
    "self-eval-beam(width=1, expand=1)", "self-eval-beam(width=1, expand=1, tau=0.0)",
    "phi-decoding(width=1, depth=0)", "phi-decoding(width=2, depth=0)",  # no foresight
])  # fmt: skip
async def test_is_a_sample(spelling: str) -> None:
    assert await expected_measure(program(spelling, equal=True)) == pytest.approx(texts(), rel=1e-9)


@pytest.mark.slow
async def test_one_path_with_foresight_is_a_sample() -> None:
    for spelling in ("phi-decoding(width=1, expand=1, depth=3)", "phi-decoding(width=1, expand=1, depth=1)"):
        assert await expected_measure(program(spelling)) == pytest.approx(texts(), rel=1e-9)


@pytest.mark.parametrize("spelling", [
    "ab-mcts-a(n=2, batch=1)", "ab-mcts-m(n=2, batch=1)", "ab-mcts-m(n=2, batch=1, rollout=False)",
    "ab-mcts-a(n=2, batch=1, prior=beta, rollout=False)", "mcts(n=2, expand=3, batch=1, rollout=False)",
])  # fmt: skip
async def test_a_search_that_never_deepens_is_repeated_sampling(spelling: str) -> None:
    assert await expected_measure(program(spelling, equal=True), task=Whole()) == pytest.approx(texts(), rel=1e-9)


@pytest.mark.parametrize("spelling", [
    "mcts(temperature=0)", "mcts(temperature=0, rollout=False)", "ab-mcts-a(temperature=0)", "ab-mcts-m(temperature=0)",
    "self-eval-beam(temperature=0)", "phi-decoding(temperature=0, foresight=0)",
])  # fmt: skip
async def test_at_temperature_zero_all_are_greedy(spelling: str) -> None:
    pop, _, _ = await climb(spelling)
    (text,) = {p.state.text for p in pop}
    assert text == (await climb("greedy"))[0][0].state.text == "a\na\na\na\n"


# budgets, failures, resumption, schedules


@every
async def test_random_budgets_are_kept(spelling: str) -> None:
    chance = random.Random(spelling)
    for _ in range(25):
        limits = {
            "tokens": chance.randrange(120),
            "calls": chance.randrange(1, 60),
            "verifier_calls": chance.randrange(40),
        }
        limits |= {"critical_tokens": chance.randrange(1, 20)} if chance.random() < 0.3 else {}
        limits = {name: limits[name] for name in chance.sample(list(limits), chance.randrange(1, len(limits) + 1))}
        pop, at, by = await climb(spelling, chance.randrange(99), Budget(limits))
        spent = at.account.cost
        assert all(
            (spent.tokens if name == "tokens" else getattr(spent, name)) <= most for name, most in limits.items()
        )
        assert spent.calls == by.model.spent.calls  # type: ignore[attr-defined]
        assert spent.verifier_calls == by.verifier.spent.verifier_calls  # type: ignore[union-attr]
        assert all(p.done for p in pop if p.state.finish)


@pytest.mark.parametrize("spelling", ["mcts", "ab-mcts-a", "ab-mcts-m", "phi-decoding(width=2)"])
async def test_what_was_found_is_there_when_the_budget_ends(spelling: str) -> None:
    whole, _, _ = await climb(spelling, budget=Budget({"tokens": 100_000}))
    part, at, _ = await climb(spelling, budget=Budget({"tokens": 90}))
    found = [p.state.text for p in part if p.state.finished]
    assert at.account.spent.tokens > 70
    assert found
    if spelling != "phi-decoding(width=2)":  # its foresights are no answers of a whole run
        assert found == [p.state.text for p in whole][: len(found)]


@every
async def test_goes_on_from_any_beginning_of_a_trace(spelling: str) -> None:
    for budget in (None, Budget({"tokens": 100})):
        trace = MemoryTrace()
        pop, at, _ = await climb(spelling, 3, budget, trace)
        calls = at.account.cost.calls + at.account.cost.verifier_calls
        for cut in range(0, len(trace.events) + 1, 17):
            before = trace.events[:cut]
            again, where, _ = await climb(spelling, 3, budget, MemoryTrace(before))
            assert [(p.state.text, p.logw) for p in again] == [(p.state.text, p.logw) for p in pop]
            assert where.account.cost._replace(seconds=0) == at.account.cost._replace(seconds=0)
            assert where.run.physical_calls == calls - sum(e.kind in ("sample", "grade") for e in before)


@every
def test_the_schedule_has_no_part(spelling: str) -> None:
    found = []
    for backend in ("asyncio", "trio"):
        for noise in (1, 2):
            for budget in (None, Budget({"tokens": 110})):
                pop, at, _ = anyio.run(climb, spelling, 5, budget, None, noise, backend=backend)
                found.append(([(p.state.text, p.logw) for p in pop], at.account.cost.tokens))
    assert found[::2] == found[:1] * 4
    assert found[1::2] == found[1:2] * 4


@every
async def test_failed_simulations_are_dropped(spelling: str) -> None:
    for seed in range(4):
        pop, at, by = await climb(spelling, seed, failing=4, failures="drop")
        assert at.run.dropped
        assert at.account.spent.calls == by.model.spent.calls  # type: ignore[attr-defined]
        assert all(p.done for p in pop if p.state.finish)


@pytest.mark.parametrize("spelling", [
    "mcts(n=0)", "mcts(expand=0)", "mcts(batch=0)", "mcts(explore=-0.1)", "mcts(temperature=-1)", "ab-mcts-a(n=0)",
    "ab-mcts-a(batch=0)", "ab-mcts-a(temperature=-1)", "ab-mcts-m(n=0)", "ab-mcts-m(batch=0)", "ab-mcts-m(temperature=-1)",
    "self-eval-beam(width=0)", "self-eval-beam(expand=0)", "self-eval-beam(tau=-1)", "self-eval-beam(decay=-0.5)",
    "self-eval-beam(temperature=-1)", "phi-decoding(width=0)", "phi-decoding(expand=0)", "phi-decoding(depth=-1)",
    "phi-decoding(clusters=0)", "phi-decoding(sigma=-1)", "phi-decoding(temper=0)", "phi-decoding(temperature=-1)",
    "phi-decoding(foresight=-1)", "phi-decoding(least=-1)", "phi-decoding(threshold=-0.1)", "phi-decoding(threshold=1.1)",
    "dvts(n=0)", "dvts(expand=0)", "dvts(n=6, expand=4)", "dvts(temperature=-1)", "rebase(n=0)", "rebase(temper=-1)",
    "rebase(temperature=-0.5)", "ets(n=0)", "ets(temper=-1)", "ets(cost=-1)", "ets(coverage=-1)", "ets(likeness=-1)",
    "ets(temperature=-1)", "a-star(n=0)", "a-star(expand=0)", "a-star(weight=-1)", "a-star(path=length)",
    "a-star(temperature=-1)", "early-rejection(width=0)", "early-rejection(expand=0)", "early-rejection(tokens=0)",
    "early-rejection(keep=3)", "early-rejection(keep=17)", "early-rejection(temperature=-1)", "best-first(expand=0)",
    "best-first(draws=0)", "best-first(depth=0)", "best-first(nodes=0)", "best-first(rounds=0)", "best-first(moves=some)",
    "best-first(temperature=-1)",
])  # fmt: skip
def test_senseless_parameters_are_refused(spelling: str) -> None:
    with pytest.raises(UsageError, match=spelling.partition("(")[0] + ": ") as caught:
        methods.parse(spelling)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spelling", ["mcts", "ab-mcts-a", "ab-mcts-m", "mcts(rollout=False)", "ab-mcts-a(rollout=False)"]
)
async def test_needs_a_verifier_that_fits(spelling: str) -> None:
    class Outcome(Grader):
        process = False

    model = Ladder()
    for verifier in (None, Outcome()):
        if verifier is None or "rollout" in spelling:
            with pytest.raises(UsageError, match=r"a tree search .*needs a verifier"):
                await methods.parse(spelling)(PROBLEM, By(model, LadderTask(), verifier), Scope.root())
    assert not model.spent.calls


# the embedded models


@pytest.mark.parametrize(("spelling", "verifier"), [
    ("mcts(n=8)", "process"), ("mcts(n=8, rollout=False)", "process"), ("ab-mcts-a(n=8)", "process"),
    ("ab-mcts-m(n=8)", "process"), ("self-eval-beam(width=2, expand=2)", "process"),
    ("phi-decoding(width=2, expand=2)", None), ("dvts(n=4, expand=2)", "process"), ("rebase(n=4)", "process"),
    ("ets(n=4)", "process"), ("a-star", "process"), ("early-rejection(width=2, expand=2, tokens=3)", "process"),
    ("best-first(draws=4, nodes=4)", "process"),
])  # fmt: skip
def test_solves_easy_problems_with_the_embedded_models(spelling: str, verifier: str | None) -> None:
    task = generated_task("chain")
    problems = [task.problem(task.difficulties[0], i) for i in range(3)]
    found = [solve_sync(p, method=spelling, verifier=verifier, budget="tokens=3000") for p in problems]
    assert [task.correct(f.answer or "", p) for f, p in zip(found, problems, strict=True)].count(True) >= 2
    assert all(f.cost.tokens <= 3000 for f in found)


# speed and memory, without the core


def scripted_search(method: Mcts | AbMctsA, n: int) -> Search:
    """A search whose simulations cost nothing: every step is another one, scores at random."""
    chance, rng = random.Random(1), np.random.default_rng(1)
    search = Search(PROBLEM, By(Ladder(), LadderTask(), Grader()), 0.8, rollout=True)
    arms: defaultdict[Node, Arms] = defaultdict(Arms)
    done = 0
    while done < n:
        if isinstance(method, Mcts):
            leaves = method.select(search.root, 8)
        else:
            leaves = [method.descend(search.root, arms, rng) for _ in range(8)]
            for leaf in leaves:
                leaf.begin()
                method.learn(leaf, arms)
        for leaf in leaves:
            leaf.end()
            child = leaf.child(Draft(leaf.draft, f"{done}\n"))
            back_up(child, chance.random())
            if isinstance(method, AbMctsA):
                method.learn(child, arms)
            done += 1
    return search


@pytest.mark.slow
@pytest.mark.parametrize(("method", "most"), [(Mcts(), 1.0), (AbMctsA(), 3.0)])
def test_ten_thousand_simulations_take_little_of_the_methods_own_time(method: Mcts | AbMctsA, most: float) -> None:
    start = time.process_time()
    scripted_search(method, 10_000)
    took = time.process_time() - start
    print(f"{method}: {took:.2f} s of CPU time")
    assert took < most


@pytest.mark.parametrize("method", [Mcts(), AbMctsA()])
def test_memory_is_linear_in_nodes(method: Mcts | AbMctsA) -> None:
    used = []
    for n in (300, 600, 1200):
        tracemalloc.start()
        search = scripted_search(method, n)
        gc.collect()
        used.append(tracemalloc.get_traced_memory()[0] / n)
        tracemalloc.stop()
        del search
    assert max(used) < 1.3 * min(used)
    assert max(used) < 4000


@pytest.mark.slow
def test_a_fit_of_three_hundred_scores_is_fast() -> None:
    chance = np.random.default_rng(0)
    for children in (3, 30, 300):
        groups = defaultdict[int, list[float]](list)
        for k in range(300):
            groups[k % children].append(float(chance.random()))
        sums: Sequence[list[float]] = [
            [len(g) for g in groups.values()], [sum(g) for g in groups.values()],
            [sum(x * x for x in g) for g in groups.values()],
        ]  # fmt: skip
        start = time.process_time()
        for _ in range(20):
            fit(*sums).predict(chance)  # type: ignore[arg-type]
        took = (time.process_time() - start) / 20
        print(f"{children} children: {took * 1000:.2f} ms")
        assert took < 0.02
