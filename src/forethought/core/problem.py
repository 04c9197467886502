"""What is to be solved."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TypedDict


class Message(TypedDict):
    """One chat message, as the OpenAI API spells it."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A text to be solved, and what only an oracle may look at.

    `reference` is whatever the task's checker needs: the true answer, or nothing where the text is enough to check.
    `name` tells where the problem comes from (`chain/7/test/12`), `difficulty` is the task's own integer scale.
    """

    text: str
    reference: Hashable = None
    name: str = ""
    difficulty: int | None = None
