"""The peers' methods, each as its authors' documentation drives it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import treequest
from its_hub import BestOfN, SelfConsistency, StepGeneration
from its_hub.core.algorithms.beam_search import BeamSearch
from its_hub.core.algorithms.particle_gibbs import EntropicParticleFiltering, ParticleFiltering, ParticleGibbs
from its_hub.core.orchestrator import LMOrchestrator

from .adapters import LanguageModel, OutcomeModel, ProcessModel
from .session import END, Session

WIDTH, SWEEPS, BATCH = 4, 2, 8
Read = Callable[[str], str | None]
Drive = Callable[[Session, int, int, float, Read], Awaitable[str]]
"""Takes the session, the stated budget, the most steps, the temperature and how to read an answer; gives the text chosen."""


def steps(most: int, temperature: float) -> StepGeneration:
    return StepGeneration(most, "\n", END, temperature, include_stop_str_in_output=True)


def unbounded() -> LMOrchestrator:
    """All calls at once: more than 32 would wait for threads otherwise."""
    return LMOrchestrator(-1)


def chosen(response: dict[str, str]) -> str:
    return response["content"].removesuffix(END)


async def best_of_n(session: Session, budget: int, most: int, temperature: float, read: Read) -> str:
    program = BestOfN(OutcomeModel(session), unbounded())
    return chosen(await program.ainfer(LanguageModel(session), "?", budget))


async def self_consistency(session: Session, budget: int, most: int, temperature: float, read: Read) -> str:
    program = SelfConsistency(lambda text: read(text.removesuffix(END)), orchestrator=unbounded())
    return chosen(await program.ainfer(LanguageModel(session), "?", budget))


async def beam(session: Session, budget: int, most: int, temperature: float, read: Read) -> str:
    program = BeamSearch(steps(most, temperature), ProcessModel(session), beam_width=WIDTH)
    return chosen(await program.ainfer(LanguageModel(session), "?", budget))


async def particle_filter(session: Session, budget: int, most: int, temperature: float, read: Read) -> str:
    program = ParticleFiltering(steps(most, temperature), ProcessModel(session))
    return chosen(await program.ainfer(LanguageModel(session), "?", budget))


async def entropic_filter(session: Session, budget: int, most: int, temperature: float, read: Read) -> str:
    program = EntropicParticleFiltering(steps(most, temperature), ProcessModel(session))
    return chosen(await program.ainfer(LanguageModel(session), "?", budget))


async def gibbs(session: Session, budget: int, most: int, temperature: float, read: Read) -> str:
    program = ParticleGibbs(steps(most, temperature), ProcessModel(session), num_iterations=SWEEPS)
    return chosen(await program.ainfer(LanguageModel(session), "?", budget))


async def ab_mcts_a(session: Session, budget: int, most: int, temperature: float, read: Read) -> str:
    """A node is a step; its score is that of one draft written to its end from there, as in ours."""

    async def generate(parent: tuple[str, str] | None) -> tuple[tuple[str, str], float]:
        so_far = "" if parent is None else parent[0]
        if so_far.endswith(END):  # nothing to write: the draft and its grade are known
            return (so_far, so_far), await session.grade(so_far.removesuffix(END))
        step = so_far + await session.extend(so_far, "\n")
        whole = step if step.endswith(END) else step + await session.extend(step, None)
        return (step, whole), await session.grade(whole.removesuffix(END))

    program = treequest.ABMCTSA()
    tree = program.init_tree()
    for first in range(0, budget, BATCH):
        tree, trials = program.ask_batch(tree, min(BATCH, budget - first), ["step"])
        made = await asyncio.gather(*(generate(trial.parent_state) for trial in trials))
        for trial, result in zip(trials, made, strict=True):
            tree = program.tell(tree, trial.trial_id, result)
    ((_, whole), _score) = treequest.top_k(tree, program, k=1)[0]
    return whole.removesuffix(END)


THEIRS: dict[str, Drive] = {
    "best-of-n": best_of_n,
    "self-consistency": self_consistency,
    "beam": beam,
    "particle-filter": particle_filter,
    "entropic-filter": entropic_filter,
    "gibbs": gibbs,
    "ab-mcts-a": ab_mcts_a,
}
