"""The kernels that methods move drafts with."""

from __future__ import annotations

from dataclasses import dataclass, replace

from forethought.core.cost import Cost
from forethought.core.draft import Draft, Finish
from forethought.core.population import Particle
from forethought.core.problem import Message
from forethought.core.scope import Scope
from forethought.methods.boundary import Boundary
from forethought.models.extend import extend
from forethought.models.protocol import Completion, Model, Request
from forethought.tasks.protocol import Task
from forethought.verifiers.grading import Grading


@dataclass(frozen=True, slots=True)
class Extend:
    """A kernel that lets the model go on to the end of the draft, or by a piece.

    A piece ends behind one of the `stop` strings, or after `most` tokens, and the draft goes on in the next. `logprobs` is
    how many alternatives are asked for at each token. `boundary` is given where pieces are steps or parts of them.
    """

    model: Model
    task: Task
    messages: tuple[Message, ...]
    temperature: float
    stop: tuple[str, ...] = ()
    most: int | None = None
    logprobs: int | None = None
    boundary: Boundary | None = None

    def request(self, draft: Draft) -> Request:
        room = self.task.draft_tokens - draft.size
        cap = room if self.most is None else min(room, self.most)
        return Request(self.messages, draft, cap, self.stop, self.temperature, logprobs=self.logprobs)

    def bound(self, particle: Particle[Draft]) -> Cost:
        return self.model.bound(self.request(particle.state))

    async def __call__(self, particle: Particle[Draft], at: Scope) -> Particle[Draft]:
        request = self.request(particle.state)
        return self.grown(particle, await extend(self.model, request, at), request.max_tokens)

    def grown(self, particle: Particle[Draft], completion: Completion, asked: int) -> Particle[Draft]:
        """The particle with what came back when `asked` tokens were asked for."""
        draft = particle.state
        size = draft.size + completion.cost.new_tokens
        told = completion.text, completion.tokens, completion.logprobs, size
        grown = Draft(draft, *told, None, completion.cost, vocabulary=completion.vocabulary)
        finish = self._finish(grown, completion, asked)
        return particle.moved(grown) if finish is None else particle.moved(replace(grown, finish=finish), done=True)

    def _finish(self, grown: Draft, completion: Completion, asked: int) -> Finish | None:
        """Whether the draft goes no further. A piece that was cut at its own cap goes on as the next."""
        cut = completion.finish == "length" and (self.most is None or completion.cost.new_tokens < asked)
        steps = self.boundary
        full = grown.size >= self.task.draft_tokens or (steps is not None and steps.full(grown))
        # An empty piece may be half a character; but where steps end behind a string, an empty step ends the draft.
        half = completion.finish == "length" and not (steps and steps.breaks)
        if completion.finish == "end" or not (completion.text or half or completion.finish == "hook"):
            return "end"
        return "length" if cut or full else None


@dataclass(frozen=True, slots=True)
class Graded:
    """A kernel that writes a draft to its end and grades it at once, so that a budget pays for both or for neither."""

    extend: Extend
    grading: Grading

    def bound(self, particle: Particle[Draft]) -> Cost:
        longest = Draft(size=self.extend.task.draft_tokens)
        return self.extend.bound(particle) + self.grading.bound(Particle(longest))

    async def __call__(self, particle: Particle[Draft], at: Scope) -> Particle[Draft]:
        drafted = await self.extend(particle, at)
        return await self.grading(drafted, at) if drafted.state.finished else drafted
