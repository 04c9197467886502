"""Asking a model, at a place: what fits the budget is asked, charged and recorded."""

from __future__ import annotations

import sys
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from forethought.core.call import Data, bought
from forethought.core.cost import Cost
from forethought.core.errors import BudgetEnded
from forethought.core.scope import Call, Scope
from forethought.models.protocol import Completion, Model, Request

Lowered = tuple[Completion, int]
"""A completion, and the `max_tokens` that there was room for."""


async def extend(model: Model, request: Request, at: Scope) -> Completion:
    """One completion of `request`, with `max_tokens` lowered to what the budget has left.

    Raises BudgetEnded if not even one token fits, ModelError if the model fails.
    """
    key, asked = {"asked": digest(request), "model": model.name}, request.max_tokens

    def bound() -> Cost:
        nonlocal request
        request, need = fitting(model, request, at)
        return need

    async def act(call: Call) -> tuple[Lowered, Cost]:
        completion = await model.extend(request, call)
        return (completion, request.max_tokens), completion.cost

    def encode(said: Lowered) -> Data:
        completion, most = said
        return {**to_json(completion), **({"most": most} if most < asked else {})}

    def decode(data: Data, cost: Cost) -> Lowered:
        return from_json(data, cost), data.get("most", asked)

    completion, most = await bought(at, "sample", key, bound, act, encode, decode)
    at.run.short |= completion.finish == "length" and most < asked
    return completion


def fitting(model: Model, request: Request, at: Scope) -> tuple[Request, Cost]:
    """The request with the largest `max_tokens` that fits here, and its bound."""
    bound = model.bound(request)
    if at.account.fits(bound):
        return request, bound
    low, high = 0, request.max_tokens  # `low` fits or is zero, `high` does not fit
    while high - low > 1:
        middle = (low + high) // 2
        fits = at.account.fits(model.bound(replace(request, max_tokens=middle)))
        low, high = (middle, high) if fits else (low, middle)
    if not low:
        raise BudgetEnded("the budget has no room for another token")
    request = replace(request, max_tokens=low)
    return request, model.bound(request)


def digest(request: Request) -> str:
    """A short name of what was asked, to notice that a record belongs to another program."""
    said = [part for m in request.messages for part in (m["role"], m["content"])]
    how = f"{request.max_tokens} {request.temperature} {request.top_p} {request.min_p} {request.logprobs} {request.forced}"
    how += (request.schema or "") + request.extras
    asked = "\0".join([*said, request.draft.text, *request.stop, how])
    return blake2b(asked.encode(), digest_size=6).hexdigest()


def to_json(completion: Completion) -> Data:
    data: dict[str, Any] = {"text": completion.text, "finish": completion.finish}
    if completion.tokens:
        data["tokens"] = completion.tokens
    if completion.vocabulary:
        data["vocabulary"] = completion.vocabulary
    if completion.logprobs:
        data["logprobs"] = completion.logprobs
    if completion.top:
        data["top"] = completion.top
    return data


def from_json(data: Data, cost: Cost) -> Completion:
    tokens, logprobs, top = (tuple(data.get(name, ())) for name in ("tokens", "logprobs", "top"))
    vocabulary = sys.intern(data.get("vocabulary", ""))  # records from before it say nothing: their texts are encoded
    return Completion(data["text"], data["finish"], cost, tokens, logprobs, top, vocabulary)
