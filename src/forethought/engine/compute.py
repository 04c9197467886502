"""One thread for all that torch computes.

OpenMP keeps a team of threads for each thread that ever used it. Once two have, there are more of them than cores, they go to
sleep between operations instead of waiting awake, and every small one pays for waking them: a step then takes twice as long.

Between two operations this thread needs Python's lock. While another one holds it, it waits for a switch interval, 5 ms unless
told, at each of some hundred operations of a step: callers that are busy with what came back would stop the engine.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_HERE = threading.local()
_THREAD = ThreadPoolExecutor(1, "forethought-compute", lambda: setattr(_HERE, "computes", True))
SWITCH = 0.0005  # seconds for which others may hold Python's lock while this thread computes


def computed(work: Callable[[], T]) -> T:
    """What `work` comes to, in that thread; the caller waits, unless it is that thread itself."""
    return work() if hasattr(_HERE, "computes") else _THREAD.submit(_often_switching, work).result()


def _often_switching(work: Callable[[], T]) -> T:
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, SWITCH))
    try:
        return work()
    finally:
        sys.setswitchinterval(before)
