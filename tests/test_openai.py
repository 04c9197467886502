from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio
import pytest

import forethought
from forethought.core.cost import Cost
from forethought.core.draft import Draft
from forethought.core.errors import UsageError
from forethought.core.scope import Call, Scope
from forethought.models.cached import Cached
from forethought.models.extend import extend
from forethought.models.openai import OpenAI
from forethought.models.openai_dialect import Dialect
from forethought.models.openai_wire import Lines
from forethought.models.price import Price
from forethought.models.protocol import Completion, Controls, Request
from tests.servers import Endpoint

pytestmark = pytest.mark.anyio
FRUITS = ({"role": "user", "content": "name fruits"},)
STEP = Request(FRUITS, max_tokens=8, stop=("\n",))


def call(seed: int = 7) -> Call:
    return Call((), seed)


async def steps(model: OpenAI, request: Request = STEP) -> list[Completion]:
    """Step by step to the end, as methods do it."""
    made: list[Completion] = []
    draft = Draft()
    while not made or (made[-1].finish == "stop" and len(made) < 10):
        made.append(await model.extend(replace(request, draft=draft), call()))
        draft = Draft(draft, made[-1].text)
    return made


async def probed(endpoint: Endpoint) -> OpenAI:
    """A model whose probe is over and paid for."""
    model = OpenAI("toy", endpoint.url)
    await model.prepare()
    await model.extend(STEP, call())
    endpoint.bodies.clear()
    return model


# what the probe finds


@pytest.mark.parametrize("way", ["flag", "prefill", "apply-template", "tokenize"])
@pytest.mark.parametrize("tells", ["stop_reason", "matched_stop", "__verbose", None])
async def test_continues_step_by_step_and_puts_breaks_back(way: str, tells: str | None) -> None:
    with Endpoint(continues=(way,), tells=tells).serve() as endpoint:
        async with OpenAI("toy", endpoint.url) as model:
            await model.prepare()
            made = await steps(model)
            assert model.dialect is not None
            assert model.dialect.continuing == way
    assert [c.text for c in made] == ["apple\n", "pear\n", "plum\n", ""]
    assert [c.finish for c in made] == ["stop", "stop", "stop", "end"]


async def test_a_kept_stop_string_is_not_doubled() -> None:
    with Endpoint(keeps=True).serve() as endpoint:
        async with OpenAI("toy", endpoint.url) as model:
            made = await steps(model)
            lone = await model.extend(replace(STEP, draft=Draft(None, "apple\npear\nplum"), stop=("!",)), call())
    assert "".join(c.text for c in made) == "apple\npear\nplum\n"
    assert (lone.text, lone.finish) == ("\n", "end")


async def test_a_template_that_strips_the_last_line_break_is_not_trusted() -> None:
    with Endpoint(continues=("flag", "tokenize"), strips=True).serve() as endpoint:
        async with OpenAI("toy", endpoint.url) as model:
            await model.prepare()
            assert model.dialect is not None
            assert model.dialect.continuing == "tokenize"


async def test_without_continuing_the_ability_is_absent_and_the_call_refused() -> None:
    with Endpoint(continues=()).serve() as endpoint:
        async with OpenAI("toy", endpoint.url) as model:
            assert "continue" in model.abilities
            await model.prepare()
            assert model.abilities == {"extend", "logprobs", "seed"}
            with pytest.raises(UsageError, match="cannot continue a partial answer"):
                await model.extend(replace(STEP, draft=Draft(None, "apple\n")), call())


async def test_strict_servers_get_plain_parameters() -> None:
    strict = Endpoint(strict=True, limits=("max_completion_tokens",), continues=(), logprobs=False, seeded=False)
    with strict.serve() as endpoint:
        async with OpenAI("toy", endpoint.url) as model:
            await model.prepare()
            assert model.abilities == {"extend"}
            done = await model.extend(Request(FRUITS, max_tokens=2), call())
            with pytest.raises(UsageError, match="min_p"):
                await model.extend(replace(STEP, min_p=0.1), call())
            with pytest.raises(UsageError, match="top_k"):
                await model.extend(replace(STEP, top_k=5), call())
    assert (done.text, done.finish) == ("apple\n", "length")
    assert endpoint.bodies[-1].keys().isdisjoint({"max_tokens", "top_k", "min_p"})


async def test_every_sampling_parameter_is_sent() -> None:
    with Endpoint().serve() as endpoint:
        async with await probed(endpoint) as model:
            await model.extend(Request(FRUITS, temperature=0.3, top_p=0.9, min_p=0.05, max_tokens=9), call(2**62 + 5))
    sent = endpoint.bodies[-1]
    assert sent["seed"] == 5
    assert (sent["temperature"], sent["top_p"], sent["min_p"], sent["top_k"]) == (0.3, 0.9, 0.05, -1)
    assert Dialect().body("toy", replace(STEP, top_k=5), 0)["top_k"] == 5
    assert sent["max_tokens"] == sent["max_completion_tokens"] == 9
    assert sent["stream"] is True
    assert sent["stream_options"]["include_usage"] is True


async def test_one_probe_for_all_first_calls_and_it_is_charged_once() -> None:
    with Endpoint(delay=0.001).serve() as endpoint:
        async with OpenAI("toy", endpoint.url, price=Price(1.0, 0.5, 2.0)) as model:
            at = Scope.root()
            async with anyio.create_task_group() as group:
                for child in at.fork(5):
                    group.start_soon(extend, model, STEP, child)
            cost = at.account.spent
    assert (cost.calls, cost.prompt_tokens, cost.new_tokens) == (
        endpoint.calls,
        endpoint.prompt_tokens,
        endpoint.new_tokens,
    )
    assert cost.cached_tokens == endpoint.calls
    uncached = cost.prompt_tokens - cost.cached_tokens
    assert cost.usd == pytest.approx((uncached + cost.cached_tokens * 0.5 + cost.new_tokens * 2) / 1e6)
    assert sum("words" in str(body.get("messages")) for body in endpoint.bodies) == 1


async def test_the_bound_holds_with_and_without_a_probe_still_to_pay() -> None:
    with Endpoint().serve() as endpoint:
        async with OpenAI("toy", endpoint.url, price=Price(1.0, 1.0, 2.0)) as model:
            for _ in range(2):
                bound = model.bound(STEP)
                spent = (await model.extend(STEP, call())).cost
                assert all(s <= b for s, b in zip(spent, bound, strict=True))


# how it is counted and cut


async def test_without_usage_the_chunks_are_counted() -> None:
    with Endpoint(usage=False).serve() as endpoint:
        async with await probed(endpoint) as model:
            done = await model.extend(Request(FRUITS, max_tokens=3), call())
    assert (done.finish, done.cost.new_tokens, done.cost.critical_tokens) == ("length", 3, 3)
    assert 0 < done.cost.prompt_tokens < model.bound(STEP).prompt_tokens


@pytest.mark.parametrize("way", ["flag", "tokenize"])
async def test_logprobs(way: str) -> None:
    with Endpoint(continues=(way,)).serve() as endpoint:
        async with await probed(endpoint) as model:
            done = await model.extend(replace(STEP, draft=Draft(None, "apple\n"), stop=(), logprobs=1), call())
    assert done.logprobs == (-0.5,) * 4
    assert done.top[0] == {"pear": -0.5}


async def test_what_cannot_be_sent_is_refused() -> None:
    with Endpoint().serve() as endpoint:
        async with await probed(endpoint) as model:
            with pytest.raises(UsageError, match="at most 4 stop strings"):
                await model.extend(replace(STEP, stop=tuple("abcde")), call())
            with pytest.raises(UsageError, match="forced"):
                await model.extend(replace(STEP, forced=(1,)), call())
            with pytest.raises(UsageError, match="penalties, bans or hooks; the local models do"):
                await model.extend(replace(STEP, controls=Controls(presence=0.5)), call())
            assert "controls" not in model.abilities
    assert endpoint.bodies == []


async def test_reasoning_is_counted_but_no_part_of_the_draft() -> None:
    from forethought.models.openai_reply import Reply

    told: list[Cost] = []
    reply = Reply(3, told.append)
    for delta in (
        {"role": "assistant", "content": None},
        {"reasoning": "hm"},
        {"reasoning_content": "so"},
        {"content": "4"},
    ):
        reply.take({"choices": [{"delta": delta, "finish_reason": None}]})
    reply.take({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    assert reply.ending((), False, "here") == ("4", "end")
    assert [cost.new_tokens for cost in told] == [1, 2, 3, 3]


def test_frames_are_cut_at_line_feeds_only() -> None:
    data = 'data: {"a": "x\u2028y\x85"}\r\n\n: ping\ndata: [DONE]\n\n'.encode()
    lines = Lines("here")
    assert [f for i in range(len(data)) for f in lines.feed(data[i : i + 1])] == [{"a": "x\u2028y\x85"}]


# looking at the endpoint, within a budget and on the bill


@pytest.mark.parametrize("budget", ["tokens=10", "calls=3", "prompt_tokens=20", "critical_tokens=5"])
async def test_a_budget_with_no_room_to_look_at_the_endpoint_is_refused_before(budget: str) -> None:
    with Endpoint().serve() as endpoint:
        with pytest.raises(
            UsageError, match=f"the budget {budget} is too small .* 10 calls, 2048 prompt tokens and 73 new"
        ):
            await forethought.solve("hello", model=f"openai:toy@{endpoint.url}", method="sample(n=2)", budget=budget)
        assert endpoint.calls == 0


async def test_a_run_whose_budget_ends_before_its_first_call_is_charged_for_the_look_at_the_endpoint(
    tmp_path: Path,
) -> None:
    long = "hello " * 1000
    with Endpoint().serve() as endpoint:
        async with OpenAI("toy", endpoint.url) as model:
            done = await forethought.solve(long, model=model, budget="prompt_tokens=2048", method="sample(n=2)")
            assert done.stopped == "budget"
            assert billed(done) == counted(endpoint)
            again = await forethought.solve(long, model=model, budget="prompt_tokens=2048", method="sample(n=2)")
            assert billed(again) == (0, 0, 0)
        cached, before = Cached(OpenAI("toy", endpoint.url), tmp_path / "said"), counted(endpoint)
        both = await forethought.solve_many([long] * 2, model=cached, budget="prompt_tokens=4096", method="sample(n=2)")
        await cached.aclose()
        spent = [billed(one) for one in both]
        assert [sum(entry) for entry in zip(*spent, before, strict=True)] == list(counted(endpoint))


def billed(found: forethought.Solution) -> tuple[int, int, int]:
    return found.cost.calls, found.cost.prompt_tokens, found.cost.new_tokens


def counted(endpoint: Endpoint) -> tuple[int, int, int]:
    return endpoint.calls, endpoint.prompt_tokens, endpoint.new_tokens


async def test_the_longest_look_at_an_endpoint_is_within_its_bound() -> None:
    with Endpoint(continues=("tokenize",)).serve() as endpoint:
        async with OpenAI("toy", endpoint.url) as model:
            most = model.probing
            await model.prepare()
            assert all(s <= b for s, b in zip(model.owed(), most, strict=True))
            assert model.owed() == model.probing == Cost()
