"""Programs in texts: finding one, and what it printed."""

from __future__ import annotations

import math
import re

from forethought.sandbox import Outcome
from forethought.tasks.text import normalised

FENCE = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)
PYTHON = ("python", "py", "python3", "")
CLOSE = 1e-6  # relative: what floating point may cost a program


def program_of(text: str) -> str | None:
    """The last fenced block of Python; without any fence, the whole text; None if there is nothing."""
    blocks = FENCE.findall(text)
    programs = [body for language, body in blocks if language.lower() in PYTHON]
    found = programs[-1] if programs else "" if blocks else text
    return found if found.strip() else None


def printed(outcome: Outcome) -> str | None:
    """The last line that a program printed before it ended of itself."""
    lines = outcome.out.strip().splitlines()
    return lines[-1].strip() if outcome.status == "ended" and lines else None


def same(one: str, other: str) -> bool:
    """Whether two short answers are the same: as normalised texts, or as numbers but for rounding."""
    one, other = normalised(one), normalised(other)
    if one == other:
        return True
    try:
        return math.isclose(float(one), float(other), rel_tol=CLOSE)
    except ValueError:
        return False
