"""What sampling methods share: drawing in windows, drawing by several laws at once, and what drafts say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from forethought.core.cost import Cost
from forethought.core.draft import Draft
from forethought.core.fanout import Kernel
from forethought.core.operators import each
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.methods.kernels import Extend, Graded
from forethought.tasks.classes import merged

Settled = Callable[[Population[Draft], Population[Draft]], Awaitable[bool]]


async def windows(
    draft: Kernel[Draft], window: Population[Draft], n: int, at: Scope, settled: Settled
) -> list[Particle[Draft]]:
    """Drafts of weight 1 grown from `window`, side by side, again and again until `settled(all, last)` or there are `n`.

    How many there are is a stopping time, so by Wald's identity the expected measure is the model's times their expected
    number; their shares lean towards whatever `settled` waits for.
    """
    pop: list[Particle[Draft]] = []
    for drawn in range(0, n, len(window)):
        before = len(pop)
        pop = await each([*pop, *window[: n - drawn]], draft, at)
        if await settled(pop, pop[before:]):
            break
    return pop


def readable(particle: Particle[Draft], problem: Problem, by: By) -> bool:
    """Whether the draft is finished and says something."""
    return particle.state.finished and by.task.answer(particle.state.text, problem) is not None


def read(pop: Population[Draft], problem: Problem, by: By) -> list[str | None]:
    """The canonical answer of each draft, in order; None for one that is unfinished or cannot be read.

    Copies of one draft are read once.
    """
    finished = {id(p.state): p.state for p in pop if p.state.finished}
    said = {key: by.task.answer(draft.text, problem) for key, draft in finished.items()}
    return [said.get(id(p.state)) for p in pop]


async def answers(pop: Population[Draft], problem: Problem, by: By, at: Scope) -> list[str | None]:
    """What each draft says, as `read`; answers that the task holds equal are one, the first of them (see `merged`)."""
    return await merged(read(pop, problem, by), by.task, problem, at)


def votes(said: Sequence[str | None]) -> list[tuple[str, int]]:
    """The answers with their counts, most common first, ties to the earlier; who cannot be read does not vote."""
    return Counter(answer for answer in said if answer is not None).most_common()


def written(draft: Draft, text: str, size: int | None = None) -> Draft:
    """The draft with a text put behind it that the model did not choose; `size` counts generated tokens only."""
    return Draft(draft, text, size=draft.size if size is None else size)


def told(draft: Draft, text: str) -> Draft:
    """The draft, told to go on with `text`, whose line break is left out where a line has just begun."""
    new_line = not draft.text or draft.text.endswith("\n")
    return written(draft, text.removeprefix("\n") if new_line else text)


@dataclass(frozen=True, slots=True, eq=False)
class Start(Draft):
    """The empty beginning of all drafts of one sampler, where there are several: temperatures, or prompts."""

    sampler: int = 0


def sampler_of(draft: Draft) -> int | None:
    """Which of several samplers drew this draft, whatever has become of its neighbours; None where there is one."""
    while draft.parent is not None:
        draft = draft.parent
    return draft.sampler if isinstance(draft, Start) else None


@dataclass(frozen=True, slots=True)
class Assorted:
    """A kernel of several kernels, each for the drafts that grow from a beginning of its own: one fan-out, many laws."""

    kernels: Sequence[Extend | Graded]

    @property
    def roots(self) -> list[Draft]:
        """A beginning for each kernel."""
        return [Start(sampler=i) for i in range(len(self.kernels))]

    def _own(self, particle: Particle[Draft]) -> Extend | Graded:
        return self.kernels[sampler_of(particle.state) or 0]

    def bound(self, particle: Particle[Draft]) -> Cost:
        return self._own(particle).bound(particle)

    async def __call__(self, particle: Particle[Draft], at: Scope) -> Particle[Draft]:
        return await self._own(particle)(particle, at)
