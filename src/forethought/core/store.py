"""Runs on disk: one SQLite file, many runs, every completed call a row."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, Self

import anyio
import anyio.lowlevel
import anyio.to_thread

from forethought.core.cost import Cost
from forethought.core.errors import ForethoughtError, UsageError
from forethought.core.trace import Event, Path

APPLICATION, VERSION = 0x4674686F, 1  # "Ftho": tells our files from any other SQLite file
SCHEMA = f"""
CREATE TABLE runs (id INTEGER PRIMARY KEY, created REAL, key TEXT UNIQUE, spec TEXT, status TEXT, outcome TEXT);
CREATE TABLE events (run INTEGER, place TEXT, kind TEXT, start REAL, cost TEXT, data TEXT,
                     PRIMARY KEY (run, place, kind)) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
"""


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run: what was asked (`spec`), how it stands (`running`, `done`, `interrupted`), and its outcome if done."""

    id: int
    created: float
    key: str
    spec: Mapping[str, Any]
    status: str
    outcome: Mapping[str, Any] | None


@dataclass(slots=True)
class _Batch:
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    led: bool = False
    committed: anyio.Event = field(default_factory=anyio.Event)
    error: sqlite3.Error | None = None


class RunStore:
    """Many runs in one file. Writers of one process share commits; readers of other processes never wait.

    What cannot be read, or not begun, is a UsageError; what cannot be written later a ForethoughtError.
    """

    def __init__(self, path: FilePath) -> None:
        """Open or create. Raises UsageError if the file is no run store or comes from another version."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, check_same_thread=False, timeout=30, isolation_level=None)
            self._open()
        except (sqlite3.Error, OSError, ValueError) as error:  # a ValueError for a complaint that is itself no text
            raise UsageError(f"{path} is no run store: {error}") from None
        self._batch: _Batch | None = None  # collects
        self._writing: _Batch | None = None  # is on its way to the disk
        self._lock = threading.Lock()  # one transaction at a time on the one connection

    def _open(self) -> None:
        if not self._ours():
            with self._db:  # of several processes that find no store here, one makes it
                self._db.execute("BEGIN IMMEDIATE")
                self._create()
        if self._pragma("user_version") != VERSION:
            raise UsageError(f"{self.path} was written by another version of forethought")
        # WAL with NORMAL: a commit survives the end of the process at once, and a power cut after the next checkpoint.
        self._write_ahead(tries=200)
        self._db.execute("PRAGMA synchronous = NORMAL")

    def _write_ahead(self, tries: int) -> None:
        """Switch to WAL. While another process is switching, SQLite does not wait as it does elsewhere."""
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or not tries:
                raise
            time.sleep(0.01)
            self._write_ahead(tries - 1)

    def _create(self) -> None:
        if self._ours():
            return
        if self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise UsageError(f"{self.path} is no run store: it is another program's SQLite file")
        for statement in filter(str.strip, SCHEMA.split(";")):
            self._db.execute(statement)

    def _ours(self) -> bool:
        return self._pragma("application_id") == APPLICATION

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    @contextmanager
    def _told(self, kind: type[ForethoughtError], doing: str) -> Iterator[None]:
        """Raise what SQLite complains of, or rows that nobody wrote like this, as `kind`."""
        try:
            yield
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise kind(f"cannot {doing} {self.path}: {error}") from None

    def begin(self, key: str, spec: Mapping[str, Any]) -> RunRow:
        """The run of this key: the one that is there, else a new one. A key names what is asked, so asking again resumes."""
        found = self.find(key, spec)
        if found is not None:
            return found
        new = "INSERT OR IGNORE INTO runs (created, key, spec, status) VALUES (?, ?, ?, 'running')"
        with self._told(UsageError, "write to"):
            with self._lock:
                self._db.execute(new, (time.time(), key, json.dumps(spec)))
            (row,) = self._select("WHERE key = ?", key)
        return row

    def find(self, key: str, spec: Mapping[str, Any]) -> RunRow | None:
        """The run of this key, if there is one. Keys were no JSON once, and several specs had the same: those get theirs."""
        old = "UPDATE OR IGNORE runs SET key = ? WHERE key GLOB 'budget=*' AND spec = ?"
        with self._told(UsageError, "write to"):
            with self._lock:
                self._db.execute(old, (key, json.dumps(spec)))
            return next(iter(self._select("WHERE key = ?", key)), None)

    def end(self, run: int, status: str, outcome: Mapping[str, Any] | None = None) -> None:
        """Say how a run ended. What is done stays so: another process may have asked the same and been stopped later."""
        text = None if outcome is None else json.dumps(outcome)
        self.flush()
        with self._lock, self._told(ForethoughtError, "write to"):
            self._db.execute(
                "UPDATE runs SET status = ?, outcome = ? WHERE id = ? AND status != 'done'", (status, text, run)
            )

    def runs(self) -> list[RunRow]:
        return self._select("ORDER BY id")

    def earlier(self, row: RunRow, entries: Sequence[str]) -> list[RunRow]:
        """The runs before this one whose specs differ from this one's in nothing but these entries."""
        paths = [f"$.{entry}" for entry in entries]
        without = f"json_remove({{}}{', ?' * len(paths)})"
        same = f"WHERE id < ? AND {without.format('spec')} = {without.format('?')} ORDER BY id"
        return self._select(same, row.id, *paths, json.dumps(row.spec), *paths)

    def run(self, number: int) -> RunRow:
        found = self._select("WHERE id = ?", number)
        if not found:
            raise UsageError(f"{self.path} has no run {number}; `forethought runs {self.path}` lists them")
        return found[0]

    def _select(self, where: str, *values: Any) -> list[RunRow]:
        with self._told(UsageError, "read"):
            rows = self._db.execute(f"SELECT id, created, key, spec, status, outcome FROM runs {where}", values)
            return [RunRow(i, c, k, json.loads(spec), s, o and json.loads(o)) for i, c, k, spec, s, o in rows]

    def events(self, run: int) -> list[Event]:
        with self._told(UsageError, "read"):
            rows = self._db.execute("SELECT place, kind, start, cost, data FROM events WHERE run = ?", (run,))
            return sorted((_event(*row) for row in rows), key=lambda e: e.place)

    def trace(self, run: int) -> StoredTrace:
        """A trace that writes to this run and knows what is recorded of it."""
        return StoredTrace(self, run)

    def add(self, row: tuple[Any, ...]) -> _Batch:
        """Put a row into the batch that is collecting now."""
        if self._batch is None:
            self._batch = _Batch()
        self._batch.rows.append(row)
        return self._batch

    async def write(self, row: tuple[Any, ...]) -> None:
        """Return once the row is on disk. The first to write into a batch commits it, even when cancelled; others wait."""
        batch = self.add(row)
        if batch.led:
            await batch.committed.wait()
        else:
            batch.led = True
            with anyio.CancelScope(shield=True):
                await self._commit(batch)
        if batch.error:
            raise ForethoughtError(f"cannot write to {self.path}: {batch.error}")

    async def _commit(self, batch: _Batch) -> None:
        try:
            await self._close_batch(batch)
            await anyio.to_thread.run_sync(self._insert, batch.rows)
        except sqlite3.Error as error:
            batch.error = error
        except BaseException:  # asyncio itself cancels, which no shield keeps off: others wait for these rows
            self._insert_now(batch)
            raise
        finally:
            if self._writing is batch:
                self._writing = None
            batch.committed.set()

    async def _close_batch(self, batch: _Batch) -> None:
        """Let others join, then take the way to the disk."""
        try:
            await anyio.lowlevel.checkpoint()  # whoever finishes in the same pass of the loop joins
            if self._writing is not None:
                await self._writing.committed.wait()  # and whoever finishes before the last batch is written
        finally:
            if self._batch is batch:
                self._batch = None
        self._writing = batch

    def _insert_now(self, batch: _Batch) -> None:
        """Insert rows that a thread may be inserting already: it holds the lock until it has, and twice is once."""
        try:
            self._insert(batch.rows)
        except sqlite3.Error as error:
            batch.error = error

    def flush(self) -> None:
        """Write what was only noted. Called when a run ends."""
        if self._batch is not None:
            rows, self._batch = self._batch.rows, None
            with self._told(ForethoughtError, "write to"):
                self._insert(rows)

    def _insert(self, rows: list[tuple[Any, ...]]) -> None:
        with self._lock, self._db:  # rolled back if it fails
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT OR REPLACE INTO events VALUES (?, ?, ?, ?, ?, ?)", rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self._db.close()


def _event(place: str, kind: str, start: float, cost: str, data: str) -> Event:
    path = tuple(map(int, filter(None, place.split("."))))
    return Event(path, kind, start, Cost(**json.loads(cost)), json.loads(data))


class StoredTrace:
    """The trace of one stored run."""

    def __init__(self, store: RunStore, run: int) -> None:
        self._store, self._run = store, run
        self._earlier = {(event.place, event.kind): event for event in store.events(run)}

    def recorded(self, place: Path, kind: str) -> Event | None:
        return self._earlier.get((place, kind))

    def _row(self, event: Event) -> tuple[Any, ...]:
        cost = {name: value for name, value in event.cost._asdict().items() if value}
        place = ".".join(map(str, event.place))
        return self._run, place, event.kind, event.start, json.dumps(cost), json.dumps(event.data)

    def write(self, event: Event) -> Awaitable[None]:
        return self._store.write(self._row(event))

    def note(self, event: Event) -> None:
        self._store.add(self._row(event))
