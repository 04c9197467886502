r"""Equality of mathematical answers, by math-verify in worker processes.

math-verify stops itself by signals, which fail in threads and sometimes hang, so it is run without them, where it can be
killed: `\frac{1}{2}` equals `0.5`, `x+1` equals `1+x`, `\{1,2\}` equals `\{2,1\}`.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from fractions import Fraction
from typing import Any

from forethought.core.errors import ModelError, UsageError
from forethought.sandbox.turns import Turns
from forethought.sandbox.worker import SIZE, Workers

SPELLINGS = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\[,!;]|(?<!\w)\s+|\s+(?!\w)")  # of one and the same thing
FRACTION = re.compile(r"\\[dt]frac(?![a-z])")
TURNS = Turns("equality", SIZE)
PLAIN = re.compile(r"[+-]?\d{1,300}(?:\.\d{1,300})?")


async def equal(reference: str, answer: str, seconds: float = 3.0) -> bool | None:
    """Whether `answer` is mathematically the `reference`; None where that takes too long or cannot be told.

    Raises UsageError where math-verify is not installed or does not import.
    """
    known = at_once(reference, answer)
    if known is not None:
        return known
    return await TURNS(lambda: equal_sync(reference, answer, seconds))


def equal_sync(reference: str, answer: str, seconds: float = 3.0) -> bool | None:
    """`equal` for threads."""
    known = at_once(reference, answer)
    if known is not None:
        return known
    try:
        return bool(workers().call([reference, answer], seconds))
    except (TimeoutError, ModelError):  # too hard, or a crash of the library on this pair: it cannot be told
        return None


def at_once(reference: str, answer: str) -> bool | None:
    """What needs no algebra: the same text but for spaces and sizes, or two numbers in decimals."""
    reference, answer = folded(reference), folded(answer)
    if reference == answer:
        return True
    if PLAIN.fullmatch(reference) and PLAIN.fullmatch(answer):
        one, other = Fraction(reference), Fraction(answer)
        return True if one == other else False if one.denominator == other.denominator == 1 else None
    return None


def folded(text: str) -> str:
    """Without spaces that mean nothing (`1 1/2` keeps its own) and without sizes of fractions and brackets."""
    return SPELLINGS.sub("", FRACTION.sub(r"\\frac", text.strip()))


@functools.cache
def workers() -> Workers:
    if importlib.util.find_spec("math_verify") is None:
        raise UsageError("mathematical equality needs math-verify: pip install 'forethought[math]'")
    return Workers("forethought.sandbox.equality:verified", library="math_verify")


@functools.lru_cache(maxsize=65536)
def verified(reference: str, answer: str) -> bool:
    """The comparison itself, inside a worker."""
    from math_verify import verify

    return bool(verify(parsed(reference), parsed(answer), timeout_seconds=None))


@functools.lru_cache(maxsize=4096)
def parsed(text: str) -> Any:
    from math_verify import parse

    marked = "$" in text or "\\boxed" in text
    return parse(text if marked else f"${text}$", parsing_timeout=None)
