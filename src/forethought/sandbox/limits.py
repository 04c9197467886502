"""What a program in a sandbox may use, and how its run ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from forethought.core.registry import require

Kind = Literal["bubblewrap", "plain"]
"""bubblewrap: namespaces without network and without the host's files, rlimits, and seccomp where the machine has it.
plain: rlimits and seccomp only. It sees the host's files, so it is weaker and never taken unless it is asked for."""

Status = Literal["ended", "raised", "exited", "memory", "time", "output", "killed"]
"""ended: the program ran to its end. raised: an exception was not caught. exited: it left before its end, with whatever
code. memory, time, output: a limit. killed: by a signal, its own crash or the kernel's."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds by the clock and of the processor; bytes of memory, of one file and all files together, and of output."""

    wall: float = 10.0
    cpu: int = 5
    memory: int = 512 << 20
    disk: int = 16 << 20
    output: int = 1 << 20

    def __post_init__(self) -> None:
        for name in ("wall", "cpu", "memory", "disk", "output"):
            require(getattr(self, name) > 0, f"a sandbox's {name} must be above 0, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended, what it wrote (cut at the limit), and the seconds it took from its first statement."""

    status: Status
    out: str
    err: str
    seconds: float
