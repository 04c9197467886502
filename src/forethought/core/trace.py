"""What happened, by place: every call, every decision that chance or time had a part in."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from pickle import dumps, loads
from typing import Any, NamedTuple, Protocol

from forethought.core.cost import ZERO, Cost

Path = tuple[int, ...]


class Event(NamedTuple):
    """One row of a trace. `start` is in seconds since the run began; `data` is JSON."""

    place: Path
    kind: str
    start: float = 0.0
    cost: Cost = ZERO
    data: Mapping[str, Any] = {}


class Trace(Protocol):
    """Takes events, and knows those of an earlier life of the same run."""

    def recorded(self, place: Path, kind: str) -> Event | None:
        """The event that an earlier life of this run recorded at this place, if any."""
        ...

    def write(self, event: Event) -> Awaitable[None]:
        """Record a result. When this has been awaited, the event survives the end of the process."""
        ...

    def note(self, event: Event) -> None:
        """Record what could be derived again; it is kept together with the next result."""
        ...


class MemoryTrace:
    """A trace that lasts as long as the process; also one that replays given events.

    Events are kept pickled: where 100,000s of objects live, the garbage collector takes a third of the time of a large search
    looking at them.
    """

    def __init__(self, earlier: Iterable[Event] = ()) -> None:
        self._pickled: list[bytes] = []
        self._earlier = {(event.place, event.kind): event for event in earlier}

    @property
    def events(self) -> list[Event]:
        """What was recorded, in order."""
        return [Event(at, kind, start, Cost(*cost), data) for at, kind, start, cost, data in map(loads, self._pickled)]

    def recorded(self, place: Path, kind: str) -> Event | None:
        return self._earlier.get((place, kind))

    async def write(self, event: Event) -> None:
        self.note(event)

    def note(self, event: Event) -> None:
        place, kind, start, cost, data = event
        plain = (place, kind, start, (*cost,), data)  # a fourth of the time of the classes
        self._pickled.append(dumps(plain, -1))
