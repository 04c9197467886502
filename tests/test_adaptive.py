"""Sampling that knows when to stop: every rule against a slow reference, every law as its docstring says."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betainc
from scipy.stats import entropy as entropy_of

from forethought.core.budget import Budget
from forethought.core.cost import Cost
from forethought.core.draft import Draft
from forethought.core.errors import ModelError, UsageError
from forethought.core.population import Population
from forethought.core.scope import Call, Run, Scope, Seeded
from forethought.core.trace import MemoryTrace
from forethought.methods import By, methods
from forethought.methods.beta_self_consistency import doubt
from forethought.methods.drawing import answers, votes
from forethought.methods.semantic_entropy import entropy
from forethought.models.protocol import Completion, Request
from forethought.selection import selections
from forethought.selection.votes import polled
from forethought.solving import Parts, Solution, solve_with
from tests.listed import ASKED, Cases, Listed, Words, said
from tests.toy import PROBLEM, TableVerifier, ToyModel, ToyTask, expected_measure, texts

pytestmark = pytest.mark.anyio
SAMPLING = [
    "adaptive-self-consistency(n=12, window=2)",
    "beta-self-consistency(n=12, window=3, confidence=0.8)",
    "first-finish(n=5, k=2)",
    "multi-temperature(n=12, temperatures=3, batch=2)",
    "semantic-entropy(n=3, rounds=4)",
]
EVERY = [
    *SAMPLING,
    "capability-aware(n=5, window=2, stop=0.8)",
    "capability-aware(n=6, window=3, stop=0.9, steps=1)",
    "fractured(n=2, cuts=3, answers=2)",
    "confidence-stop(n=2, runs=1, threshold=0)",
    "budget-forcing(n=3, most=2)",
    "eager(n=3, entropy=0.5)",
    "hint-marginalization(n=4)",
]
WORDS = st.lists(st.sampled_from(["a", "b", "cc", "?"]), min_size=24, max_size=24)


def counts(words: Sequence[str]) -> list[int]:
    return sorted(Counter(w for w in words if w != "?").values(), reverse=True)


# when they stop: the methods, run over known samples, against the rule written out over the list


def esc(words: Sequence[str], n: int, window: int) -> int:
    for first in range(0, n - window + 1, window):
        if len(set(words[first : first + window])) == 1 and words[first] != "?":
            return first + window
    return n


def beta(words: Sequence[str], n: int, confidence: float, window: int) -> int:
    for drawn in range(window, n, window):
        first, second = [*counts(words[:drawn]), 0, 0][:2]
        if first and 1 - betainc(first + 1, second + 1, 0.5) >= confidence:
            return drawn
    return n


def cooled(words: Sequence[str], n: int, temperatures: int, batch: int, intra: float, cross: float) -> int:
    size = temperatures * batch
    for drawn in range(size, n, size):
        sure = []
        for t in range(temperatures):
            own = words[:drawn][t::temperatures]
            read = [(own.count(w), -own.index(w), w) for w in own if w != "?"]
            sure += [max(read)[2]] if read and max(read)[0] >= intra * len(own) else []
        if max(Counter(sure).values(), default=0) >= cross * temperatures:
            return drawn
    return n


def calm(words: Sequence[str], n: int, rounds: int, threshold: float | None) -> tuple[int, int]:
    seen: list[float] = []
    for r in range(rounds):
        own = words[r * n : (r + 1) * n]
        seen.append(float(entropy_of([*counts(own), *[1] * list(own).count("?")])))
        if threshold is not None and seen[-1] <= threshold:
            return r * n, (r + 1) * n
        if threshold is None and r >= math.ceil(rounds / math.e) and seen[-1] <= min(seen[:-1]):
            return r * n, (r + 1) * n
    return (rounds - 1) * n, rounds * n


@given(WORDS, st.integers(1, 24), st.integers(1, 6))
def test_windows_stop_where_one_is_of_one_mind(words: list[str], n: int, window: int) -> None:
    made = anyio.run(said, f"adaptive-self-consistency(n={n}, window={window})", words)
    assert made == words[: esc(words, n, window)]


@given(WORDS, st.integers(1, 24), st.sampled_from([0.6, 0.8, 0.95, 0.99]), st.integers(1, 5))
def test_the_posterior_stops_where_scipy_says(words: list[str], n: int, confidence: float, window: int) -> None:
    made = anyio.run(said, f"beta-self-consistency(n={n}, confidence={confidence}, window={window})", words)
    assert made == words[: beta(words, n, confidence, window)]


@given(WORDS, st.integers(1, 24), st.integers(1, 4), st.integers(1, 3), st.sampled_from([0.4, 0.8, 1.0]),
       st.sampled_from([0.5, 1.0]))  # fmt: skip
def test_temperatures_stop_when_they_are_sure_of_one_answer(
    words: list[str], n: int, temperatures: int, batch: int, intra: float, cross: float
) -> None:
    spelling = f"multi-temperature(n={n}, temperatures={temperatures}, batch={batch}, intra={intra}, cross={cross})"
    made = anyio.run(said, spelling, words)
    assert made == words[: cooled(words, n, temperatures, batch, intra, cross)]


@given(WORDS, st.integers(1, 4), st.integers(1, 6), st.sampled_from([None, 0.0, 0.6, 1.0]))
def test_rounds_stop_at_a_low_entropy(words: list[str], n: int, rounds: int, threshold: float | None) -> None:
    made = anyio.run(said, f"semantic-entropy(n={n}, rounds={rounds}, threshold={threshold})", words)
    first, last = calm(words, n, rounds, threshold)
    assert made == words[first:last]


@given(WORDS, st.integers(1, 24), st.integers(1, 24))
def test_the_shortest_that_can_be_read_finish_first(words: list[str], n: int, k: int) -> None:
    made = anyio.run(said, f"first-finish(n={n}, k={min(k, n)})", words)
    assert made == sorted((w for w in words[:n] if w != "?"), key=len)[: min(k, n)]


@given(st.integers(0, 200), st.integers(0, 200))
def test_the_doubt_is_scipys_beta_function(first: int, second: int) -> None:
    assert doubt(first, second) == pytest.approx(betainc(first + 1, second + 1, 0.5), rel=1e-9)
    assert doubt(first, second) + doubt(second, first) == pytest.approx(1)


def test_some_doubts() -> None:
    assert [doubt(k, 0) for k in range(5)] == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32]
    assert doubt(7, 7) == 1 / 2
    assert doubt(1000, 0) > 0


# degenerate cases: what plain sampling would have drawn


IDENTITIES = [
    ("adaptive-self-consistency(n=12, window=12)", "sample(n=12)"),
    ("adaptive-self-consistency(n=12, window=99)", "sample(n=12)"),
    ("beta-self-consistency(n=12, confidence=1.0, window=12)", "sample(n=12)"),
    ("beta-self-consistency(n=12, confidence=1, window=12)", "beta-self-consistency(n=12, window=40)"),
    ("multi-temperature(n=12, temperatures=1, batch=12, low=0.8, high=0.8)", "sample(n=12)"),
    ("multi-temperature(n=12, temperatures=1, batch=99, low=0.8, high=0.8)", "sample(n=12)"),
    ("semantic-entropy(n=12, rounds=1)", "sample(n=12)"),
    ("semantic-entropy(n=12, rounds=9, threshold=99)", "sample(n=12)"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), IDENTITIES)
async def test_degenerate_cases_draw_the_same_drafts(one: str, other: str) -> None:
    made = []
    for spelling in (one, other):
        pop = await methods.parse(spelling)(PROBLEM, By(ToyModel(Seeded(5)), ToyTask()), Scope.root(Run(Seeded(5))))
        made.append([p.state.text for p in pop])
    assert made[0] == made[1]
    assert len(made[0]) == 12


async def test_a_race_for_all_places_is_a_sample_by_length() -> None:
    drawn = []
    for spelling in ("sample(n=9)", "first-finish(n=9, k=9)"):
        pop = await methods.parse(spelling)(PROBLEM, By(ToyModel(Seeded(5)), ToyTask()), Scope.root(Run(Seeded(5))))
        drawn.append([(p.state.text, p.logw) for p in pop])
    assert sorted(drawn[0], key=lambda pair: len(pair[0])) == drawn[1]


@pytest.mark.parametrize(("spelling", "expected"), [
    ("adaptive-self-consistency(n=3, window=1)", lambda: texts()),
    ("beta-self-consistency(n=3, window=1, confidence=1.0)", lambda: times(3)),
    ("beta-self-consistency(n=60, window=60, confidence=1.0, temperature=0)", lambda: {"aa.": 60.0}),
    ("semantic-entropy(n=1, rounds=3, threshold=-1)", lambda: texts()),
    ("first-finish(n=2, k=2)", lambda: texts()),
])  # fmt: skip
async def test_a_rule_that_never_or_always_stops_leaves_the_model(
    spelling: str, expected: Callable[[], dict[str, float]]
) -> None:
    """One answer alone agrees with itself: windows of one stop at once."""
    assert await measure(spelling) == pytest.approx(expected(), rel=1e-9)


# the laws, enumerated


def times(factor: float) -> dict[str, float]:
    return {text: p * factor for text, p in texts().items()}


async def measure(spelling: str) -> dict[str, float]:
    method = methods.parse(spelling)
    return await expected_measure(lambda by, at: method(PROBLEM, by, at))


@pytest.mark.parametrize(("n", "window"), [(4, 2), (3, 1), (3, 3)])
async def test_windows_draw_the_model_as_often_as_the_closed_form_says(n: int, window: int) -> None:
    agree = sum(p**window for p in texts().values())
    expected = window * (1 - (1 - agree) ** (n // window)) / agree
    have = await measure(f"adaptive-self-consistency(n={n}, window={window})")
    assert have == pytest.approx(times(expected), rel=1e-9)


async def test_the_posterior_rule_draws_the_model_as_often_as_it_is_unsure() -> None:
    """One draft at a time at 0.8: it stops at two of one mind, whose chance is 7/8, else at the cap of three."""
    agree = sum(p**2 for p in texts().values())
    assert doubt(1, 0) > 0.2 >= doubt(2, 0)
    have = await measure("beta-self-consistency(n=3, window=1, confidence=0.8)")
    assert have == pytest.approx(times(2 * agree + 3 * (1 - agree)), rel=1e-9)


async def test_shares_lean_towards_agreement() -> None:
    """Of windows of two, two at most: the vote for the likeliest answer gains over plain drafts."""

    async def share(spelling: str) -> float:
        method = methods.parse(spelling)

        async def shares(by: By, at: Scope) -> Population[Draft]:
            pop = await method(PROBLEM, by, at)
            weight = 1 / len(pop)
            return [type(p)(p.state, math.log(weight), p.done) for p in pop]

        return (await expected_measure(shares))["aa."]

    assert await share("sample(n=2)") == pytest.approx(texts()["aa."]) == pytest.approx(0.25)
    assert await share("adaptive-self-consistency(n=4, window=2)") > 0.26


@pytest.mark.parametrize("n", [1, 2, 3])
async def test_the_first_has_the_least_of_n_lengths_and_is_else_the_models(n: int) -> None:
    def at_least(length: int) -> float:
        return math.fsum(p for text, p in texts().items() if len(text) >= length)

    def least(length: int) -> float:
        return at_least(length) ** n - at_least(length + 1) ** n

    expected = {
        text: p / (at_least(len(text)) - at_least(len(text) + 1)) * least(len(text)) / n for text, p in texts().items()
    }
    assert await measure(f"first-finish(n={n})") == pytest.approx(expected, rel=1e-9)


async def test_by_arrival_the_late_are_cancelled_and_billed_for_what_they_told() -> None:
    class Slow(Listed):
        async def extend(self, request: Request, call: Call) -> Completion:
            for told in range(len(self.words[call.place[-2]])):
                call.progress(Cost(calls=1, new_tokens=told + 1, critical_tokens=told + 1))
                await anyio.sleep(0.02)
            return await super().extend(request, call)

    at = Scope.root(Run(ordered=False))
    by = By(Slow(["d" * 99, "?", "bb", "e" * 99]), Words())
    with anyio.fail_after(1.5):
        (won,) = await methods.parse("first-finish(n=4)")(ASKED, by, at)
    assert won.state.text == "bb"
    assert at.account.spent.calls == 4
    assert 5 <= at.account.spent.new_tokens < 99


# what they say of themselves


@pytest.mark.parametrize("spelling", [
    "adaptive-self-consistency(n=0)", "adaptive-self-consistency(window=0)", "adaptive-self-consistency(temperature=-1)",
    "beta-self-consistency(n=0)", "beta-self-consistency(window=0)", "beta-self-consistency(confidence=0)",
    "beta-self-consistency(confidence=1.1)", "beta-self-consistency(temperature=-0.1)",
    "first-finish(n=0)", "first-finish(k=0)", "first-finish(n=2, k=3)", "first-finish(temperature=-1)",
    "multi-temperature(n=0)", "multi-temperature(temperatures=0)", "multi-temperature(batch=0)",
    "multi-temperature(intra=0)", "multi-temperature(cross=1.5)", "multi-temperature(low=1.0, high=0.5)",
    "multi-temperature(low=-1)", "semantic-entropy(n=0)", "semantic-entropy(rounds=0)", "semantic-entropy(temperature=-1)",
])  # fmt: skip
def test_senseless_parameters_are_refused(spelling: str) -> None:
    with pytest.raises(UsageError, match=spelling.partition("(")[0] + ": ") as caught:
        methods.parse(spelling)
    assert "\n" not in str(caught.value)


def test_temperatures_are_evenly_spread() -> None:
    assert methods.parse("multi-temperature").grid == pytest.approx([0.4, 2 / 3, 14 / 15, 1.2])  # type: ignore[attr-defined]
    assert methods.parse("multi-temperature(temperatures=1, low=0.5)").grid == [0.5]  # type: ignore[attr-defined]


async def test_each_temperature_gets_its_share_of_a_round() -> None:
    model = Listed(["a", "b", "c"] * 4)
    await methods.parse("multi-temperature(n=12, temperatures=3, batch=2, low=0.0, high=1.0)")(
        ASKED, By(model, Words()), Scope.root()
    )
    assert [model.asked[i].temperature for i in range(12)] == [0.0, 0.5, 1.0] * 4


class Failing(Listed):
    """The word `!` is a failure."""

    async def extend(self, request: Request, call: Call) -> Completion:
        if self.words[call.place[-2]] == "!":
            raise ModelError("out of order")
        return await super().extend(request, call)


async def test_who_drew_a_draft_is_known_where_its_neighbours_failed() -> None:
    """Two temperatures in turn. The first is the one to trust, and `c` is all that is left of what it said."""
    by = By(Failing("!b!aca"), Words())
    at = Scope.root(Run(failures="drop"))
    pop = await methods.parse("multi-temperature(n=6, temperatures=2, batch=3)")(ASKED, by, at)
    assert [p.state.text for p in pop] == ["b", "a", "c", "a"]
    assert (await polled(pop, ASKED, by, at)).pool.sampler.tolist() == [1, 1, 0, 1]
    for rule in ("dawid-skene(samplers=2, accuracies=(0.9, 0.1))", "top-two(samplers=2, reliabilities=(0.95, 0.05))"):
        assert (await selections.parse(rule)(pop, ASKED, by, at)).answer == "c"


async def test_a_round_can_be_shown_what_the_last_one_said() -> None:
    model = Listed(["a", "a", "b", "?", *"aaaa", *"bbbb"])
    by = By(model, Words())
    method = methods.parse("semantic-entropy(n=4, rounds=3, shown=True)")
    await method(ASKED, by, Scope.root())
    asked = [model.asked[i].messages[0]["content"] for i in (0, 4, 8)]
    assert asked[0] == "say a word"
    assert "say a word\n\nEarlier attempts at this problem ended in: a (2 times), b (1 times)." in asked[1]
    assert "a (4 times)." in asked[2]
    assert "instructions" in method.needs
    assert "instructions" not in methods.parse("semantic-entropy").needs


async def test_what_the_reasoner_cannot_read_is_refused() -> None:
    from forethought.refusals import check
    from forethought.tasks import GENERATED

    class Reasoner(ToyModel):
        name = "reasoner"

    chain = GENERATED["chain"]
    parts = Parts(
        By(Reasoner(Seeded(0)), chain), methods.parse("semantic-entropy(shown=True)"), selections.parse("first")
    )
    with pytest.raises(UsageError, match="needs a model that reads instructions"):
        check(chain.problem(1, 0), parts)


async def test_who_cannot_be_read_does_not_vote_and_is_no_agreement() -> None:
    pop = await methods.parse("sample(n=6)")(ASKED, By(Listed(["?", "a", "b", "b", "?", "a"]), Words()), Scope.root())
    told = await answers(pop, ASKED, By(Listed([]), Words()), Scope.root())
    assert votes(told) == [("a", 2), ("b", 2)]
    assert entropy(told) == pytest.approx(entropy_of([2, 2, 1, 1]))


@pytest.mark.parametrize(("spelling", "words", "drawn"), [
    ("adaptive-self-consistency(n=9, window=3)", "aAabbbccc", "aAa"),
    ("beta-self-consistency(n=9, window=4)", "aAaAbbbbb", "aAaA"),
    ("multi-temperature(n=8, temperatures=2, batch=2)", "aAAabbbb", "aAAa"),
    ("multi-temperature(n=6, temperatures=2, batch=1)", "aAbbbb", "aA"),
    ("semantic-entropy(n=2, rounds=3, threshold=0)", "aAbbcc", "aA"),
    ("semantic-entropy(n=2, rounds=3, threshold=0)", "abAacc", "Aa"),
])  # fmt: skip
async def test_answers_that_mean_the_same_agree(spelling: str, words: str, drawn: str) -> None:
    """All stopping rules count what the selections count: classes of equal answers."""
    assert await said(spelling, words, Cases()) == list(drawn)
    assert await said(spelling, words) != list(drawn)


# budgets, schedules, and runs that go on


async def solved(spelling: str, seed: int, budget: Budget) -> Solution:
    by = By(ToyModel(Seeded(seed)), ToyTask(), TableVerifier())
    return await solve_with(Parts(by, methods.parse(spelling), selections.parse("majority"), budget), PROBLEM, seed)


@pytest.mark.parametrize("spelling", EVERY)
@given(st.integers(0, 10**6), st.integers(0, 45), st.integers(0, 15))
@settings(max_examples=25)
def test_no_budget_is_overrun_and_what_was_drawn_is_kept(spelling: str, seed: int, tokens: int, calls: int) -> None:
    found = anyio.run(solved, spelling, seed, Budget({"tokens": tokens, "calls": calls}))
    assert found.cost.tokens <= tokens
    assert found.cost.calls <= calls
    whole = anyio.run(solved, spelling, seed, Budget({"tokens": 10**6}))
    if found.stopped == "done":
        assert [p.state.text for p in found.population] == [p.state.text for p in whole.population]


@pytest.mark.parametrize("spelling", EVERY)
@pytest.mark.parametrize("seed", range(4))
def test_no_schedule_matters_and_a_cut_run_goes_on(spelling: str, seed: int) -> None:
    async def life(trace: MemoryTrace) -> tuple[list[tuple[str, float]], int]:
        run = Run(Seeded(seed), trace)
        model = ToyModel(Seeded(seed))
        pop = await methods.parse(spelling)(
            PROBLEM, By(model, ToyTask(), TableVerifier()), Scope.root(run, Budget({"tokens": 99}))
        )
        return [(p.state.text, p.logw) for p in pop], run.physical_calls

    first, second = MemoryTrace(), MemoryTrace()
    made, calls = anyio.run(life, first, backend="asyncio")
    assert anyio.run(life, second, backend="trio") == (made, calls)
    done = [event for event in first.events if event.kind in ("sample", "grade")]
    for kept in random.Random(seed).sample(range(len(first.events) + 1), 3):
        known = sum(event in done for event in first.events[:kept])
        assert anyio.run(life, MemoryTrace(first.events[:kept]), backend="trio") == (made, calls - known)
