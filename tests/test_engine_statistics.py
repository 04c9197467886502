"""What an engine says that it has done, counted by hand on a tiny model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from forethought.engine import batch
from forethought.engine.batch import Statistics
from forethought.engine.compute import SWITCH, computed
from forethought.engine.engine import Engine
from forethought.engine.rows import Row
from forethought.engine.sampling import Sampling
from forethought.engine.weights import load
from tests.test_engine import prompt


@pytest.fixture
def make(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Engine]:
    """Engines whose steps take a second each."""
    model, seconds = replace(load(folder), eos=frozenset()), count()
    monkeypatch.setattr(batch, "time", SimpleNamespace(perf_counter=lambda: float(next(seconds))))
    return lambda **how: Engine(model, lambda row: False, **how)


def run(engine: Engine, *rows: Row) -> Statistics:
    """Let all of them come at once and write to their ends."""
    engine.batch.waiting.extend(rows)
    while not all(row.done for row in rows):
        engine.batch.run(1)
    return engine.statistics


def test_a_row_alone(make: Callable[..., Engine]) -> None:
    """Its prompt is one step, which gives its first token; its last token is not read any more."""
    engine = make()
    told = run(engine, Row(prompt(20), Sampling(10), 0))
    assert told == Statistics(10, 10, 20 + 9, 0, 10.0, pages_live=2, pages_peak=2)
    assert told.occupancy == 1
    told = run(
        engine, Row(prompt(20), Sampling(10), 1)
    )  # begins where the prompt ends: nine tokens, and a page for them
    assert told == Statistics(20, 20, 29 + 9, 20, 20.0, pages_live=3, pages_peak=3)


def test_rows_that_share_their_prompt(make: Callable[..., Engine]) -> None:
    """One reads it, and the three others begin in the next step; so five steps of 1, 4, 4, 4 and 3 rows."""
    told = run(make(), *(Row(prompt(16), Sampling(4), seed) for seed in range(4)))
    assert told == Statistics(5, 16, 16 + 4 * 3, 3 * 16, 5.0, pages_live=1 + 4, pages_peak=1 + 4)
    assert told.occupancy == 16 / 5


def test_prompts_that_are_read_in_pieces(make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "PREFILL_TOKENS", 8)
    told = run(make(), Row(prompt(20), Sampling(1), 0))
    assert told == Statistics(3, 3, 20, 0, 3.0, pages_live=2, pages_peak=2)


def test_pages_that_were_evicted_are_live_no_more(make: Callable[..., Engine]) -> None:
    engine = make(kv_bytes=4 * make().batch.pages.page_bytes)
    assert run(engine, Row(prompt(48, 0), Sampling(1), 0)).pages_live == 3
    told = run(engine, Row(prompt(33, 1), Sampling(1), 0))
    assert (told.pages_live, told.pages_peak, told.tokens_computed) == (3, 3, 48 + 33)


def test_what_a_cancelled_row_did_is_counted(make: Callable[..., Engine]) -> None:
    engine, row = make(), Row(prompt(20), Sampling(10), 0)
    engine.batch.waiting.append(row)
    engine.batch.run(3)
    row.cancelled = True
    engine.batch.run(1)  # frees it, and has nothing else to do
    assert engine.statistics == Statistics(3, 3, 20 + 2, 0, 4.0, pages_live=2, pages_peak=2)


def test_a_text_that_is_known_costs_no_step(make: Callable[..., Engine]) -> None:
    engine = make()
    run(engine, Row(prompt(20), Sampling(1), 0))
    told = run(engine, Row(prompt(20), Sampling(0), 0))
    assert (told.steps, told.tokens_computed, told.tokens_reused) == (1, 20, 20)


def test_python_s_lock_changes_hands_often_only_while_something_is_computed() -> None:
    before = sys.getswitchinterval()
    assert computed(sys.getswitchinterval) == pytest.approx(SWITCH)
    assert computed(lambda: computed(sys.getswitchinterval)) == pytest.approx(SWITCH)
    with pytest.raises(ZeroDivisionError):
        computed(lambda: 1 // 0)
    assert sys.getswitchinterval() == before
