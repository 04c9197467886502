"""Threads that wait for processes, few at a time: the threads that everybody shares stay free."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
from anyio import to_thread
from anyio.lowlevel import RunVar

T = TypeVar("T")


class Turns:
    """At most `size` pieces of work at a time in one event loop, each in a thread; the others wait for their turn."""

    def __init__(self, name: str, size: int) -> None:
        self._size = size
        self._limiter: RunVar[anyio.CapacityLimiter] = RunVar(f"turns of {name}")

    async def __call__(self, work: Callable[[], T]) -> T:
        """What `work` comes to. A cancelled call is not waited for."""
        limiter = self._limiter.get(None)
        if limiter is None:
            limiter = anyio.CapacityLimiter(self._size)
            self._limiter.set(limiter)
        return await to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)
