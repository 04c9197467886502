"""What `import forethought` adds to the start of a bare interpreter.

Prediction: the limit is files opened and compiled code read. The package itself looks its names up when first used, so
importing it reads one small file (about 1 ms); `forethought.solve` then reads the core with numpy, anyio and the parts,
but never torch, which alone takes more than a second.
"""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial

from _common import Measured, interleaved, machine, options, report

BARE = "bare interpreter"
CASES = {
    BARE: "pass",
    "import forethought": "import forethought",
    "forethought.solve": "import forethought as f; f.solve",
}
TARGET = 150.0  # milliseconds
HEAVY = ("torch", "transformers")


def milliseconds(code: str) -> float:
    """From starting the interpreter to its end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return (time.perf_counter() - start) * 1e3


def heavy_after(code: str) -> list[str]:
    """Which of the heavy packages this code has imported."""
    told = f"import sys\n{code}\nsys.stdout.write(' '.join(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", told], check=True, capture_output=True, text=True).stdout.split()
    return [name for name in HEAVY if name in modules]


def main() -> None:
    asked = options(__doc__ or "", repetitions=15).parse_args()
    before = machine()
    times = interleaved({name: partial(milliseconds, code) for name, code in CASES.items()}, asked.repetitions)
    measured = [Measured(BARE, "ms", times[BARE])]
    for name, code in list(CASES.items())[1:]:
        extra = [whole - bare for whole, bare in zip(times[name], times[BARE], strict=True)]
        measured.append(Measured(f"{name}: extra", "ms", extra, TARGET))
        measured.append(Measured(f"{name}: heavy packages", "", [len(heavy_after(code))], 0))
    report("import_time", measured, before, asked.json)


if __name__ == "__main__":
    main()
