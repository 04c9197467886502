"""Running ladders: a job is one method on the problems of one task, a file of its own once it is done.

A file's name tells everything that its numbers depend on, the weights of both models included, so a run that was cut off
goes on where it was, and nothing is mixed with what another model made.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import anyio
from _common import kept, reasoner_weights

from forethought.assembly import by_of
from forethought.bench.prefix import Reading, as_made, drafted, with_grades
from forethought.core.budget import Budget
from forethought.core.cost import ZERO, Cost
from forethought.core.draft import Draft
from forethought.core.errors import UsageError
from forethought.core.problem import Problem
from forethought.core.scope import Seeded
from forethought.core.trace import MemoryTrace
from forethought.methods import By, methods
from forethought.selection import selections, wants_grades
from forethought.solving import Made, Parts, check
from forethought.tasks import generated_task
from forethought.tasks.generated import Split
from forethought.verifiers import verifiers

from .ladders import Choice, Ladder
from .memory import populate_watched, unique_tokens

AMPLE = Budget({"tokens": 1e9})  # sizes, not caps, make a ladder; what was spent is its axis
COVERAGE = "coverage"  # no selection: whether any draft is right
AT_ONCE = 100  # problems whose calls meet in one engine: enough that its 128 rows are hardly ever idle
BILLED = ("new_tokens", "verifier_tokens", "calls", "verifier_calls")
AXES = (*BILLED, "kv_tokens")


@dataclass(frozen=True)
class Job:
    """One method on the problems of one task, read by several selections, at several beginnings if it is a sample."""

    task: str
    method: str
    verifier: str
    select: tuple[str, ...]
    beginnings: tuple[int, ...]
    problems: int
    split: Split = "test"

    @property
    def key(self) -> str:
        told = json.dumps([asdict(self), reasoner_weights(), AXES], sort_keys=True)
        return hashlib.blake2b(told.encode(), digest_size=12).hexdigest()


def missing(ladder: Ladder, choice: Choice, select: Iterable[str]) -> str | None:
    """Why a ladder cannot be run, if some part of it is not there."""
    try:
        for spelling in ladder.runs(choice.temperature):
            methods.parse(spelling)
        for name in set(select) - {COVERAGE}:
            selections.parse(name)
        verifiers.parse(ladder.verifier)
    except UsageError as error:
        return str(error)
    return None


def jobs(
    wanted: Mapping[Ladder, Choice], problems: Mapping[str, int], split: Split = "test", every: bool = False
) -> list[Job]:
    """The jobs of some ladders, each once, those that read one run together, on so many `problems` of each task.

    `every`: with all competing selections.
    """
    reads: dict[tuple[str, str, str, tuple[int, ...], int], set[str]] = {}
    for ladder, choice in wanted.items():
        for spelling in ladder.runs(choice.temperature):
            for task in ladder.tasks:
                sizes = ladder.sizes if ladder.sampled else ()
                place = (task, spelling, ladder.verifier, sizes, problems[task])
                reads.setdefault(place, set()).update(ladder.select if every else (choice.select,))
    return [Job(*place[:3], tuple(sorted(names)), *place[3:], split) for place, names in reads.items()]


def done(job: Job, store: Path) -> list[dict[str, Any]] | None:
    path = store / f"{job.key}.json"
    return json.loads(path.read_text())["records"] if path.exists() else None


def cpu_seconds(job: Job, store: Path) -> float:
    """What a job that is done took."""
    return float(json.loads((store / f"{job.key}.json").read_text())["cpu_seconds"])


def run_all(
    todo: Sequence[Job], store: Path, workers: int, tell: Callable[[Job], None] = lambda job: None
) -> Iterator[tuple[Job, BaseException]]:
    """Do what the store does not have, the longest first, each process with a core and an engine of its own.

    Yields the jobs that failed, with their errors; the others are done all the same.
    """
    store.mkdir(parents=True, exist_ok=True)
    left = sorted((job for job in todo if done(job, store) is None), key=weight, reverse=True)
    for job in set(todo) - set(left):
        tell(job)
    if not workers:
        for job in left:
            run(job, store)
            tell(job)
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=end_with_parent) as pool:
        futures: dict[Future[None], Job] = {pool.submit(run, job, store): job for job in left}
        for future in as_completed(futures):
            tell(futures[future])
            error = future.exception()
            if error is not None:
                yield futures[future], error


def end_with_parent() -> None:
    """Let this process end as soon as the one that started it has, in whatever way: a worker waits for work for ever."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def weight(job: Job) -> int:
    """Roughly how long a job takes beside others: by what its parameters multiply to, and the length of the drafts."""
    product = 1
    for name in ("n", "width", "expand", "sweeps", "chains"):
        product *= getattr(methods.parse(job.method), name, 1) or 1
    return product * job.problems * {"chain": 11, "chain-checked": 23, "procedure": 11}.get(job.task, 2)


def run(job: Job, store: Path) -> None:
    kept(store / f"{job.key}.json", lambda: {"job": asdict(job), "weights": reasoner_weights(), **timed(job)})


def timed(job: Job) -> dict[str, Any]:
    start = time.process_time()
    records = anyio.run(_records, job)
    return {"cpu_seconds": time.process_time() - start, "records": records}


async def _records(job: Job) -> list[dict[str, Any]]:
    task, method = generated_task(job.task), methods.parse(job.method)
    rules = [selections.parse(name) for name in job.select if name != COVERAGE]
    parts = Parts(by_of("reasoner", task, job.verifier, [method, *rules]), method, selections.parse("first"), AMPLE)
    problems = [task.problem(task.middle, index, job.split) for index in range(job.problems)]
    check(problems[0], parts)
    records: list[dict[str, Any]] = [{}] * len(problems)
    slots = anyio.CapacityLimiter(AT_ONCE)

    async def solve(index: int) -> None:
        async with slots:
            seed = Seeded(0).seed((index,))
            made, kv = await populate_watched(parts, problems[index], parts.run(seed, MemoryTrace()))
            records[index] = await _read(job, parts.by, problems[index], made, kv)

    async with anyio.create_task_group() as tasks:
        for index in range(len(problems)):
            tasks.start_soon(solve, index)
    return records


async def _read(job: Job, by: By, problem: Problem, made: Made, kv: float) -> dict[str, Any]:
    """What each selection makes of the population, and of its beginnings, and what each would have cost alone."""
    rules = [selections.parse(name) for name in job.select if name != COVERAGE]
    plain = as_made(made)
    grading = any(map(wants_grades, rules))
    rich = await with_grades(made, plain, by, problem, AMPLE, cut=False) if grading else plain
    reads: dict[str, Any] = {}
    for size in job.beginnings or (0,):
        here = reads[str(size)] = {}
        held = float(unique_tokens(p.state for p in made.population[:size])) if size else kv
        for rule, name in zip(rules, (n for n in job.select if n != COVERAGE), strict=True):
            wants = wants_grades(rule)
            reading = rich if wants else plain
            reading = beginning(reading, size, by, problem, wants) if size else reading
            verdict, cost = await reading.select(rule, made, by, problem, AMPLE)
            here[name] = entry(credit(verdict.leading, by, problem), cost, held)
        if COVERAGE in job.select:
            reading = beginning(plain, size, by, problem, False) if size else plain
            right = any(is_right(p.state, by, problem) for p in reading.population)
            here[COVERAGE] = entry(float(right), reading.cost, held)
    return {"reads": reads, "drafts": [told(p.state, by, problem) for p in rich.population]}


def beginning(reading: Reading, size: int, by: By, problem: Problem, graded: bool) -> Reading:
    """The first drafts of a sample, at what they and their grades cost."""
    part, cost = reading.population[:size], ZERO
    for particle in part:
        cost = cost.beside(drafted(particle.state))
        if graded and by.verifier is not None and str(by.verifier) in particle.state.grades:
            cost = cost.beside(particle.state.grades[str(by.verifier)].cost)
    return replace(reading, population=part, cost=cost)


def entry(value: float, cost: Cost, kv: float) -> dict[str, float]:
    return {"credit": value, **{axis: getattr(cost, axis) for axis in BILLED}, "kv_tokens": kv}


def credit(leading: Sequence[str], by: By, problem: Problem) -> float:
    right = [bool(by.task.correct(answer, problem)) for answer in leading]
    return sum(right) / len(right) if right else 0.0


def is_right(draft: Draft, by: By, problem: Problem) -> bool:
    answer = by.task.answer(draft.text, problem) if draft.finished else None
    return answer is not None and bool(by.task.correct(answer, problem))


def told(draft: Draft, by: By, problem: Problem) -> dict[str, Any]:
    answer = by.task.answer(draft.text, problem) if draft.finished else None
    right = answer is not None and bool(by.task.correct(answer, problem))
    grade = next((by.value(d) for d in (draft,) if by.verifier is not None and str(by.verifier) in d.grades), None)
    return {"answer": answer, "right": right, "size": draft.size, "grade": grade}
