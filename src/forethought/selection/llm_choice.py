"""One call that chooses."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from forethought.core.draft import Draft
from forethought.core.errors import BudgetEnded
from forethought.core.operators import each
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.registry import at_least
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.models.protocol import Request
from forethought.selection.basic import Majority
from forethought.selection.protocol import Need, Ranked, Verdict, selections
from forethought.selection.votes import Votes, polled, verdict_of
from forethought.verifiers.asking import Asking, Question, line_after, said, told

TASK = (
    "First write a short checklist of what a good answer to this very problem must satisfy. Check each candidate against "
    "it. End with a line by itself: `choice: K`, K the number of the best candidate."
)


@selections.register("llm-choice")
@dataclass(frozen=True)
class LlmChoice:
    """One call shows the model all candidates; it writes a checklist, checks each by it, and names one.

    `votes` calls show them in orders of their own; an answer's probability is its share of the calls, and calls that cannot
    be read speak for none. At most `most` candidates are shown, one for each answer in the order of their votes, then
    further different texts. Calls are charged to the run like any other; with none that can be read or paid for, the
    verdict is `majority`'s, as it is where all drafts give one answer, which asks nobody.
    Constants: one call is published, five candidates usual; the wording is ours.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"instructions"})
    paper: ClassVar[str] = "Khairi et al. 2025, arXiv:2506.20544 (CHOPS)"

    votes: int = 1
    most: int = 16
    tokens: int = 768
    temperature: float = 0.0

    def __post_init__(self) -> None:
        at_least(self, votes=1, most=1, tokens=1, temperature=0)

    async def __call__(self, pop: Population[Draft], problem: Problem, by: By, at: Scope) -> Verdict:
        votes = await polled(pop, problem, by, at)
        plain = verdict_of(Majority().tally(votes), votes) if votes.classes else Verdict()
        if votes.classes <= 1:
            return plain
        shown = candidates(votes, self.most)
        orders = [shuffled(shown, at) for _ in range(self.votes)]
        asked = [self._question([votes.pool.drafts[i] for i in order], problem) for order in orders]
        read = [choice(text, len(shown)) for text in await self._answers(asked, by, at)]
        chosen = [order[k] for order, k in zip(orders, read, strict=True) if k is not None]
        return self._verdict(chosen, votes) if chosen else plain

    def _question(self, drafts: Sequence[Draft], problem: Problem) -> Request:
        listed = "\n\n".join(f"Candidate {k}:\n{draft.text.strip()}" for k, draft in enumerate(drafts, 1))
        text = f"Problem:\n{problem.text}\n\n{listed}\n\n{TASK}"
        return Request(said(text), max_tokens=self.tokens, temperature=self.temperature)

    async def _answers(self, asked: Sequence[Request], by: By, at: Scope) -> list[str]:
        """What the model says; nothing for calls that the budget had no room for."""
        pop: Population[Question] = [Particle(Question(request)) for request in asked]
        with at.timed():
            try:
                return [told(p.state) for p in await each(pop, Asking(by.model), at, failures="fail")]
            except BudgetEnded:
                pass
        at.run.short = True
        return [told(p.state) for p in at.kept or pop]

    def _verdict(self, chosen: Sequence[int], votes: Votes) -> Verdict:
        counts = Counter(votes.pool.said[i] or "" for i in chosen)
        ranked = tuple(Ranked(answer, count / self.votes) for answer, count in counts.most_common())
        speaker = next(i for i in chosen if votes.pool.said[i] == ranked[0].answer)
        return Verdict(ranked, votes.pool.drafts[speaker], 1 - len(chosen) / self.votes)


def candidates(votes: Votes, most: int) -> list[int]:
    """Ballots to choose from: the first of each answer, most votes first, then further ballots whose texts differ."""
    share = votes.sums(votes.weight)[0, :-1]
    firsts = [int(np.argmax(votes.answer[0] == c)) for c in np.argsort(-share, kind="stable")]
    seen = {int(votes.pool.text[i]) for i in firsts}
    others = []
    for i in np.flatnonzero(votes.readable[0]).tolist():
        if int(votes.pool.text[i]) not in seen:
            seen.add(int(votes.pool.text[i]))
            others.append(i)
    return [*firsts, *others][:most]


def shuffled(items: Sequence[int], at: Scope) -> list[int]:
    """A random order that belongs to this place."""
    left = list(items)
    return [left.pop(at.draw([1.0] * len(left))) for _ in items]


def choice(text: str, count: int) -> int | None:
    """The place of the candidate that an answer names; None if it names none of them."""
    found = re.fullmatch(r"(?:candidate )?#?(\d+)", (line_after("choice", text) or "").strip().lower())
    return int(found[1]) - 1 if found and 1 <= int(found[1]) <= count else None
