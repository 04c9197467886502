"""Each contender of `engine.py` in a process of its own: threads that several libraries keep get in each other's way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection

from _rounds import Round, once
from _workloads import Workloads, contender

Make = Callable[[], Workloads]  # what a process makes for itself, of which it runs what it is asked for


@contextmanager
def apart(make: Make) -> Iterator[Callable[[str, str], Round]]:
    """Gives the rounds of a case of a workload, which are done elsewhere on this machine; behind it nothing goes on."""
    spawn, processes, pipes = get_context("spawn"), [], dict[str, Connection]()

    def ask(which: str, name: str, turn: int) -> dict[str, float]:
        who = contender(name)
        if who not in pipes:
            pipes[who], theirs = spawn.Pipe()
            process = spawn.Process(target=serve, args=(theirs, make), daemon=True)
            process.start()
            processes.append(process)
            theirs.close()  # so that its end is heard
        pipes[who].send((which, name, turn))
        told: dict[str, float] = pipes[who].recv()
        return told

    yield lambda which, name: partial(ask, which, name)
    for pipe in pipes.values():
        pipe.close()
    for process in processes:
        process.join()


def serve(pipe: Connection, make: Make) -> None:
    workloads = make()
    while True:
        try:
            which, name, turn = pipe.recv()
        except EOFError:
            return
        workloads.prepare(which, name)
        pipe.send(once(which, workloads.cases(which)[name], turn))
