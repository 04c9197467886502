"""What a search has found so far is there to answer from, whatever ends it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from forethought.core.draft import Draft
from forethought.core.population import Particle
from forethought.core.scope import Scope


@contextmanager
def keeping(found: list[Particle[Draft]], at: Scope) -> Iterator[None]:
    """Should the budget or an error end what runs inside, keep `found` beside what the operator that ended has kept."""
    at.keep(found)
    try:
        yield
    except BaseException:  # also when a deadline cancels it
        at.keep(found if at.kept is found else [*found, *(at.kept or ())])
        raise
    at.keep(found)
