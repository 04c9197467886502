"""A process reward model on the local engine."""

from __future__ import annotations

from pathlib import Path

from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
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
        written = max(draft.size, len(self._local.written(draft)))
        return Cost(verifier_calls=1, verifier_tokens=self._unread(messages, known) + written + 1)

    def _unread(self, messages: tuple[Message, ...], known: Draft | None) -> int:
        """What is read beside the draft: the prompt; where a beginning `known` has been read, so much less than the draft."""
        return len(self._local.prompt_ids(messages)) if known is None else -len(self._local.written(known))

    async def grade(self, messages: tuple[Message, ...], draft: Draft, known: Draft | None) -> tuple[Grade, Cost]:
        """The grade of each step so far, and what reading on from `known` costs."""
        prompt = len(self._local.prompt_ids(messages))
        ids = list(self._local.ids(messages, draft))
        if draft.finished:
            ids += sorted(self._local.engine.model.eos)[:1]
        scored = await self._local.engine.score(ids)
        piece = self._local.reader.piece
        ends = [place for place in range(prompt, len(ids)) if "\n" in piece(ids[place])]
        if not ends or ends[-1] != len(ids) - 1:
            ends.append(len(ids) - 1)
        steps = tuple(scored.outputs[place] for place in ends)
        unread = self._unread(messages, known) + len(ids) - prompt
        return Grade(steps[-1], steps), Cost(verifier_calls=1, verifier_tokens=unread)
