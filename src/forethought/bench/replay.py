"""Selections and adaptive methods on recorded samples, with no model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import anyio
import numpy as np
from numpy.typing import NDArray

from forethought.bench.expected import expected, pass_at
from forethought.bench.recorded import Recorded, Table
from forethought.bench.stats import Calibration, interval
from forethought.bench.tape import play, with_n
from forethought.core.errors import UsageError
from forethought.methods import Method, methods
from forethought.selection import Fitted, Tallying, selections
from forethought.selection.basic import Majority
from forethought.selection.protocol import Known
from forethought.selection.votes import Indices, Numbers, Tally, Votes

Order = Literal["given", "shuffled"]
SUBSETS, SEED = 200, 0
AT_ONCE = 2_000_000  # entries of a table that is counted in one go


@dataclass(frozen=True, slots=True)
class Replay:
    """What is replayed. Spellings are kept as they were asked for; `train` are problems to fit what can be fitted."""

    problems: Sequence[Recorded]
    grade: str | None = None
    order: Order = "given"
    train: Sequence[Recorded] = ()


NOTHING = Calibration(math.nan, math.nan, math.nan)


@dataclass(slots=True, eq=False)
class Tallied:
    """What has been counted for one row of the result: of each problem, and of each of its choices of samples.

    `fitted` is the spelling of the selection that was counted by, where it was fitted.
    """

    credit: list[float] = field(default_factory=list)
    samples: list[float] = field(default_factory=list)
    tokens: list[float | None] = field(default_factory=list)
    sure: list[Numbers] = field(default_factory=list)
    right: list[Numbers] = field(default_factory=list)
    weight: list[Numbers] = field(default_factory=list)
    calibration: Calibration = NOTHING
    fitted: str | None = None

    def row(self, coverage: float) -> dict[str, Any]:
        low, high = interval(self.credit)
        tokens = [t for t in self.tokens if t is not None]
        return {
            "accuracy": math.fsum(self.credit) / len(self.credit),
            "low": low,
            "high": high,
            "mean_samples": math.fsum(self.samples) / len(self.samples),
            "mean_new_tokens": math.fsum(tokens) / len(tokens) if len(tokens) == len(self.tokens) else None,
            "coverage": coverage,
            **self.calibration.as_json(),
            "problems": len(self.credit),
            "fitted": self.fitted,
        }

    def close(self) -> None:
        """Measure the calibration; the choices are not needed any more."""
        sure, right, weight = map(np.concatenate, (self.sure, self.right, self.weight))
        self.calibration = Calibration.of(sure, right, weight)
        self.sure, self.right, self.weight = [], [], []

    def add(self, tally: Tally, credit: Numbers, weight: Numbers) -> None:
        """The confidence and credit of each choice that was answered; the weights of a problem's choices sum to one."""
        answered = tally.leading.any(1)
        self.sure.append(tally.confidence[answered])
        self.right.append(credit[answered])
        self.weight.append(weight[answered])


def replay(
    asked: Replay, select: Sequence[str], method: Sequence[str], sizes: Sequence[int] | None = None
) -> list[tuple[dict[str, Any], Tallied]]:
    """One row a selection and n, then one a method and n, each with what it was made of.

    Raises UsageError for selections and methods that recorded samples are not enough for, and where an `n` leaves no
    problem.
    """
    table = Table.of(asked.problems, asked.grade)
    sizes = sizes or powers(int(table.size.max()))
    for n in sizes:
        if not (table.size >= n).any():
            raise UsageError(f"no problem has n={n} samples; the most is {table.size.max()}")
    rules = {spelling: counting(spelling, table) for spelling in select}
    programs = {spelling: methods.parse(spelling) for spelling in method}
    found = {(spelling, n): Tallied() for spelling in (*rules, *programs) for n in sizes}
    for n in sizes:
        learnt = {spelling: fitted(rule, asked, n) for spelling, rule in rules.items()}
        count({found[spelling, n]: rule for spelling, rule in learnt.items()}, table, asked, n)
        for spelling, rule in learnt.items():
            found[spelling, n].fitted = None if rule is rules[spelling] else repr(rule)
    for spelling, program in programs.items():
        for n in sizes:
            anyio.run(perform, found[spelling, n], with_n(program, n), table, asked, n)
            found[spelling, n].close()
    covered = {n: coverage(asked.problems, n) for n in sizes}
    rows = []
    for (spelling, n), made in found.items():
        name = {"select": spelling, "method": None} if spelling in rules else {"select": "majority", "method": spelling}
        rows.append(({**name, "n": n, **made.row(covered[n])}, made))
    return rows


def powers(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`."""
    return [1 << k for k in range(most.bit_length())] if most else [1]


def coverage(problems: Sequence[Recorded], n: int) -> float:
    """pass@n over all recorded samples of those problems that have n."""
    passed = [pass_at(len(p.right), sum(p.right), n) for p in problems if len(p.right) >= n]
    return math.fsum(passed) / len(passed)


def counting(spelling: str, table: Table) -> Tallying:
    """The selection, if recorded samples are enough for it."""
    rule = selections.parse(spelling)
    if not isinstance(rule, Tallying):
        raise UsageError(f"{spelling} asks a model, so recorded samples are not enough for it")
    if "grades" in rule.needs and table.pool.verifier is None:
        raise UsageError(f"{spelling} needs grades, and no sample has any")
    if "logprobs" in rule.needs and np.isnan(table.pool.logprob).all():
        raise UsageError(f"{spelling} needs the mean_logprob of samples, and none has it")
    if "texts" in rule.needs and any(table.pool.said[i] is not None for i in table.pool.textless):
        raise UsageError(f"{spelling} needs the text of every sample that has an answer, and some have none")
    return rule


def fitted(rule: Tallying, asked: Replay, n: int) -> Tallying:
    """The selection, fitted to the first n samples of the problems that are for that."""
    if not asked.train or not isinstance(rule, Fitted):
        return rule
    table = Table.of(asked.train, asked.grade)
    some = np.flatnonzero(table.size >= n)
    if not len(some):
        raise UsageError(f"none of the problems to fit to has n={n} samples")
    known: list[Known] = [(votes_on(table, table.start[some][:, None] + np.arange(n)), table.right[some])]
    return rule.fit(known)


def votes_on(table: Table, rows: Indices, weight: Numbers | None = None) -> Votes:
    """Samples by their places in the pool, a row a choice."""
    even = np.full(rows.shape, 1 / max(rows.shape[1], 1)) if weight is None else weight
    return Votes(table.pool, rows, even, table.right.shape[1])


@lru_cache(maxsize=256)
def choices(size: int, n: int, order: Order) -> Indices:
    """Which n samples of a problem are looked at: the first, or all choices if they are few, or 200 at random.

    Random ones are nested: those for a smaller n are beginnings of those for a larger one. Problems of equal size have
    the same ones: their samples have nothing to do with one another.
    """
    if order == "given":
        return np.arange(n)[None]
    if math.comb(size, n) <= SUBSETS:
        every = np.array(list(itertools.combinations(range(size), n)), dtype=np.intp)
        return np.random.default_rng(SEED).permuted(every, axis=1)
    return orders(size)[:, :n]


@lru_cache(maxsize=256)
def orders(size: int) -> Indices:
    """All orders of a few samples, else 200 at random."""
    if math.factorial(min(size, 20)) <= SUBSETS:
        return np.array(list(itertools.permutations(range(size))), dtype=np.intp)
    return np.random.default_rng(SEED).random((SUBSETS, size)).argsort(1)


def batches(table: Table, order: Order, n: int) -> Iterator[tuple[Indices, Indices, Indices]]:
    """Problems with n samples, a number of them at a time: which, the choices of all, and whose each choice is."""
    some = np.flatnonzero(table.size >= n).tolist()
    each = (1 if order == "given" else SUBSETS) * (n + table.right.shape[1])
    step = max(1, AT_ONCE // each)
    for i in range(0, len(some), step):
        part = some[i : i + step]
        drawn = [choices(int(table.size[p]), n, order) for p in part]
        owner = np.repeat(np.arange(len(part)), [len(d) for d in drawn])
        rows = np.concatenate([table.start[p] + d for p, d in zip(part, drawn, strict=True)])
        yield np.array(part), rows, owner


def credited(tally: Tally, right: NDArray[np.bool_]) -> Numbers:
    """Each row's share of leading answers that are right."""
    lead = tally.leading
    return np.asarray((lead & right).sum(1) / np.maximum(lead.sum(1), 1))


def count(rules: Mapping[Tallied, Tallying], table: Table, asked: Replay, n: int) -> None:
    """All problems under these selections at one n."""
    for part, rows, owner in batches(table, asked.order, n):
        votes, right, weight = votes_on(table, rows), table.right[part[owner]], 1 / np.bincount(owner)[owner]
        tokens = [spent(asked.problems[p], range(n), asked.order, n) for p in part.tolist()]
        for made, rule in rules.items():
            tally = rule.tally(votes)
            credit = credited(tally, right)
            mean = np.bincount(owner, credit * weight).tolist()
            if asked.order == "shuffled":
                mean = [exact(rule, table, p, n, m) for p, m in zip(part.tolist(), mean, strict=True)]
            made.credit += mean
            made.add(tally, credit, weight)
            made.samples += [float(n)] * len(part)
            made.tokens += tokens
    for made in rules:
        made.close()


def exact(rule: Tallying, table: Table, problem: int, n: int, otherwise: float) -> float:
    """The expected credit in closed form, if there is one."""
    own = slice(int(table.start[problem]), int(table.start[problem] + table.size[problem]))
    grade = table.pool.grade(getattr(rule, "steps", "last"))[own]
    found = expected(rule, table.pool.answer[own], table.right[problem], grade, n)
    return otherwise if found is None else found


def spent(recorded: Recorded, drawn: Sequence[int], order: Order, n: int) -> float | None:
    """The new tokens of these samples; of any n, on the average."""
    tokens = recorded.tokens
    if tokens is None:
        return None
    return n * sum(tokens) / len(tokens) if order == "shuffled" else float(sum(tokens[i] for i in drawn))


async def perform(made: Tallied, method: Method, table: Table, asked: Replay, n: int) -> None:
    """All problems under one method with at most n drafts, read by majority."""
    rule = Majority()
    for problem in np.flatnonzero(table.size >= n).tolist():
        recorded = asked.problems[problem]
        size = int(table.size[problem])
        tried = choices(size, size, "given") if asked.order == "given" else orders(size)
        played = [await play(method, recorded, order[:n]) for order in tried.tolist()]
        width = max(len(one.samples) for one in played)
        rows = np.zeros((len(played), max(width, 1)), dtype=np.intp)
        weight = np.zeros(rows.shape)
        for i, one in enumerate(played):
            rows[i, : len(one.samples)], weight[i, : len(one.samples)] = one.samples, one.weights
        tally = rule.tally(votes_on(table, rows + table.start[problem], weight))
        credit = credited(tally, table.right[[problem] * len(rows)])
        made.credit.append(float(credit.mean()))
        made.add(tally, credit, np.full(len(credit), 1 / len(credit)))
        made.samples.append(float(np.mean([len(one.drawn) for one in played])))
        tokens = [spent(recorded, one.drawn, "given", n) for one in played]
        known = [t for t in tokens if t is not None]
        made.tokens.append(float(np.mean(known)) if len(known) == len(tokens) else None)
