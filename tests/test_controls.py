"""Controls of sampling as methods ask for them, on the embedded reasoner, and what a model says that lacks them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest
from torch import Tensor

from forethought.api import solve
from forethought.core.draft import ROOT, Draft
from forethought.core.errors import UsageError
from forethought.core.operators import branch, each
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.scope import Call, Run, Scope, Seeded
from forethought.core.trace import MemoryTrace
from forethought.engine.hooks import HighEntropy, LowConfidence
from forethought.engine.rows import Row, Steer
from forethought.methods import By
from forethought.methods.kernels import Extend
from forethought.methods.protocol import Law, Need
from forethought.models.extend import digest
from forethought.models.local import Local
from forethought.models.protocol import PLAIN, Completion, Controls, Request
from forethought.models.scripted import Scripted
from forethought.reasoner import loader as reasoner
from forethought.tasks import GENERATED

pytestmark = pytest.mark.anyio
CHAIN = GENERATED["chain"]
PROBLEM = CHAIN.problem(CHAIN.middle, 0)
ASK = Request(CHAIN.prompt(PROBLEM), max_tokens=40)


@pytest.fixture(scope="module")
def local() -> Local:
    return Local(reasoner.folder("generator"), "reasoner")


async def drawn(local: Local, request: Request, seeds: Sequence[int] = range(6)) -> list[Completion]:
    found = dict[int, Completion]()

    async def one(seed: int) -> None:
        found[seed] = await local.extend(request, Call((), seed))

    async with anyio.create_task_group() as tasks:
        for seed in seeds:
            tasks.start_soon(one, seed)
    return [found[seed] for seed in seeds]


async def test_top_k_of_one_is_greedy(local: Local) -> None:
    (greedy,) = await drawn(local, replace(ASK, temperature=0.0), [0])
    wild, *_ = await drawn(local, replace(ASK, temperature=3.0))
    assert wild.tokens != greedy.tokens
    assert {done.tokens for done in await drawn(local, replace(ASK, temperature=3.0, top_k=1))} == {greedy.tokens}


async def test_penalties_and_bans_reach_the_model(local: Local) -> None:
    def repeats(found: Sequence[Completion]) -> int:
        return sum(len(done.tokens) - len(set(done.tokens)) for done in found)

    plain = [token for done in await drawn(local, ASK) for token in done.tokens]
    short = replace(ASK, max_tokens=12)
    for controls in (Controls(presence=1e6), Controls(frequency=1e6)):
        assert repeats(await drawn(local, replace(short, controls=controls))) == 0
    fewer = repeats(await drawn(local, replace(short, controls=Controls(repetition=5.0))))
    assert fewer < repeats(await drawn(local, short))
    banned = tuple(set(plain))[:5]
    without = await drawn(local, replace(ASK, controls=Controls(banned=banned)))
    assert not {token for done in without for token in done.tokens} & set(banned)
    whole = replace(ASK, max_tokens=300)
    shortest = min(done.cost.new_tokens for done in await drawn(local, whole))
    longer = await drawn(local, replace(whole, controls=Controls(min_tokens=shortest)))
    assert shortest < min(done.cost.new_tokens for done in longer)


async def test_a_hook_stops_where_the_model_is_unsure_and_a_fork_goes_on(local: Local) -> None:
    request = replace(ASK, temperature=0.0, logprobs=3)
    (whole,) = await drawn(local, request, [0])
    (trunk,) = await drawn(local, replace(request, controls=Controls(hook=HighEntropy(0.3, least=1))), [0])
    assert trunk.finish == "hook"
    assert 1 <= len(trunk.tokens) < len(whole.tokens)
    assert whole.tokens[: len(trunk.tokens)] == trunk.tokens
    assert trunk.top == whole.top[: len(trunk.tokens) + 1]
    text = max(trunk.top[-1], key=trunk.top[-1].__getitem__)
    draft = Draft(ROOT, trunk.text, trunk.tokens, size=len(trunk.tokens), vocabulary=trunk.vocabulary)
    rest = replace(request, draft=draft, max_tokens=40 - draft.size, forced=local.reader.encode(text))
    (likeliest,) = await drawn(local, rest, [0])
    assert (*trunk.tokens, *likeliest.tokens) == whole.tokens
    assert likeliest.cost.cached_tokens >= likeliest.cost.prompt_tokens - 1


async def test_one_hook_serves_many_requests(local: Local) -> None:
    hooked = replace(ASK, controls=Controls(hook=LowConfidence(floor=12.0, window=4, top=10)))
    alone = [(await drawn(local, hooked, [seed]))[0] for seed in range(6)]
    together = await drawn(local, hooked)
    assert [(d.tokens, d.finish) for d in together] == [(d.tokens, d.finish) for d in alone]
    assert "hook" in {done.finish for done in together}


def test_a_hook_that_no_record_could_know_is_refused() -> None:
    with pytest.raises(UsageError, match="frozen dataclass"):
        Controls(hook=lambda row, logits: None)


def test_records_tell_controls_apart() -> None:
    asked = [
        ASK, replace(ASK, top_k=5), replace(ASK, controls=Controls(presence=0.1)), replace(ASK, controls=Controls(banned=(3,))),
        replace(ASK, controls=Controls(hook=HighEntropy(0.3))), replace(ASK, controls=Controls(hook=HighEntropy(0.4))),
    ]  # fmt: skip
    assert len({digest(request) for request in asked}) == len(asked)
    assert digest(replace(ASK, controls=Controls(hook=HighEntropy(0.3)))) == digest(asked[4])


# as methods ask


@dataclass(frozen=True)
class Controlled(Extend):
    """A kernel whose requests have controls."""

    controls: Controls = PLAIN

    def request(self, draft: Draft) -> Request:
        return replace(Extend.request(self, draft), controls=self.controls)


@dataclass(frozen=True)
class Unsure:
    """Two drafts, stopped once before an uncertain token and then written to their ends."""

    name: ClassVar[str] = "unsure"
    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue", "controls"})
    paper: ClassVar[str] = "none"
    nats: float = 0.3

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        controls = Controls(hook=HighEntropy(self.nats))
        begin = Controlled(by.model, by.task, by.task.prompt(problem), 0.8, controls=controls)
        pop = await each(branch([Particle(ROOT)], [2]), begin, at)
        return await each(pop, by.draft(problem, 0.8), at)


async def test_a_method_that_needs_controls(local: Local, tmp_path: Path) -> None:
    script = Scripted(lambda prompt, so_far, seed: "answer: 3\n")
    with pytest.raises(UsageError, match="unsure needs a model with the ability 'controls', which scripted lacks"):
        await solve(PROBLEM, task="chain", model=script, method=Unsure())
    assert not script.spent.calls
    how: dict[str, Any] = {"task": "chain", "model": local, "method": Unsure(), "store": str(tmp_path / "runs")}
    found = await solve(PROBLEM, **how)
    assert found.cost.calls == 4
    steps = local.engine.statistics.steps
    again = await solve(PROBLEM, **how)
    assert (again.answer, again.cost.new_tokens) == (found.answer, found.cost.new_tokens)
    assert local.engine.statistics.steps == steps


@dataclass(frozen=True)
class AtOnce:
    """Stops before the first token."""

    def __call__(self, row: Row, logits: Tensor) -> Steer:
        return Steer(stop=True)


async def test_a_draft_that_a_hook_stopped_at_once_goes_on(local: Local) -> None:
    kernel = Controlled(local, CHAIN, ASK.messages, 0.8, controls=Controls(hook=AtOnce()))
    at = Scope.root(Run(Seeded(0), MemoryTrace()))
    (stopped,) = await each([Particle(ROOT)], kernel, at)
    assert (stopped.state.text, stopped.state.finish, stopped.ended) == ("", None, False)
    (whole,) = await each([stopped], By(local, CHAIN).draft(PROBLEM, 0.8), at)
    assert whole.state.finish == "end"
