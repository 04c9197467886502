"""Somebody's recorded samples: one JSON line a problem, read strictly."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.errors import UsageError
from forethought.core.problem import Message, Problem
from forethought.selection.votes import UNREADABLE, Indices, Pool
from forethought.tasks import TASKS
from forethought.tasks.classes import classes_of
from forethought.tasks.mathematics import Math


class Strings:
    """The task of recorded answers that are equal if their strings are. A further task's own checker may tell what is right."""

    step_break, step_tokens, draft_tokens, max_steps, checkable = "\n", 1, 10**9, 1, False

    def __init__(self, name: str) -> None:
        self.name = name

    def prompt(self, problem: Problem) -> tuple[Message, ...]:
        return ({"role": "user", "content": problem.text},)

    def answer(self, text: str, problem: Problem) -> str | None:
        """Replayed drafts say their recorded answers behind an equals sign."""
        return text[1:] if text.startswith("=") else None

    def correct(self, answer: str, problem: Problem) -> bool | None:
        if self.name in TASKS:
            return TASKS[self.name].correct(answer, problem)
        return answer == problem.reference if self.name == "exact" and problem.reference is not None else None


MATH = Math()


class Mathematical(Strings):
    """Answers that are equal if math-verify says so."""

    def same(self, one: str, other: str, problem: Problem) -> bool:
        return MATH.same(one, other, problem)


@dataclass(frozen=True, slots=True)
class Recorded:
    """One problem with its samples: what each says (None: nothing), and whether that is right.

    `textless` are the places of the samples whose texts are not recorded.
    """

    task: Strings
    problem: Problem
    drafts: Sequence[Draft]
    said: Sequence[str | None]
    right: Sequence[bool]
    textless: frozenset[int] = frozenset()

    @property
    def tokens(self) -> Sequence[int] | None:
        """The new tokens of each sample; None unless all are told."""
        sizes = [draft.cost.new_tokens if draft.cost.calls else None for draft in self.drafts]
        return None if None in sizes else [size for size in sizes if size is not None]


def read(path: Path, grade: str | None = None) -> list[Recorded]:
    """All problems of a file. Raises UsageError with file, line and what was expected. `grade` is the one to select by."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (IsADirectoryError, UnicodeDecodeError):
        made = f"`forethought export {path}` makes one of recorded runs"
        raise UsageError(f"{path} is no file of recorded samples; {made}") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error}") from None
    found = [Line(path, number, grade).read(text) for number, text in enumerate(lines, 1) if text.strip()]
    if not found:
        raise UsageError(f"{path} has no problems: expected one JSON object a line")
    return found


def number(value: Any) -> bool:
    """Whether it is finite, and no whole number beyond all floats."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def steps(value: Any) -> bool:
    return number(value) or (isinstance(value, list) and bool(value) and all(map(number, value)))


KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "task": ("a string", lambda v: isinstance(v, str)),
    "problem": ("a string", lambda v: isinstance(v, str)),
    "reference": ("a string or null", lambda v: v is None or isinstance(v, str)),
    "samples": ("a list of objects", lambda v: isinstance(v, list) and all(isinstance(s, dict) for s in v)),
    "answer": ("a string or null", lambda v: v is None or isinstance(v, str)),
    "text": ("a string", lambda v: isinstance(v, str)),
    "correct": ("true or false", lambda v: isinstance(v, bool)),
    "new_tokens": ("a whole number, at least 0", lambda v: isinstance(v, int) and number(v) and v >= 0),
    "mean_logprob": ("a number, at most 0", lambda v: number(v) and v <= 0),
    "grades": (
        "an object of numbers or lists of numbers",
        lambda v: isinstance(v, dict) and all(map(steps, v.values())),
    ),
}


@dataclass(frozen=True, slots=True)
class Line:
    """Where a problem is read."""

    path: Path
    number: int
    grade: str | None

    def wrong(self, what: str) -> NoReturn:
        raise UsageError(f"{self.path}, line {self.number}: {what}")

    def checked(self, row: Mapping[str, Any], needed: Sequence[str], optional: Sequence[str], where: str = "") -> None:
        for key in (*needed, *optional):
            expected, fits = KINDS[key]
            if key not in row and key in needed:
                self.wrong(f"{where}expected {key}, {expected}, which is missing")
            if key in row and not fits(row[key]):
                self.wrong(f"{where}expected {key} to be {expected}, not {json.dumps(row[key])[:60]}")

    def read(self, text: str) -> Recorded:
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            self.wrong(f"expected a JSON object: {error}")
        if not isinstance(row, dict):
            self.wrong(f"expected a JSON object, not {text[:60]}")
        self.checked(row, ("task", "problem", "reference", "samples"), ())
        for place, sample in enumerate(row["samples"], 1):
            where = f"sample {place}: "
            self.checked(sample, ("answer",), ("text", "correct", "new_tokens", "mean_logprob", "grades"), where)
        task = Mathematical(MATH.name) if row["task"] == MATH.name else Strings(row["task"])
        problem = Problem(row["problem"], row["reference"])
        first = classes_of([s["answer"] for s in row["samples"] if s["answer"] is not None], task, problem)
        said = [None if s["answer"] is None else first[s["answer"]] for s in row["samples"]]
        right = [self._right(sample, place, task, problem) for place, sample in enumerate(row["samples"], 1)]
        textless = frozenset(i for i, sample in enumerate(row["samples"]) if "text" not in sample)
        return Recorded(task, problem, [self._draft(sample) for sample in row["samples"]], said, right, textless)

    def _right(self, sample: Mapping[str, Any], place: int, task: Strings, problem: Problem) -> bool:
        if sample["answer"] is None and sample.get("correct"):
            self.wrong(f"sample {place}: expected correct to be false where answer is null, not true")
        if "correct" in sample or sample["answer"] is None:
            return bool(sample.get("correct", False))
        told = task.correct(sample["answer"], problem)
        if told is None:
            self.wrong(
                f"sample {place}: expected correct, true or false, since a problem of the task {task.name!r} "
                f"{'without a reference has no checker' if problem.reference is None else 'cannot be checked'} here"
            )
        return told

    def _draft(self, sample: Mapping[str, Any]) -> Draft:
        told = "new_tokens" in sample
        cost = Cost(calls=1, new_tokens=sample["new_tokens"], critical_tokens=sample["new_tokens"]) if told else Cost()
        logprobs = (float(sample["mean_logprob"]),) if "mean_logprob" in sample else ()
        grades = MappingProxyType({name: as_grade(value) for name, value in sample.get("grades", {}).items()})
        return Draft(None, sample.get("text", ""), (), logprobs, cost.new_tokens, "end", cost, grades)


def as_grade(value: Any) -> Grade:
    if isinstance(value, list):
        entries = tuple(map(float, value))
        return Grade(entries[-1], entries)
    return Grade(float(value))


def grade_named(problems: Sequence[Recorded], asked: str | None) -> str | None:
    """The grade to select by: the one asked for, else the only one there is."""
    names = sorted({name for p in problems for draft in p.drafts for name in draft.grades})
    if asked is not None and asked not in names:
        raise UsageError(f"no sample has a grade '{asked}'; there are {', '.join(names) or 'none'}")
    if asked is None and len(names) > 1:
        raise UsageError(f"the samples have the grades {', '.join(names)}: say which with --grade")
    return asked or (names[0] if names else None)


@dataclass(frozen=True, slots=True)
class Table:
    """All samples of all problems as one pool; `start` is where each problem's begin, `right` tells of each answer."""

    pool: Pool
    start: Indices
    size: Indices
    right: NDArray[np.bool_]

    @classmethod
    def of(cls, problems: Sequence[Recorded], grade: str | None) -> Table:
        size = np.array([len(p.drafts) for p in problems], dtype=np.intp)
        answer: list[int] = []
        for p in problems:
            numbers: dict[str, int] = {}
            answer += [UNREADABLE if a is None else numbers.setdefault(a, len(numbers)) for a in p.said]
        owner = np.repeat(np.arange(len(problems)), size)
        right = np.zeros((len(problems), max(answer, default=0) + 2), dtype=bool)
        correct = np.array([r for p in problems for r in p.right], dtype=bool)
        right[owner[correct], np.array(answer, dtype=np.intp)[correct]] = (
            True  # an answer is right if one of its samples is
        )
        drafts = [draft for p in problems for draft in p.drafts]
        said = [answer for p in problems for answer in p.said]
        start = size.cumsum() - size
        position = np.arange(len(drafts)) - start[owner] if drafts else np.zeros(0, dtype=np.intp)
        textless = frozenset(int(at) + i for p, at in zip(problems, start, strict=True) for i in p.textless)
        pool = Pool(drafts, said, np.array(answer, dtype=np.intp), position, owner, grade, textless)
        return cls(pool, start, size, right[:, :-1])
