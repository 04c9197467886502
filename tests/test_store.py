"""The run store: whose file it is, many runs in it, group commits, replay, and many processes at once."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from forethought.core.budget import Budget
from forethought.core.cost import Cost
from forethought.core.errors import BudgetEnded, ForethoughtError, UsageError
from forethought.core.operators import each
from forethought.core.population import Particle
from forethought.core.scope import Run, Scope, Seeded
from forethought.core.store import RunRow, RunStore
from forethought.core.trace import Event
from tests.scripted import Extend, World

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "runs.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[RunStore]:
    opened = RunStore(path)
    yield opened
    opened.close()


# Whose file it is


def refused(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        RunStore(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_text_is_no_store(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to have a header of its own\n" * 40)
    assert "is no run store" in refused(path)
    assert path.read_text().startswith("not a database")


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    assert "is no run store" in refused(tmp_path)


def test_a_place_that_cannot_be_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is no run store" in refused(tmp_path / "file" / "runs.sqlite")


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE runs (id INTEGER)")
    other.commit()
    other.close()
    before = path.read_bytes()
    assert "another program's SQLite file" in refused(path)
    assert path.read_bytes() == before


def test_another_version_is_refused(path: Path, store: RunStore) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 999")
    db.close()
    assert "another version of forethought" in refused(path)


FIRST_VERSION = """
CREATE TABLE runs (id INTEGER PRIMARY KEY, created REAL, key TEXT UNIQUE, spec TEXT, status TEXT, outcome TEXT);
CREATE TABLE events (run INTEGER, place TEXT, kind TEXT, start REAL, cost TEXT, data TEXT,
                     PRIMARY KEY (run, place, kind)) WITHOUT ROWID;
PRAGMA application_id = 1182034031;
PRAGMA user_version = 1;
INSERT INTO runs VALUES (1, 0.5, 'key', '{"method": "beam"}', 'done', '{"answer": "42"}');
INSERT INTO events VALUES (1, '1.0.1', 'sample', 0.25, '{"calls": 1, "new_tokens": 3}', '{"text": "a"}');
"""


def test_the_files_of_users_stay_readable(path: Path) -> None:
    """Whoever changes the layout or its number has to say here how the first is read."""
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.executescript(FIRST_VERSION)
    db.close()
    store = RunStore(path)
    assert store.runs() == [RunRow(1, 0.5, "key", {"method": "beam"}, "done", {"answer": "42"})]
    assert store.events(1) == [Event((1, 0, 1), "sample", 0.25, Cost(calls=1, new_tokens=3), {"text": "a"})]
    store.close()


@pytest.mark.parametrize("passes", [3, 10_000])
def test_a_locked_file_is_waited_for_but_not_for_ever(
    path: Path, store: RunStore, monkeypatch: pytest.MonkeyPatch, passes: int
) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA journal_mode = DELETE")
    other.execute("BEGIN IMMEDIATE")
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == passes:
            other.rollback()

    monkeypatch.setattr("forethought.core.store.time.sleep", sleep)
    if passes == 3:
        RunStore(path).close()
        assert len(slept) == 3
    else:
        assert "database is locked" in refused(path)
        assert sum(slept) >= 1
    other.close()


def test_a_store_is_opened_again(path: Path, store: RunStore) -> None:
    first = store.begin("key", {"method": "beam"})
    other = RunStore(path)
    assert other.begin("key", {"method": "ignored: it is there"}) == first
    other.close()


# Runs


def test_many_runs_in_one_file(store: RunStore) -> None:
    rows = [store.begin(f"key {i}", {"seed": i}) for i in range(5)]
    assert store.runs() == rows
    assert [row.id for row in rows] == [1, 2, 3, 4, 5]
    assert all(row.status == "running" and row.outcome is None for row in rows)
    store.end(3, "done", {"answer": "42"})
    assert store.run(3).status == "done"
    assert store.run(3).outcome == {"answer": "42"}
    assert store.begin("key 2", {}) == store.run(3)
    assert store.run(2) == rows[1]


def test_a_run_that_is_done_stays_so_whoever_is_stopped_later(path: Path, store: RunStore) -> None:
    """Two processes ask the same question: one answers it, the other is stopped."""
    with RunStore(path) as other:
        run, same = store.begin("a", {}).id, other.begin("a", {}).id
        assert run == same
        store.end(run, "done", {"answer": "42"})
        other.end(same, "interrupted")
    assert (store.run(run).status, store.run(run).outcome) == ("done", {"answer": "42"})


def test_a_run_that_is_not_there(store: RunStore) -> None:
    with pytest.raises(UsageError, match="has no run 7; `forethought runs"):
        store.run(7)


EVENTS = [
    Event((), "over", 0.25),
    Event((1,), "resample", 0.5, Cost(), {"parents": [0, 0, 3], "scheme": "systematic"}),
    Event((1, 2), "sample", 1 / 3, Cost(calls=1, new_tokens=3, usd=0.1, seconds=1e-9), {"text": 'a\n"ü\udc80\0'}),
    Event((1, 2), "sample cancelled", 0.125, Cost(kv_reads=1e17), {}),
    Event((1, 10), "grade", 2.0, Cost(verifier_calls=1), {"value": None, "steps": [1e-300]}),
    Event((2,), "wave", 3.0, Cost(), {"size": 3}),
]


async def test_events_come_back_as_they_were_and_in_the_order_of_their_places(store: RunStore) -> None:
    run, other = store.begin("a", {}).id, store.begin("b", {}).id
    trace = store.trace(run)
    for event in reversed(EVENTS):
        await trace.write(event)
    await store.trace(other).write(Event((9,), "sample"))
    assert sorted(store.events(run)) == sorted(EVENTS)
    assert [e.place for e in store.events(run)] == [e.place for e in EVENTS]
    assert [e.place for e in store.events(other)] == [(9,)]
    assert trace.recorded((1, 2), "sample") is None  # this life's own events are no memories
    assert store.trace(run).recorded((1, 2), "sample") == EVENTS[2]


async def test_a_note_is_kept_with_the_next_result_or_with_the_end_of_the_run(path: Path, store: RunStore) -> None:
    run = store.begin("a", {}).id
    trace = store.trace(run)
    trace.note(EVENTS[1])
    assert store.events(run) == []
    await trace.write(EVENTS[2])
    assert len(store.events(run)) == 2
    trace.note(EVENTS[5])
    store.end(run, "done")
    assert len(store.events(run)) == 3


# Commits


def transactions(store: RunStore) -> list[str]:
    seen: list[str] = []
    store._db.set_trace_callback(lambda statement: seen.append(statement) if statement.startswith("BEGIN") else None)
    return seen


async def test_a_thousand_writes_at_once_share_their_commits(path: Path, store: RunStore) -> None:
    trace, begun = store.trace(store.begin("a", {}).id), transactions(store)
    reader = RunStore(path)

    async def write(i: int) -> None:
        await trace.write(Event((i,), "sample", data={"i": i}))
        assert reader._db.execute("SELECT 1 FROM events WHERE place = ?", (str(i),)).fetchone()  # it is there when told

    async with anyio.create_task_group() as tasks:
        for i in range(1000):
            tasks.start_soon(write, i)
    assert [e.data["i"] for e in store.events(1)] == list(range(1000))
    assert len(begun) <= 5
    reader.close()


async def test_writes_that_trickle_in_wait_for_one_another(store: RunStore) -> None:
    trace, begun = store.trace(store.begin("a", {}).id), transactions(store)

    async def write(i: int) -> None:
        for _ in range(i):
            await anyio.lowlevel.checkpoint()
        await trace.write(Event((i,), "sample"))

    async with anyio.create_task_group() as tasks:
        for i in range(300):
            tasks.start_soon(write, i)
    assert len(store.events(1)) == 300
    assert len(begun) < 150


async def test_a_cancelled_writer_neither_loses_its_row_nor_that_of_others(store: RunStore) -> None:
    trace = store.trace(store.begin("a", {}).id)
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as given_up:
            given_up.cancel()
            await trace.write(Event((0,), "sample"))  # leads the batch
        for i in range(1, 4):
            tasks.start_soon(trace.write, Event((i,), "sample"))
    assert len(store.events(1)) == 4


@pytest.mark.parametrize("passes", range(4))
def test_a_writer_that_asyncio_itself_cancels_leaves_nobody_waiting(store: RunStore, passes: int) -> None:
    """No shield keeps off what `asyncio.timeout` does: at the first checkpoint, or while a thread writes."""
    trace = store.trace(store.begin("a", {}).id)

    async def main() -> None:
        first = asyncio.create_task(write(0))
        await asyncio.sleep(0)
        others = [asyncio.create_task(write(i)) for i in (1, 2)]
        for _ in range(passes):
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait_for(asyncio.gather(*others, write(3)), 5)
        with pytest.raises(asyncio.CancelledError):
            await first

    async def write(i: int) -> None:
        await trace.write(Event((i,), "sample"))

    asyncio.run(main())
    assert len(store.events(1)) == 4


async def test_a_writer_that_asyncio_cancels_behind_another_batch_is_written_too(store: RunStore) -> None:
    trace = store.trace(store.begin("a", {}).id)

    async def main() -> None:
        writers = []
        for i in range(6):
            writers.append(asyncio.create_task(write(i)))
            for _ in range(3):
                await asyncio.sleep(0)
        for writer in writers[1::2]:
            writer.cancel()
        await asyncio.wait_for(asyncio.gather(*writers, write(6), return_exceptions=True), 5)

    async def write(i: int) -> None:
        await trace.write(Event((i,), "sample"))

    await anyio.to_thread.run_sync(lambda: asyncio.run(main()))
    assert len(store.events(1)) == 7


async def test_a_failed_write_is_told_to_all_who_wait_and_the_store_goes_on(store: RunStore) -> None:
    trace, failures = store.trace(store.begin("a", {}).id), list[str]()
    full = "BEFORE INSERT ON events WHEN new.kind = 'bad' BEGIN SELECT RAISE(FAIL, 'full'); END"
    store._db.execute(f"CREATE TEMP TRIGGER full {full}")

    async def write(kind: str, i: int) -> None:
        try:
            await trace.write(Event((i,), kind))
        except ForethoughtError as error:
            failures.append(str(error))

    async with anyio.create_task_group() as tasks:
        for i, kind in enumerate(["good", "bad", "good"]):
            tasks.start_soon(write, kind, i)
    assert failures == [f"cannot write to {store.path}: full"] * 3
    assert store.events(1) == []  # all of a batch or nothing
    await trace.write(Event((9,), "sample"))
    assert [e.place for e in store.events(1)] == [(9,)]


def test_what_is_not_written_or_not_as_it_was_is_told_by_the_file(store: RunStore) -> None:
    row = store.begin("a", {})
    store.trace(row.id).note(Event((1,), "resample"))
    store.flush()
    store._db.execute("UPDATE events SET cost = '{\"pounds\": 1}'")
    with pytest.raises(UsageError, match=f"^cannot read {store.path}: "):
        store.events(row.id)
    store._db.execute("UPDATE runs SET spec = '{'")
    with pytest.raises(UsageError, match=f"^cannot read {store.path}: "):
        store.run(row.id)
    store._db.execute("PRAGMA query_only = ON")
    with pytest.raises(UsageError, match=f"^cannot write to {store.path}: "):
        store.begin("b", {})
    with pytest.raises(ForethoughtError, match=f"^cannot write to {store.path}: "):
        store.end(row.id, "done")
    store.trace(row.id + 1).note(Event((1,), "resample"))
    with pytest.raises(ForethoughtError, match=f"^cannot write to {store.path}: "):
        store.flush()


def test_one_store_serves_one_event_loop_after_another(store: RunStore) -> None:
    async def main(i: int) -> None:
        trace = store.trace(store.begin("a", {}).id)
        await trace.write(Event((i, 1), "sample"))
        trace.note(Event((i, 2), "resample"))

    for i, backend in enumerate(["asyncio", "trio", "asyncio", "asyncio", "trio"]):
        anyio.run(main, i, backend=backend)
        store.flush()
    assert len(store.events(1)) == 10


# Replay


async def program(store: RunStore, key: str, budget: Budget, most: int = 5) -> tuple[list[str], Run, Cost]:
    """Three rounds of drafts in a stored run."""
    run = Run(Seeded(7), store.trace(store.begin(key, {}).id), failures="drop")
    at = Scope.root(run, budget)
    pop = [Particle("")] * 5
    try:
        for _ in range(3):
            pop = await each(pop, Extend(World(random.Random(0), failing=5), most), at)
    except BudgetEnded:
        pop = list(at.kept or [])
    store.flush()
    return [p.state for p in pop], run, at.account.cost._replace(seconds=0.0)


@pytest.mark.parametrize("budget", ["none", "tokens=31", "calls=7", "tokens=9"])
async def test_a_run_replays_from_the_file_without_a_call(path: Path, store: RunStore, budget: str) -> None:
    texts, run, cost = await program(store, "a", Budget.parse(budget))
    assert run.physical_calls > 0
    other = RunStore(path)
    again, replay, paid = await program(other, "a", Budget.parse(budget))
    other.close()
    assert (again, paid, replay.dropped) == (texts, cost, run.dropped)
    assert replay.physical_calls == 0
    assert replay.again == []


async def test_a_changed_program_is_refused(store: RunStore) -> None:
    await program(store, "a", Budget())
    with pytest.raises(ForethoughtError, match="answers another request: the program or the model has changed since"):
        await program(store, "a", Budget(), most=6)
    await program(store, "b", Budget(), most=6)


# Processes

WRITER = """
import sys
from pathlib import Path
import anyio
from forethought.core.store import RunStore
from forethought.core.trace import Event

async def main() -> None:
    store = RunStore(Path(sys.argv[1]))
    trace, own = store.trace(store.begin("shared", {}).id), store.trace(store.begin(sys.argv[2], {}).id)
    for i in range(40):
        await trace.write(Event((int(sys.argv[2]), i), "sample"))
        await own.write(Event((i,), "sample"))
    store.close()

sys.stdin.readline()
anyio.run(main)
"""


def test_processes_share_a_file(path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, str(k)], stdin=subprocess.PIPE, text=True) for k in range(1, 5)]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.close()
    assert [writer.wait(30) for writer in writers] == [0] * 4
    store = RunStore(path)
    counts = {row.key: len(store.events(row.id)) for row in store.runs()}
    store.close()
    assert counts == {"shared": 160, "1": 40, "2": 40, "3": 40, "4": 40}


def test_a_file_that_many_create_at_once_is_created_once(tmp_path: Path) -> None:
    for attempt in range(10):
        path, errors = tmp_path / f"{attempt}.sqlite", list[BaseException]()
        ready = threading.Barrier(8)

        def create(path: Path = path, errors: list[BaseException] = errors, ready: threading.Barrier = ready) -> None:
            ready.wait()
            try:
                store = RunStore(path)
                store.begin("key", {})
                store.close()
            except UsageError as error:
                errors.append(error)

        threads = [threading.Thread(target=create) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        store = RunStore(path)
        assert len(store.runs()) == 1
        store.close()
