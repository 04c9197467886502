from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from forethought.core.cost import Cost
from forethought.core.draft import ROOT, Draft
from forethought.core.operators import each
from forethought.core.population import Particle, Population, ended
from forethought.core.problem import Problem
from forethought.core.registry import at_least
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.methods.drawing import written
from forethought.methods.kernels import Extend
from forethought.methods.protocol import Law, Need, methods
from forethought.models.extend import extend

TOP = 20  # alternatives asked for at each token, as published


def entropy(top: Mapping[str, float]) -> float:
    """The entropy, in nats, of the alternatives at one token, renormalised."""
    probs = np.exp(np.array(list(top.values())))
    probs /= probs.sum()
    return float(-(probs * np.log(np.maximum(probs, 1e-300))).sum()) if len(top) else 0.0


@dataclass(frozen=True, slots=True)
class Token:
    """A kernel that writes one token; what it could have written instead is in `top`, by the draft."""

    piece: Extend
    top: dict[Draft, Mapping[str, float]] = field(default_factory=dict)

    def bound(self, particle: Particle[Draft]) -> Cost:
        return self.piece.bound(particle)

    async def __call__(self, particle: Particle[Draft], at: Scope) -> Particle[Draft]:
        completion = await extend(self.piece.model, self.piece.request(particle.state), at)
        moved = self.piece.grown(particle, completion, 1)
        self.top[moved.state] = completion.top[0] if completion.top else {}
        return moved


@methods.register("eager")
@dataclass(frozen=True)
class Eager:
    """EAGer: one stream that forks where its next token is uncertain, up to `n` streams.

    A token is drawn at a time. Where the entropy of its alternatives exceeds the threshold, the stream takes the likeliest
    token and a new one the second; the threshold is `entropy` or the 99th percentile of the entropies so far, whichever is
    higher. A stream that has written `end` thinks no more and does not fork. When there are `n` streams, or after `patience`
    tokens without a fork, all are written to their ends. Streams share the tokens before their fork, which are paid once.
    What easy problems save is given to others by `solve_many`.
    Law: greedy; forks take set tokens, and streams from one fork are alike. An `entropy` above log(20) never
    forks: `sample(n=1)`.
    Constants: n 32, thresholds of 2.0 to 2.5 for models of 3 to 20 billion parameters, 1000 tokens of patience,
    temperature 0.6 are published; they belong to a model. Alternatives without text (the end, half a character) do not fork.
    A token a call is what the model protocol allows; a condition that the engine watches would make it a call a stream.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue", "logprobs"})
    paper: ClassVar[str] = "Scalena et al. 2025, arXiv:2510.11170 and its released code (EAGer-init)"

    n: int = 16
    entropy: float = 0.7
    patience: int = 1000
    end: str = "answer:"
    temperature: float = 0.8

    def __post_init__(self) -> None:
        at_least(self, n=1, patience=1, entropy=0, temperature=0)

    def saved(self, made: Population[Draft]) -> int:
        return self.n - len(made)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        token = Token(by.piece(problem, self.temperature, most=1, logprobs=TOP))
        pop, seen, quiet = [Particle(ROOT)], list[float](), 0
        while not ended(pop) and len(pop) < self.n and quiet < self.patience:
            living = [i for i, p in enumerate(pop) if not p.ended]
            pop, before = await each(pop, token, at, failures="fail"), len(pop)  # `living` holds places in it
            threshold = max(self.entropy, float(np.percentile(seen, 99)) if seen else 0.0)
            for i in living:
                top = token.top[pop[i].state]
                seen.append(entropy(top))
                thinks = not pop[i].ended and self.end not in pop[i].state.text
                if thinks and seen[-1] > threshold and len(pop) < self.n:
                    pop[i], *fork = forked(pop[i], top)
                    pop += fork
            quiet = 0 if len(pop) > before else quiet + 1
        return await each(pop, by.draft(problem, self.temperature), at)


def forked(particle: Particle[Draft], top: Mapping[str, float]) -> list[Particle[Draft]]:
    """The stream with the likeliest token instead of the drawn one, and with the second; as it is if one has no text."""
    draft, (best, second) = particle.state, sorted(top, key=lambda text: -top[text])[:2]
    if not (best and second and draft.parent):
        return [particle]
    kept = draft if draft.new == best else written(draft.parent, best, size=draft.size)
    return [particle.moved(kept), particle.moved(written(draft.parent, second, size=draft.size))]
