"""A process reward model on the local engine."""

from __future__ import annotations

from pathlib import Path

from forethought.core.cost import Cost
from forethought.core.draft import ROOT, Draft, Grade
from forethought.core.problem import Message
from forethought.models.local import Local


class RewardModel:
    """A Llama token classifier: at the end of each step, the probability that the draft is right so far.

    A step ends at a token with a line break in it, or where a finished draft ends. What it has read of a draft stays in
    its own prefix tree, so that a further step is only its new tokens. They are what is charged, from the nearest
    beginning `known` that it has graded, whatever the tree still holds: nobody's cache changes a claim.
    """

    def __init__(self, path: Path) -> None:
        self._local = Local(path, f"reward:{path}")

    def load(self) -> None:
        self._local.load()

    @property
    def weights(self) -> str:
        """The files by their content. Raises UsageError if they cannot be read."""
        return self._local.weights

    def bound(self, messages: tuple[Message, ...], draft: Draft, known: Draft | None) -> Cost:
        """The charge; more than it for a draft that is not written yet, of which only the `size` is known."""
        prompt = len(self._local.ids(messages, ROOT))
        written = max(draft.size, len(self._local.ids(messages, draft)) - prompt)
        read = 0 if known is None else len(self._local.ids(messages, known))
        return Cost(verifier_calls=1, verifier_tokens=prompt + written + 1 - read)

    async def grade(self, messages: tuple[Message, ...], draft: Draft, known: Draft | None) -> tuple[Grade, Cost]:
        """The grade of each step so far, and what reading on from `known` costs."""
        prompt = len(self._local.ids(messages, ROOT))
        ids = list(self._local.ids(messages, draft))
        if draft.finished:
            ids += sorted(self._local.engine.model.eos)[:1]
        scored = await self._local.engine.score(ids)
        piece = self._local.reader.piece
        ends = [place for place in range(prompt, len(ids)) if "\n" in piece(ids[place])]
        if not ends or ends[-1] != len(ids) - 1:
            ends.append(len(ids) - 1)
        steps = tuple(scored.outputs[place] for place in ends)
        read = 0 if known is None else len(self._local.ids(messages, known))
        return Grade(steps[-1], steps), Cost(verifier_calls=1, verifier_tokens=len(ids) - read)
