"""Functions of libraries that may hang or crash, in worker processes that can be killed."""

from __future__ import annotations

import atexit
import importlib
import json
import os
import queue
import selectors
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from forethought.core.errors import ModelError, UsageError

MEMORY = 2 << 30  # bytes that a worker may have
SIZE = 2  # workers of one function
START = 60.0  # seconds that a worker may take to import its library on a busy machine
SERVE = "import sys; from forethought.sandbox.worker import serve; serve(*sys.argv[1:])"


class Workers:
    """Calls of one function (`module:name`, JSON in and out), each in one of `size` processes, within a time limit.

    Processes start when they are needed, import the function's `library` first, and stay; they end with this one. Calls
    may come from any thread.
    """

    def __init__(self, target: str, size: int = SIZE, library: str = "") -> None:
        self._free: queue.LifoQueue[Worker] = queue.LifoQueue()  # the one used last is warm
        for _ in range(size):
            self._free.put(Worker(target, library))

    def call(self, arguments: list[Any], seconds: float) -> Any:
        """The function's result. Raises TimeoutError after `seconds`, ModelError if it raised or its process died.

        Raises UsageError where no process can be started: the next call would fare no better.
        """
        worker = self._free.get()
        try:
            return worker.call(arguments, seconds)
        finally:
            self._free.put(worker)


class Worker:
    """One process, used by one thread at a time."""

    def __init__(self, target: str, library: str) -> None:
        self._target, self._library = target, library
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        atexit.register(self.kill)

    def call(self, arguments: list[Any], seconds: float) -> Any:
        try:
            if self._process is None:
                self._start()
            self._write(json.dumps(arguments).encode() + b"\n")
            answer = json.loads(self._line(seconds))
        except BaseException:
            self.kill()
            raise
        if "error" in answer:
            raise ModelError(f"{self._target}: {answer['error']}")
        return answer["result"]

    def kill(self) -> None:
        process, self._process, self._rest = self._process, None, b""
        if process is not None:
            process.kill()
            with process:
                pass

    def _start(self) -> None:
        command = [sys.executable, "-c", SERVE, self._target, self._library]
        self._process = subprocess.Popen(command, 0, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            wrong = json.loads(self._line(START)).get("error")
        except (TimeoutError, ModelError) as error:
            wrong = str(error).removeprefix(f"{self._target}: ")
        if wrong:
            raise UsageError(f"{self._target} cannot be run here: {wrong}")

    def _write(self, data: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            while data:
                data = data[self._process.stdin.write(data) :]
        except BrokenPipeError:
            raise ModelError(f"{self._target}: its process died") from None

    def _line(self, seconds: float) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        deadline, pipe = time.monotonic() + seconds, self._process.stdout.fileno()
        with selectors.DefaultSelector() as pipes:
            pipes.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not pipes.select(max(deadline - time.monotonic(), 0.0)):
                    raise TimeoutError(f"{self._target} took more than {seconds:g} s")
                block = os.read(pipe, 65536)
                if not block:
                    raise ModelError(f"{self._target}: its process died")
                self._rest += block
        line, _, self._rest = self._rest.partition(b"\n")
        return line


def serve(target: str, library: str) -> None:
    """The life of a worker: a line in, a line out, until its standard input ends."""
    answers = os.fdopen(os.dup(1), "wb", 0)
    os.dup2(2, 1)  # whatever a library prints is no answer
    _limit()
    try:
        function = _loaded(target, library)
    except Exception as error:  # noqa: BLE001 - it crosses a process, and is raised again there
        answers.write(json.dumps(_error(error)).encode() + b"\n")
        return
    answers.write(b"{}\n")
    for line in sys.stdin.buffer:
        answers.write(json.dumps(_answer(function, json.loads(line))).encode() + b"\n")


def _loaded(target: str, library: str) -> Callable[..., Any]:
    if library:
        importlib.import_module(library)
    module, _, name = target.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def _answer(function: Callable[..., Any], arguments: list[Any]) -> dict[str, Any]:
    try:
        return {"result": function(*arguments)}
    except Exception as error:  # noqa: BLE001 - it crosses a process, and is raised again there
        return _error(error)


def _error(error: Exception) -> dict[str, Any]:
    return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def _limit() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
