"""What goes wrong with an endpoint, how many are asked at once, and who they are."""

from __future__ import annotations

import email.utils
import socket
import time
from dataclasses import dataclass, replace
from typing import Any

import anyio
import pytest

from forethought.assembly import model_of
from forethought.core.cost import Cost
from forethought.core.draft import Draft
from forethought.core.errors import ModelError, UsageError
from forethought.models import openai_wire
from forethought.models.openai import OpenAI
from forethought.models.protocol import Request
from tests.servers import Endpoint, _reply, other_server, unpacked, web_page
from tests.test_openai import FRUITS, STEP, call, probed

pytestmark = pytest.mark.anyio
HALF = Draft(None, "apple\n")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_wire, "_backoff", lambda attempt, body: 0.001)


@pytest.mark.parametrize("failure", [(429, {"Retry-After": "0"}), (503, {}), (408, {}), "drop", "error"])
async def test_trouble_before_the_first_token_is_tried_again(failure: object) -> None:
    with Endpoint().serve() as endpoint:
        async with await probed(endpoint) as model:
            endpoint.failures = [failure] * 4
            assert (await model.extend(STEP, call())).text == "apple\n"
            endpoint.failures = [failure] * 5
            with pytest.raises(ModelError):
                await model.extend(STEP, call())
    assert len(endpoint.bodies) == 10


@pytest.mark.parametrize("way", ["apply-template", "tokenize"])
async def test_rendering_a_prompt_is_tried_again(way: str) -> None:
    with Busy(continues=(way,)).serve() as endpoint:
        async with await probed(endpoint) as model:
            request = replace(STEP, messages=({"role": "user", "content": "name other fruits"},), draft=HALF)
            endpoint.busy = 4
            assert (await model.extend(request, call())).text == "pear\n"
            endpoint.busy = 5
            with pytest.raises(ModelError, match="not now"):
                await model.extend(replace(request, messages=FRUITS), call())


@dataclass
class Busy(Endpoint):
    """A server whose routes outside the OpenAI API fail the next `busy` times."""

    busy: int = 0

    async def _route(self, verb: str, path: str, body: Any, *streams: Any) -> bool:
        if path.startswith("/v1") or not self.busy:
            return await super()._route(verb, path, body, *streams)
        self.busy -= 1
        await _reply(streams[1], 503, {"error": {"message": "not now"}})
        return True


async def test_retry_after_is_honoured() -> None:
    with Endpoint().serve() as endpoint:
        async with await probed(endpoint) as model:
            endpoint.failures = [(429, {"Retry-After": "0.2"})]
            start = anyio.current_time()
            await model.extend(STEP, call())
            assert anyio.current_time() - start >= 0.2
            in_an_hour = email.utils.formatdate(time.time() + 3600, usegmt=True)
            endpoint.failures = [(429, {"Retry-After": in_an_hour})]
            with pytest.raises(ModelError, match=r"429 .*not now"):
                await model.extend(STEP, call())


async def test_nothing_is_asked_again_after_the_first_token_and_it_is_charged() -> None:
    with Endpoint().serve() as endpoint:
        async with await probed(endpoint) as model:
            endpoint.failures = ["break"]
            one = call()
            with pytest.raises(ModelError, match="broke off"):
                await model.extend(STEP, one)
    assert len(endpoint.bodies) == 1
    assert one.so_far is not None
    assert one.so_far.new_tokens == 1


@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_that_is_not_packed_as_its_headers_say(status: int) -> None:
    """On asyncio alone: trio warns of what httpx2 leaves unread then."""

    async def asked() -> None:
        async with await probed(endpoint) as model:
            endpoint.failures = [(status, {"Content-Encoding": "gzip", "Content-Type": "text/event-stream"})]
            with pytest.raises(ModelError, match="cannot be read"):
                await model.extend(STEP, call())

    with Endpoint().serve() as endpoint:
        anyio.run(asked)
    assert len(endpoint.bodies) == 1


def test_a_server_all_of_whose_answers_cannot_be_read() -> None:
    async def asked() -> None:
        async with OpenAI("toy", url) as model:
            with pytest.raises(UsageError, match=f"the answer of {url}/chat/completions cannot be read"):
                await model.prepare()

    with other_server(unpacked) as url:
        anyio.run(asked)


async def test_a_refused_call_costs_nothing() -> None:
    with Endpoint().serve() as endpoint:
        async with await probed(endpoint) as model:
            endpoint.failures = [(400, {})]
            one = call()
            with pytest.raises(ModelError, match=r"400 .*not now"):
                await model.extend(STEP, one)
    assert one.so_far == Cost()


async def test_cancelling_closes_the_stream_and_keeps_the_count() -> None:
    with Endpoint(say=lambda prompt, so_far, seed: "word " * 500, continues=(), usage=False).serve() as endpoint:
        model = OpenAI("toy", endpoint.url)
        await model.prepare()
        await model.extend(Request(FRUITS, max_tokens=1), call())
        endpoint.delay, endpoint.sent = 0.01, 0
        one = call()
        async with model:
            with anyio.move_on_after(0.2):
                await model.extend(Request(FRUITS), one)
            assert await anyio.to_thread.run_sync(endpoint.hung_up.wait, 5)
    assert one.so_far is not None
    assert 0 < one.so_far.new_tokens <= endpoint.sent < 100


async def test_hundreds_of_requests_in_flight() -> None:
    with Endpoint(delay=0.05).serve() as endpoint:
        async with await probed(endpoint) as model:
            start = anyio.current_time()
            async with anyio.create_task_group() as group:
                for seed in range(150):
                    group.start_soon(model.extend, Request(FRUITS, max_tokens=8), call(seed))
            assert anyio.current_time() - start < 10  # one after another they would take 45 s


async def test_a_wrong_key_a_wrong_model_and_a_wrong_address() -> None:
    with Endpoint(key="secret", models=("other", "another")).serve() as endpoint:
        async with OpenAI("toy", endpoint.url) as model:
            with pytest.raises(UsageError, match="OPENAI_API_KEY"):
                await model.prepare()
        async with OpenAI("toy", endpoint.url, "secret") as model:
            with pytest.raises(UsageError, match=r"404 .*the server has other, another"):
                await model.prepare()
        async with OpenAI("other", endpoint.url + "x", "secret") as model:
            with pytest.raises(UsageError, match="should end in /v1"):
                await model.prepare()


async def test_nobody_there_or_somebody_else() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but it does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        async with OpenAI("toy", url) as model:
            with pytest.raises(UsageError, match=f"cannot reach {url}"):
                await model.prepare()
    with other_server(web_page) as url:
        async with OpenAI("toy", url) as model:
            with pytest.raises(UsageError, match="speaks no OpenAI API"):
                await model.prepare()


def test_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    model = OpenAI.parse("openai:org/some@rev@http://host:8000/v1/")
    assert model.model == "org/some@rev"
    assert model.name == "openai:org/some@rev@http://host:8000/v1"
    assert OpenAI.parse(model.name).name == model.name
    for wrong in ("openai:x", "openai:@http://h/v1", "openai:x@host:8000", "openai:x@http://"):
        with pytest.raises(UsageError, match="openai:MODEL@http"):
            OpenAI.parse(wrong)


@pytest.mark.parametrize("url", ["http://host:port/v1", "http://[::1/v1", "http://-\u00e4../v1"])
def test_what_is_no_address_is_refused_as_it_is_read(url: str) -> None:
    with pytest.raises(UsageError, match=r"is no address .*; write it as http://host:8000/v1"):
        OpenAI.parse(f"openai:x@{url}")


def test_a_default_that_is_no_model_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORETHOUGHT_MODEL", "nope")
    with pytest.raises(UsageError, match="FORETHOUGHT_MODEL=nope: there is no model 'nope'"):
        model_of(None)


def test_one_model_in_two_event_loops() -> None:
    with Endpoint().serve() as endpoint:
        model = OpenAI("toy", endpoint.url)

        async def once() -> str:
            async with model:
                return (await model.extend(STEP, call())).text

        assert {anyio.run(once), anyio.run(once), anyio.run(once, backend="trio")} == {"apple\n"}
