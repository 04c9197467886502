from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import forethought
from forethought.core.draft import Draft
from forethought.core.errors import ModelError, UsageError
from forethought.core.problem import Problem
from forethought.core.scope import Call, Scope
from forethought.methods import By
from forethought.methods.sample import Sample
from forethought.models.cached import Cached, _key
from forethought.models.extend import extend
from forethought.models.openai import OpenAI
from forethought.models.price import Price
from forethought.models.probing import prepare
from forethought.models.protocol import Completion, Controls, Request, close, price_of, weights_in
from forethought.models.scripted import Scripted
from forethought.tasks.text import Text
from tests.servers import Endpoint

pytestmark = pytest.mark.anyio
ASK = Request(({"role": "user", "content": "a number"},), Draft(None, "it is"))


def number(prompt: str, so_far: str, seed: int) -> str:
    return f" {seed} "


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "recorded.sqlite"


async def test_the_second_time_nothing_is_asked_and_the_same_is_charged(file: Path) -> None:
    inner = Scripted(number, price=Price(1.0, None, 2.0))
    first, second = Cached(inner, file), Cached(inner, file)
    costs = []
    for model in (first, second):
        at = Scope.root()
        texts = [(await extend(model, ASK, child)).text for child in at.fork(3)]
        assert len(set(texts)) == 3
        costs.append(at.account.spent._replace(seconds=0.0))
        await model.aclose()
    assert (first.physical_calls, second.physical_calls) == (3, 0)
    assert costs[0] == costs[1] == inner.spent


@pytest.mark.parametrize(
    "other",
    [
        {"draft": Draft(None, "was")},
        {"max_tokens": 3},
        {"stop": ("x",)},
        {"temperature": 0.5},
        {"top_p": 0.5},
        {"min_p": 0.5},
        {"logprobs": 0},
        {"forced": (1,)},
        {"schema": "{}"},
        {"top_k": 5},
        {"controls": Controls(presence=0.5)},
        {"messages": ({"role": "system", "content": "a number"},)},
    ],
)
async def test_every_part_of_a_request_tells_it_apart(file: Path, other: dict[str, object]) -> None:
    model = Cached(Scripted(number), file)
    await model.extend(ASK, Call((), 1))
    await model.extend(replace(ASK, **other), Call((), 1))  # type: ignore[arg-type]
    await model.extend(replace(ASK), Call((), 1))
    assert model.physical_calls == 2
    await model.aclose()


def test_recordings_of_earlier_versions_are_found() -> None:
    assert _key("a", ASK, 1).hex() == "b9e5d80031974468d36d5aa5d398d65a"


async def test_what_the_model_is_able_to_do_besides_is_passed_on(file: Path) -> None:
    price = Price(1.0, 0.5, 2.0)
    with Endpoint().serve() as endpoint:
        model = Cached(OpenAI("toy", endpoint.url, price=price), file)
        assert price_of(model) == price
        assert model.probing.usd > 0
        await prepare(model)
        assert model.owed().calls == endpoint.calls > 0
        await close(model)
    assert price_of(Cached(Scripted(number), file)) == Price()


async def test_a_limit_in_dollars_needs_prices_also_around_a_cache(file: Path) -> None:
    with pytest.raises(UsageError, match="needs the prices"):
        await forethought.solve("hello", model=Cached(Scripted(number), file), budget="usd=1")


async def test_a_fan_out_is_recorded_with_its_model(file: Path) -> None:
    async def drawn(model: Cached) -> list[str]:
        pop = await Sample(8)(Problem("a number"), By(model, Text()), Scope.root())
        await model.aclose()
        return [p.state.text for p in pop]

    live = Cached(Scripted(number, name="a", latency=0.001), file)
    texts = await drawn(live)
    replay = Cached(None, file)
    assert (replay.name, replay.abilities) == ("a", live.abilities)
    assert await drawn(replay) == texts
    assert len(set(texts)) == live.physical_calls == 8


async def test_everything_comes_back(file: Path) -> None:
    given = Completion("ä\n", "length", tokens=(3, 4), logprobs=(-0.25, -1e-9), top=({"a": -1.0}, {}), vocabulary="v")
    model = Cached(Scripted(lambda prompt, so_far, seed: given), file)
    assert [await model.extend(ASK, Call((), 1)) for _ in range(2)] == [given, given]
    assert model.physical_calls == 1
    await model.aclose()


async def test_replay_needs_no_model(file: Path) -> None:
    inner = Scripted(number, name="a", abilities=("extend", "seed"))
    live = Cached(inner, file)
    done = await live.extend(ASK, Call((), 1))
    await live.aclose()
    replay = Cached(None, file)
    assert (replay.name, replay.abilities) == ("a", {"extend", "seed"})
    assert await replay.extend(ASK, Call((), 1)) == done
    bound = replay.bound(ASK)
    assert all(spent <= most for spent, most in zip(done.cost, bound, strict=True))
    with pytest.raises(ModelError, match="no recording of this request to a"):
        await replay.extend(ASK, Call((), 2))
    await replay.aclose()


async def test_whose_recordings(file: Path) -> None:
    with pytest.raises(UsageError, match="of no model"):
        Cached(None, file)
    for name in ("a", "b"):
        model = Cached(Scripted(number, name=name), file)
        await model.extend(ASK, Call((), 1))
        await model.aclose()
    with pytest.raises(UsageError, match="of a, b: say which"):
        Cached(None, file)
    with pytest.raises(UsageError, match="no recordings of c"):
        Cached(None, file, "c")
    replay = Cached(None, file, "b")
    assert (await replay.extend(ASK, Call((), 1))).text == " 1 "
    await replay.aclose()


async def test_what_other_files_said_is_not_replayed(file: Path) -> None:
    """Of a model that runs here: a replay without it is of the files that were recorded last."""

    async def said(weights: str | None) -> tuple[str, int, str]:
        inner = Scripted(lambda prompt, so_far, seed: f"by {weights}", name="a")
        inner.weights = weights  # type: ignore[attr-defined]
        model = Cached(inner if weights else None, file)
        text = (await model.extend(ASK, Call((), 1))).text
        await model.aclose()
        return text, model.physical_calls, weights_in(model)

    assert await said("old") == ("by old", 1, "old")
    assert await said("new") == ("by new", 1, "new")
    assert await said("old") == ("by old", 0, "old")
    assert await said(None) == ("by new", 0, "new")


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<html>" * 100)
    with pytest.raises(UsageError, match="no file of recorded completions"):
        Cached(Scripted(number), tmp_path / "page.html")
