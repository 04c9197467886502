"""HTTP to an OpenAI-compatible server: connections by the loop, server-sent events, bounded retries."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Protocol, TypeVar

import anyio
import httpx2
from anyio.lowlevel import RunVar

from forethought.core.errors import ModelError, UsageError
from forethought.models.protocol import opened

ATTEMPTS = 5
LONGEST_WAIT = 60.0  # seconds; a server that asks for more is not waited for
AT_ONCE = 1000  # connections; more requests wait for one
IDLE = 100  # connections kept open for later
RETRIED = frozenset({408, 409, 429})

Frame = Mapping[str, Any]
T = TypeVar("T")


class RefusedError(ModelError):
    """No completion: the server answered with an error (`status`), or not at all (None), and nothing was generated."""

    def __init__(self, text: str, status: int | None, wait: float | None = None, retry: bool | None = None) -> None:
        super().__init__(text)
        self.status, self.wait = status, wait
        self.retry = status in RETRIED or (status or 0) >= 500 if retry is None else retry


class LostError(ModelError):
    """The connection broke while the server was at work; what it did is not known."""

    def __init__(self, text: str, retry: bool) -> None:
        super().__init__(text)
        self.retry, self.wait = retry, None


class Sink(Protocol):
    """Takes the frames of a stream. Once it has `begun` to hold text, the request is never sent again."""

    begun: bool

    def take(self, frame: Frame) -> None: ...


class Lanes:
    """The connections of one event loop: a client of httpx2 for each, of which the one used last is used next.

    One client for all would look at each of its connections twice a request, which is most of the time of a request that
    is one of many. All that concerns a single connection (proxies, certificates, keeping it alive, opening it again) is
    still httpx2's.
    """

    def __init__(self, headers: Mapping[str, str], timeout: httpx2.Timeout, certificates: bool) -> None:
        self._headers, self._timeout = headers, timeout
        self._tls = httpx2.create_ssl_context(verify=certificates)  # once: loading certificates takes 0.03 s
        self._slots = anyio.Semaphore(AT_ONCE, fast_acquire=True)
        self._idle: list[httpx2.AsyncClient] = []
        self._all: set[httpx2.AsyncClient] = set()

    @asynccontextmanager
    async def lane(self) -> AsyncIterator[httpx2.AsyncClient]:
        """A client for one request at a time."""
        async with self._slots:
            client = self._idle.pop() if self._idle else self._open()
            try:
                yield client
            finally:
                if len(self._idle) < IDLE:
                    self._idle.append(client)
                else:
                    await self._close(client)

    def _open(self) -> httpx2.AsyncClient:
        single = httpx2.Limits(max_connections=1, max_keepalive_connections=1)
        client = httpx2.AsyncClient(headers=self._headers, timeout=self._timeout, limits=single, verify=self._tls)
        self._all.add(client)
        return client

    async def _close(self, client: httpx2.AsyncClient) -> None:
        self._all.discard(client)
        with anyio.CancelScope(shield=True):
            await client.aclose()

    async def aclose(self) -> None:
        """Close every connection, those in use too."""
        for client in list(self._all):
            await self._close(client)


class Wire:
    """The way to one endpoint. `timeout` is in seconds without a single byte."""

    def __init__(self, base_url: str, api_key: str | None, timeout: float) -> None:
        """Raises UsageError for what is no address."""
        self.base_url = base_url.rstrip("/")
        try:
            httpx2.URL(self.base_url)
        except httpx2.InvalidURL as error:
            raise UsageError(f"{base_url} is no address ({error}); write it as http://host:8000/v1") from None
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = httpx2.Timeout(timeout, connect=min(timeout, 10.0), pool=None)
        self._urls: dict[str, httpx2.URL] = {}
        self._lanes: RunVar[Lanes | None] = RunVar("lanes")

    @property
    def lanes(self) -> Lanes:
        lanes = self._lanes.get(None)
        if lanes is None:
            lanes = Lanes(self._headers, self._timeout, self.base_url.startswith("https:"))
            self._lanes.set(lanes)
            opened(self)
        return lanes

    async def aclose(self) -> None:
        """Close the connections of this event loop."""
        lanes = self._lanes.get(None)
        self._lanes.set(None)
        if lanes is not None:
            await lanes.aclose()

    async def get(self, path: str) -> Any:
        """The JSON at `path`. Raises RefusedError."""
        return await self._json("GET", self.base_url + path, None)

    async def post_root(self, path: str, body: Frame, attempts: int = ATTEMPTS) -> Any:
        """What the server itself, outside its OpenAI API, answers at `path`. Raises RefusedError after all attempts."""
        url = self.base_url.removesuffix("/v1") + path
        return await self._retried(lambda: self._json("POST", url, body), body, attempts)

    async def _json(self, verb: str, url: str, body: Frame | None) -> Any:
        try:
            async with self.lanes.lane() as client:
                response = await client.request(verb, url, json=body)
        except httpx2.TransportError as error:
            raise RefusedError(f"cannot reach {self.base_url}: {_cause(error)}", None, retry=True) from None
        except httpx2.RequestError as error:  # it is there, and its answer is not what its headers say
            raise RefusedError(f"the answer of {url} cannot be read: {_cause(error)}", 200) from None
        if response.status_code != 200:
            raise await _refusal(url, response)
        try:
            return response.json()
        except ValueError:
            raise RefusedError(f"{url} answered with something other than JSON", 200) from None

    async def stream(self, path: str, body: Frame, sink: Sink, attempts: int = ATTEMPTS) -> None:
        """Post `body` and give each frame of the answer to `sink`.

        Raises RefusedError or LostError when all attempts are used up, and LostError after the first token.
        """

        async def once() -> None:
            try:
                await self._stream_once(path, body, sink)
            except (RefusedError, LostError) as error:
                if sink.begun:
                    raise LostError(str(error), retry=False) from None
                raise

        await self._retried(once, body, attempts)

    async def _retried(self, once: Callable[[], Awaitable[T]], body: Frame, attempts: int) -> T:
        """What `once` gives, which posts `body`: tried again as long as a failure allows it and attempts are left."""
        attempt = 1
        while True:
            try:
                return await once()
            except (RefusedError, LostError) as error:
                wait = _backoff(attempt, body) if error.wait is None else error.wait
                if not error.retry or attempt >= attempts or wait > LONGEST_WAIT:
                    raise
            await anyio.sleep(wait)
            attempt += 1

    def _url(self, path: str) -> httpx2.URL:
        """Parsed once: parsing takes as long as all else about building a request."""
        if path not in self._urls:
            self._urls[path] = httpx2.URL(self.base_url + path)
        return self._urls[path]

    async def _stream_once(self, path: str, body: Frame, sink: Sink) -> None:
        url, lines, failed = self._url(path), Lines(self.base_url), None
        try:
            async with self.lanes.lane() as client, client.stream("POST", url, json=body) as response:
                if response.status_code != 200:
                    raise await _refusal(url, response)
                if "event-stream" not in response.headers.get("content-type", ""):
                    raise RefusedError(f"{url} does not stream: it speaks no OpenAI API", 200, retry=False)
                async with aclosing(response.aiter_bytes()) as blocks:
                    async for block in blocks:
                        for frame in lines.feed(block):
                            failed = failed or frame.get("error")
                            sink.take(frame)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise RefusedError(f"cannot reach {self.base_url}: {_cause(error)}", None, retry=True) from None
        except httpx2.TransportError as error:
            raise LostError(f"{self.base_url} broke off the answer: {_cause(error)}", retry=True) from None
        except httpx2.RequestError as error:
            raise LostError(f"the answer of {url} cannot be read: {_cause(error)}", retry=False) from None
        if failed:  # raised only now: an unexhausted stream inside httpx2 is a ResourceWarning on trio
            raise RefusedError(f"{self.base_url} gave up: {_message(failed)}", _status(failed))


class Lines:
    """Cuts a stream of bytes into the JSON frames of server-sent events.

    Split at b"\\n" only: `str.splitlines` also splits at U+2028 and others that may stand unescaped inside JSON.
    """

    def __init__(self, source: str) -> None:
        self._source, self._rest = source, b""

    def feed(self, block: bytes) -> list[Frame]:
        *lines, self._rest = (self._rest + block).split(b"\n")
        data = (line[5:].strip() for line in lines if line.startswith(b"data:"))
        return [self._frame(text) for text in data if text and text != b"[DONE]"]

    def _frame(self, text: bytes) -> Frame:
        try:
            frame = json.loads(text)
        except ValueError:
            raise RefusedError(f"{self._source} sent a broken frame: {text[:80]!r}", 200, retry=False) from None
        if not isinstance(frame, dict):
            raise RefusedError(f"{self._source} sent a frame that is no object: {text[:80]!r}", 200, retry=False)
        return frame


def _status(error: Any) -> int:
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) else 500


async def _refusal(url: str | httpx2.URL, response: httpx2.Response) -> RefusedError:
    body = await response.aread()
    try:
        message = _message(json.loads(body))
    except ValueError:
        message = _line(body.decode(errors="replace"))
    status = response.status_code
    wait = _retry_after(response.headers.get("retry-after"))
    return RefusedError(f"{url} answered {status} {response.reason_phrase}: {message}", status, wait)


def _message(body: Any) -> str:
    """The text of an error, in any of the shapes that servers give it."""
    while isinstance(body, dict):
        body = next((body[key] for key in ("error", "message", "detail") if body.get(key)), str(body))
    return _line(str(body))


def _line(text: str) -> str:
    return " ".join(text.split())[:300] or "(no text)"


def _cause(error: Exception) -> str:
    return _line(str(error)) if str(error) else type(error).__name__


def _retry_after(header: str | None) -> float | None:
    """Seconds to wait by a Retry-After header, which has a number of seconds or a date."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def _backoff(attempt: int, body: Frame) -> float:
    """Seconds to wait before the next attempt: 0.5, 1, 2, 4, and up to half more, different from seed to seed."""
    spread = (int(body.get("seed") or 0) * 0.618034) % 1.0
    return float(0.5 * 2 ** (attempt - 1) * (1 + 0.5 * spread))
