"""Items served side by side by as few tasks as that takes: a task costs more than a call to a model that answers at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Generic, TypeVar

import anyio
import anyio.lowlevel

T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, None]]
FIRST = 8  # workers at the start: a small fan-out starts all at once


class Crew(Generic[T]):
    """Workers that take items from one queue, in order, until it is empty or `scope` is cancelled.

    Their number doubles at every pass of the event loop in which no item came to its end. So items that all wait are all
    under way after log2(n / 8) passes, and each pass brings some to where the others wait: what gathers callers until no
    more of them come (see `Engine`) gathers all. Where items end, the loop has work without more tasks.
    """

    def __init__(self, items: Iterable[T], serve: Callable[[T], Awaitable[None]], scope: anyio.CancelScope) -> None:
        self.queue, self._serve, self._scope = deque(items), serve, scope
        self._served = 0

    async def work(self) -> None:
        while self.queue and not self._scope.cancel_called:
            await self._serve(self.queue.popleft())
            self._served += 1

    async def hire(self, start: Callable[[Work], object], first: int = FIRST) -> None:
        """Start workers, by `start`: `first` of them, then more until there is one for every item or no item is left."""
        items, workers, before = len(self.queue), 0, 0
        while self.queue and workers < items:
            if self._served == before:
                more = min(workers or first, items - workers)
                for _ in range(more):
                    start(self.work)
                workers += more
            before = self._served
            await anyio.lowlevel.checkpoint()
