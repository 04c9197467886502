"""A scripted OpenAI-compatible server on the loopback, with the habits and the failures of real ones."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]
TOKEN = re.compile(r"\n|[^\S\n]*[^\s]+")  # a line break, or a word with the blanks before it
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def answer(prompt: str, so_far: str, seed: int) -> str:
    """What the model of the server says next: it counts, tells stories by seed, and lists fruits."""
    if "words" in prompt:
        whole = "\n".join(NUMBERS)
    elif "digits" in prompt:
        whole = " ".join(map(str, range(1, 10)))
    elif "story" in prompt:
        whole = f"Once upon a time there were {seed} bears"
    else:
        whole = "apple\npear\nplum\n"
    return whole.removeprefix(so_far)


@dataclass
class Endpoint:
    """Its habits, what goes wrong next, and what it has seen.

    `continues` are the ways in which it goes on from a partial answer; any other it takes for a new turn. `tells` is
    the field in which it names the stop string. `failures` are consumed one a request: (status, headers), "drop" before
    the first token, "break" after it, "error" for an error frame in place of the first token.
    """

    say: Callable[[str, str, int], str] = answer
    continues: tuple[str, ...] = ("flag",)
    keeps: bool = False
    tells: str | None = None
    strict: bool = False  # refuses parameters that OpenAI's own API does not know
    limits: tuple[str, ...] = ("max_tokens", "max_completion_tokens")
    strips: bool = False  # its template strips the partial answer
    usage: bool = True
    seeded: bool = True
    logprobs: bool = True
    delay: float = 0.0  # seconds before each token
    key: str | None = None
    models: tuple[str, ...] = ("toy",)
    failures: list[Any] = field(default_factory=list)
    bodies: list[Body] = field(default_factory=list)
    calls: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    sent: int = 0
    hung_up: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    @contextmanager
    def serve(self) -> Iterator[Endpoint]:
        """Serve on a free port from a thread of its own until the end of the block."""
        ready, stop = threading.Event(), []
        thread = threading.Thread(target=lambda: asyncio.run(self._run(ready, stop)))
        thread.start()
        ready.wait(10)
        try:
            yield self
        finally:
            stop[0]()
            thread.join(10)

    async def _run(self, ready: threading.Event, stop: list[Callable[[], object]]) -> None:
        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(ended.set))
        tasks: set[asyncio.Task[Any]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.add(task := asyncio.current_task())  # type: ignore[arg-type]
            try:
                await self._connection(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                self.hung_up.set()
            except asyncio.CancelledError:  # the block has ended
                pass
            finally:
                tasks.discard(task)
                writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        ready.set()
        await ended.wait()
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            lines = head.decode().split("\r\n")
            headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            verb, path, _ = lines[0].split(" ")
            if self.key and headers.get("authorization") != f"Bearer {self.key}":
                await _reply(writer, 401, {"error": {"message": "no such key"}})
            elif not await self._route(verb, path, json.loads(body or b"{}"), reader, writer):
                return

    async def _route(
        self, verb: str, path: str, body: Body, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer; False to close the connection."""
        routes: dict[str, Callable[[Body], Any]] = {
            "/v1/models": lambda _: {"data": [{"id": name} for name in self.models]},
            "/apply-template": lambda b: (
                {"prompt": render(b["messages"])} if "apply-template" in self.continues else None
            ),
            "/tokenize": lambda b: (
                {"tokens": list(render(b["messages"]).encode())} if "tokenize" in self.continues else None
            ),
            "/detokenize": lambda b: {"prompt": bytes(b["tokens"]).decode()},
        }
        if path in routes:
            made = routes[path](body)
            await _reply(writer, 200 if made else 404, made or {"error": {"message": "no such path"}})
            return True
        if path not in ("/v1/chat/completions", "/v1/completions") or body["model"] not in self.models:
            await _reply(writer, 404, {"error": {"message": f"nothing at {path} for {body.get('model')}"}})
            return True
        return await self._complete(body, reader, writer)

    async def _complete(self, body: Body, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        self.bodies.append(body)
        failure = self.failures.pop(0) if self.failures else None
        if isinstance(failure, tuple):
            await _reply(writer, failure[0], {"error": {"message": "not now"}}, failure[1])
            return True
        if failure == "drop":
            return False
        unknown = (
            {"top_k", "min_p", "repetition_penalty", "continue_final_message"} & set(body) if self.strict else set()
        )
        unknown |= {"max_tokens", "max_completion_tokens"} & set(body) - set(self.limits)
        if unknown or (body.get("logprobs") and not self.logprobs):
            await _reply(writer, 400, {"error": {"message": f"unknown parameters: {sorted(unknown)}"}})
            return True
        prompt, so_far = self._read(body)
        return await self._stream(body, prompt, so_far, failure, reader, writer)

    def _read(self, body: Body) -> tuple[str, str]:
        """The prompt and the partial answer that it is to go on from, as this server understands the request."""
        if "prompt" in body:
            prompt, _, so_far = body["prompt"].partition("<assistant>")
            return prompt, so_far
        messages = body["messages"]
        last = messages[-1]
        prompt = render([m for m in messages if m["role"] != "assistant"])
        way = "flag" if body.get("continue_final_message") else "prefill"
        if last["role"] != "assistant" or way not in self.continues:
            return prompt, ""
        return prompt, last["content"].rstrip() if self.strips else last["content"]

    async def _stream(
        self,
        body: Body,
        prompt: str,
        so_far: str,
        failure: Any,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        chat = "messages" in body
        seed = body["seed"] if self.seeded else len(self.bodies)
        text, finish, stopped = self._cut(self.say(prompt, so_far, seed), body)
        tokens = TOKEN.findall(text)
        self.calls += 1
        read = len(TOKEN.findall(prompt + so_far))
        self.prompt_tokens += read
        made = max(1, len(tokens) + bool(stopped))
        self.new_tokens += made
        _head(writer, 200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        if failure == "error":
            await _chunk(writer, {"error": {"message": "the engine is dead", "code": 503}})
            await _end(writer)
            return True
        for token in tokens:
            await asyncio.sleep(self.delay)
            if reader.at_eof():  # the client has hung up
                self.hung_up.set()
                return False
            choice: Body = {"index": 0, "finish_reason": None} | (
                {"delta": {"content": token}} if chat else {"text": token}
            )
            if body.get("logprobs"):
                choice["logprobs"] = _logprobs(token, chat)
            await _chunk(writer, {"choices": [choice]})
            self.sent += 1
            if failure == "break":
                return False
        last: Body = {"index": 0, "finish_reason": finish} | ({"delta": {}} if chat else {"text": ""})
        frame: Body = {"choices": [last]}
        if self.tells == "__verbose":
            word = {"stop_type": "word", "stopping_word": stopped} if stopped else {"stop_type": "eos"}
            frame["__verbose"] = {"stop": True} | word
        elif self.tells:
            last[self.tells] = stopped or None
        await _chunk(writer, frame)
        if self.usage:
            counts = {"prompt_tokens": read, "completion_tokens": made, "prompt_tokens_details": {"cached_tokens": 1}}
            await _chunk(writer, {"choices": [], "usage": counts})
        await _end(writer)
        return True

    def _cut(self, text: str, body: Body) -> tuple[str, str, str]:
        """What is shown of the text, the finish reason, and the stop string that ended it."""
        most = next(body[limit] for limit in ("max_tokens", "max_completion_tokens") if limit in body)
        tokens = TOKEN.findall(text)
        short = "".join(tokens[:most])
        found = [(i, stop) for stop in body.get("stop", ()) if (i := short.find(stop)) >= 0]
        if found:
            at, stop = min(found)
            return short[: at + len(stop)] if self.keeps else short[:at], "stop", stop
        return (short, "length", "") if len(tokens) > most else (text, "stop", "")


def render(messages: list[dict[str, str]]) -> str:
    return "".join(m["content"] for m in messages) + "<assistant>"


def _logprobs(token: str, chat: bool) -> Body:
    if chat:
        return {"content": [{"token": token, "logprob": -0.5, "top_logprobs": [{"token": token, "logprob": -0.5}]}]}
    return {"tokens": [token], "token_logprobs": [-0.5], "top_logprobs": [{token: -0.5}]}


def _head(writer: asyncio.StreamWriter, status: int, headers: dict[str, str]) -> None:
    lines = [f"HTTP/1.1 {status} Said", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
    writer.write("\r\n".join(lines).encode())


async def _reply(writer: asyncio.StreamWriter, status: int, body: Body, headers: dict[str, str] | None = None) -> None:
    data = json.dumps(body).encode()
    fixed = {"Content-Type": "application/json", "Content-Length": str(len(data))}
    _head(writer, status, fixed | (headers or {}))
    writer.write(data)
    await writer.drain()


async def _chunk(writer: asyncio.StreamWriter, frame: Body) -> None:
    data = b"data: " + json.dumps(frame, ensure_ascii=False).encode() + b"\n\n"
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))
    await writer.drain()


async def _end(writer: asyncio.StreamWriter) -> None:
    data = b"data: [DONE]\n\n"
    writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))
    await writer.drain()


@contextmanager
def other_server(handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> Iterator[str]:
    """A server that is something else altogether. Gives its address."""
    endpoint = Endpoint()
    endpoint._connection = handle  # type: ignore[method-assign, assignment]
    with endpoint.serve():
        yield endpoint.url


async def web_page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers everything with a page."""
    while await reader.readuntil(b"\r\n\r\n"):
        page = b"<html>hello</html>"
        _head(writer, 200, {"Content-Type": "text/html", "Content-Length": str(len(page)), "Connection": "close"})
        writer.write(page)
        await writer.drain()
        return


async def unpacked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says that its answers are packed, which they are not."""
    while await reader.readuntil(b"\r\n\r\n"):
        _head(writer, 200, {"Content-Encoding": "gzip", "Content-Length": "5", "Content-Type": "text/event-stream"})
        writer.write(b"hello")
        await writer.drain()
        return
