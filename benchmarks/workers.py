"""Times processes that can be killed: how long a sandbox takes to start, four of them side by side, and algebra by the pair."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from _common import Measured, interleaved, machine, options, report

from forethought.sandbox import Program, run_sync
from forethought.sandbox.equality import equal_sync

PATIENT = 60.0  # seconds: what is slow on a busy machine is measured, and not given up
ROUND = itertools.count(1)


def ran(text: str) -> float:
    """Milliseconds from asking to the program's end."""
    start = time.perf_counter()
    status = run_sync(Program((text,))).status
    assert status == "ended", status
    return 1000 * (time.perf_counter() - start)


def side_by_side() -> float:
    """Milliseconds for four programs that sleep a fifth of a second, beyond that fifth."""
    start = time.perf_counter()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(ran, ["import time; time.sleep(0.2)"] * 4))
    return 1000 * (time.perf_counter() - start) - 200


def compared(threads: int) -> float:
    """Milliseconds a pair: sixteen answers to each of twenty problems, as a vote asks about them; each time others.

    math-verify alone takes nearly all of it: parsing a text that it has not seen, some 30 ms.
    """
    first = 20 * next(ROUND)
    answers = [rf"\frac{{{7 * k + 1}}}{{7}}" if k % 2 else f"{k}x+{k % 5}" for k in range(first, first + 20)]
    pairs = [(answer, told) for answer in answers for told in (answer, answers[0], f"({answer})", "12") * 4]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda n: equal_sync(f"x+{n}", r"\frac{1}{2}", PATIENT), range(threads)))  # workers have started
        start = time.perf_counter()
        right = sum(pool.map(lambda pair: bool(equal_sync(*pair, PATIENT)), pairs))
        passed = time.perf_counter() - start
    assert right == len(pairs) // 2 + 4, right
    return 1000 * passed / len(pairs)


def main() -> None:
    asked = options(__doc__ or "", repetitions=5).parse_args()
    before = machine()
    cases = {"sandbox, start to end": lambda: ran("pass"), "four sandboxes, above their sleep": side_by_side}
    algebra = {f"mathematical equality, a pair, {n} at once": partial(compared, n) for n in (1, 2)}
    times = interleaved(cases | algebra, asked.repetitions)
    most = {"sandbox, start to end": 100.0, **dict.fromkeys(algebra, 5.0)}
    report(
        "workers", [Measured(name, "ms", values, most.get(name)) for name, values in times.items()], before, asked.json
    )


if __name__ == "__main__":
    main()
