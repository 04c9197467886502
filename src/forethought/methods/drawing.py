"""What sampling methods share: drawing in windows, drawing by several laws at once, and what drafts say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
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

Settled = Callable[[Population[Draft], Population[Draft]], bool]


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
        if settled(pop, pop[before:]):
            break
    return pop


def readable(particle: Particle[Draft], problem: Problem, by: By) -> bool:
    """Whether the draft is finished and says something."""
    return answers([particle], problem, by) != [None]


def answers(pop: Population[Draft], problem: Problem, by: By) -> list[str | None]:
    """What each draft says, in order: its canonical answer; None for one that is unfinished or cannot be read."""
    return [by.task.answer(p.state.text, problem) if p.state.finished else None for p in pop]


def votes(pop: Population[Draft], problem: Problem, by: By) -> list[tuple[str, int]]:
    """The answers with their counts, most common first, ties to the earlier; who cannot be read does not vote."""
    return Counter(answer for answer in answers(pop, problem, by) if answer is not None).most_common()


def written(draft: Draft, text: str, size: int | None = None) -> Draft:
    """The draft with a text put behind it that the model did not choose; `size` counts generated tokens only."""
    return Draft(draft, text, size=draft.size if size is None else size)


def told(draft: Draft, text: str) -> Draft:
    """The draft, told to go on with `text`, whose line break is left out where a line has just begun."""
    new_line = not draft.text or draft.text.endswith("\n")
    return written(draft, text.removeprefix("\n") if new_line else text)


@dataclass(frozen=True, slots=True)
class Assorted:
    """A kernel of several kernels, each for the drafts that grow from a root of its own: one fan-out, many laws."""

    kernels: Sequence[Extend | Graded]
    roots: Sequence[Draft]

    @classmethod
    def of(cls, kernels: Sequence[Extend | Graded]) -> Assorted:
        return cls(kernels, [Draft() for _ in kernels])

    def which(self, draft: Draft) -> int:
        """The index of the kernel that this draft is grown by."""
        root = list(draft.lineage())[-1]
        return next(i for i, own in enumerate(self.roots) if own is root)

    def bound(self, particle: Particle[Draft]) -> Cost:
        return self.kernels[self.which(particle.state)].bound(particle)

    async def __call__(self, particle: Particle[Draft], at: Scope) -> Particle[Draft]:
        return await self.kernels[self.which(particle.state)](particle, at)
