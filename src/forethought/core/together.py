"""Acts side by side, with errors as one alone would raise them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar, cast

import anyio

R = TypeVar("R")


async def together(acts: Sequence[Callable[[], Awaitable[R]]]) -> list[R]:
    """What the acts return, in their order. The first error is raised alone, after the other acts are cancelled."""
    found: list[R | None] = [None] * len(acts)
    errors: list[Exception] = []

    async def one(place: int, siblings: anyio.CancelScope) -> None:
        try:
            found[place] = await acts[place]()
        except Exception as error:  # noqa: BLE001 - not swallowed: the first is raised again below, alone
            errors.append(error)
            siblings.cancel()

    async with anyio.create_task_group() as tasks:
        for place in range(len(acts)):
            tasks.start_soon(one, place, tasks.cancel_scope)
    if errors:
        raise errors[0]
    return cast("list[R]", found)
