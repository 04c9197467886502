"""Memory and turns: what is stored, who waits, who is bounded by what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import anyio
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forethought.core.errors import UsageError
from forethought.engine import attention, batch, compiled, layout, prefixes
from forethought.engine.engine import Engine
from forethought.engine.layout import LANE, like
from forethought.engine.pages import PAGE, pages_of
from forethought.engine.prefixes import CROWD
from forethought.engine.rows import Row, by_prompt
from forethought.engine.sampling import Sampling
from forethought.engine.weights import load
from tests.test_engine import Ids, check_idle, prompt, together

pytestmark = pytest.mark.anyio


@pytest.fixture
def make(folder: Path) -> Callable[..., Engine]:
    model = replace(load(folder), eos=frozenset())
    return lambda **how: Engine(model, lambda row: False, **how)


async def test_what_is_shared_is_stored_once(make: Callable[..., Engine]) -> None:
    """Pages at their peak: 1.1 times those of the unique tokens, and one a branch."""
    engine, texts, most = make(rows=32), [prompt(100)], 0
    for step in range(6):
        asked = [
            (text, Sampling(20), step * 100 + i) for i, text in enumerate(texts) for _ in range(1 + 15 * (not step))
        ]
        asked = [(ids, how, seed * 16 + i) for i, (ids, how, seed) in enumerate(asked)]
        texts = [(*row.ids, *row.tokens) for row in await together(engine, asked)]
        most = max(most, len(texts))
    unique = sum(len(node.tokens) for node in engine.batch.tree.nodes())
    known = {text[:size] for text in texts for size in range(1, len(text))}  # nobody computes the last token of a text
    assert unique == len(known)
    assert engine.statistics.pages_peak <= 1.1 * unique / PAGE + most
    check_idle(engine)


async def test_who_does_not_fit_waits_for_its_turn(make: Callable[..., Engine]) -> None:
    page = make().batch.pages.page_bytes
    engine, asked, order = make(kv_bytes=8 * page), list[int](), list[int]()

    async def one(i: int) -> None:
        asked.append(i)
        await engine.generate(prompt(40, i), Sampling(30), i)  # takes five pages: no two of them fit
        order.append(i)

    async with anyio.create_task_group() as tasks:
        for i in range(6):
            tasks.start_soon(one, i)
    assert order == asked
    assert engine.statistics.pages_peak <= 8
    assert engine.statistics.occupancy == 1
    with pytest.raises(UsageError, match="there are"):
        await engine.generate(prompt(100), Sampling(29), 0)
    check_idle(engine)


async def test_who_comes_together_begins_prompt_by_prompt(make: Callable[..., Engine]) -> None:
    """Also where drafts of one prompt differ."""
    engine, begun = make(rows=2), list[str]()

    async def one(name: str) -> None:
        def hook(row: Row, logits: torch.Tensor) -> None:
            if not row.tokens:
                begun.append(name[0])

        text = prompt(20, ord(name[0])) + prompt(len(name) - 1)
        await engine.generate(text, Sampling(30), len(begun), hook=hook, written=len(name) - 1)

    for name in "abc":  # what has to be read first, one reads for all, and others may begin meanwhile
        await engine.generate(prompt(20, ord(name)), Sampling(1), 0)
    async with anyio.create_task_group() as tasks:
        for name in ("a", "b", "c", "aa", "bb", "ccc"):
            tasks.start_soon(one, name)
    runs = [(name, len([*same])) for name, same in groupby(begun)]
    assert sorted(runs) == [("a", 2), ("b", 2), ("c", 2)]


@pytest.mark.parametrize("how", [{"rows": 4}, {"pages": 18}], ids=["seats", "pages"])
async def test_who_waits_for_a_neighbour_s_prompt_keeps_its_turn(
    make: Callable[..., Engine], how: dict[str, int]
) -> None:
    """The second reads what the first does, 14 pages and 2; of those behind there is room for two, who write a page each."""
    size = {"kv_bytes": how["pages"] * make().batch.pages.page_bytes} if "pages" in how else how
    engine, begun = make(**size), list[int]()

    async def one(i: int, text: Ids) -> None:
        await engine.generate(text, Sampling(10), i, hook=lambda row, _: None if row.tokens else begun.append(i))

    async with anyio.create_task_group() as tasks:
        for i, text in enumerate([prompt(200), prompt(200), *(prompt(5, i) for i in (1, 2, 3))]):
            tasks.start_soon(one, i, text)
            await anyio.lowlevel.checkpoint()
    assert sorted(begun[:4]) == [0, 1, 2, 3]
    assert begun[4] == 4


@given(old=st.lists(st.integers(0, 3)), new=st.lists(st.integers(0, 3)))
def test_rows_are_put_together_by_prompt(old: list[int], new: list[int]) -> None:
    rows = [engine_row(prompt(3, i), 1, seed) for seed, i in enumerate([*old, *new])]
    found = by_prompt(rows, len(new))
    assert found[: len(old)] == rows[: len(old)]  # nobody passes those who came before
    assert sorted(row.seed for row in found) == [*range(len(rows))]
    prompts = [row.prompt for row in found[len(old) :]]
    assert [p for p, _ in groupby(prompts)] == list(dict.fromkeys(row.prompt for row in rows[len(old) :]))


async def test_slots_are_bounded(make: Callable[..., Engine]) -> None:
    """Many short rows do not each get a slot as long as the one long row's."""
    page = make().batch.pages.page_bytes
    engine = make(kv_bytes=64 * page, rows=64)
    asked = [(prompt(500, 99), Sampling(4), 99)] + [(prompt(5, i), Sampling(4), i) for i in range(40)]
    rows = await together(engine, asked)
    assert [row.tokens for row in rows] == [(await make().generate(*a)).tokens for a in asked]
    assert engine.batch.seats.layout.slots.tokens <= 2 * 64 * PAGE
    check_idle(engine)


@pytest.mark.parametrize("in_place", [False, True])
async def test_slots_that_grow_ahead_stay_within_their_bound(
    make: Callable[..., Engine], in_place: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seventeen rows of 130 tokens have 32 slots of 192: exactly twice the pool. Those that read their prompts in place need
    less.
    """
    if not in_place:
        monkeypatch.setattr(compiled, "_team", lambda: None)
    pages = 32 * 192 // (2 * PAGE)
    engine = make(kv_bytes=pages * make().batch.pages.page_bytes, rows=64)
    rows = await together(engine, [(prompt(100, i), Sampling(30), i) for i in range(17)])
    assert engine.statistics.occupancy > 12
    assert {len(row.tokens) for row in rows} == {30}
    slots, most = engine.batch.seats.layout.slots.tokens, 2 * pages * PAGE
    assert slots <= most if in_place else slots == most


@given(st.lists(st.tuples(st.integers(1, 512), st.integers(0, 4000)), min_size=1, max_size=40))
def test_lanes_of_reading_rows_are_little_longer_than_their_rows(rows: list[tuple[int, int]]) -> None:
    takes, columns = [take for take, _ in rows], [had for _, had in rows]
    lanes = list(like([(take, had + take) for take, had in zip(takes, columns, strict=True)]))
    assert [i for lane in lanes for i in range(lane.start, lane.stop)] == list(range(len(rows)))
    for lane in lanes:
        some = list(zip(takes[lane], columns[lane], strict=True))
        area = len(some) * max(take for take, _ in some) * max(take + had for take, had in some)
        assert area <= 2 * sum(take * (take + had) for take, had in some) + LANE


async def test_rows_of_many_lengths_are_read_beside_each_other(
    make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = (3, 90, 1, 2, 200, 5, 70, 4)
    asked = [(prompt(length, length), Sampling(6), length) for length in lengths]
    want = [(await make().generate(*a)).tokens for a in asked]
    for lane in (1, 500, 10**9):
        monkeypatch.setattr(layout, "LANE", lane)
        assert [row.tokens for row in await together(make(), asked)] == want


async def test_decoding_does_not_wait_for_a_long_prompt(
    make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "PREFILL_TOKENS", 16)
    engine = make()
    writing = [engine_row(prompt(5, i), 60, i) for i in range(3)]
    engine.batch.waiting.extend(writing)
    engine.batch.run(4)
    engine.batch.waiting.append(long := engine_row(prompt(400, 9), 1, 9))
    for step in range(24):
        before = [len(row.tokens) for row in writing]
        engine.batch.run(1)
        assert [len(row.tokens) for row in writing] == [n + 1 for n in before]
        assert long.place is not None
        assert long.place.filled == 16 * (step + 1)


async def test_a_cancelled_row_frees_its_pages_in_the_same_step(make: Callable[..., Engine]) -> None:
    engine = make()
    rows = [engine_row(prompt(40, i), 100, i) for i in range(4)]
    engine.batch.waiting.extend(rows)
    engine.batch.run(3)
    pages, before = engine.batch.pages, engine.batch.pages.reserved
    rows[1].cancelled = rows[3].cancelled = True
    engine.batch.run(1)
    assert engine.batch.live == [rows[0], rows[2]]
    assert pages.reserved == before // 2
    engine.batch.tree.evict(pages.count)  # what the cancelled had read is not locked any more
    assert pages.used == 2 * pages_of(40)


def engine_row(ids: Ids, new: int, seed: int) -> Row:
    return Row(ids, Sampling(new), seed)


@pytest.mark.parametrize(("compiles", "crowd"), [(False, CROWD), (True, 100), (True, CROWD)])
async def test_groups_read_their_own_beginnings_at_once(
    folder: Path, compiles: bool, crowd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine problems of different lengths behind one long preface, several samples each: two levels, of which the second is
    rectangles of groups, or read in place; and rows beside them that read nothing of this.
    """
    monkeypatch.setattr(prefixes, "CROWD", crowd)
    if not compiles:
        monkeypatch.setattr(compiled, "_team", lambda: None)
    model = replace(load(folder), eos=frozenset())
    begins = [(*prompt(300), *prompt(90 + 9 * i, i)) for i in range(9) for _ in range(5 + i % 3)]
    begins += [prompt(4, 20 + i) for i in range(3)]
    asked = [(begin, Sampling(8, 1.0), seed) for seed, begin in enumerate(begins)]
    want = [(await Engine(model, lambda row: False).generate(*a)).tokens for a in asked]
    partial, groups = attention._partial, set[int]()

    def seen(q: torch.Tensor, part: attention.Shared, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        groups.add(len(part.keys[index]))
        return partial(q, part, index)

    monkeypatch.setattr(attention, "_partial", seen)
    assert [row.tokens for row in await together(Engine(model, lambda row: False), asked)] == want
    assert max(groups) > 4 or (compiles and crowd == CROWD)


def test_a_broken_row_reaches_nobody_through_what_groups_read() -> None:
    """Of five rows the second and the fourth read ten tokens, the last six others, the rest nothing."""
    torch.manual_seed(0)
    q, kv = torch.randn(5, 2, 3, 16), torch.randn(2, 2, 2, 10, 16)
    q[1] = torch.nan
    mask = torch.zeros(2, 1, 1, 10)
    mask[1, ..., 6:] = -torch.inf
    members, places = torch.tensor([1, 3, 4, 4]), torch.tensor([0, 0, 0, 1, 2])
    absent = torch.tensor([True, False, True, False, False])[:, None, None, None]
    part = attention.Shared((kv[0],), (kv[1],), members, places, absent, mask)
    output, column = attention._partial(q, part, 0)
    assert (output[[0, 2]] == 0).all()
    assert (column[[0, 2]] == -torch.inf).all()
    for row, group, length in ((3, 0, 10), (4, 1, 6)):
        scores = q[row] @ kv[0, group, :, :length].mT
        assert torch.allclose(output[row], scores.softmax(-1) @ kv[1, group, :, :length], atol=1e-5)
        assert torch.allclose(column[row, ..., 0], scores.logsumexp(-1), atol=1e-5)
