"""The page pool and the prefix tree: what was told is known, what is locked stays, and every page is counted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought.engine.pages import PAGE, Pages, Span, pages_of
from forethought.engine.prefixes import Node, PrefixTree, common
from forethought.engine.rows import Place, Row
from forethought.engine.sampling import Sampling
from forethought.engine.sharing import SAVING, plan

NOTHING = ()


def a_tree(pages: int) -> PrefixTree:
    return PrefixTree(Pages(1, 1, 1, pages * 2 * 4 * PAGE))


def told(ids: Sequence[int], start: int) -> torch.Tensor:
    """Keys and values that tell the prefix up to each place."""
    values = [value % 100_003.0 for value in accumulate(ids, lambda so_far, t: so_far * 5 + t + 1, initial=0)]
    return torch.tensor(values[start + 1 :]).view(1, 1, 1, -1, 1).expand(1, 2, 1, -1, 1)


def known(tree: PrefixTree, ids: Sequence[int]) -> tuple[int, torch.Tensor, list[float]]:
    length, node = tree.match(ids)
    path = tree.path(node, length)
    assert sum(taken for _, taken in path) == length
    kv = [tree.pages.view(Span(node.span.at, taken)) for node, taken in path]
    outputs = [value for node, taken in path for value in node.outputs[:taken]]
    return length, torch.cat([torch.empty(1, 2, 1, 0, 1), *kv], 3), outputs


def insert(tree: PrefixTree, ids: Sequence[int], start: int = 0) -> tuple[int, Node]:
    return tree.insert(ids, start, told(ids, start), told(ids, start)[0, 0].flatten().tolist())


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


Strings = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=40).map(tuple), min_size=1, max_size=25)


@given(Strings, st.sampled_from([1, 3, 8, 1000]), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=80)
def test_the_tree_knows_what_it_was_told(strings: list[tuple[int, ...]], pages: int, rng: Any) -> None:
    tree, inserted, locked = a_tree(pages), list[tuple[int, ...]](), list[tuple[Node, tuple[int, ...]]]()
    for ids in strings:
        length, kv, outputs = known(tree, ids)
        assert torch.equal(kv, told(ids, 0)[:, :, :, :length])
        assert outputs == told(ids, 0)[0, 0].flatten().tolist()[:length]
        if pages == 1000:
            assert length == max((shared(ids, other) for other in inserted), default=0)
        length, node = insert(tree, ids, rng.randint(0, length))
        assert tree.match(ids) == (length, node)
        assert length == len(ids) or not tree.pages.room
        if rng.random() < 0.3:
            tree.lock(node)
            locked.append((node, ids[:length]))
        if locked and rng.random() < 0.3:
            tree.lock(locked.pop(rng.randrange(len(locked)))[0], -1)
        inserted.append(ids)
        tree.check_integrity()
        for _, kept in locked:
            assert tree.match(kept)[0] == len(kept)
    for node, _ in locked:
        tree.lock(node, -1)
    tree.evict(pages)
    assert tree.pages.used == 0
    tree.check_integrity()


def test_what_follows_a_forgotten_beginning_is_not_kept() -> None:
    tree = a_tree(10)
    assert insert(tree, (1, 2, 3, 4), 2)[0] == 0
    assert tree.match((1, 2, 3, 4)) == (0, tree.root)
    assert tree.pages.used == 0


def test_the_least_recently_used_goes_first() -> None:
    tree = a_tree(2)
    for first in (1, 2):
        insert(tree, (first, 0))
    tree.match((1, 0))
    insert(tree, (3, 0))
    assert [tree.match((first, 0))[0] for first in (1, 2, 3)] == [2, 0, 2]


def test_stale_parents_go_before_fresh_leaves() -> None:
    tree = a_tree(4)
    for length in (PAGE, 2 * PAGE, 3 * PAGE):
        insert(tree, tuple(range(length)), length - PAGE)
    insert(tree, (99,) * (2 * PAGE))
    assert tree.match((99,) * (2 * PAGE))[0] == 2 * PAGE
    assert tree.match(tuple(range(3 * PAGE)))[0] == 2 * PAGE
    tree.check_integrity()


def test_a_full_pool_keeps_what_is_locked() -> None:
    tree = a_tree(3)
    _, node = insert(tree, tuple(range(3 * PAGE)))
    tree.lock(node)
    assert insert(tree, (99,) * PAGE)[0] == 0
    assert tree.match(tuple(range(3 * PAGE)))[0] == 3 * PAGE
    tree.lock(node, -1)
    assert insert(tree, (99,) * PAGE)[0] == PAGE
    tree.check_integrity()


def test_a_text_that_goes_on_fills_its_page_and_stays_in_one_piece() -> None:
    tree, ids = a_tree(20), tuple(range(10 * PAGE))
    for length in range(5, len(ids), 5):
        insert(tree, ids[:length], length - 5)
    assert tree.pages.used == pages_of(len(ids) - 5)
    places = [node.span.at for node, _ in tree.path(tree.match(ids)[1], len(ids) - 5)]
    assert places == list(range(places[0], places[0] + len(ids) - 5, 5))


def test_a_fragmented_pool_still_holds_all() -> None:
    tree = a_tree(10)
    for i in range(10):
        insert(tree, (i,) * PAGE)
    for i in range(0, 10, 2):
        tree.match((i,))
    tree.evict(5)
    text = tuple(range(100, 100 + 5 * PAGE))
    assert insert(tree, text)[0] == len(text)
    assert torch.equal(known(tree, text)[1], told(text, 0))
    tree.check_integrity()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 40))
@settings(deadline=None, max_examples=60)
def test_a_cut_makes_a_node_end_there(length: int, more: int, at: int) -> None:
    tree, text = a_tree(20), tuple(range(length + more))
    insert(tree, text[:length])
    _, node = insert(tree, text, length)
    tree.lock(node)
    upper = tree.cut(node, min(at, len(text)))
    assert upper.end == min(at, len(text))
    assert tree.cut(node, upper.end) is upper
    assert torch.equal(known(tree, text)[1], told(text, 0))
    assert all(node.locks == 1 for node in tree.nodes())
    tree.check_integrity()


@given(st.lists(st.integers(0, 1), max_size=30), st.lists(st.integers(0, 1), max_size=30), st.integers(0, 9))
@settings(deadline=None)
def test_common_counts_what_agrees(tokens: list[int], ids: list[int], start: int) -> None:
    assert common(tokens, [5] * start + ids, start) == shared(tokens, ids)


# what is shared


def test_who_shares_a_little_takes_nothing_from_the_others() -> None:
    tree, text = a_tree(400), tuple(range(1000))
    tree.insert(text, 0, torch.zeros(1, 2, 1, 1000, 1), [0.0] * 1000)
    rows = [row(tree, text) for _ in range(16)]
    (*others, late) = plan([*rows, row(tree, (*text[:10], 5000))], tree)
    assert others == [((Span(10, 990),), (Span(0, 10),))] * 16
    assert late == ((), (Span(0, 10),))


def test_what_few_would_copy_at_the_cost_of_all_stays_where_it_is() -> None:
    tree = a_tree(400)
    texts = [tuple(range(i * 1000, i * 1000 + length)) for i, length in enumerate((300, *[3] * 40, 290, 20))]
    for text in texts:
        insert(tree, text)
    together = [sum(span.length for span in spans) for spans, _ in plan([row(tree, text) for text in texts], tree)]
    assert together == [300, *[0] * 40, 290, 20]
    for alike in (texts[:1], [texts[0], texts[-2]], texts[1:-2]):
        assert all(spans == () for spans, _ in plan([row(tree, text) for text in alike], tree))


def row(tree: PrefixTree, ids: tuple[int, ...]) -> Row:
    length, node = tree.match(ids)
    node = tree.cut(node, length)
    tree.lock(node)
    return Row(ids, Sampling(1), 0, place=Place(node, length, length, length))


def read(tree: PrefixTree, spans: Sequence[Span]) -> torch.Tensor:
    return torch.cat([torch.empty(1, 2, 1, 0, 1), *(tree.pages.view(span) for span in spans)], 3)


@given(st.integers(1, 12), st.integers(1, 120), st.lists(st.integers(0, 40), min_size=1, max_size=12))
@settings(deadline=None, max_examples=40)
def test_shared_and_copied_runs_are_the_text(rows: int, trunk: int, extra: list[int]) -> None:
    tree, trunk_ids = a_tree(400), tuple(range(trunk))
    texts = [(*trunk_ids, *[1000 + i % 3] * extra[i % len(extra)]) for i in range(rows)]
    for text in texts:
        insert(tree, text)
    live = [row(tree, text) for text in texts]
    for text, (together, own) in zip(texts, plan(live, tree), strict=True):
        found = read(tree, [*together, *own]).flatten().sort().values
        assert torch.equal(found, told(text, 0).flatten().sort().values)
    if (rows - 1) * trunk >= SAVING:
        assert all(sum(span.length for span in together) >= trunk for together, _ in plan(live, tree))
