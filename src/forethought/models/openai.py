"""Models behind an OpenAI-compatible endpoint: vLLM, SGLang, llama.cpp, Ollama, hosted ones."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import anyio
from anyio.lowlevel import RunVar

from forethought.core.cost import ZERO, Cost
from forethought.core.errors import ModelError, UsageError
from forethought.core.problem import Message
from forethought.core.scope import Call
from forethought.models.openai_dialect import Dialect, probe
from forethought.models.openai_reply import Reply
from forethought.models.openai_wire import ATTEMPTS, RefusedError, Wire
from forethought.models.price import Price
from forethought.models.protocol import PLAIN, Ability, Completion, Request

SPELLING = re.compile(r"(?:openai:)?(?P<model>(?!openai:).+)@(?P<url>https?://[^\s/]+\S*)")
MOST_STOPS = 4  # vLLM's limit, and OpenAI's
PER_MESSAGE = 32  # tokens that a template may put around one message
PROBE_BOUND = Cost(calls=10, prompt_tokens=2048, new_tokens=73, critical_tokens=73)
RENDERED = 256  # prompts whose rendering is remembered


class OpenAI:
    """A model behind an OpenAI-compatible endpoint.

    One request a sample, always streamed, so that cancelling a call closes its connection and ends its work on the
    server. Failures before the first token are tried again (5 attempts in all, honouring Retry-After); after it never.
    Costs are the server's own count. What the endpoint understands is found out once by a few tiny requests
    (`prepare`), whose cost is added to the first call; the budget that pays has to have room for them before they are made.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        api_key: str | None = None,
        price: Price | None = None,
        timeout: float = 600.0,
    ) -> None:
        """`base_url` is the address up to `/v1`; `timeout` is in seconds without a byte from the server."""
        self.model, self.price = model, price or Price()
        self.dialect: Dialect | None = None
        self._wire = Wire(base_url, api_key, timeout)
        self._locks: RunVar[anyio.Lock] = RunVar("probe")
        self._unpaid = ZERO  # what the probe has cost and no call has been charged for yet
        self._rendered: dict[tuple[str, ...], str] = {}

    @classmethod
    def parse(cls, spec: str, price: Price | None = None) -> OpenAI:
        """Read `openai:MODEL@http://host:port/v1`; the key comes from OPENAI_API_KEY, or there is none."""
        found = SPELLING.fullmatch(spec.strip())
        if not found:
            raise UsageError(f"cannot read the model '{spec}': write it as openai:MODEL@http://host:port/v1")
        return cls(found["model"], found["url"], os.environ.get("OPENAI_API_KEY"), price)

    @property
    def name(self) -> str:
        return f"openai:{self.model}@{self._wire.base_url}"

    @property
    def abilities(self) -> frozenset[Ability]:
        """Exact after `prepare`, hopeful before."""
        return (self.dialect or Dialect()).abilities

    def bound(self, request: Request) -> Cost:
        """The most that this request can cost, with what is still to be paid for the probe."""
        size = len(request.draft.text.encode()) + sum(len(m["content"].encode()) for m in request.messages)
        overhead = (self.dialect or Dialect()).overhead + PER_MESSAGE * (len(request.messages) + 1)
        most = request.max_tokens
        cost = self._at_most(Cost(1, size + overhead, 0, most, critical_tokens=most))
        return cost + self.probing

    @property
    def probing(self) -> Cost:
        """The most that finding out what the endpoint understands has still to be charged for."""
        return self._unpaid + (ZERO if self.dialect else self._at_most(PROBE_BOUND))

    def _at_most(self, cost: Cost) -> Cost:
        """Priced as if nothing were cached, and counted as if all were: a limit on either has to hold."""
        return self.price.on(cost)._replace(cached_tokens=cost.prompt_tokens)

    async def prepare(self) -> None:
        """Find out, once, what the endpoint understands. Raises UsageError if it cannot be used."""
        lock = self._locks.get(None)
        if lock is None:
            lock = anyio.Lock()
            self._locks.set(lock)
        async with lock:
            if self.dialect is None:
                self.dialect = await self._probe()

    def owed(self) -> Cost:
        """What that has cost and nobody was charged for yet. It is told once."""
        unpaid, self._unpaid = self._unpaid, ZERO
        return unpaid

    async def aclose(self) -> None:
        """Close the connections of this event loop. The model can be used again afterwards."""
        await self._wire.aclose()

    async def __aenter__(self) -> OpenAI:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def extend(self, request: Request, call: Call) -> Completion:
        if self.dialect is None:
            await self.prepare()
        dialect = self.dialect
        assert dialect is not None
        self._check(request, dialect)
        unpaid = self.owed()
        reply = await self._asked(request, call.seed, dialect, lambda cost: call.progress(unpaid + cost))
        text, finish = reply.ending(request.stop, dialect.keeps_stops, self._wire.base_url)
        cost = unpaid + self.price.on(reply.cost)
        return Completion(text, finish, cost, (), tuple(reply.logprobs), tuple(reply.top))

    def _check(self, request: Request, dialect: Dialect) -> None:
        if len(request.stop) > MOST_STOPS:
            raise UsageError(f"{self.name} takes at most {MOST_STOPS} stop strings, not {len(request.stop)}")
        if request.draft.text and dialect.continuing is None:
            raise UsageError(f"{self.name} cannot continue a partial answer")
        if request.min_p and not dialect.extras:
            raise UsageError(f"{self.name} knows no min_p")
        if request.top_k and not dialect.extras:
            raise UsageError(f"{self.name} knows no top_k")
        if request.schema is not None and not dialect.schemas:
            raise UsageError(f"{self.name} follows no schemas")
        if request.forced:
            raise UsageError(f"{self.name} takes no forced tokens; the local models do")
        if request.controls != PLAIN:
            raise UsageError(f"{self.name} takes no penalties, bans or hooks; the local models do")

    async def _asked(self, request: Request, seed: int, dialect: Dialect, tell: Callable[[Cost], None]) -> Reply:
        """Ask and explain what goes wrong. `tell` gets the running cost."""
        try:
            return await self._ask(request, seed, dialect, tell)
        except RefusedError as error:
            tell(ZERO)
            raise await self._explained(error) from None

    async def _ask(
        self, request: Request, seed: int, dialect: Dialect, tell: Callable[[Cost], None], attempts: int = ATTEMPTS
    ) -> Reply:
        prompt = await self._render(request.messages, dialect, attempts) if dialect.raw(request) else None
        body = dialect.body(self.model, request, seed, prompt)
        reply = Reply(_guess(request), lambda cost: tell(self.price.on(cost)))
        path = "/chat/completions" if prompt is None else "/completions"
        await self._wire.stream(path, body, reply, attempts)
        return reply

    async def _probe(self) -> Dialect:
        try:
            models = await self._models()
            llama = any(entry.get("owned_by") == "llamacpp" for entry in models)
            return await probe(self._ask_unpaid, llama)
        except RefusedError as error:
            raise UsageError(str(await self._explained(error))) from None
        except ModelError as error:
            raise UsageError(str(error)) from None

    async def _ask_unpaid(self, request: Request, seed: int, dialect: Dialect, attempts: int) -> Reply:
        call, before = Call((), seed), self._unpaid
        try:
            return await self._ask(request, seed, dialect, call.progress, attempts)
        finally:
            self._unpaid = before + (call.so_far or ZERO)

    async def _models(self) -> list[dict[str, str]]:
        """What the server lists, if it has such a list. Raises RefusedError if it cannot be reached or wants a key."""
        try:
            listed = await self._wire.get("/models")
        except RefusedError as error:
            if error.status in (None, 401, 403):
                raise
            return []
        entries = listed.get("data") if isinstance(listed, dict) else None
        return [entry for entry in entries or () if isinstance(entry, dict)]

    async def _explained(self, error: RefusedError) -> ModelError | UsageError:
        if error.status in (401, 403):
            return UsageError(f"{error}; set OPENAI_API_KEY to a key that this endpoint takes")
        if error.status == 404:
            ids = [entry["id"] for entry in await self._models() if "id" in entry]
            there = f"the server has {', '.join(ids)}" if ids else "the address should end in /v1"
            return UsageError(f"{error}; {there}")
        return error

    async def _render(self, messages: tuple[Message, ...], dialect: Dialect, attempts: int) -> str:
        """The prompt as the server's template makes it, up to where the answer begins."""
        key = (str(dialect.continuing), *(part for m in messages for part in (m["role"], m["content"])))
        if key not in self._rendered:
            if len(self._rendered) >= RENDERED:
                self._rendered.clear()
            self._rendered[key] = await self._template(messages, dialect, attempts)
        return self._rendered[key]

    async def _template(self, messages: tuple[Message, ...], dialect: Dialect, attempts: int) -> str:
        path, body = "/apply-template", {"messages": list(messages)}
        if dialect.continuing == "tokenize":
            chat = {"model": self.model, "messages": list(messages), "add_generation_prompt": True}
            tokens = _field(await self._wire.post_root("/tokenize", chat, attempts), "tokens")
            path, body = "/detokenize", {"model": self.model, "tokens": tokens}  # type: ignore[dict-item]
        return str(_field(await self._wire.post_root(path, body, attempts), "prompt"))


def _field(answer: object, name: str) -> object:
    if isinstance(answer, dict) and name in answer:
        return answer[name]
    raise RefusedError(f"the server's answer has no '{name}'", 200)


def _guess(request: Request) -> int:
    """About how many tokens the prompt has: one for four bytes. Used only where the server does not count."""
    size = len(request.draft.text.encode()) + sum(len(m["content"].encode()) for m in request.messages)
    return size // 4 + 4 * len(request.messages)
