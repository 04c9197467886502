"""The fake model: it takes a function."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import anyio
import anyio.lowlevel

from forethought.core.cost import ZERO, Cost
from forethought.core.scope import Call
from forethought.models.price import Price
from forethought.models.protocol import Ability, Completion, Request

Script = Callable[[str, str, int], str | Completion]
"""Takes the text of the prompt, the text of the draft so far and the seed; gives the whole rest of the text."""

ABILITIES: frozenset[Ability] = frozenset({"extend", "continue", "seed", "ordered"})
FREE = Price()


class Scripted:
    """A model that says what `script` says: the way to test a method, or to try one without an engine.

    `script(prompt, so_far, seed)` returns all that follows; Scripted ends it behind the first stop string, or after
    `max_tokens`. A token is one word with the whitespace around it, and an empty answer counts as one token. (The
    messages of a prompt are joined by a newline.) A Completion returned by the script is passed on as it is. Each call
    sleeps for `latency` seconds. `spent` is what all calls have really cost, the cancelled ones too: the ledger must
    agree with it.
    """

    def __init__(
        self,
        script: Script,
        name: str = "scripted",
        latency: float = 0.0,
        price: Price = FREE,
        abilities: Iterable[Ability] = ABILITIES,
    ) -> None:
        self.script, self.name, self.latency, self.price = script, name, latency, price
        self.abilities: frozenset[Ability] = frozenset(abilities)
        self.spent = ZERO

    def bound(self, request: Request) -> Cost:
        most = request.max_tokens
        prompt = _asked(request)
        return self._priced(Cost(1, _count(prompt) + _count(request.draft.text), 0, most, critical_tokens=most))

    async def extend(self, request: Request, call: Call) -> Completion:
        prompt, so_far = _asked(request), request.draft.text
        spent = self._priced(Cost(1, _count(prompt) + _count(so_far)))
        call.progress(spent)
        try:
            await (anyio.sleep(self.latency) if self.latency else anyio.lowlevel.checkpoint())
            told = self.script(prompt, so_far, call.seed)
            done = self._cut(told, request, spent.prompt_tokens) if isinstance(told, str) else told
            spent = done.cost
        finally:
            self.spent += spent
        return done

    def _cut(self, text: str, request: Request, read: int) -> Completion:
        ends = [i + len(stop) for stop in request.stop if stop and (i := text.find(stop)) >= 0]
        text = text[: min(ends)] if ends else text
        count = max(1, _count(text))
        cut = count > request.max_tokens
        if cut:
            count = request.max_tokens
            text = _words(text, count)
        cost = self._priced(Cost(1, read, 0, count, critical_tokens=count))
        return Completion(text, "length" if cut else "stop" if ends else "end", cost)

    def _priced(self, cost: Cost) -> Cost:
        return cost if self.price is FREE else self.price.on(cost)


def _asked(request: Request) -> str:
    messages = request.messages
    return messages[0]["content"] if len(messages) == 1 else "\n".join(m["content"] for m in messages)


def _count(text: str) -> int:
    return len(text.split())


def _words(text: str, count: int) -> str:
    """The first `count` words, each with the whitespace around it."""
    found = re.match(rf"(?:\s*\S+\s*){{{count}}}", text)
    return found[0] if found else text
