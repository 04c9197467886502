"""Two ways of one density: what a model draws it can score, and both are charged."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from forethought.core.budget import Budget
from forethought.core.cost import Cost
from forethought.core.draft import ROOT, Draft
from forethought.core.errors import BudgetEnded, UsageError
from forethought.core.operators import branch, each
from forethought.core.population import Particle, Population
from forethought.core.scope import Call, Run, Scope, Seeded
from forethought.core.trace import MemoryTrace
from forethought.methods import By
from forethought.models.extend import extend
from forethought.models.likelihood import Given, loglikelihood
from forethought.models.local import Local
from forethought.models.names import model_named
from forethought.models.protocol import Request
from forethought.tasks import GENERATED
from tests import tiny
from tests.toy import NEXT, PROBLEM, ToyModel, expected_measure

pytestmark = pytest.mark.anyio
ASK = ({"role": "user", "content": "chain 5\n"},)


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Local:
    folder = tmp_path_factory.mktemp("likely")
    tiny.generator(folder)
    return Local(folder)


async def test_what_is_drawn_is_scored_the_same() -> None:
    """By the shipped model, whose texts its tokenizer reads back as they were drawn."""
    reasoner, task = model_named("reasoner"), GENERATED["chain"]
    assert isinstance(reasoner, Local)
    request = Request(task.prompt(task.problem(6, 0)), stop=("\n",), max_tokens=40, logprobs=0)
    at, checked = Scope.root(Run(Seeded(3))), 0
    for _ in range(5):
        drawn = await extend(reasoner, request, at)
        if tuple(reasoner.reader.encode(drawn.text)) == drawn.tokens:
            assert await loglikelihood(reasoner, request, drawn.text, at) == pytest.approx(drawn.logprobs, abs=1e-3)
            checked += 1
    assert checked >= 3


async def test_a_recorded_likelihood_is_not_refused_by_a_budget(local: Local) -> None:
    """What was bought in an earlier life is looked up before anyone asks whether it fits."""
    trace = MemoryTrace()
    first = await loglikelihood(local, Request(ASK), "1) 5+2=7\n", Scope.root(Run(Seeded(3), trace)))
    at = Scope.root(Run(Seeded(3), MemoryTrace(trace.events)), Budget({"calls": 0}))
    assert await loglikelihood(local, Request(ASK), "1) 5+2=7\n", at) == first
    assert at.run.physical_calls == 0
    with pytest.raises(BudgetEnded):
        await loglikelihood(local, Request(ASK), "1) 5+2=7\n", at)


async def test_scoring_is_charged_recorded_and_not_done_again(local: Local) -> None:
    at = Scope.root(Run(Seeded(3)), Budget({"calls": 1}))
    first = await loglikelihood(local, Request(ASK), "1) 5+2=7\n", at)
    spent = at.account.spent
    assert (spent.calls, spent.new_tokens, spent.critical_tokens) == (1, 0, 0)
    assert spent.prompt_tokens == len(local.ids(ASK, Draft(ROOT, "1) 5+2=7\n")))
    with pytest.raises(BudgetEnded):
        await loglikelihood(local, Request(ASK), "1) 5+2=7\n", at)
    again = Run(Seeded(3), MemoryTrace(at.run.trace.events))  # type: ignore[attr-defined]
    place = Scope.root(again)
    assert await loglikelihood(local, Request(ASK), "1) 5+2=7\n", place) == first
    assert again.physical_calls == 0
    assert place.account.spent.calls == 1


async def test_a_model_that_cannot_score_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot tell"):
        await loglikelihood(ToyModel(Seeded(0)), Request(ASK), "a", Scope.root())  # type: ignore[arg-type]


class Both(ToyModel):
    abilities = ToyModel.abilities | {"loglikelihood"}

    async def loglikelihood(self, request: Request, continuation: str, call: Call) -> tuple[float, ...]:
        begun = len(request.draft.text)
        call.progress(Cost(calls=1, prompt_tokens=1))
        return tuple(
            0.0 if begun + i == self.deepest and token == "." else math.log(NEXT[token])
            for i, token in enumerate(continuation)
        )


@pytest.mark.parametrize("budget", [None, Budget({"calls": 100})])
async def test_drawing_and_observing_in_one_program_keeps_the_measure(budget: Budget | None) -> None:
    """One token is drawn, the next is observed to be b, the rest is drawn."""

    async def program(by: By, at: Scope) -> Population[Draft]:
        model = Both(by.model.source)  # type: ignore[attr-defined]
        step = replace(by, model=model).step(PROBLEM, 1.0)
        pop = await each(branch([Particle(ROOT)], [2]), step, at)
        pop = await each(pop, Given(model, ASK, "b"), at)
        return await each(pop, step, at)

    have = await expected_measure(program, budget)
    assert have == pytest.approx({".": 0.2, "ab.": 0.5 * 0.3, "bb.": 0.3 * 0.3})
