"""Controls of sampling against transformers' own processors, hooks, and what is told of a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from forethought.core.errors import UsageError
from forethought.engine import drawing
from forethought.engine.engine import Engine
from forethought.engine.hooks import HighEntropy, LowConfidence, fork
from forethought.engine.rows import Row, Steer
from forethought.engine.sampling import Columns, Sampling, choose
from forethought.engine.steering import Steering
from forethought.engine.weights import load
from tests import tiny
from tests.test_engine import check_idle, prompt, read_by, together

pytestmark = pytest.mark.anyio
UNIFORMS = torch.linspace(0, 1, 4001, dtype=torch.double)[:-1]


@pytest.fixture
def make(folder: Path) -> Callable[..., Engine]:
    model = replace(load(folder), eos=frozenset())
    return lambda **how: Engine(model, lambda row: False, **how)


def logits_like(size: int) -> torch.Tensor:
    return torch.randn(1, size, generator=torch.Generator().manual_seed(size)) * 3


def shares(logits: torch.Tensor, how: Sampling) -> torch.Tensor:
    """How often each token comes out over a grid of uniforms."""
    rows = logits.expand(len(UNIFORMS), -1)
    found = torch.cat(
        [choose(rows[i : i + 500], Columns([how] * 500), UNIFORMS[i : i + 500]) for i in range(0, 4000, 500)]
    )
    return torch.bincount(found, minlength=logits.shape[1]) / len(UNIFORMS)


@pytest.mark.parametrize("size", [50, 3000])
@pytest.mark.parametrize("how", [
    Sampling(1),
    Sampling(1, temperature=0.5),
    Sampling(1, top_k=5),
    Sampling(1, top_k=300),
    Sampling(1, top_p=0.8),
    Sampling(1, top_p=0.999),
    Sampling(1, min_p=0.1),
    Sampling(1, temperature=1.5, top_k=20, top_p=0.7, min_p=0.05),
])  # fmt: skip
def test_distributions_are_those_of_transformers(size: int, how: Sampling) -> None:
    logits, chain = logits_like(size), LogitsProcessorList([TemperatureLogitsWarper(how.temperature)])
    if how.top_k:
        chain.append(TopKLogitsWarper(how.top_k))
    if how.top_p < 1:
        chain.append(TopPLogitsWarper(how.top_p))
    if how.min_p:
        chain.append(MinPLogitsWarper(how.min_p))
    want = chain(torch.zeros(1, 1, dtype=torch.long), logits.clone()).softmax(-1)[0]
    found = shares(logits, how)
    assert (found - want).abs().max() <= 2 / len(UNIFORMS)
    assert not found[want == 0].any()


def test_rows_do_not_see_the_controls_of_others() -> None:
    logits = logits_like(3000).expand(5, -1)
    hows = [
        Sampling(1), Sampling(1, top_p=0.5), Sampling(1, top_k=3), Sampling(1, temperature=0.0), Sampling(1, min_p=0.2),
    ]  # fmt: skip
    for uniform in UNIFORMS[::400]:
        uniforms = uniform.expand(5)
        alone = [choose(logits[:1], Columns([how]), uniforms[:1]).item() for how in hows]
        assert choose(logits, Columns(hows), uniforms).tolist() == alone


def test_a_row_that_keeps_all_does_not_make_others_sort_all(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, hows = logits_like(3000).expand(3, -1) * 3, [Sampling(1), Sampling(1, top_p=0.8), Sampling(1, top_p=0.1)]
    alone = [choose(logits[:1], Columns([how]), UNIFORMS[700:701]).item() for how in hows]
    monkeypatch.setattr(torch.Tensor, "sort", None)
    assert choose(logits, Columns(hows), UNIFORMS[700:701].expand(3)).tolist() == alone


def test_controls_that_nobody_asks_for_cost_nothing() -> None:
    columns = Columns([Sampling(1), Sampling(2, temperature=1.0)])
    assert columns.temperature is columns.top_p is columns.top_k is columns.min_p is None
    assert not steering([Sampling(1), Sampling(2, temperature=0.5)]).asked


def steering(hows: Sequence[Sampling], ids: Sequence[int] = (1, 2, 3), draft: Sequence[int] = ()) -> Steering:
    rows = [Row(tuple(ids), how, 0, tokens=list(draft)) for how in hows]
    return Steering(rows, 30, frozenset({7, 8}), torch.device("cpu"))


def penalised(logits: torch.Tensor, steering: Steering) -> torch.Tensor:
    found = logits.clone()
    steering.penalise(found)
    return found


@pytest.mark.parametrize("written", [0, 2, 3])
def test_penalties(written: int) -> None:
    """With `written` tokens of the draft there from the beginning, and the others taken one by one."""
    draft = [3, 4, 4]
    hows = [Sampling(9), Sampling(9, repetition=1.3), Sampling(9, presence=0.5, frequency=0.25), Sampling(9, top_k=3)]
    logits, made = logits_like(30).expand(4, -1), steering(hows, draft=draft[:written])
    for token in draft[written:]:
        made.took(torch.tensor([9, token, token, 9]))
    found = penalised(logits, made)
    want = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([[1, 2, 3, *draft]]), logits[:1].clone())[0]
    assert torch.equal(found[1], want)
    assert (logits - found)[2].nonzero().flatten().tolist() == [3, 4]
    assert (logits - found)[2, [3, 4]].tolist() == pytest.approx([0.75, 1.0], abs=1e-6)
    assert torch.equal(found[[0, 3]], logits[[0, 3]])


def test_bans_and_early_ends() -> None:
    hows = [Sampling(9), Sampling(9, banned=(2, 5)), Sampling(9, min_tokens=2), Sampling(9, banned=(7,), min_tokens=1)]
    made, seen = steering(hows), []
    for _ in range(3):
        logits = torch.zeros(4, 30)
        made.bar(logits)
        seen.append([row.isinf().nonzero().flatten().tolist() for row in logits])
        made.took(torch.zeros(4, dtype=torch.long))
    assert seen == [[[], [2, 5], [7, 8], [7, 8]], [[], [2, 5], [7, 8], [7]], [[], [2, 5], [], [7]]]


class Counted(TorchDispatchMode):
    """How many operations were run."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("how", [
    Sampling(50, repetition=1.2, presence=0.1, frequency=0.1), Sampling(50, banned=(4, 9)), Sampling(50, min_tokens=40),
])  # fmt: skip
async def test_steering_many_rows_takes_no_more_operations_and_one_transfer(
    folder: Path, monkeypatch: pytest.MonkeyPatch, how: Sampling
) -> None:
    transfers, operations = list[int](), list[int]()
    wait = drawing.told
    monkeypatch.setattr(drawing, "told", lambda *columns: transfers.append(len(columns)) or wait(*columns))  # type: ignore[func-returns-value]
    made, width = drawing.Drawing(load(folder), lambda row: False), 32
    for count in (2, 40):
        rows = [Row(prompt(5, i), how, i) for i in range(count)]
        made.extend(rows, torch.randn(count, width))
        with Counted() as mode:
            made.extend(rows, torch.randn(count, width))
        operations.append(mode.count)
    assert operations[0] == operations[1]
    assert len(transfers) == 4


async def test_banned_tokens_and_early_ends_never_come(folder: Path) -> None:
    banned = tuple(range(0, tiny.VOCABULARY, 2))
    ends = frozenset(range(1, tiny.VOCABULARY, 4))
    engine = Engine(replace(load(folder), eos=ends), lambda row: False)
    how = Sampling(40, banned=banned, min_tokens=6)
    rows = await together(engine, [(prompt(4), how, seed) for seed in range(20)])
    assert not {token for row in rows for token in row.tokens} & set(banned)
    assert min(len(row.tokens) for row in rows) == 7
    assert all(row.finish == "end" and row.tokens[-1] in ends for row in rows)


async def test_penalties_change_what_is_written_and_not_what_is_told(folder: Path, make: Callable[..., Engine]) -> None:
    row = await make().generate(prompt(6), Sampling(30, temperature=0.0, repetition=1e6), 0)
    assert len(set(row.tokens)) == 30
    assert not set(row.tokens) & set(prompt(6))
    logits = read_by(tiny.generator(folder), (*prompt(6), *row.tokens))[5:-1].log_softmax(-1)
    assert row.logprobs == pytest.approx([logits[i, t].item() for i, t in enumerate(row.tokens)], abs=1e-4)


async def test_prompt_logprobs_and_many_continuations(folder: Path, make: Callable[..., Engine]) -> None:
    theirs, engine, ids = tiny.generator(folder), make(), prompt(25)
    logits = read_by(theirs, ids).log_softmax(-1)
    read = await engine.read(ids, top=3)
    assert read.logprobs == pytest.approx([logits[i, ids[i + 1]].item() for i in range(24)], abs=1e-4)
    assert [list(top) for top in read.top] == logits[:-1].topk(3).indices.tolist()
    tails = [prompt(1 + i % 5, 50 + i) for i in range(12)]
    together = make()
    found = await together.loglikelihoods(ids, tails)
    told = together.statistics  # one reads `ids` and its own; all others their own, side by side
    assert (told.tokens_computed, told.steps) == (25 + sum(map(len, tails)) + 11, 2)
    for tail, values in zip(tails, found, strict=True):
        assert values == pytest.approx(await make().loglikelihood(ids, tail), abs=1e-4)
    with pytest.raises(UsageError, match="nothing to read"):
        await engine.read(())
    check_idle(engine)


# hooks


async def test_a_hook_stops_and_biases_its_own_row(make: Callable[..., Engine]) -> None:
    engine = make()
    want = (await engine.generate(prompt(5), Sampling(9), 1)).tokens
    rows = [Row((), Sampling(1), 0)]

    def at_four(row: Row, logits: torch.Tensor) -> Steer:
        rows[0] = row
        return Steer(stop=len(row.tokens) == 4, bias={17: 1e4})

    stopped = await engine.generate(prompt(5), Sampling(9, top=2), 1, hook=at_four)
    assert stopped is rows[0]
    assert (stopped.tokens, stopped.finish) == ([17] * 4, "hook")
    assert len(stopped.top) == 5  # the last are the alternatives to the token that was not drawn
    assert (await engine.generate(prompt(5), Sampling(9), 1, hook=lambda row, logits: None)).tokens == want
    check_idle(engine)


async def test_fork_where_the_model_is_unsure(folder: Path, make: Callable[..., Engine]) -> None:
    engine, ids = make(), prompt(30)
    how = Sampling(12, temperature=0.0, top=3)
    whole = await make().generate(ids, how, 0)
    logits = read_by(tiny.generator(folder), (*ids, *whole.tokens))[29:-1]
    entropies = torch.special.entr(logits.softmax(-1)).sum(-1).tolist()
    nats = sorted(entropies[3:])[-3]
    place = next(i for i, e in enumerate(entropies) if i >= 3 and e > nats)
    branches = await fork(engine, ids, how, 0, HighEntropy(nats, least=3))
    assert [row.tokens[0] for row in branches] == logits[place].topk(3).indices.tolist()
    assert all(row.ids == (*ids, *whole.tokens[:place]) for row in branches)
    assert (*branches[0].ids, *branches[0].tokens) == (*ids, *whole.tokens)
    assert all(
        row.computed == 12 - place for row in branches
    )  # the last token before the fork, and its own but the last
    assert await fork(make(), ids, how, 0, HighEntropy(99.0)) != []
    check_idle(engine)


async def test_a_branch_has_what_is_left_of_the_controls(make: Callable[..., Engine]) -> None:
    def at_six(row: Row, logits: torch.Tensor) -> Steer:
        return Steer(stop=len(row.tokens) == 6)

    engine, text = make(), tuple(range(10, 19))
    how = Sampling(20, top=3, min_tokens=8, forced=text)
    first, *others = await fork(engine, prompt(8), how, 0, at_six)
    assert len(others) == 2
    for row in (first, *others):
        assert row.ids[8:] == text[:6]
        assert row.tokens[1:3] == list(text[7:])
        assert (row.how.max_tokens, row.how.min_tokens) == (14, 2)
    with pytest.raises(UsageError, match="how many"):
        await fork(engine, prompt(8), Sampling(20), 0, at_six)
    branches = {row.seed for seed in range(3) for row in await fork(engine, prompt(8), how, seed, at_six)}
    assert len(branches) == 9
    assert not branches & set(range(100))  # no trunk's


async def test_stop_when_confidence_is_low(folder: Path, make: Callable[..., Engine]) -> None:
    whole = await make().generate(prompt(8), Sampling(40), 5)
    logits = read_by(tiny.generator(folder), (*prompt(8), *whole.tokens))[7:-1].log_softmax(-1)
    confidence = (-logits.topk(20).values.mean(-1)).unfold(0, 4, 1).mean(-1)
    floor = confidence.sort().values[5].item() + 1e-6
    first = int((confidence < floor).nonzero()[0])
    row = await make().generate(prompt(8), Sampling(40), 5, hook=LowConfidence(floor, window=4))
    assert row.finish == "hook"
    assert row.tokens == whole.tokens[: first + 3]
