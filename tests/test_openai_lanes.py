"""Connections to an endpoint: how many there are, that they are used again, and that none is left behind."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import anyio
import pytest

from forethought.api import solve_sync
from forethought.core.errors import ModelError
from forethought.models import openai_wire
from forethought.models.openai import OpenAI
from forethought.models.protocol import Request
from tests.servers import Endpoint
from tests.test_openai import FRUITS, call, probed

pytestmark = pytest.mark.anyio
SHORT = Request(FRUITS, max_tokens=8)


@dataclass
class Counting(Endpoint):
    """A server that knows how many connections there were, and how many were open at once."""

    opened: int = 0
    open: int = 0
    most: int = 0

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await super()._connection(reader, writer)
        finally:
            self.open -= 1

    async def closed(self) -> bool:
        """Whether all connections are closed, or will be soon."""
        for _ in range(200):
            if not self.open:
                return True
            await anyio.sleep(0.01)
        return False


async def ask(model: OpenAI, times: int) -> None:
    async with anyio.create_task_group() as group:
        for seed in range(times):
            group.start_soon(model.extend, SHORT, call(seed))


async def test_connections_are_used_again() -> None:
    with Counting(delay=0.02).serve() as endpoint:
        async with await probed(endpoint) as model:
            assert endpoint.opened == 1  # the probe asks one thing after another
            await ask(model, 20)
            assert endpoint.opened == 20
            await ask(model, 20)
            await ask(model, 5)
            assert endpoint.opened == 20
        assert await endpoint.closed()


async def test_two_endpoints_in_one_loop_have_their_own_connections_and_keys() -> None:
    with Counting(key="one").serve() as one, Counting(key="two").serve() as two:
        async with OpenAI("toy", one.url, "one") as first, OpenAI("toy", two.url, "two") as second:
            for model in (first, second, first):
                assert (await model.extend(SHORT, call())).text
            assert first._wire.lanes is not second._wire.lanes
        assert await one.closed()
        assert await two.closed()


async def test_no_more_than_the_limit_at_once_and_what_is_idle_beyond_its_own_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openai_wire, "AT_ONCE", 7)
    monkeypatch.setattr(openai_wire, "IDLE", 3)
    with Counting(delay=0.01).serve() as endpoint:
        async with await probed(endpoint) as model:
            await ask(model, 30)
            assert endpoint.most == 7
            for _ in range(200):
                if endpoint.open == 3:
                    break
                await anyio.sleep(0.01)
            assert endpoint.open == 3
        assert await endpoint.closed()


async def test_a_cancelled_or_failed_request_gives_its_connection_back() -> None:
    with Counting().serve() as endpoint:
        async with await probed(endpoint) as model:
            endpoint.delay = 0.3
            with anyio.move_on_after(0.1):
                await ask(model, 10)
            endpoint.delay, endpoint.failures = 0.0, ["break"]
            with pytest.raises(ModelError, match="broke off"):
                await model.extend(SHORT, call())
            assert (await model.extend(SHORT, call())).text
            assert len(model._wire.lanes._idle) == len(model._wire.lanes._all) == 10
        assert await endpoint.closed()


async def test_a_connection_that_the_server_closed_meanwhile_is_opened_again() -> None:
    with Counting().serve() as endpoint:
        async with await probed(endpoint) as model:
            endpoint.failures = ["break"]
            with pytest.raises(ModelError):
                await model.extend(SHORT, call())
            before = endpoint.opened
            assert (await model.extend(SHORT, call())).text
            assert endpoint.opened == before + 1


async def test_closing_ends_what_is_under_way() -> None:
    with Counting(say=lambda prompt, so_far, seed: "word " * 500).serve() as endpoint:
        model = await probed(endpoint)
        endpoint.delay = 0.05
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(failing, model)
                await anyio.sleep(0.2)
                await model.aclose()
        assert await endpoint.closed()
        endpoint.delay = 0.0
        async with model:
            assert (await model.extend(SHORT, call())).text  # and it can be used again


async def failing(model: OpenAI) -> None:
    with pytest.raises((ModelError, anyio.ClosedResourceError)):
        await model.extend(Request(FRUITS), call())


def test_scripts_leave_no_connection_open() -> None:
    with Counting(delay=0.02).serve() as endpoint:
        model = OpenAI("toy", endpoint.url)
        for seed in (1, 2):
            solve_sync("Name a fruit.", model=model, method="sample(n=8)", seed=seed)
            assert anyio.run(endpoint.closed)
        assert endpoint.opened >= 16
