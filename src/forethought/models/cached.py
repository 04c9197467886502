"""Record and replay around any model."""

from __future__ import annotations

import functools
import json
import sqlite3
from hashlib import blake2b
from pathlib import Path
from typing import Any

import anyio.lowlevel

from forethought.core.cost import ZERO, Cost
from forethought.core.errors import ModelError, UsageError
from forethought.core.scope import Call
from forethought.models.extend import from_json, to_json
from forethought.models.price import Price
from forethought.models.probing import Probes
from forethought.models.protocol import Ability, Completion, Loads, Model, Request, close, price_of, weights_in

SCHEMA = """
CREATE TABLE IF NOT EXISTS models (name TEXT PRIMARY KEY, abilities TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS weights (name TEXT PRIMARY KEY, weights TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS completions (key BLOB PRIMARY KEY, cost TEXT, data TEXT) WITHOUT ROWID;
"""


class Cached:
    """A model whose completions are kept in an SQLite file and never asked for twice.

    The key is the model's name, its files by their content where it runs here, the whole request, and the seed: the seed is
    what makes two samples of one prompt two samples. A replayed call returns the recorded completion and charges its
    recorded cost; `physical_calls` counts those that reached the model. Without a model it only replays what the files that
    were recorded last said, and a request that was never recorded is a ModelError; a budget on prompt tokens or dollars may
    admit other calls then, since only the model knows its own bound. The ability `loglikelihood` is not passed on.
    """

    def __init__(self, model: Model | None, path: Path | str, name: str | None = None) -> None:
        """Open or create. `name` says whose recordings to replay where there is no model and the file has several."""
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, timeout=30, isolation_level=None)
            self._db.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; {SCHEMA}")
        except sqlite3.Error as error:
            raise UsageError(f"{path} is no file of recorded completions: {error}") from None
        self.model, self.path, self.physical_calls = model, Path(path), 0
        self._introduced = False  # whether the file has this model's name and abilities
        self.name = model.name if model else name or self._only_name()
        self._abilities = frozenset[Ability]() if model else self._recorded_abilities()

    @property
    def abilities(self) -> frozenset[Ability]:
        return self.model.abilities - {"loglikelihood"} if self.model else self._abilities

    @functools.cached_property
    def weights(self) -> str:
        """The model's files by their content; without a model, those of the last recording. Raises UsageError if they
        cannot be read.
        """
        if self.model:
            return weights_in(self.model)
        row = self._db.execute("SELECT weights FROM weights WHERE name = ?", (self.name,)).fetchone()
        return str(row[0]) if row else ""

    def bound(self, request: Request) -> Cost:
        if self.model:
            return self.model.bound(request)
        size = sum(len(m["content"].encode()) + 32 for m in request.messages) + len(request.draft.text.encode())
        return Cost(1, size, 0, request.max_tokens, critical_tokens=request.max_tokens)

    @property
    def probing(self) -> Cost:
        """The most that the model's look at its endpoint has still to be charged for."""
        return self.model.probing if isinstance(self.model, Probes) else ZERO

    async def prepare(self) -> None:
        """Let the model look at its endpoint, if it does such a thing."""
        if isinstance(self.model, Probes):
            await self.model.prepare()

    def owed(self) -> Cost:
        """What that has cost and nobody was charged for yet."""
        return self.model.owed() if isinstance(self.model, Probes) else ZERO

    @property
    def price(self) -> Price | None:
        return price_of(self.model)

    def load(self) -> None:
        """Let the model read its files, if it has any."""
        if isinstance(self.model, Loads):
            self.model.load()

    async def aclose(self) -> None:
        self._db.close()
        await close(self.model)

    async def extend(self, request: Request, call: Call) -> Completion:
        key = _key(self.name, request, call.seed, self.weights)
        row = self._db.execute("SELECT cost, data FROM completions WHERE key = ?", (key,)).fetchone()
        if row:
            await anyio.lowlevel.checkpoint()
            return from_json(json.loads(row[1]), Cost(*json.loads(row[0])))
        if self.model is None:
            raise ModelError(f"{self.path} has no recording of this request to {self.name}")
        self.physical_calls += 1
        completion = await self.model.extend(request, call)
        self._record(key, completion)
        return completion

    def _record(self, key: bytes, completion: Completion) -> None:
        row = (key, json.dumps(completion.cost), json.dumps(to_json(completion)))
        if not self._introduced:  # only now: a model may learn its abilities from its first answer
            can = json.dumps(sorted(self.abilities))
            self._db.execute("INSERT OR REPLACE INTO models VALUES (?, ?)", (self.name, can))
            self._db.execute("INSERT OR REPLACE INTO weights VALUES (?, ?)", (self.name, self.weights))
            self._introduced = True
        self._db.execute("INSERT OR REPLACE INTO completions VALUES (?, ?, ?)", row)

    def _only_name(self) -> str:
        names = [name for (name,) in self._db.execute("SELECT name FROM models ORDER BY name")]
        if len(names) != 1:
            have = f"of {', '.join(names)}: say which by name=" if names else "of no model"
            raise UsageError(f"{self.path} has recordings {have}")
        return str(names[0])

    def _recorded_abilities(self) -> frozenset[Ability]:
        row = self._db.execute("SELECT abilities FROM models WHERE name = ?", (self.name,)).fetchone()
        if row is None:
            raise UsageError(f"{self.path} has no recordings of {self.name}")
        return frozenset(json.loads(row[0]))


def _key(name: str, request: Request, seed: int, weights: str = "") -> bytes:
    draft = request.draft
    asked: list[Any] = [name, seed, request.messages, draft.text, draft.ids, request.max_tokens, request.stop]
    asked += [request.temperature, request.top_p, request.min_p, request.logprobs, request.forced]
    if request.schema is not None:  # recordings without one have the keys that they always had
        asked.append(request.schema)
    if request.extras:
        asked.append(request.extras)
    if weights:
        asked.append({"weights": weights})
    return blake2b(json.dumps(asked, sort_keys=True).encode(), digest_size=16).digest()
