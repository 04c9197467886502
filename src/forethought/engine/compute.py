"""One thread for all that torch computes.

OpenMP keeps a team of threads for each thread that ever used it. Once two have, there are more of them than cores, they go to
sleep between operations instead of waiting awake, and every small one pays for waking them: a step then takes twice as long.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_HERE = threading.local()
_THREAD = ThreadPoolExecutor(1, "forethought-compute", lambda: setattr(_HERE, "computes", True))


def computed(work: Callable[[], T]) -> T:
    """What `work` comes to, in that thread; the caller waits, unless it is that thread itself."""
    return work() if hasattr(_HERE, "computes") else _THREAD.submit(work).result()
