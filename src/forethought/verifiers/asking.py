"""Verifiers that ask a model: which one, all their questions at once, and the bill in a verifier's words."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeVar

from forethought.core.cost import ZERO, Cost
from forethought.core.draft import Draft, Grade
from forethought.core.errors import UsageError
from forethought.core.operators import each
from forethought.core.population import Particle
from forethought.core.problem import Message
from forethought.core.registry import brief
from forethought.core.scope import Call, Run, Scope, Seeded
from forethought.models.extend import extend
from forethought.models.names import is_reasoner, model_named
from forethought.models.probing import prepare
from forethought.models.protocol import Ability, Completion, Model, Request, weights_in
from forethought.verifiers.protocol import nearest

MARKUP = r"[ \t*_`#>\"'()\[\]]*"


@dataclass(frozen=True)
class OfRun:
    """A verifier that may ask the model of the run, `own`: `By` fills it in."""

    own: Model | None = field(default=None, repr=False, compare=False, kw_only=True)

    async def prepare(self) -> None:
        """Look at what is to be asked. Raises UsageError where that cannot be."""


@dataclass(frozen=True)
class Asks(OfRun):
    """A verifier that asks a model, the one it names (`model`), else that of the run, which needs the abilities `needs`."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[Ability]] = frozenset()
    model: str | None = None

    async def prepare(self) -> None:
        """Raises UsageError where there is no model to ask, or it cannot do what is asked."""
        await ready(self)

    @property
    def weights(self) -> str:
        """The files of the model it names, by their content; empty where it names none, or one that does not run here.
        Raises UsageError if they cannot be read.
        """
        return weights_in(model_named(self.model)) if self.model else ""


V = TypeVar("V")


def given(verifier: V, model: Model) -> V:
    """The verifier with the run's model, if it may ask that."""
    return replace(verifier, own=model) if isinstance(verifier, OfRun) and verifier.own is not model else verifier


def model_of(verifier: Asks) -> Model:
    """Raises UsageError if there is none, or none that can judge."""
    model = model_named(verifier.model) if verifier.model else verifier.own
    if model is None or is_reasoner(model):
        why = "has no model to ask" if model is None else "cannot ask the embedded reasoner, which only solves"
        raise UsageError(f"{verifier.name} {why}: name one, {verifier.name}(model='openai:MODEL@http://host:port/v1')")
    return model


async def look(verifier: object) -> None:
    """Let a verifier look at the model that it may ask. Raises UsageError where it cannot be asked."""
    if isinstance(verifier, OfRun):
        await verifier.prepare()


async def ready(verifier: Asks) -> Model:
    """The model, after it has looked at its endpoint if it has to: its abilities are exact then. Raises UsageError."""
    model = model_of(verifier)
    await prepare(model)
    missing = sorted(verifier.needs - model.abilities)
    if missing:
        raise UsageError(f"{brief(verifier)} needs a model with the ability '{missing[0]}', which {model.name} lacks")
    return model


@dataclass(frozen=True, slots=True)
class Question:
    """A request and, once it is asked, its answer."""

    request: Request
    answer: Completion | None = None


@dataclass(frozen=True, slots=True)
class Asking:
    """A kernel that asks a question."""

    model: Model

    def bound(self, particle: Particle[Question]) -> Cost:
        return self.model.bound(particle.state.request)

    async def __call__(self, particle: Particle[Question], at: Scope) -> Particle[Question]:
        request = particle.state.request
        return particle.moved(Question(request, await extend(self.model, request, at)))


def told(question: Question) -> str:
    """What was said; nothing as long as it is not asked, or where the answer was cut short."""
    answer = question.answer
    return "" if answer is None or answer.finish == "length" else answer.text


async def ask(
    model: Model, requests: Sequence[Request], call: Call, before: Cost = ZERO
) -> tuple[list[Completion], Cost]:
    """All answers, asked side by side, and the bill with what was paid `before`; each has a seed of its own by its place.

    The call's progress is told however this ends.
    """
    at = Scope.root(Run(Seeded(call.seed), ordered="ordered" in model.abilities))
    try:
        asked = await each([Particle(Question(request)) for request in requests], Asking(model), at)
    finally:
        call.progress(before + bill(at.cost()))
    return [p.state.answer for p in asked if p.state.answer is not None], before + bill(at.cost())


def bill(cost: Cost) -> Cost:
    """What a model's calls cost a verifier: all that was read and written, whatever a cache saved, and the money."""
    return Cost(verifier_calls=cost.calls, verifier_tokens=cost.prompt_tokens + cost.new_tokens, usd=cost.usd)


def most(model: Model, requests: Sequence[Request]) -> Cost:
    """The bound of asking all of these."""
    return sum((bill(model.bound(request)) for request in requests), ZERO)


def written(draft: Draft) -> str:
    """The draft's text; a stand-in of its size for one that is not written yet."""
    return draft.text or " word" * draft.size


def said(text: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": text},)


def one_text(messages: Sequence[Message]) -> str:
    """What is said in a chat, below one another, for a model that takes a text."""
    return "\n".join(m["content"] for m in messages)


def line_after(word: str, text: str) -> str | None:
    """What stands after `word:` on the last line that is nothing but that; None if there is none."""
    found = re.findall(rf"(?im)^{MARKUP}{word}{MARKUP}:{MARKUP}(\S[^\n]*?){MARKUP}$", text)
    return found[-1].rstrip(".!") if found else None


def chance(top: dict[str, float], yes: str, no: str) -> float | None:
    """The probability of `yes` against `no` among a token's alternatives, in any case and spacing; None without either."""
    mass = dict.fromkeys((yes.lower(), no.lower()), 0.0)
    for piece, logprob in top.items():
        word = piece.strip(" \n\t\u2581\u0120").lower()
        if word in mass:
            mass[word] += math.exp(logprob)
    total = math.fsum(mass.values())
    return mass[yes.lower()] / total if total > 0 else None


def grown(draft: Draft, verifier: str, value: float | None) -> Grade:
    """A grade of the draft as it stands, behind those of its beginnings: one a step where it was graded at each."""
    known = nearest(draft, verifier)
    before = known.grades[verifier].steps if known else ()
    return Grade(value, before if value is None else (*before, value))
