"""Searches over steps, each held to a slow reference: dvts, rebase, ets, a-star, early-rejection, best-first; and beam."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forethought.core.budget import Budget
from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.errors import BudgetEnded, ModelError, UsageError
from forethought.core.population import Particle
from forethought.core.problem import Problem
from forethought.core.scope import Call, Run, Scope, Seeded
from forethought.methods import By, balance, methods, programme
from forethought.methods.balance import allocation
from forethought.methods.programme import kept, likeness
from forethought.models.protocol import Completion, Request
from forethought.tasks.protocol import Task
from tests.ladder import CHANCES, Grader, Ladder, LadderTask, climb, grade
from tests.ladder import PROBLEM as CLIMB
from tests.toy import PROBLEM as TOY
from tests.toy import TableVerifier, ToyModel, ToyTask, table

pytestmark = pytest.mark.anyio


def events(at: Scope, kind: str) -> list[Mapping[str, object]]:
    """By place: what arrives first is chance."""
    found = sorted((e for e in at.run.trace.events if e.kind == kind), key=lambda e: e.place)  # type: ignore[attr-defined]
    return [e.data for e in found]


def lines(draft: Draft) -> list[str]:
    return draft.text.splitlines(keepends=True)


# what all share


@pytest.mark.parametrize("spelling", ["beam", "dvts", "rebase", "ets"])
async def test_drafts_keep_their_lineage_with_a_grade_at_every_step(spelling: str) -> None:
    pop, _, _ = await climb(spelling)
    for p in pop:
        *steps, root = p.state.lineage()
        assert root.parent is None
        assert [d.new for d in steps][::-1] == p.state.steps == lines(p.state)
        assert [d.grades["grader"].value for d in steps] == [grade(d.text) for d in steps]


@pytest.mark.parametrize("spelling", ["beam", "dvts", "rebase", "ets"])
async def test_equal_steps_are_graded_once_and_finished_drafts_cost_nothing_more(spelling: str) -> None:
    pop, at, by = await climb(f"{spelling}(temperature=0)")
    assert len({id(p.state) for p in pop}) == (4 if spelling == "dvts" else 1)  # its subtrees share nothing
    assert by.verifier.spent.verifier_calls == (16 if spelling == "dvts" else 4)  # type: ignore[union-attr]
    assert all(p.done for p in pop)
    assert at.account.spent.calls == len(events(at, "sample")) == 16 * 4


@pytest.mark.parametrize("spelling", [
    "particle-filter", "particle-filter-published", "entropic-particle-filter", "entropic-particle-filter-published", "steer",
])  # fmt: skip
async def test_particles_that_make_the_same_step_are_graded_once(spelling: str) -> None:
    pop, at, by = await climb(f"{spelling}(n=8, temperature=0)")
    assert len(pop) == 8
    assert len({id(p.state) for p in pop}) == 1
    assert by.verifier.spent.verifier_calls == 4  # type: ignore[union-attr]
    assert at.account.spent.calls == len(events(at, "sample")) == 8 * 4


@pytest.mark.parametrize("spelling", [
    "beam(width=3, expand=2)", "dvts(n=6, expand=2)", "rebase(n=6)", "ets(n=6)", "a-star", "early-rejection(width=3, expand=2)",
    "best-first(draws=3, expand=2)",
])  # fmt: skip
async def test_no_finished_draft_is_gone_on_from(spelling: str) -> None:
    asked: list[str] = []

    class Strict(ToyModel):
        async def extend(self, request: Request, call: Call) -> Completion:
            assert request.draft.finish is None
            asked.append(request.draft.text)
            return await super().extend(request, call)

    for seed in range(10):
        by = By(Strict(Seeded(seed)), ToyTask(), TableVerifier())
        pop = await methods.parse(spelling)(TOY, by, Scope.root(Run(Seeded(seed))))
        assert all(p.done and p.state.finished for p in pop)
    assert not any("." in text for text in asked)
    assert {"", "a", "b"} <= set(asked)


# beam


@pytest.mark.parametrize(("spelling", "width", "expand"), [
    ("beam(width=2, expand=2)", 2, 2), ("beam(width=3, expand=2)", 3, 2),
    ("early-rejection(width=3, expand=2, tokens=1)", 3, 2),
])  # fmt: skip
async def test_a_draft_that_has_ended_keeps_its_place_in_the_beam(spelling: str, width: int, expand: int) -> None:
    """Whatever its grade; in the round in which it ends it has to be among the best."""
    waited = 0
    for seed in range(40):
        run = Run(Seeded(seed))
        at, by = Scope.root(run), By(ToyModel(Seeded(seed)), ToyTask(), TableVerifier())
        pop = await methods.parse(spelling)(TOY, by, at)
        drawn = iter([str(data["text"]) for data in events(at, "sample")])
        beam = [""] * width
        while not all(text.endswith(".") for text in beam):
            settled = [text for text in beam if text.endswith(".")]
            new = [text + next(drawn) for text in beam if text not in settled for _ in range(expand)]
            best = sorted(new, key=table, reverse=True)
            waited += any(table(text) < table(best[-1]) for text in settled)
            beam = settled + best[: width - len(settled)]
        assert [p.state.text for p in pop] == beam
        assert next(drawn, None) is None
    assert waited


# dvts


async def test_dvts_is_so_many_beams_of_one() -> None:
    """A slow reference: from what was drawn, each subtree goes on from its best step and gives its last round's drafts."""
    for seed in range(6):
        pop, at, _ = await climb("dvts(n=6, expand=3)", seed)
        drawn = iter([str(data["text"]) for data in events(at, "sample")])
        trees = ["", ""]
        for _ in range(4):
            rounds = [[tree + next(drawn) for _ in range(3)] for tree in trees]
            trees = [max(texts, key=grade) for texts in rounds]
        assert [p.state.text for p in pop] == [t for texts in rounds for t in sorted(texts, key=grade, reverse=True)]


# rebase


def shares(rewards: Sequence[float], width: int, temper: float) -> dict[int, int]:
    """As the released code has it: one after another, from the sum of what is left, in exact enough numbers."""
    order = sorted(range(len(rewards)), key=lambda i: -rewards[i])
    weights = {i: math.exp((rewards[i] - max(rewards)) / temper) for i in order}
    found = {}
    for i in order:
        found[i] = math.ceil(width * weights[i] / math.fsum(weights.values()) - 1e-9) if width else 0
        width -= found[i]
        del weights[i]
    return found


rewards_of = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(rewards_of, st.integers(1, 64), st.floats(0.02, 5))
def test_an_allocation_is_whole_and_sums_and_follows_the_rewards(
    rewards: list[float], width: int, temper: float
) -> None:
    counts = allocation(rewards, width, temper)
    assert sum(counts) == width
    assert min(counts) >= 0
    for (a, k), (b, other) in itertools.permutations(zip(rewards, counts, strict=True), 2):
        assert k >= other or a <= b
    assert counts == [shares(rewards, width, temper)[i] for i in range(len(rewards))]


@pytest.mark.parametrize(("rewards", "width", "temper", "want"), [
    ([0.9, 0.1], 4, 0.2, [4, 0]),  # ceil(4 / (1 + e^-4)) = 4
    ([0.5, 0.5, 0.5, 0.5], 8, 0.2, [2, 2, 2, 2]),
    ([0.5, 0.5, 0.5], 8, 0.2, [3, 3, 2]),  # the earlier is rounded up
    ([0.2, 0.6, 0.4], 6, 0.2, [0, 4, 2]),  # ceil(6 * 0.665) = 4, ceil(2 * 0.73) = 2
    ([0.1, 0.2, 0.2], 5, 0.0, [0, 3, 2]),  # zero temperature: all to the best
    ([-math.inf, 0.2], 3, 0.2, [0, 3]), ([-math.inf, -math.inf], 3, 0.2, [2, 1]), ([0.3], 7, 0.2, [7]),
    ([1.0, 0.0], 5, 1e-300, [5, 0]), ([0.7, 0.3], 0, 0.2, [0, 0]),
])  # fmt: skip
def test_allocations_by_hand(rewards: list[float], width: int, temper: float, want: list[int]) -> None:
    assert allocation(rewards, width, temper) == want


async def test_rebase_spreads_its_width_over_the_steps_as_the_grades_say() -> None:
    for seed in range(6):
        pop, at, _ = await climb("rebase(n=9)", seed)
        drawn = iter([str(data["text"]) for data in events(at, "sample")])
        texts = [next(drawn) for _ in range(9)]
        for _ in range(3):
            counts = shares([grade(t) for t in texts], 9, 0.2)
            texts = [t + next(drawn) for i, t in enumerate(texts) for _ in range(counts[i])]
        assert [p.state.text for p in pop] == texts
        assert next(drawn, None) is None


async def test_a_finished_draft_takes_its_place_out_of_the_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the toy, where drafts end at different lengths, every draft counts once."""
    asked: list[int] = []
    real = balance.allocation
    monkeypatch.setattr(balance, "allocation", lambda r, width, t: asked.append(width) or real(r, width, t))
    for seed in range(5):
        asked.clear()
        at = Scope.root(Run(Seeded(seed)))
        pop = await methods.parse("rebase(n=12)")(TOY, By(ToyModel(Seeded(seed)), ToyTask(), TableVerifier()), at)
        lengths = [p.state.size for p in pop]
        assert len(pop) == 12
        assert lengths == sorted(lengths)
        assert asked == [n for n in (12, 12 - lengths.count(1), 12 - lengths.count(1) - lengths.count(2)) if n]


# ets


def tree(shape: Sequence[int], chance: random.Random) -> list[Draft]:
    """The leaves of a tree of so many nodes a level, each under one of the level above."""
    level = [Draft()]
    for count in shape:
        level = [Draft(chance.choice(level), f"{i}\n") for i in range(count)]
    return level


def best_sets(
    leaves: Sequence[Draft], shares: Sequence[float], near: Sequence[int], cost: float, coverage: float
) -> list[tuple[int, ...]]:
    """Every set of leaves by brute force: those of the highest value."""
    nodes = {d for leaf in leaves for d in leaf.lineage()}
    values = {}
    for size in range(1, len(leaves) + 1):
        for some in itertools.combinations(range(len(leaves)), size):
            alive = {d for i in some for d in leaves[i].lineage()}
            met = len({near[i] for i in some}) / len(set(near)) if len(set(near)) > 1 else 0
            values[some] = sum(shares[i] for i in some) - cost * len(alive) / len(nodes) + coverage * met
    top = max(values.values())
    return [some for some, value in values.items() if value > top - 1e-9]


@pytest.mark.parametrize("seed", range(30))
def test_the_programme_keeps_what_brute_force_keeps(seed: int) -> None:
    chance = random.Random(seed)
    leaves = tree([chance.randrange(1, 4), chance.randrange(1, 5), chance.randrange(1, 9)], chance)
    counts = allocation([chance.random() for _ in leaves], 16, 0.2)
    near = [chance.randrange(3) for _ in leaves]
    near = [sorted(set(near)).index(k) for k in near]
    cost, coverage = chance.choice([0.3, 1.0, 2.0]), chance.choice([0.0, 0.4, 1.5])
    x = kept(leaves, [c / 16 for c in counts], near, cost, coverage)
    best = best_sets(leaves, [c / 16 for c in counts], near, cost, coverage)
    assert tuple(i for i, stays in enumerate(x) if stays) in best


def test_without_a_price_every_leaf_stays() -> None:
    leaves = tree([2, 4, 12], random.Random(1))
    assert kept(leaves, [1.0] + [0.0] * 11, [0] * 12, 0.0, 0.0) == [True] * 12


def test_a_high_price_leaves_one_path() -> None:
    leaves = tree([2, 4, 12], random.Random(1))
    assert kept(leaves, [1 / 12] * 12, [0] * 12, 100.0, 0.0).count(True) == 1


def test_clusters_are_of_what_a_step_says_whatever_its_order() -> None:
    texts = ["3+4=7 | 7 5\n", "4+3=7 | 5 7\n", "3*4=12 | 12 5\n", "3+4=7 | 7 5\n", "", ""]
    assert len(set(likeness(texts, 0.05))) == 3
    first, again, other, same, nothing, also = likeness(texts, 0.05)
    assert first == again == same != other
    assert nothing == also not in (first, other)
    assert likeness(["a"], 0.05) == [0] == likeness([""], 0.05)
    assert set(likeness(texts, 2.0)) == {0}


async def test_ets_draws_from_fewer_nodes_than_rebase() -> None:
    """What it is for: the nodes alive at a time, here parents of what is drawn."""
    alive = {}
    for spelling in ("rebase(n=16)", "ets(n=16)"):
        found = [
            [len({d for leaf in level for d in leaf.lineage()}) for level in await levels(spelling, seed)]
            for seed in range(8)
        ]
        alive[spelling] = sum(map(sum, found))
    assert alive["ets(n=16)"] < 0.8 * alive["rebase(n=16)"]


async def levels(spelling: str, seed: int) -> list[list[Draft]]:
    """The drafts that were drawn from, round by round."""
    seen: list[list[Draft]] = []
    real = balance.each

    async def spied(pop: list[Particle[Draft]], *rest: object) -> object:
        seen.append([p.state for p in pop])
        return await real(pop, *rest)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(balance, "each", spied)
        await climb(spelling, seed)
    return seen


async def test_without_scipy_ets_says_so_before_anything_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programme.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"ets needs scipy: pip install 'forethought\[search\]'"):
        await climb("ets")


# a-star


def a_star(drawn: Sequence[str], n: int, expand: int, weight: float, path: str) -> str:
    """By the book, with lists: the text that A* over these draws ends with (without what is written greedily)."""
    frontier, come = [("", 0.0, 0.0, 0)], itertools.count(1)  # text, g, f, order
    draws = iter(drawn)
    for _ in range(n):
        best = min(frontier, key=lambda entry: entry[2:])
        if best[0].count("\n") == 4:
            return best[0]
        frontier.remove(best)
        text, g = best[:2]
        h = 1 - grade(text) if text else 1.0
        for step in dict.fromkeys(next(draws) for _ in range(expand)):
            new = 1 - grade(text + step)
            cost = g + (-math.log(CHANCES["abc".index(step[0])]) if path == "likelihood" else max(0.0, new - h))
            frontier.append((text + step, cost, cost + weight * new, next(come)))
    ends = [entry for entry in frontier if entry[0].count("\n") == 4]
    return min(ends or frontier, key=lambda entry: entry[2:])[0]


@pytest.mark.parametrize("path", ["likelihood", "drops"])
@pytest.mark.parametrize("weight", [0.0, 1.0, 6.0])
@pytest.mark.parametrize("n", [3, 5, 40])
async def test_a_star_does_what_the_book_says(n: int, weight: float, path: str) -> None:
    for seed in range(8):
        pop, at, _ = await climb(f"a-star(n={n}, expand=3, weight={weight}, path={path})", seed)
        drawn = [str(data["text"]) for data in events(at, "sample")]
        want = a_star(drawn, n, 3, weight, path)
        (text,) = (p.state.text for p in pop)
        assert text.startswith(want)
        assert text[len(want) :] == "a\n" * (4 - want.count("\n"))  # the rest is greedy


async def test_a_star_stops_at_the_first_draft_taken_off_that_has_ended() -> None:
    pop, at, _ = await climb("a-star(n=1000, expand=6, weight=0.0)", 1)
    assert [p.state.text for p in pop] == ["a\na\na\na\n"]  # the likeliest path of all that were seen
    samples, grades = len(events(at, "sample")), len(events(at, "grade"))
    assert samples < 6 * 40
    assert grades < samples  # equal steps are one state


async def test_a_star_needs_likelihoods_only_where_it_uses_them() -> None:
    assert "logprobs" in methods.parse("a-star").needs
    assert "logprobs" not in methods.parse("a-star(path=drops)").needs


# early rejection


@pytest.mark.parametrize("keep", [2, 3, 6, 8])
async def test_steps_are_rejected_by_their_beginnings(keep: int) -> None:
    """A step is two tokens here, so that one is its beginning."""
    for seed in range(4):
        spelling = f"early-rejection(width=2, expand=4, tokens=1, keep={keep})"
        pop, at, _ = await climb(spelling, seed)
        drawn = iter([str(data["text"]) for data in events(at, "sample")])
        best = ["", ""]
        for _ in range(4):
            begun = sorted([text + next(drawn) for text in best for _ in range(4)], key=grade, reverse=True)[:keep]
            whole = [text + next(drawn) for text in begun]
            best = sorted(whole, key=grade, reverse=True)[:2] if keep > 2 else whole
        assert [p.state.text for p in pop] == best
        assert all(text.count("\n") == 4 for text in best)
        assert next(drawn, None) is None


async def test_what_is_rejected_early_is_not_paid_for() -> None:
    """Twelve rejected steps of sixteen save one token of two; and half a step is none: a draft has four, not eight."""
    beam, early = [(await climb(s))[1].account.cost for s in ("beam", "early-rejection(tokens=1)")]
    assert beam.new_tokens == 4 * 16 * 2
    assert early.new_tokens == 4 * (16 + 4)


async def test_a_step_that_is_shorter_than_its_beginning_is_graded_whole() -> None:
    for seed in range(3):
        (beam, _, _), (early, at, _) = await climb("beam", seed), await climb("early-rejection(tokens=3)", seed)
        assert {str(data["text"]) for data in events(at, "sample")} == {"a\n", "b\n", "c\n"}
        assert len(early) == len(beam) == 4


# what can go wrong


@pytest.mark.parametrize(
    "spelling", ["beam", "dvts", "rebase", "ets", "a-star", "early-rejection", "best-first", "mcts", "sample"]
)
@pytest.mark.parametrize("bad", [
    Grade(math.nan), Grade(math.inf), Grade(0.5, (0.1, math.nan)), Grade("0.5"), Grade(0.5, None), Grade(np.ones(2)),
    Grade(10**400),
])  # fmt: skip
async def test_a_grade_that_is_no_number_is_one_clear_error_and_nothing_recorded_is_lost(
    spelling: str, bad: Grade
) -> None:
    class Broken(Grader):
        async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
            grade, cost = await super().grade(draft, problem, task, call)
            return (bad, cost) if self.spent.verifier_calls == 3 else (grade, cost)

    by, at = By(Ladder(), LadderTask(), Broken(), grade_drafts=True), Scope.root(Run(Seeded(0)))
    with pytest.raises(ModelError, match="the verifier grader gave a grade that is no number") as caught:
        await methods.parse(spelling)(CLIMB, by, at)
    assert "\n" not in str(caught.value)
    fates = {
        kind: len(events(at, kind))
        for kind in ("sample", "grade", "grade failed", "sample cancelled", "grade cancelled")
    }
    assert fates["grade failed"] == 1
    assert fates["sample"] + fates["sample cancelled"] == at.account.spent.calls > 0
    assert fates["grade"] + 1 + fates["grade cancelled"] == at.account.spent.verifier_calls


@pytest.mark.parametrize("spelling", ["beam", "rebase", "ets", "best-first", "mcts", "sample"])
@pytest.mark.parametrize("kind", [bool, np.bool_, np.float32])
async def test_a_grade_of_another_kind_of_number_counts_as_its_float(spelling: str, kind: type) -> None:
    class Other(Grader):
        async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
            grade, cost = await super().grade(draft, problem, task, call)
            return Grade(told := kind(round(grade.value or 0.0)), (told,)), cost

    by, at = By(Ladder(), LadderTask(), Other(), grade_drafts=True), Scope.root(Run(Seeded(0)))
    await methods.parse(spelling)(CLIMB, by, at)
    values = [value for data in events(at, "grade") for value in (data["value"], *data["steps"])]
    assert {(type(value), value) for value in values} == {(float, 0.0), (float, 1.0)}


@pytest.mark.parametrize("spelling", ["rebase(n=6)", "ets(n=6)"])
async def test_what_has_ended_is_an_answer_whenever_the_budget_ends(spelling: str) -> None:
    """On the toy drafts end at different steps."""
    seen = set()
    for seed in range(6):
        for tokens in range(4, 40):
            at = Scope.root(Run(Seeded(seed)), Budget({"tokens": tokens}))
            try:
                pop = await methods.parse(spelling)(TOY, By(ToyModel(Seeded(seed)), ToyTask(), TableVerifier()), at)
            except BudgetEnded:
                pop = at.kept or []
            ended = sum(str(data["text"]).endswith(".") for data in events(at, "sample"))
            assert sum(p.state.finished for p in pop) == ended
            seen.add(ended)
    assert seen == set(range(7))


@pytest.mark.slow
def test_the_programme_is_solved_fast_at_a_large_width() -> None:
    chance = random.Random(0)
    for width in (16, 64, 256):
        leaves = tree([width // 4, width // 2, width // 2, width // 2, width], chance)
        counts = allocation([chance.random() for _ in leaves], width, 0.2)
        near = [i % (width // 4) for i in range(width)]
        start = time.process_time()
        kept(leaves, [c / width for c in counts], near, 1.0, 1.4)
        took = time.process_time() - start
        print(f"{width} leaves: {took * 1000:.0f} ms")
        assert took < 2
