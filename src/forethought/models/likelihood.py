"""The other way of a model's density: how likely it finds a text that is given."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Protocol

from forethought.core.call import Data, bought
from forethought.core.cost import Cost
from forethought.core.draft import Draft
from forethought.core.population import Particle
from forethought.core.problem import Message
from forethought.core.registry import require
from forethought.core.scope import Call, Scope
from forethought.models.extend import digest
from forethought.models.protocol import Likelihood, Model, Request


class Scoring(Model, Likelihood, Protocol):
    """A model with the ability `loglikelihood`."""


async def loglikelihood(model: Scoring, request: Request, continuation: str, at: Scope) -> tuple[float, ...]:
    """The natural log-probability, at temperature 1, of each token of `continuation` after the request's draft.

    Charged and recorded like any call. Raises BudgetEnded if reading the text does not fit, UsageError for a model without
    the ability.
    """
    require("loglikelihood" in model.abilities, f"{model.name} cannot tell how likely a given text is")

    def bound() -> Cost:
        return reading(model, request, continuation)

    async def act(call: Call) -> tuple[tuple[float, ...], Cost]:
        logprobs = await model.loglikelihood(request, continuation, call)
        return logprobs, bound() if call.so_far is None else call.so_far

    asked = digest(request) + blake2b(continuation.encode(), digest_size=6).hexdigest()
    key = {"asked": asked, "model": model.name}
    return await bought(at, "likelihood", key, bound, act, to_json, from_json)


def reading(model: Model, request: Request, continuation: str) -> Cost:
    """The most that scoring costs: a prompt that the text belongs to, and nothing new."""
    return model.bound(replace(request, draft=Draft(request.draft, continuation), max_tokens=0))


def to_json(logprobs: tuple[float, ...]) -> Data:
    return {"logprobs": logprobs}


def from_json(data: Data, cost: Cost) -> tuple[float, ...]:
    return tuple(data["logprobs"])


@dataclass(frozen=True, slots=True)
class Given:
    """A kernel: the draft goes on with a given text and is weighted by the model's probability of it.

    With a kernel that samples it makes both ways of one density: what is drawn and what is observed in one program.
    """

    model: Scoring
    messages: tuple[Message, ...]
    text: str

    def bound(self, particle: Particle[Draft]) -> Cost:
        return reading(self.model, Request(self.messages, particle.state), self.text)

    async def __call__(self, particle: Particle[Draft], at: Scope) -> Particle[Draft]:
        request = Request(self.messages, particle.state)
        logprobs = await loglikelihood(self.model, request, self.text, at)
        return particle.moved(Draft(particle.state, self.text, size=particle.state.size), gain=math.fsum(logprobs))
