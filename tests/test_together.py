"""Acts side by side."""

from __future__ import annotations

from functools import partial

import anyio
import pytest

from forethought.core.together import together

pytestmark = pytest.mark.anyio


async def after(seconds: float, value: int, ended: list[int]) -> int:
    await anyio.sleep(seconds)
    ended.append(value)
    if value < 0:
        raise ValueError(str(value))
    return value


async def test_results_come_in_the_order_of_the_acts() -> None:
    ended: list[int] = []
    assert await together([partial(after, 0.02, 1, ended), partial(after, 0.0, 2, ended)]) == [1, 2]
    assert ended == [2, 1]
    assert await together([]) == []


async def test_the_first_error_is_raised_alone_and_ends_the_others() -> None:
    ended: list[int] = []
    with pytest.raises(ValueError, match="-1"):
        await together([partial(after, 30, 1, ended), partial(after, 0.0, -1, ended), partial(after, 0.0, -1, ended)])
    assert 1 not in ended
