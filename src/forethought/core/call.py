"""The one boundary at which compute is bought: admitted, replayed or done, charged, and recorded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import anyio
import anyio.lowlevel

from forethought.core.cost import Cost
from forethought.core.errors import BudgetEnded, ForethoughtError, ModelError
from forethought.core.scope import Call, Run, Scope
from forethought.core.trace import Event

R = TypeVar("R")
Data = Mapping[str, Any]
QUIET = 16  # passes of the event loop without a replayed call after which none is on its way: each fan-out on the way takes 2


async def bought(
    at: Scope,
    kind: str,
    key: Data,
    bound: Callable[[], Cost],
    act: Callable[[Call], Awaitable[tuple[R, Cost]]],
    encode: Callable[[R], Data],
    decode: Callable[[Data, Cost], R],
) -> R:
    """Do `act` at the next place, or take its result from an earlier life of the run.

    `key` names what was asked: a record of something else at the same place means that the program has changed, which is an
    error. Where nothing is recorded, `bound` tells the most that it can cost: raises BudgetEnded, and takes no place, if
    that does not fit. A call that is cancelled or fails is charged what it told of its progress, else its whole
    reservation, marked `estimated`.
    """
    earlier = _known(at, kind)
    if earlier is not None:
        return _replay(at, earlier, key, decode)
    need = bound()
    if not at.account.fits(need):
        raise BudgetEnded(f"the budget has no room for the next {kind}")
    call = at.call()
    if at.over is not None:
        await _cut_off(at, at.over, at.run.trace.recorded(call.place, f"{kind} cancelled"))
    again, at.resumed = {"again": True} if at.resumed else {}, False
    result, start, cost = await _fresh(at, kind, call, need, act)
    if again:
        at.run.again.append(call.place)
    await at.run.trace.write(Event(call.place, kind, start, cost, {**key, **encode(result), **again}))
    return result


def _known(at: Scope, kind: str) -> Event | None:
    """What an earlier life recorded of the call that comes next. Raises ModelError again if it failed and was dropped."""
    earlier = at.recorded(kind)
    failed = at.recorded(f"{kind} failed") if earlier is None and at.run.failures == "drop" else None
    if earlier or failed:
        at.next()
    if failed is not None:  # where failures end a run, it is tried again
        _recharge(at, failed)
        raise ModelError(failed.data["error"])
    return earlier


async def _fresh(
    at: Scope, kind: str, call: Call, need: Cost, act: Callable[[Call], Awaitable[tuple[R, Cost]]]
) -> tuple[R, float, Cost]:
    """What `act` gives, when it began, and what it cost, which is charged."""
    at.account.reserve(need)
    start = at.run.clock.now()
    try:
        at.run.physical_calls += 1
        result, cost = await act(call)
    except BaseException as error:
        await _charge_unfinished(at, kind, call, start, need, error)
        raise
    cost = cost.taking(at.run.clock.now() - start)
    at.account.charge(cost, need)
    return result, start, cost


def _replay(at: Scope, event: Event, key: Data, decode: Callable[[Data, Cost], R]) -> R:
    if any(event.data.get(name) != value for name, value in key.items()):
        raise ForethoughtError(
            f"the record at {'.'.join(map(str, event.place))} answers another request: "
            "the program or the model has changed since, so start a new run"
        )
    _recharge(at, event)
    return decode(event.data, event.cost)


def _recharge(at: Scope, event: Event) -> None:
    at.run.replayed += 1
    at.run.clock.advance(event.start + event.cost.seconds)
    at.account.charge(event.cost)


async def _cut_off(at: Scope, over: Event, call: Event | None) -> None:
    """In an earlier life the time was over here: what was in flight then is charged, and nothing is asked again."""
    if call is not None:
        at.account.charge(call.cost)
    await _all_replayed(at.run)
    at.run.clock.advance(over.start)
    await anyio.sleep_forever()  # the deadline has passed, or will as soon as it had then


async def _all_replayed(run: Run) -> None:
    """Until all that was bought before the time was over is replayed: fan-outs in fan-outs take passes to get there."""
    quiet = 0
    while quiet < QUIET:
        before = run.replayed
        await anyio.lowlevel.checkpoint()
        quiet = quiet + 1 if run.replayed == before else 0


async def _charge_unfinished(at: Scope, kind: str, call: Call, start: float, bound: Cost, error: BaseException) -> None:
    """Charge a cancelled or failed call, before the budget that paid for it can be used again."""
    estimated = call.so_far is None
    cost = bound if call.so_far is None else call.so_far
    cost = cost.taking(at.run.clock.now() - start)
    at.account.charge(cost, bound)
    fate = f"{kind} failed" if isinstance(error, ModelError) else f"{kind} cancelled"
    data: dict[str, Any] = {"error": str(error)} if isinstance(error, ModelError) else {}
    if estimated:
        data["estimated"] = True
    with anyio.CancelScope(shield=True):
        await at.run.trace.write(Event(call.place, fate, start, cost, data))
