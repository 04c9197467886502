"""Any text: the answer is read by the usual conventions, and nothing can be checked unless a reference is given."""

from __future__ import annotations

import re

from forethought.core.problem import Message, Problem

ANSWER_LINE = re.compile(r"(?im)^[^\w\n]*(?:final )?answer[^\w\n:]*:\s*(\S.*)$")


def boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{...}, with its braces balanced."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    depth = 0
    for end in range(start + 6, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start + 7 : end]
    return None


def normalised(text: str) -> str:
    """Lower case, single spaces, no thousands separators, no punctuation or mark-up around it.

    A dot at its beginning stays: it may be that of a number, as in `.5`.
    """
    folded = re.sub(r"(?<=\d),(?=\d{3}\b)", "", " ".join(text.split()).casefold())
    return folded.lstrip(" ,:;!$*`_").rstrip(" .,:;!$*`_")


def stated(text: str) -> str | None:
    r"""The answer that a text states: the last `\boxed{}`, else the last line `answer: ...`."""
    lines = ANSWER_LINE.findall(text)
    return boxed(text) or (lines[-1] if lines else None)


class Text:
    r"""A bare text. The answer is the last `\boxed{}`, else the last line `answer: ...`, else the whole text, normalised.

    Whole texts rarely agree, so where none has a short answer votes cannot merge, and the output says so.
    """

    name = "text"
    step_break = "\n\n"
    step_tokens = 128
    draft_tokens = 512
    max_steps = 40
    checkable = False

    def prompt(self, problem: Problem) -> tuple[Message, ...]:
        return ({"role": "user", "content": problem.text},)

    def short_answer(self, text: str) -> str | None:
        found = stated(text)
        return normalised(found) if found else None

    def answer(self, text: str, problem: Problem) -> str | None:
        return self.short_answer(text) or normalised(text) or None

    def correct(self, answer: str, problem: Problem) -> bool | None:
        return None if problem.reference is None else answer == normalised(str(problem.reference))
