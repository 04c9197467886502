"""Running a program in a sandbox, from any thread or event loop."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import IO

from forethought.core.errors import ModelError
from forethought.sandbox import bubblewrap
from forethought.sandbox.limits import Kind, Limits, Outcome, Status
from forethought.sandbox.seccomp import filter_bytes
from forethought.sandbox.turns import Turns

START = 20.0  # seconds that an interpreter may take to start on a busy machine; they are not the program's
LAST = 1.0  # seconds between a program's closing its outputs and its end
TICK = 0.05  # seconds within which a cancelled run is killed
AT_ONCE = max(4, os.cpu_count() or 1)
TURNS = Turns("sandboxes", AT_ONCE)


@dataclass(frozen=True, slots=True)
class Program:
    """Python texts that run one after another in one module of this `name`, and their standard input.

    One process with one thread and the standard library. `__main__` runs a main guard, any other name does not.
    """

    parts: tuple[str, ...]
    stdin: str = ""
    name: str = "__main__"


async def run(program: Program, limits: Limits = Limits(), kind: Kind = "bubblewrap") -> Outcome:
    """Run a program; a cancelled run is killed. At most `AT_ONCE` run at a time, the others wait.

    What a run says of itself is trusted as far as no program looks for the word that `boot` keeps in the memory of the
    same interpreter. Empty files in /tmp cost the kernel about a kilobyte each, which only `cpu` limits.
    Raises UsageError where the machine has no such sandbox, ModelError where the sandbox itself fails.
    """
    stop = threading.Event()
    try:
        return await TURNS(lambda: run_sync(program, limits, kind, stop))
    finally:
        stop.set()


def run_sync(
    program: Program, limits: Limits = Limits(), kind: Kind = "bubblewrap", stop: threading.Event | None = None
) -> Outcome:
    """`run` for threads. It ends soon after `stop` is set."""
    if kind == "bubblewrap":
        bubblewrap.check()
    mark = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="sandbox", ignore_cleanup_errors=True) as folder:
        command = bubblewrap.wrapped(limits) if kind == "bubblewrap" else bubblewrap.python()
        watch = Watch(started(command, folder), limits, mark.encode(), stop or threading.Event())
        return watch.until_end(parcel(program, limits, mark))


def parcel(program: Program, limits: Limits, mark: str) -> bytes:
    """What `boot` reads first, ten digits of length and JSON, and then the program's own standard input."""
    asked = {"parts": program.parts, "name": program.name, "limits": asdict(limits), "mark": mark}
    body = json.dumps(asked | {"filter": (filter_bytes() or b"").hex()}).encode()
    return b"%010d" % len(body) + body + program.stdin.encode()


def started(command: list[str], folder: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    environment = {"PATH": "/usr/bin:/bin", "HOME": folder, "LC_ALL": "C.UTF-8"}
    return subprocess.Popen(
        command, 0, stdin=pipe, stdout=pipe, stderr=pipe, cwd=folder, env=environment, start_new_session=True
    )


@dataclass
class Watch:
    """A running sandbox: feeds it, reads it, and ends it at the first limit."""

    process: subprocess.Popen[bytes]
    limits: Limits
    mark: bytes
    stop: threading.Event
    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)
    begun: float | None = None

    def until_end(self, sent: bytes) -> Outcome:
        with self.process, selectors.DefaultSelector() as pipes:
            try:
                cut = self._pump(pipes, sent)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(TICK if cut else LAST)
            finally:
                self._kill()
        return self._outcome(cut)

    def _pump(self, pipes: selectors.BaseSelector, sent: bytes) -> Status | None:
        """Move bytes until both outputs are closed, or a limit is met: which one."""
        sinks = self._opened(pipes)
        deadline, rest = time.monotonic() + START, memoryview(sent)
        while any(key.fileobj in sinks for key in pipes.get_map().values()):
            if self.begun is None and self._ready():
                self.begun = time.monotonic()
                deadline = self.begun + self.limits.wall
            if time.monotonic() >= deadline or self.stop.is_set():
                return "time"
            if max(map(len, sinks.values())) > self.limits.output + 256:  # and the two lines of `boot`
                return "output"
            for key, _ in pipes.select(min(TICK, max(deadline - time.monotonic(), 0.0))):
                if key.fileobj is self.process.stdin:
                    rest = self._feed(pipes, rest)
                else:
                    self._drain(pipes, key.fileobj, sinks)  # type: ignore[arg-type]
        return None

    def _opened(self, pipes: selectors.BaseSelector) -> dict[IO[bytes], bytearray]:
        """Register all three pipes; the two outputs and where they go."""
        stdin, stdout, stderr = self.process.stdin, self.process.stdout, self.process.stderr
        assert stdin is not None
        assert stdout is not None
        assert stderr is not None
        for pipe, event in ((stdin, selectors.EVENT_WRITE), *((p, selectors.EVENT_READ) for p in (stdout, stderr))):
            os.set_blocking(pipe.fileno(), False)
            pipes.register(pipe, event)
        return {stdout: self.out, stderr: self.err}

    def _feed(self, pipes: selectors.BaseSelector, rest: memoryview) -> memoryview:
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):  # it does not read on
            rest = rest[os.write(self.process.stdin.fileno(), rest[:65536]) :]
            if rest:
                return rest
        pipes.unregister(self.process.stdin)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        return rest

    def _drain(self, pipes: selectors.BaseSelector, pipe: IO[bytes], sinks: dict[IO[bytes], bytearray]) -> None:
        block = os.read(pipe.fileno(), 65536)
        sinks[pipe].extend(block)
        if not block:
            pipes.unregister(pipe)

    def _ready(self) -> bool:
        return self.out.startswith(self.mark) and b"\n" in self.out

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _outcome(self, cut: Status | None) -> Outcome:
        if not self._ready():
            said = " ".join(self.err.decode(errors="replace").split())[:300]
            raise ModelError(f"the sandbox did not start: {said or 'no word from it'}")
        assert self.begun is not None
        _, _, written = bytes(self.out).partition(b"\n")
        written, found, word = written.rpartition(b"\n" + self.mark + b" ")
        if not found:
            written, word = word, b""
        status = cut or STATUSES.get(word) or self._by_code()
        text, err = (data[: self.limits.output].decode(errors="replace") for data in (written, bytes(self.err)))
        return Outcome(status, text, err, time.monotonic() - self.begun)

    def _by_code(self) -> Status:
        """The end of a process that `boot` could not tell about: bubblewrap gives 128 + the signal."""
        code = self.process.returncode
        number = -code if code < 0 else code - 128
        return "time" if number == signal.SIGXCPU else "killed" if number > 0 else "exited"


STATUSES: dict[bytes, Status] = {b"ended": "ended", b"raised": "raised", b"exited": "exited", b"memory": "memory"}
