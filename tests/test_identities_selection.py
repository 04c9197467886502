"""Degenerate cases agree: one table of identities between selections, and properties of all of them."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import anyio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought.core.draft import UNKNOWN, Draft, Grade
from forethought.core.errors import UsageError
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.scope import Run, Scope, Seeded
from forethought.methods import By, methods
from forethought.selection import Tallying, Verdict, selections
from forethought.selection.rpc import kept
from forethought.selection.votes import verdict_of
from tests.listed import ASKED, Listed, Words, poll
from tests.test_selection import Given, Letters
from tests.toy import PROBLEM, ToyModel

pytestmark = pytest.mark.anyio

COUNTING = [name for name in selections if isinstance(selections[name](), Tallying)]
VOTES = [name for name in COUNTING if name not in ("first", "best", "best-of-majority")]


@dataclass(frozen=True)
class Row:
    """One draft: what it says, its grades by step, its log-probability, its weight."""

    says: str
    grade: tuple[float, ...] | None = (0.5,)
    logprob: float | None = -0.5
    weight: float = 1.0


Rows = Sequence[Row]
rows = st.lists(
    st.builds(
        Row,
        st.sampled_from("abcd?"),
        st.one_of(st.none(), st.tuples(*[st.sampled_from([0.1, 0.25, 0.5, 0.9])] * 2)),
        st.sampled_from([-0.1, -0.4, -0.7, -1.5, -3.0]),
        st.sampled_from([0.5, 1.0, 2.0]),
    ),
    min_size=1,
    max_size=9,
)


def population(of: Rows) -> Population[Draft]:
    """Every draft has a text of its own, which begins with what it says."""
    return [Particle(draft(row, f"{row.says}{i}"), math.log(row.weight), True) for i, row in enumerate(of)]


def draft(row: Row, text: str) -> Draft:
    grades = {"table": UNKNOWN if row.grade is None else Grade(row.grade[-1], row.grade)}
    logprobs = () if row.logprob is None else (row.logprob,)
    return Draft(None, text, logprobs=logprobs, finish="end", grades=MappingProxyType(grades))


async def chosen(spelling: str, pop: Population[Draft], seed: int = 0) -> Verdict:
    by = By(ToyModel(Seeded(0)), Letters(), Given())
    return await selections.parse(spelling)(pop, PROBLEM, by, Scope.root(Run(Seeded(seed))))


def verdict(spelling: str, pop: Population[Draft], seed: int = 0) -> Verdict:
    return anyio.run(chosen, spelling, pop, seed)


def shares(found: Verdict) -> dict[str, Any]:
    return {answer: pytest.approx(p, abs=1e-9) for answer, p in found.ranked}


def same(one: Verdict, other: Verdict) -> None:
    """The same answers with the same probabilities, and the same share for none."""
    assert dict(one.ranked) == shares(other)
    assert one.abstained == pytest.approx(other.abstained)


def same_order(one: Verdict, other: Verdict) -> None:
    assert [r.answer for r in one.ranked] == [r.answer for r in other.ranked]
    assert set(one.leading) == set(other.leading)


def same_winner(one: Verdict, other: Verdict) -> None:
    assert (one.answer, set(one.leading)) == (other.answer, set(other.leading))


def same_best(one: Verdict, other: Verdict) -> None:
    same(one, other)
    assert one.chosen is other.chosen


def equal(of: Rows, **fields: Any) -> Rows:
    return [replace(row, **fields) for row in of]


def as_is(of: Rows) -> Rows:
    return of


def equal_grades(of: Rows) -> Rows:
    return equal(of, grade=(0.3, 0.25))


def known_grades(of: Rows) -> Rows:
    return [replace(row, grade=row.grade or (0.2, 0.3)) for row in of]


def one_step(of: Rows) -> Rows:
    return [replace(row, grade=row.grade and row.grade[-1:]) for row in of]


def equally_likely(of: Rows) -> Rows:
    return equal(of, logprob=-0.7, weight=1.0)


def even(of: Rows) -> Rows:
    return equal(of, weight=1.0)


def alone(of: Rows) -> Rows:
    return of[:1]


def all_one(of: Rows) -> Rows:
    return equal(of, says="a")


def graded_by_likelihood(of: Rows) -> Rows:
    return [replace(row, grade=(math.exp(row.logprob or 0.0),), weight=1.0) for row in of]


def right_or_wrong(of: Rows) -> Rows:
    return [replace(row, grade=(float(row.says == "a"),), weight=1.0) for row in of]


Change = Callable[[Rows], Rows]
Agree = Callable[[Verdict, Verdict], None]
IDENTITIES: list[tuple[str, Change, str, Agree]] = [
    ("weighted", equal_grades, "majority", same_best),
    ("weighted(steps=min)", equal_grades, "majority", same_best),
    ("weighted(steps=mean)", equal_grades, "majority", same_best),
    ("weighted(steps=product)", equal_grades, "majority", same_best),
    ("weighted(steps=min)", one_step, "weighted", same_best),
    ("weighted(steps=mean)", one_step, "weighted(steps=last)", same_best),
    ("weighted(steps=product, combine=max)", one_step, "weighted(combine=max)", same_best),
    ("best(steps=min)", one_step, "best", same_best),
    ("weighted(combine=max)", lambda of: even(known_grades([r for r in of if r.says != "?"])), "best", same_best),
    ("best-of-majority(alpha=0)", as_is, "best", same_best),
    ("best-of-majority(alpha=0, steps=mean)", as_is, "best(steps=mean)", same_best),
    ("best-of-majority(alpha=1)", equal_grades, "majority", same_winner),
    ("best-of-majority(alpha=0, reward=mean)", equal_grades, "best", same),
    ("mbr", as_is, "majority", same_best),
    ("mbr(utility=exact, of=text)", lambda of: even(all_one(of)), "majority", same),
    ("mbr(utility=words)", even, "majority", same),  # answers of one letter share no words
    ("mbr(utility=letters)", alone, "majority", same),
    ("rpc(prune=False)", equally_likely, "majority", same),
    ("rpc", equally_likely, "majority", same),
    ("rpc(prune=False)", graded_by_likelihood, "weighted", same_best),
    ("rpc", lambda of: of[:3], "rpc(prune=False)", same_best),  # too few to fit
    ("dawid-skene(samplers=1)", even, "majority", same_winner),
    ("dawid-skene(samplers=2, accuracies=(0.7, 0.7))", as_is, "dawid-skene(samplers=1, accuracies=(0.7,))", same),
    ("dawid-skene(samplers=1, accuracies=(0.9,))", as_is, "majority", same_winner),
    ("top-two", as_is, "majority", same_winner),
    ("top-two(samplers=2, reliabilities=(0.6, 0.6))", as_is, "top-two(reliabilities=(0.6,))", same),
    ("top-two(choices=2)", as_is, "top-two", same),
    ("conformal", as_is, "majority", same_best),
    ("conformal(of='weighted')", as_is, "weighted", same_best),
    ("abstain(threshold=0)", as_is, "majority", same_best),
    ("abstain(threshold=0, of='best')", as_is, "best", same_best),
    ("abstain(threshold=0, of='conformal')", as_is, "conformal", same_best),
    ("abstain(threshold=1)", lambda of: [r for r in all_one(of) if r.says == "a"], "majority", same_best),
    ("first", alone, "majority", same_best),
    ("first", all_one, "majority", same),
    ("best", right_or_wrong, "best-of-majority(alpha=0, reward=mean)", same_winner),
    ("llm-choice", all_one, "majority", same_best),  # nobody is asked
    ("pairwise", all_one, "best", lambda one, other: same_winner(one, other)),
    ("pairwise(order=sort)", alone, "pairwise", same),
]  # fmt: skip


@pytest.mark.parametrize(("spelling", "change", "other", "agree"), IDENTITIES, ids=[
    f"{one}, {getattr(change, '__name__', '')}: {other}" for one, change, other, _ in IDENTITIES
])  # fmt: skip
@given(of=rows)
@settings(deadline=None, max_examples=25)
def test_degenerate_cases_agree(spelling: str, change: Change, other: str, agree: Agree, of: Rows) -> None:
    pop = population(change(of))
    agree(verdict(spelling, pop), verdict(other, pop))


def test_equal_sums_are_ties_in_whatever_order_they_were_added_up() -> None:
    weights = {"a": (0.5, 2.0, 0.5), "b": (0.5, 0.5, 2.0)}
    of = equal_grades([Row(says, None, weight=w) for says, both in weights.items() for w in both])
    assert verdict("weighted(steps=mean)", population(of)).answer == verdict("majority", population(of)).answer == "a"


def test_equal_likelihoods_are_ties_in_whatever_order_they_were_added_up() -> None:
    weights = {"a": (1.0, 1.0, 1.0, 2.0), "b": (2.0, 2.0, 1.0)}
    of = [Row(says, None, weight=w) for says, all_ in weights.items() for w in all_]
    for one in ("dawid-skene(samplers=1)", "dawid-skene(samplers=1, accuracies=(0.9,))"):
        for rows in (of, of[::-1]):
            assert verdict(one, population(rows)).answer == verdict("majority", population(rows)).answer


@pytest.mark.parametrize(("method", "plain"), [
    ("multi-temperature(n=6, temperatures=1, low=0.8, high=0.8, batch=6)", "sample(n=6)"),
    ("first-finish(n=6, k=6)", "sample(n=6)"),
    ("adaptive-self-consistency(n=6, window=6)", "sample(n=6)"),
    ("beta-self-consistency(n=6, confidence=1)", "sample(n=6)"),
])  # fmt: skip
@pytest.mark.parametrize("rule", ["majority", "first", "mbr"])
async def test_degenerate_methods_have_the_verdict_of_a_plain_sample(method: str, plain: str, rule: str) -> None:
    words = ["cat", "dog", "dog", "ant", "cow", "dog"]  # an unreadable one would not count in the race

    async def read(spelling: str) -> Verdict:
        by, at = By(Listed(words), Words()), Scope.root(Run())
        pop = await methods.parse(spelling)(ASKED, by, at)
        by_name = sorted(pop, key=lambda p: p.state.text) if rule != "first" else pop
        return await selections.parse(rule)(by_name, ASKED, by, at)

    if "first-finish" in method and rule == "first":
        pytest.skip("the first to finish come first")
    one, other = await read(method), await read(plain)
    assert dict(one.ranked) == shares(other)


# properties


@pytest.mark.parametrize("name", COUNTING)
@given(of=rows, seed=st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_the_order_of_drafts_changes_nothing(name: str, of: Rows, seed: int) -> None:
    """Of `first` that is its point; those that tell samplers apart by place have one sampler here."""
    if name == "first":
        return
    spelling = f"{name}(samplers=1)" if name == "dawid-skene" else name
    pop = list(population(of))
    mixed = random.Random(seed).sample(pop, len(pop))
    one, other = verdict(spelling, pop), verdict(spelling, mixed)
    assert dict(one.ranked) == shares(other)
    assert set(one.leading) == set(other.leading)
    assert one.abstained == pytest.approx(other.abstained)


@pytest.mark.parametrize("name", list(selections))
@given(of=rows)
@settings(deadline=None, max_examples=25)
def test_probabilities_are_probabilities(name: str, of: Rows) -> None:
    found = verdict(name, population(of))
    assert all(0 <= r.probability <= 1 + 1e-12 for r in found.ranked)
    assert math.fsum(r.probability for r in found.ranked) + found.abstained == pytest.approx(1)
    assert 0 <= found.abstained <= 1
    assert len({r.answer for r in found.ranked}) == len(found.ranked)


@pytest.mark.parametrize("name", VOTES)
@given(of=rows)
@settings(deadline=None, max_examples=60)
def test_a_further_copy_of_the_winner_never_unseats_it(name: str, of: Rows) -> None:
    """A copy is a further sample that says, weighs and is likely to be the same. A mixture's fit may move with it."""
    spelling = {"dawid-skene": "dawid-skene(samplers=1)", "rpc": "rpc(prune=False)"}.get(name, name)
    before = verdict(spelling, population(of))
    winner = next((row for row, p in zip(of, population(of), strict=True) if before.chosen
                   and p.state.text == before.chosen.text), None)  # fmt: skip
    if winner is not None:
        after = verdict(spelling, population([*of, winner]))
        assert before.answer in after.leading


# pieces


def test_equal_answers_are_joined_by_any_pair_that_is_equal() -> None:
    class Near(Letters):
        """Numbers that differ by one are the same: no equivalence as it stands."""

        def answer(self, text: str, problem: Problem) -> str | None:
            return text if text.isdigit() else None

        def same(self, one: str, other: str, problem: Problem) -> bool:
            return abs(int(one) - int(other)) <= 1

    drafts = [Draft(None, text, finish="end") for text in ("1", "5", "3", "2", "5", "x")]
    pop = [Particle(d, 0.0, True) for d in drafts]
    votes = poll(pop, PROBLEM, By(ToyModel(Seeded(0)), Near()))
    found = verdict_of(selections.parse("majority").tally(votes), votes)  # type: ignore[attr-defined]
    assert dict(found.ranked) == {"1": pytest.approx(3 / 6), "5": pytest.approx(2 / 6)}
    assert found.abstained == pytest.approx(1 / 6)


def test_the_six_prm_votes() -> None:
    pop = population(
        [Row("a", (0.9, 0.2)), Row("b", (0.3, 0.6)), Row("b", (0.35, 0.3)), Row("c", (0.8, 0.5)), Row("?", (1.0, 1.0))]
    )
    want = {
        "weighted(steps=min)": {"a": 0.2, "b": 0.6, "c": 0.5},
        "weighted(steps=last)": {"a": 0.2, "b": 0.9, "c": 0.5},
        "weighted(steps=mean)": {"a": 0.55, "b": 0.775, "c": 0.65},
        "weighted(steps=min, combine=max)": {"a": 0.2, "b": 0.3, "c": 0.5},
        "weighted(steps=last, combine=max)": {"a": 0.2, "b": 0.6, "c": 0.5},
        "weighted(steps=mean, combine=max)": {"a": 0.55, "b": 0.45, "c": 0.65},
    }  # fmt: skip
    for spelling, scores in want.items():
        found = verdict(spelling, pop)
        total = sum(scores.values()) + 1.0
        assert dict(found.ranked) == {a: pytest.approx(s / total) for a, s in scores.items()}, spelling
        assert found.answer == max(scores, key=scores.__getitem__)


def test_negative_rewards_still_have_an_order() -> None:
    pop = population([Row("a", (-3.0,)), Row("b", (-1.0,)), Row("c", (-2.0,)), Row("d", None)])
    found = verdict("best", pop)
    assert [r.answer for r in found.ranked] == ["b", "c", "a", "d"]
    assert found.leading == ["b"]


def test_pruning_drops_what_is_improbable_and_never_everything() -> None:
    rng = np.random.default_rng(0)
    low, high = rng.weibull(3, 40) * 0.1, np.minimum(0.5 + rng.weibull(3, 40) * 0.3, 1.0)
    keep = kept(np.concatenate([low, high])[None])[0]
    assert keep[40:].all()
    assert keep[:40].mean() < 0.1
    for row in ([0.5] * 6, [0.0, 0.1, 0.2, 0.3, 0.4], [0.2, 0.2, 0.7], [1e-300, 1e-200, 1e-100, 0.5, 1.0]):
        p = np.array([row])
        assert kept(p)[0, p[0].argmax()]


def test_the_mixture_is_as_likely_as_a_general_optimiser_makes_it() -> None:
    from scipy.optimize import minimize
    from scipy.stats import weibull_min

    from forethought.selection.weibull import fit

    rng = np.random.default_rng(1)
    for seed in range(4):
        x = np.concatenate([rng.weibull(2 + seed, 30) * 0.3, np.minimum(0.6 + 0.2 * rng.weibull(4, 50), 1.0)])

        def cost(t: Any, x: Any = x) -> float:
            first = t[0] * weibull_min.pdf(x, t[1], scale=t[2])
            return float(-np.log(first + (1 - t[0]) * weibull_min.pdf(x, t[3], scale=t[4]) + 1e-300).sum())

        bounds = [(0.2, 0.8), *[(0.01, 200)] * 4]
        general = minimize(cost, [0.5, 1.0, 1.0, 1.5, 2.0], bounds=bounds, method="L-BFGS-B").fun
        m = fit(x[None])
        (k1, k2), (s1, s2) = m.shape[:, 0, 0], m.scale[:, 0, 0]
        assert cost([m.share[0, 0], k1, s1, k2, s2]) <= general + 0.05


async def test_an_equal_text_counts_once() -> None:
    one = draft(Row("a", logprob=-0.1), "a")
    pop = [Particle(one, 0.0, True), Particle(replace(one), 0.0, True), *population([Row("b", logprob=-0.2)] * 2)]
    found = await chosen("rpc(prune=False)", pop)
    assert found.answer == "b"


def test_unequal_samplers_are_told_apart() -> None:
    """Three samplers guess among three answers; the fourth knows. A vote cannot tell; a fit on unlabelled problems can."""
    rng = random.Random(0)

    def cast(truth: str) -> Population[Draft]:
        return population([Row(truth if i % 4 == 3 and rng.random() < 0.95 else rng.choice("abc")) for i in range(8)])

    by = By(ToyModel(Seeded(0)), Letters())
    truths = [rng.choice("abc") for _ in range(60)]
    votes = [poll(cast(truth), PROBLEM, by) for truth in truths]
    for name in ("dawid-skene(samplers=4)", "top-two(samplers=4)"):
        fitted = selections.parse(name).fit([(v, np.zeros((1, v.classes), bool)) for v in votes])  # type: ignore[attr-defined]
        right = sum(verdict_of(fitted.tally(v), v).answer == t for v, t in zip(votes, truths, strict=True))
        plain = sum(
            verdict_of(selections.parse("majority").tally(v), v).answer == t  # type: ignore[attr-defined]
            for v, t in zip(votes, truths, strict=True)
        )
        assert right >= 0.85 * len(truths) > plain, (name, right, plain)
        assert selections.parse(repr(fitted)) == fitted


def test_top_two_tells_a_trap_from_a_guess() -> None:
    """The runner-up of a confusing problem is nearly as likely; of a plain one the rest shares what is left."""
    confusing = verdict("top-two(choices=4)", population([Row("a")] * 6 + [Row("b")] * 5))
    plain = verdict("top-two(choices=4)", population([Row("a")] * 9 + [Row("b")] + [Row("c")]))
    assert confusing.ranked[1].probability > 0.25 > 0.05 > plain.ranked[1].probability
    assert 0.5 > confusing.notes["confusion"] > 0.35 > 0.2 > plain.notes["confusion"] > 0


def test_the_confusion_is_the_posterior_mean_over_pairs_and_chances() -> None:
    """Three votes for a, one for b, none for the third choice; summed one by one, for a known reliability."""
    found = verdict("top-two(choices=3, reliabilities=(0.6,))", population([Row("a")] * 3 + [Row("b")]))
    told: list[tuple[float, float]] = []
    for right, trap in itertools.permutations("abc", 2):
        for q in np.linspace(0.5, 0.99, 13):
            chance = {c: 0.4 / 3 + 0.6 * (q if c == right else 1 - q if c == trap else 0) for c in "abc"}
            told += [(1 - q, chance["a"] ** 3 * chance["b"])] if right != "c" else []
    mean = sum(fooled * weight for fooled, weight in told) / sum(weight for _, weight in told)
    assert found.notes == {"confusion": pytest.approx(mean)}


def labelled(rng: random.Random, low: float) -> Callable[[], tuple[Any, np.ndarray]]:
    """Ballots on problems of every difficulty whose right answer is `a`."""
    by = By(ToyModel(Seeded(0)), Letters())

    def drawn() -> tuple[Any, np.ndarray]:
        skill = rng.uniform(low, 1.0)
        said = [Row("a" if rng.random() < skill else rng.choice("bcd")) for _ in range(10)]
        votes = poll(population(said), PROBLEM, by)
        names = [votes.pool.said[int(np.argmax(votes.answer[0] == c))] for c in range(votes.classes)]
        return votes, np.array([[name == "a" for name in names]])

    return drawn


@pytest.mark.parametrize("coverage", [0.5, 0.8])
def test_conformal_sets_cover(coverage: float) -> None:
    """On the average over calibrations, which is what is promised."""
    covered = []
    drawn = labelled(random.Random(1), 0.2)
    for _ in range(10):
        rule = selections.parse(f"conformal(coverage={coverage})").fit([drawn() for _ in range(99)])  # type: ignore[attr-defined]
        tallies = [(rule.tally(votes), right) for votes, right in (drawn() for _ in range(99))]
        covered += [bool((right & (tally.rank > -np.inf)).any()) for tally, right in tallies]
    assert coverage - 0.04 <= np.mean(covered) <= coverage + 0.13  # shares are tenths, so it covers more than it must


def test_a_coverage_that_cannot_be_had_is_refused() -> None:
    drawn = labelled(random.Random(1), 0.0)
    with pytest.raises(UsageError, match="cannot be had"):
        selections.parse("conformal(coverage=0.99)").fit([drawn() for _ in range(200)])  # type: ignore[attr-defined]


def test_abstention_keeps_its_risk() -> None:
    drawn = labelled(random.Random(2), 0.0)
    rule = selections.parse("abstain(risk=0.1)").fit([drawn() for _ in range(300)])  # type: ignore[attr-defined]
    tallies = [(rule.tally(votes), right) for votes, right in (drawn() for _ in range(500))]
    wrong = [not (right & tally.leading).any() for tally, right in tallies if tally.leading.any()]
    assert rule.threshold > 0
    assert len(wrong) > 100
    assert np.mean(wrong) < 0.15
