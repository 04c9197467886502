"""What one endpoint understands, found out by a few tiny requests."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from forethought.core.draft import Draft
from forethought.core.problem import Message
from forethought.models.openai_reply import Reply
from forethought.models.openai_wire import ATTEMPTS, RefusedError
from forethought.models.protocol import Ability, Request

Continuing = Literal["flag", "prefill", "apply-template", "tokenize"]
"""How a partial answer is continued. flag: `continue_final_message` (vLLM, SGLang, llama.cpp, transformers). prefill:
the last message is the assistant's (Ollama, older llama.cpp). The others let the server render the prompt and send raw
text to /completions: by /apply-template (llama.cpp), or by /tokenize and /detokenize (vLLM)."""

CONTINUINGS: tuple[Continuing, ...] = ("flag", "prefill", "apply-template", "tokenize")
RAW = ("apply-template", "tokenize")
BOTH_LIMITS = ("max_tokens", "max_completion_tokens")
# Said explicitly, because every server has its own defaults for them; OpenAI's own API refuses them as unknown.
EXTRAS = {"repetition_penalty": 1.0}


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one endpoint understands. `overhead` is how many prompt tokens its template may add."""

    limits: tuple[str, ...] = BOTH_LIMITS
    extras: bool = True
    llama: bool = False
    keeps_stops: bool = False
    continuing: Continuing | None = "flag"
    logprobs: bool = True
    seeds: bool = True
    schemas: bool = True
    overhead: int = 128

    @property
    def abilities(self) -> frozenset[Ability]:
        can: dict[Ability, bool] = {
            "extend": True,
            "continue": self.continuing is not None,
            "logprobs": self.logprobs,
            "seed": self.seeds,
            "schema": self.schemas,
        }
        return frozenset(ability for ability, there in can.items() if there)

    def raw(self, request: Request) -> bool:
        """Whether the request goes to /completions as text."""
        return bool(request.draft.text) and self.continuing in RAW

    def body(self, model: str, request: Request, seed: int, prompt: str | None = None) -> dict[str, Any]:
        """The JSON to post: to /completions if there is a rendered `prompt`, else to /chat/completions."""
        body = self._sampling(model, request, seed)
        if prompt is None:
            return body | self._chat(request)
        body.pop("max_completion_tokens", None)
        body |= {"prompt": prompt + request.draft.text, "max_tokens": request.max_tokens}
        if self.continuing == "tokenize":
            body["add_special_tokens"] = False  # the rendered prompt has them already
        if request.logprobs is not None:
            body["logprobs"] = request.logprobs
        return body

    def _sampling(self, model: str, request: Request, seed: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": seed & 0x7FFFFFFF,  # llama.cpp takes 32 bits, of which all ones mean "any"
        }
        body |= dict.fromkeys(self.limits, request.max_tokens)
        if request.stop:
            body["stop"] = list(request.stop)
        if self.extras:
            body |= EXTRAS | {"min_p": request.min_p, "top_k": request.top_k or -1}
            body["stream_options"]["continuous_usage_stats"] = True  # vLLM, SGLang: what a cancelled call has cost
        if self.llama:
            body |= {"verbose": True, "timings_per_token": True}  # tells a stop from the end; counts as it goes
        return body

    def _chat(self, request: Request) -> dict[str, Any]:
        messages = list(request.messages)
        chat: dict[str, Any] = {"messages": messages}
        if request.draft.text:
            messages.append({"role": "assistant", "content": request.draft.text})
            if self.continuing == "flag":
                chat |= {"continue_final_message": True, "add_generation_prompt": False}
        if request.logprobs is not None:
            chat |= {"logprobs": True, "top_logprobs": request.logprobs}
        if request.schema is not None:
            schema = {"name": "answer", "strict": True, "schema": json.loads(request.schema)}
            chat["response_format"] = {"type": "json_schema", "json_schema": schema}
        return chat


Ask = Callable[[Request, int, Dialect, int], Awaitable[Reply]]
"""Asks the endpoint in a dialect, with a seed and a number of attempts. Raises RefusedError."""

COUNT: tuple[Message, ...] = ({"role": "user", "content": "Write the numbers from one to ten as words, one a line."},)
# Ends in a newline, since many chat templates strip it: then a step method could not go on from the end of a step.
HALF, REST = Draft(None, "one\ntwo\nthree\nfour\n"), "five"
DIGITS: tuple[Message, ...] = ({"role": "user", "content": "Count from 1 to 9 in digits, separated by spaces."},)
STORY: tuple[Message, ...] = ({"role": "user", "content": "Write the first line of a story that nobody has told yet."},)
ONLY = """{"type": "object", "properties": {"a": {"type": "string", "enum": ["b"]}}, "required": ["a"],
 "additionalProperties": false}"""


async def probe(ask: Ask, llama: bool) -> Dialect:
    """Find out what the endpoint understands. Raises RefusedError or LostError if not even a plain chat is answered."""
    dialect = await _plain(ask, llama)
    dialect = await _continuing(ask, dialect)
    dialect = replace(dialect, logprobs=await _logprobs(ask, dialect))
    dialect = replace(dialect, schemas=await _schemas(ask, dialect))
    return replace(dialect, seeds=await _seeds(ask, dialect))


async def _plain(ask: Ask, llama: bool) -> Dialect:
    """The richest spelling of a plain chat that the endpoint accepts."""
    request = Request(DIGITS, max_tokens=8, stop=("3",), temperature=0.0)
    spellings = [Dialect(extras=extras, limits=BOTH_LIMITS, llama=llama and extras) for extras in (True, False)]
    spellings += [Dialect(extras=False, limits=(limit,)) for limit in reversed(BOTH_LIMITS)]
    for dialect in spellings:
        try:
            reply = await ask(request, 0, dialect, ATTEMPTS)
        except RefusedError as error:
            if error.status not in (400, 422) or dialect is spellings[-1]:
                raise
        else:
            return replace(dialect, keeps_stops="3" in reply.text, overhead=reply.cost.prompt_tokens)
    raise AssertionError("the last spelling returns or raises")


async def _continuing(ask: Ask, dialect: Dialect) -> Dialect:
    """The first way of continuing a text that really goes on from its last character."""
    request = Request(COUNT, HALF, max_tokens=4, stop=("\n",), temperature=0.0)
    for way in CONTINUINGS:
        trial = replace(dialect, continuing=way)
        try:
            reply = await ask(request, 0, trial, 2)
        except RefusedError as error:
            if error.status is None:
                raise
        else:
            if reply.text.lower().startswith(REST):
                return replace(trial, keeps_stops=dialect.keeps_stops or "\n" in reply.text)
    return replace(dialect, continuing=None)


async def _logprobs(ask: Ask, dialect: Dialect) -> bool:
    try:
        reply = await ask(Request(DIGITS, max_tokens=1, temperature=0.0, logprobs=1), 0, dialect, 2)
    except RefusedError as error:
        if error.status is None:
            raise
        return False
    return bool(reply.logprobs)


async def _schemas(ask: Ask, dialect: Dialect) -> bool:
    """Whether a schema that leaves no choice is followed. A server that knows none ignores or refuses it."""
    try:
        reply = await ask(Request(DIGITS, max_tokens=24, temperature=0.0, schema=ONLY), 0, dialect, 2)
    except RefusedError as error:
        if error.status is None:
            raise
        return False
    return "".join(reply.text.split()) == '{"a":"b"}'


async def _seeds(ask: Ask, dialect: Dialect) -> bool:
    """Whether a seed gives the same text again, and another seed another."""
    request = Request(STORY, max_tokens=8)
    first, again, other = [(await ask(request, seed, dialect, ATTEMPTS)).text for seed in (1, 1, 2)]
    return first == again != other
