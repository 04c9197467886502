"""Searches and filters with degenerate settings are other methods: one table of pairs that have to agree.

`law`: on the toy world, where every random choice is enumerated, the expected share of each text. `drafts`, `best`, `texts`:
on the ladder, for each of some seeds, the drafts in order, the best by grade, the different texts.
"""

from __future__ import annotations

import zlib
from collections import defaultdict

import pytest

from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.population import Population, posterior
from forethought.core.problem import Problem
from forethought.core.scope import Call, Run, Scope, Seeded
from forethought.methods import By, methods
from forethought.tasks.protocol import Task
from tests.ladder import PROBLEM, Grader, Ladder, LadderTask, grade
from tests.toy import PROBLEM as TOY
from tests.toy import TableVerifier, ToyModel, ToyTask, outcomes

pytestmark = pytest.mark.anyio


class Whole(ToyTask):
    """A step is a whole draft."""

    step_tokens = 3


class Pairs(ToyTask):
    """A step is two tokens."""

    step_break, step_tokens = "\n", 2


class Same(TableVerifier):
    """All drafts are worth the same."""

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        _, cost = await super().grade(draft, problem, task, call)
        return Grade(0.5), cost


class Distinct(TableVerifier):
    """No two texts are worth the same, so that no order breaks a tie."""

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        _, cost = await super().grade(draft, problem, task, call)
        return Grade(zlib.crc32(draft.text.encode()) / 2**32), cost


TASKS = {"": ToyTask, "whole": Whole, "pairs": Pairs}
SAMPLES = "sample(n=2)"
ROWS = [
    # at temperature 0 all is greedy
    ("beam(width=1, expand=1, temperature=0)", "greedy", "drafts"),
    ("beam(width=3, expand=2, temperature=0)", "greedy", "texts"),
    ("dvts(n=4, expand=1, temperature=0)", "greedy", "texts"),
    ("dvts(n=4, expand=4, temperature=0)", "greedy", "texts"),
    ("rebase(n=4, temperature=0)", "greedy", "texts"),
    ("ets(n=4, temperature=0)", "greedy", "texts"),
    ("a-star(temperature=0)", "greedy", "drafts"),
    ("a-star(temperature=0, path=drops)", "greedy", "drafts"),
    ("early-rejection(width=1, expand=1, tokens=1, temperature=0)", "greedy", "drafts"),
    ("early-rejection(tokens=1, temperature=0)", "greedy", "texts"),
    ("best-first(temperature=0)", "greedy", "drafts"),
    ("mcts(n=6, temperature=0)", "greedy", "texts"),
    ("ab-mcts-a(n=6, temperature=0)", "greedy", "texts"),
    ("ab-mcts-m(n=6, temperature=0)", "greedy", "texts"),
    ("particle-filter(n=3, temperature=0)", "greedy", "texts"),
    ("self-eval-beam(temperature=0)", "greedy", "texts"),
    ("phi-decoding(temperature=0, foresight=0)", "greedy", "texts"),
    # one of everything is a sample
    ("beam(width=1, expand=1)", "sample(n=1)", "law"),
    ("dvts(n=1, expand=1)", "sample(n=1)", "law"),
    ("rebase(n=1)", "sample(n=1)", "law"),
    ("ets(n=1)", "sample(n=1)", "law"),
    ("a-star(expand=1)", "sample(n=1)", "law"),
    ("a-star(expand=1, path=drops, weight=0)", "sample(n=1)", "law"),
    ("early-rejection(width=1, expand=1)", "sample(n=1)", "law"),
    ("early-rejection(width=1, expand=1, tokens=1)", "sample(n=1)", "law pairs"),
    ("best-first(draws=1, nodes=1)", "sample(n=1)", "law"),
    ("mcts(n=1)", "sample(n=1)", "law"),
    ("mcts(n=9, expand=1, rollout=False)", "sample(n=1)", "law"),
    ("ab-mcts-a(n=1)", "sample(n=1)", "law"),
    ("ab-mcts-m(n=1)", "sample(n=1)", "law"),
    ("particle-filter(n=1)", "sample(n=1)", "law"),
    ("particle-filter-published(n=1)", "sample(n=1)", "law"),
    ("entropic-particle-filter(n=1)", "sample(n=1)", "law"),
    ("steer(n=1)", "sample(n=1)", "law"),
    ("self-eval-beam(width=1, expand=1)", "sample(n=1)", "law"),
    ("phi-decoding(width=1, depth=0)", "sample(n=1)", "law"),
    ("metropolis-hastings(chains=1, moves=0)", "sample(n=1)", "law"),
    # equal grades choose nothing
    ("beam(width=2, expand=1)", SAMPLES, "law equal"),
    ("beam(width=1, expand=2)", "sample(n=1)", "law equal"),
    ("rebase(n=2)", SAMPLES, "law equal"),
    ("rebase(n=2, temper=0)", SAMPLES, "law equal"),
    ("ets(n=2, cost=0)", SAMPLES, "law equal"),
    ("early-rejection(width=2, expand=1, tokens=1)", SAMPLES, "law equal pairs"),
    ("particle-filter(n=2, ess=1.0)", SAMPLES, "law equal"),
    ("particle-filter-published(n=2)", SAMPLES, "law equal whole"),
    ("entropic-particle-filter(n=2)", SAMPLES, "law equal"),
    ("steer(n=2, strength=0)", SAMPLES, "law"),
    # what is never gone deeper into, or never compared, is repeated sampling
    ("mcts(n=2, expand=2)", SAMPLES, "law"),
    ("ab-mcts-a(n=2, batch=1)", SAMPLES, "law whole"),
    ("ab-mcts-m(n=2, batch=1)", SAMPLES, "law whole"),
    ("dvts(n=2, expand=1)", SAMPLES, "law"),
    ("dvts(n=2, expand=1)", "beam(width=2, expand=1)", "law"),
    ("dvts(n=2, expand=2)", SAMPLES, "law whole"),
    ("rebase(n=2)", SAMPLES, "law whole"),
    ("ets(n=2)", SAMPLES, "law whole"),
    # one search is another
    ("dvts(n=4, expand=4)", "beam(width=1, expand=4)", "best"),
    ("rebase(n=4, temper=0, temperature=0.8)", "beam(width=1, expand=4)", "best"),
    ("rebase(n=4, temper=0, temperature=0.8)", "dvts(n=4, expand=4)", "texts"),
    ("rebase(n=4, temper=1e-6, temperature=0.8)", "rebase(n=4, temper=0, temperature=0.8)", "drafts"),
    ("rebase(n=8, temper=1e9)", "sample(n=8, temperature=1.0)", "count"),
    ("ets(n=9, cost=0)", "rebase(n=9)", "drafts"),
    ("ets(n=9, cost=0, coverage=0)", "rebase(n=9)", "drafts"),
    ("ets(n=9, cost=0, temper=0)", "rebase(n=9, temper=0)", "drafts"),
    ("a-star(n=99, expand=40, weight=0)", "greedy", "drafts"),  # the likeliest path of all
    ("a-star(weight=3.0)", "a-star(weight=0)", "drafts equal"),
    ("a-star(n=1, expand=2, path=drops)", "beam(width=1, expand=2)", "law whole"),
    ("early-rejection(width=1, expand=2, tokens=1, keep=2)", "beam(width=1, expand=2)", "law pairs"),
    ("early-rejection(width=2, expand=1, tokens=1)", "beam(width=2, expand=1)", "law pairs"),
    ("early-rejection(width=1, expand=2, tokens=9)", "beam(width=1, expand=2)", "law"),
    ("best-first(draws=200, expand=1, nodes=1)", "greedy", "drafts"),  # the most frequent step is the likeliest
    ("particle-filter-published(n=2)", "particle-filter(n=2, ess=1.0, resampling=multinomial)", "law whole"),
    ("particle-filter(n=2, ess=1.0, resampling=multinomial)", "particle-filter(n=2, ess=0.0)", "law whole"),
    ("particle-gibbs(n=2, sweeps=1)", "particle-filter(n=2, ess=1.0, resampling=multinomial)", "law whole"),
    ("parallel-tempering(chains=1, n=2, sweeps=1)", "particle-gibbs(n=2, sweeps=1)", "law whole"),
]


async def shares(spelling: str, task: type[ToyTask], verifier: TableVerifier) -> dict[str, float]:
    """The expected share of each text in what a method makes of the toy."""
    method, total = methods.parse(spelling), defaultdict[str, float](float)
    async for chance, pop in outcomes(
        lambda source: method(TOY, By(ToyModel(source), task(), verifier), Scope.root(Run(source)))
    ):
        for p, weight in zip(pop, posterior(pop), strict=True):
            total[p.state.text] += chance * weight
    return dict(total)


async def drafts(spelling: str, seed: int, equal: bool) -> list[str]:
    class Equal(Grader):
        async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
            return Grade(0.5), (await super().grade(draft, problem, task, call))[1]

    by = By(Ladder(), LadderTask(), Equal() if equal else Grader())
    pop: Population[Draft] = await methods.parse(spelling)(PROBLEM, by, Scope.root(Run(Seeded(seed))))
    return [p.state.text for p in pop]


@pytest.mark.parametrize(("left", "right", "how"), ROWS)
async def test_agree(left: str, right: str, how: str) -> None:
    kind, *rest = how.split()
    if kind == "law":
        task = next((TASKS[word] for word in rest if word in TASKS), ToyTask)
        verifier = Same() if "equal" in rest else Distinct()
        one, other = await shares(left, task, verifier), await shares(right, task, verifier)
        assert one == pytest.approx(other, rel=1e-9)
        return
    for seed in range(4):
        one_by_one = [await drafts(spelling, seed, "equal" in rest) for spelling in (left, right)]
        views = {"drafts": list, "best": lambda texts: max(texts, key=grade), "texts": set, "count": len}
        first, second = map(views[kind], one_by_one)  # type: ignore[arg-type, type-var]
        assert first == second
