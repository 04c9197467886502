"""Chains that are cut, forked, probed, forced or hinted at: what is asked, what is kept, what it costs."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.lowlevel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.errors import UsageError
from forethought.core.population import Particle, Population, log_evidence
from forethought.core.problem import Problem
from forethought.core.scope import Call, Run, Scope, Seeded
from forethought.methods import By, methods
from forethought.methods.eager import entropy, forked
from forethought.methods.hint_marginalization import shares
from forethought.models.local import Local
from forethought.models.protocol import Completion, Request
from forethought.models.scripted import ABILITIES, Scripted
from forethought.parts import Parts
from forethought.refusals import check
from forethought.selection import selections
from forethought.tasks import GENERATED
from forethought.tasks.protocol import Task
from tests import tiny
from tests.listed import ASKED, Cases, Listed, Words
from tests.toy import NEXT, PROBLEM, TableVerifier, ToyModel, ToyTask, expected_measure, table, texts

pytestmark = pytest.mark.anyio


class Lines(Words):
    """Thinking line by line, then a line with the answer."""

    name, step_tokens, draft_tokens, max_steps = "lines", 8, 400, 60

    def answer(self, text: str, problem: Problem) -> str | None:
        _, found, said = text.rpartition("answer: ")
        return said.strip() or None if found else None


async def populated(spelling: str, by: By, problem: Problem = ASKED, seed: int = 0) -> tuple[Population[Draft], Scope]:
    at = Scope.root(Run(Seeded(seed)))
    return await methods.parse(spelling)(problem, by, at), at


async def measure(spelling: str) -> dict[str, float]:
    method = methods.parse(spelling)
    return await expected_measure(lambda by, at: method(PROBLEM, by, at))


@pytest.mark.parametrize("spelling", [
    "fractured(n=2, cuts=1)", "confidence-stop(n=2, threshold=2)", "confidence-stop(n=1, threshold=2, every=2)",
    "budget-forcing(n=2, most=3)", "budget-forcing(n=1, waits=0, most=9)", "eager(n=1)", "eager(n=3, entropy=3)",
])  # fmt: skip
async def test_where_nothing_is_cut_forked_or_forced_drafts_are_the_models(spelling: str) -> None:
    assert await measure(spelling) == pytest.approx(texts(), rel=1e-9)


@pytest.mark.parametrize("spelling", [
    "capability-aware(n=0)", "capability-aware(window=0)", "capability-aware(steps=-1)", "capability-aware(keep=0)",
    "capability-aware(keep=1.1)", "capability-aware(low=1.0, high=0.5)", "capability-aware(low=-1)",
    "budget-forcing(n=0)", "budget-forcing(waits=-1)", "budget-forcing(most=0)", "budget-forcing(end='')",
    "budget-forcing(temperature=-1)", "fractured(n=0)", "fractured(cuts=0)", "fractured(answers=0)", "fractured(end=' ')",
    "fractured(temperature=-1)", "confidence-stop(n=0)", "confidence-stop(runs=0)", "confidence-stop(every=0)",
    "confidence-stop(threshold=-1)", "confidence-stop(end='')", "confidence-stop(temperature=-1)",
    "hint-marginalization(n=0)", "hint-marginalization(rounds=-1)", "hint-marginalization(sure=0)",
    "hint-marginalization(temperature=-1)", "eager(n=0)", "eager(patience=0)", "eager(entropy=-1)", "eager(temperature=-1)",
])  # fmt: skip
def test_senseless_parameters_are_refused(spelling: str) -> None:
    with pytest.raises(UsageError, match=spelling.partition("(")[0] + ": ") as caught:
        methods.parse(spelling)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("spelling", "complaint"), [
    ("fractured", "'continue'"), ("budget-forcing", "'continue'"), ("confidence-stop", "'continue'"),
    ("eager", "'continue'"), ("capability-aware", "needs a verifier: add --verifier"),
    ("capability-aware(steps=2)", "'continue'"),
])  # fmt: skip
def test_what_is_missing_is_said_before_anything_is_spent(spelling: str, complaint: str) -> None:
    model = Scripted(lambda prompt, so_far, seed: "", abilities={"extend"})
    parts = Parts(By(model, Lines()), methods.parse(spelling), selections.parse("majority"))
    with pytest.raises(UsageError, match=complaint):
        check(ASKED, parts)


def test_pruning_needs_a_verifier_of_steps_and_hints_a_reader() -> None:
    class Reasoner(ToyModel):
        name = "reasoner"

    class Whole(TableVerifier):
        process = False

    chain = GENERATED["chain"]
    for spelling, complaint in [
        ("capability-aware(steps=1)", "needs a verifier that grades steps"),
        ("hint-marginalization", "needs a model that reads instructions"),
    ]:
        parts = Parts(By(Reasoner(Seeded(0)), chain, Whole()), methods.parse(spelling), selections.parse("first"))
        with pytest.raises(UsageError, match=complaint):
            check(chain.problem(1, 0), parts)


# fractured


@given(st.integers(0, 12), st.integers(1, 6), st.integers(1, 3), st.integers(1, 3))
def test_traces_are_cut_where_the_released_code_cuts_them(length: int, cuts: int, answers: int, n: int) -> None:
    """A unit is a line. All but the last cut get all their answers anew, the last one all but the trace's own."""
    trace = [f"thought{i}\n" for i in range(length)]

    def script(prompt: str, so_far: str, seed: int) -> str:
        return (
            f"cut{so_far.count(chr(10))}"
            if so_far.endswith("answer: ")
            else "".join([*trace, "answer: own"])[len(so_far) :]
        )

    pop, at = anyio.run(populated, f"fractured(n={n}, cuts={cuts}, answers={answers})", By(Scripted(script), Lines()))
    expected = ["".join([*trace, "answer: own"])]
    for i in range(1, cuts + 1):
        begun = trace[: i * length // cuts]
        expected += ["".join([*begun, f"answer: cut{len(begun)}"])] * (answers - (i == cuts))
    assert Counter(p.state.text for p in pop) == Counter(expected * n)
    assert [p.logw for p in pop] == pytest.approx([-math.log(n * cuts * answers)] * len(pop))
    assert at.account.spent.calls == n * (length + 1) + len(pop) - n


async def test_a_trace_that_never_ends_is_cut_all_the_same() -> None:
    class Short(Lines):
        max_steps = 6

    by = By(Scripted(lambda p, so_far, s: "x" if so_far.endswith("answer: ") else "more\n" * 9), Short())
    pop, _ = await populated("fractured(n=1, cuts=3)", by)
    assert [p.state.finished for p in pop] == [False, True, True]
    assert [p.state.text for p in pop[1:]] == ["more\n" * 4 + "answer: x", "more\n" * 2 + "answer: x"]


# confidence-stop


@dataclass
class Trials(Scripted):
    """A chain of lines; `trials` are its early answers with their tokens' probability, after each line."""

    def __init__(self, trials: Sequence[tuple[str, float]]) -> None:
        super().__init__(self._told, abilities={*ABILITIES, "logprobs"})
        self.trials = trials

    def _told(self, prompt: str, so_far: str, seed: int) -> str | Completion:
        lines = so_far.count("\n")
        if so_far.endswith("answer: "):
            said, sure = self.trials[lines - 1]
            cost = Cost(1, 0, 0, 2, critical_tokens=2)
            return Completion(said, "end", cost, (), (math.log(sure), math.log(sure)))
        return "".join(f"line{i}\n" for i in range(lines, len(self.trials))) + "answer: own"


TRIALS = st.lists(st.tuples(st.sampled_from(["1", "2", ""]), st.sampled_from([0.5, 0.9, 0.99])), min_size=1, max_size=8)


@given(TRIALS, st.integers(1, 3), st.sampled_from([0.0, 0.7, 0.95, 2.0]), st.integers(1, 3))
def test_a_chain_ends_at_its_first_settled_answer(
    trials: list[tuple[str, float]], runs: int, threshold: float, every: int
) -> None:
    spelling = f"confidence-stop(runs={runs}, threshold={threshold}, every={every})"
    model = Trials(trials)
    (particle,), at = anyio.run(populated, spelling, By(model, Lines()))
    expected = "".join(f"line{i}\n" for i in range(len(trials))) + "answer: own"
    asked = range(every - 1, len(trials), every)
    for k, i in enumerate(asked):
        last = [trials[j][0] for j in asked[max(k + 1 - runs, 0) : k + 1]]
        if len(last) == runs and set(last) == {trials[i][0]} != {""} and trials[i][1] >= threshold:
            expected = "".join(f"line{j}\n" for j in range(i + 1)) + f"answer: {trials[i][0]}"
            break
    assert (particle.state.text, particle.state.finished) == (expected, True)
    assert at.account.spent.new_tokens == model.spent.new_tokens


async def test_equal_answers_settle_a_chain() -> None:
    class Halves(Lines):
        def same(self, one: str, other: str, problem: Problem) -> bool:
            return {one, other} == {"1/2", "0.5"}

    trials = [("1/2", 0.99), ("0.5", 0.99), ("3", 0.99)]
    for task, answer in ((Halves(), "0.5"), (Lines(), "own")):
        (particle,), _ = await populated("confidence-stop(runs=2)", By(Trials(trials), task))
        assert task.answer(particle.state.text, ASKED) == answer


async def test_a_model_that_tells_no_probabilities_is_never_confident() -> None:
    by = By(
        Scripted(lambda p, so_far, s: "x" if so_far.endswith("answer: ") else "line\nanswer: y"[len(so_far) :]), Lines()
    )
    for spelling, answer in [("confidence-stop(runs=1)", "y"), ("confidence-stop(runs=1, threshold=0)", "x")]:
        (particle,), _ = await populated(spelling, by)
        assert particle.state.text.endswith(f"answer: {answer}")


async def test_traces_are_cut_behind_tokens_and_before_their_answers() -> None:
    """Of five words of thinking; `so my answer:` is three tokens, none of which is thinking."""
    whole = "a b c d e\nso my answer: 3"
    script = lambda prompt, so_far, seed: whole[len(so_far) :] if whole.startswith(so_far) else "4"  # noqa: E731
    by = By(Scripted(script), Lines())
    pop, _ = await populated("fractured(n=1, cuts=5, step=1, end='\\nso my answer: ')", by)
    texts = [p.state.text for p in pop]
    assert texts[0] == whole
    assert texts[1:] == [f"{thought}\nso my answer: 4" for thought in ("a b c d ", "a b c ", "a b ", "a ")]


# budget-forcing


def thinker(prompt: str, so_far: str, seed: int) -> str:
    """Thinks two words, then answers with the number of its waits; after the end of thinking it just answers."""
    waits = so_far.count("Wait")
    return f"{waits}" if so_far.endswith(("answer:", "answer: ")) else f" think hard answer: {waits}"


@pytest.mark.parametrize(("spelling", "text"), [
    ("budget-forcing(waits=0)", " think hard answer:0"),
    ("budget-forcing(waits=1)", " think hard Wait think hard answer:1"),
    ("budget-forcing(waits=3)", " think hard" + " Wait think hard" * 3 + " answer:3"),
    ("budget-forcing(waits=2, wait='Hmm')", " think hard Hmm think hard Hmm think hard answer:0"),
    ("budget-forcing(waits=0, most=1)", " think \nanswer: 0"),
    ("budget-forcing(waits=9, most=4)", " think hard Wait think \nanswer: 1"),
    ("budget-forcing(waits=9, most=2, final='So answer: ')", " think hard So answer: 0"),
    ("budget-forcing(waits=9, most=3)", " think hard answer:0"),
])  # fmt: skip
async def test_thinking_is_cut_and_prolonged(spelling: str, text: str) -> None:
    (particle,), at = await populated(spelling, By(Scripted(thinker), Lines()))
    assert (particle.state.text, particle.state.finished) == (text, True)
    assert sum(len(d.new.split()) for d in particle.state.lineage() if d.cost != Cost()) <= at.account.spent.new_tokens


@given(st.integers(1, 12), st.integers(0, 5), st.integers(1, 3))
def test_no_draft_thinks_longer_than_it_may(most: int, waits: int, n: int) -> None:
    method, by = f"budget-forcing(n={n}, most={most}, waits={waits})", By(Scripted(thinker), Lines())
    pop, _ = anyio.run(populated, method, by)
    for particle in pop:
        thought, _, _ = particle.state.text.partition("answer:")
        assert len([w for w in thought.split() if w != "Wait"]) <= most
        assert thought.count("Wait") == min(waits, (most - 1) // 3)


@pytest.mark.parametrize(("step", "thought"), [(4, 8), (1, 11), (11, 1), (12, 1), (99, 1)])
async def test_endless_thinking_leaves_room_for_an_answer(step: int, thought: int) -> None:
    class Short(Lines):
        step_tokens, draft_tokens = step, 12

    def endless(prompt: str, so_far: str, seed: int) -> str:
        return "7" if so_far.endswith("answer: ") else " think" * 99

    (particle,), _ = await populated("budget-forcing", By(Scripted(endless), Short()))
    assert (particle.state.text, particle.state.finished) == (" " + "think " * thought + "\nanswer: 7", True)


async def test_a_draft_that_ends_without_thinking_is_left_alone() -> None:
    (particle,), at = await populated("budget-forcing(waits=4)", By(Scripted(lambda p, so_far, s: "done"), Lines()))
    assert (particle.state.text, at.account.spent.calls) == ("done", 1)


# capability-aware


class Sure(TableVerifier):
    """A grade by the last word, or by the letters so far."""

    def __init__(self, grades: Mapping[str, float]) -> None:
        self.grades = grades

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        await anyio.lowlevel.checkpoint()
        return Grade(self.grades.get(draft.text)), Cost(verifier_calls=1, verifier_tokens=1)


@given(st.lists(st.sampled_from("abc?"), min_size=12, max_size=12), st.integers(1, 12), st.integers(1, 4))
def test_drafting_ends_when_no_restart_would_do_better(words: list[str], n: int, window: int) -> None:
    by = By(Listed(words), Words(), Sure({"a": 0.2, "b": 0.5, "c": 0.9}))
    pop, at = anyio.run(populated, f"capability-aware(n={n}, window={window}, stop=0.9)", by)
    drawn = next((k for k in range(window, n, window) if "c" in words[k - window : k]), n)
    assert [p.state.text for p in pop] == words[:drawn]
    assert at.account.spent.verifier_calls == drawn


async def test_the_model_is_drawn_as_often_as_the_verifier_refuses_it() -> None:
    """One draft at a time, up to three: a geometric number, cut off; the expected measure is the model's times its mean."""
    good = math.fsum(p for text, p in texts().items() if table(text) >= 0.6)
    assert 0.1 < good < 0.9
    expected = (1 - (1 - good) ** 3) / good
    have = await measure("capability-aware(n=3, window=1, stop=0.6)")
    assert have == pytest.approx({text: p * expected for text, p in texts().items()}, rel=1e-9)


async def test_without_a_threshold_it_is_a_sample_that_is_graded() -> None:
    by = By(ToyModel(Seeded(5)), ToyTask(), TableVerifier())
    pop, _ = await populated("capability-aware(n=6, window=6, stop=2, low=0.8, high=0.8)", by, PROBLEM, 5)
    plain, _ = await populated("sample(n=6)", By(ToyModel(Seeded(5)), ToyTask()), PROBLEM, 5)
    assert [p.state.text for p in pop] == [p.state.text for p in plain]
    assert all("table" in p.state.grades for p in pop)


async def test_temperatures_rise_with_the_drafts() -> None:
    model = Listed(["a"] * 5)
    await populated("capability-aware(n=5, window=1, low=0.5, high=1.5)", By(model, Words(), Sure({})))
    assert [model.asked[i].temperature for i in range(5)] == pytest.approx([0.5, 0.75, 1.0, 1.25, 1.5])


async def test_the_best_beginnings_alone_are_written_to_their_ends() -> None:
    grades = {"a": 0.9, "b": 0.1, ".": 0.5}
    model = ToyModel(Seeded(1))
    pop, at = await populated(
        "capability-aware(n=8, window=8, steps=1, keep=0.25)", By(model, ToyTask(), Sure(grades)), PROBLEM
    )
    first = [e.data["text"] for e in at.run.trace.events if e.kind == "sample"][:8]  # type: ignore[attr-defined]
    assert 2 <= first.count("a") < 8
    assert len(pop) == 2
    assert all(p.state.text.startswith("a") and p.state.finished for p in pop)
    assert at.account.spent.calls == 8 + 2


# hints


def follower(to_right: float, to_wrong: float) -> Scripted:
    """Answers r or w; a hint turns one into the other with these chances."""

    def script(prompt: str, so_far: str, seed: int) -> str:
        chance = random.Random(seed).random()
        if "close to w" in prompt:
            return "r" if chance < to_right else "w"
        if "close to r" in prompt:
            return "w" if chance < to_wrong else "r"
        return "r" if chance < 0.3 else "w"

    return Scripted(script)


async def test_hints_lead_to_the_stationary_share_of_a_two_answer_chain() -> None:
    """In-flow 0.4, out-flow 0.1: from 0.3 towards 0.8, 0.784 after five; the first step is 0.3 * 0.9 + 0.7 * 0.4 = 0.55."""
    by = By(follower(0.4, 0.1), Words())
    for rounds, expected in [(0, 0.3), (1, 0.55), (5, 0.784)]:
        pop, _ = await populated(f"hint-marginalization(n=300, rounds={rounds}, sure=1.0)", by)
        assert (await shares(pop, ASKED, by, Scope.root()))["r"] == pytest.approx(expected, abs=0.08)
        assert log_evidence(pop) == pytest.approx(0.0, abs=1e-9)


async def test_the_mixture_is_weighed_as_the_recursion_says() -> None:
    model = Listed([*"aaab", *"aba", "c", *"....."])
    by = By(model, Words())
    pop, _ = await populated("hint-marginalization(n=4, rounds=1)", by)
    hints = [model.asked[i].messages[0]["content"].rpartition("close to ")[2] for i in range(4, 8)]
    assert hints == ["a.", "a.", "a.", "b."]
    assert await shares(pop, ASKED, by, Scope.root()) == pytest.approx({"a": 0.75 * 2 / 3, "b": 0.75 / 3, "c": 0.25})


async def test_equal_answers_have_one_hint() -> None:
    model = Listed([*"aABb", *"......"])
    await populated("hint-marginalization(n=4, rounds=1)", By(model, Cases()))
    hints = [model.asked[i].messages[0]["content"].rpartition("close to ")[2] for i in range(4, 8)]
    assert hints == ["a.", "a.", "B.", "B."]


async def test_who_agrees_at_once_gets_no_hint() -> None:
    pop, at = await populated("hint-marginalization(n=4, rounds=3)", By(Listed("aaaa"), Words()))
    assert (len(pop), at.account.spent.calls) == (4, 4)
    pop, at = await populated("hint-marginalization(n=4, rounds=3)", By(Listed("????"), Words()))
    assert (len(pop), at.account.spent.calls) == (4, 4)


# eager


def test_the_entropy_is_that_of_what_is_told() -> None:
    assert entropy({}) == 0
    assert entropy({"a": -3.0}) == 0
    assert entropy({t: math.log(p) for t, p in NEXT.items()}) == pytest.approx(
        -sum(p * math.log(p) for p in NEXT.values())
    )
    assert entropy({"a": math.log(0.1), "b": math.log(0.1)}) == pytest.approx(math.log(2))


async def test_a_fork_takes_the_two_likeliest_and_then_each_is_the_models() -> None:
    """The first token has 1.03 nats: unless it ends the text, one stream goes on behind a and one behind b."""
    have = await measure("eager(n=2, entropy=1.0)")
    rest = {".": 0.2, "a.": 0.5, "b.": 0.3}
    expected = {".": 0.2} | {first + tail: 0.8 * p for first in "ab" for tail, p in rest.items()}
    assert have == pytest.approx(expected, rel=1e-9)


async def test_no_more_forks_where_all_tokens_are_as_uncertain() -> None:
    """Later tokens do not exceed the 99th percentile of those before."""
    for seed in range(5):
        pop, _ = await populated("eager(n=9, entropy=0.5)", By(ToyModel(Seeded(seed)), ToyTask()), PROBLEM, seed)
        assert len(pop) in (1, 2)


def test_a_fork_keeps_what_was_drawn_if_that_is_the_likeliest() -> None:
    root = Draft()
    drawn = Particle(Draft(root, "x", (7,), (-0.1,), 1))
    top = {"x": -0.1, "y": -2.0, "z": -3.0}
    same, other = forked(drawn, top)
    assert same.state is drawn.state
    assert (other.state.text, other.state.size, other.state.parent) == ("y", 1, root)
    best, second = forked(Particle(Draft(root, "z", (9,), (-3.0,), 1)), top)
    assert (best.state.text, second.state.text) == ("x", "y")
    assert forked(drawn, {"x": -0.1, "": -0.2}) == [drawn]


async def test_forks_of_a_real_model_share_their_beginnings(tmp_path: Path) -> None:
    tiny.generator(tmp_path)
    chain = GENERATED["chain"]
    problem = chain.problem(2, 0)
    by = By(Local(tmp_path), chain)
    pop, at = await populated("eager(n=6, entropy=0.5, temperature=1.0)", by, problem)
    assert 1 < len(pop) <= 6
    whole = {d: d.size for p in pop for d in p.state.lineage()}
    assert at.account.spent.new_tokens < sum(p.state.size for p in pop)
    assert sum(d.cost.new_tokens for d in whole) <= at.account.spent.new_tokens
    for particle in pop:
        ids = by.model.written(particle.state)  # type: ignore[attr-defined]
        assert by.model.reader.decode(ids) == particle.state.text  # type: ignore[attr-defined]


async def test_a_stream_forks_no_more_once_it_answers() -> None:
    class Torn(Scripted):
        async def extend(self, request: Request, call: Call) -> Completion:
            done = await super().extend(request, call)
            return Completion(done.text, done.finish, done.cost, (), (-1.0,), ({"x ": -1.0, "y ": -1.1},))

    def script(prompt: str, so_far: str, seed: int) -> str:
        return "answer: " if not so_far else " z"

    pop, _ = await populated("eager(n=8, entropy=0.1)", By(Torn(script), Lines()))
    assert len(pop) == 1
    assert np.isfinite(pop[0].logw)
