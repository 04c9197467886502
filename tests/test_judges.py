"""Verifiers that ask a model: what they read, what they cost, and that nothing unreadable becomes a number."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest
from hypothesis import given as over
from hypothesis import strategies as st

from forethought.assembly import assemble
from forethought.core.budget import Budget
from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.errors import BudgetEnded, ModelError, UsageError
from forethought.core.population import Particle
from forethought.core.problem import Problem
from forethought.core.scope import Call, Run, Scope, Seeded
from forethought.core.store import RunStore
from forethought.core.trace import MemoryTrace
from forethought.methods import By
from forethought.models.price import Price
from forethought.models.protocol import Completion, Request
from forethought.models.scripted import ABILITIES, Scripted
from forethought.solving import solve_with
from forethought.tasks.text import Text
from forethought.verifiers import compared, grade_all, verifiers
from forethought.verifiers.asking import chance, given, line_after, model_of
from forethought.verifiers.judge import Judge, mark
from forethought.verifiers.prover import Label, label_sync, vote
from forethought.verifiers.reward_token import RewardToken
from forethought.verifiers.self_eval import SelfEval

pytestmark = pytest.mark.anyio
ASKED, TASK = Problem("What is 2 + 2?"), Text()
RIGHT, WRONG = Draft(None, "answer: 4", size=2, finish="end"), Draft(None, "answer: 5", size=2, finish="end")


def by(spelling: str, model: Any) -> Any:
    return given(verifiers.parse(spelling), model)


async def graded(verifier: Any, draft: Draft = RIGHT, seed: int = 0) -> tuple[Grade, Cost]:
    made, cost = await verifier.grade(draft, ASKED, TASK, Call((), seed))
    bound = verifier.bound(draft, ASKED, TASK)
    assert all(spent <= most for spent, most in zip(cost, bound, strict=True)), (cost, bound)
    return made, cost


def says(*answers: str) -> Scripted:
    """A model that says one of these by its seed."""
    return Scripted(lambda prompt, so_far, seed: answers[seed % len(answers)])


class Tops(Scripted):
    """A model that tells the alternatives of its one token, by the prompt; and keeps what it was asked."""

    def __init__(self, top: Callable[[str], dict[str, float]], **kinds: Any) -> None:
        super().__init__(lambda *_: "", abilities=ABILITIES | {"logprobs"} | kinds.pop("also", frozenset()), **kinds)
        self.top, self.asked = top, list[Request]()

    async def extend(self, request: Request, call: Call) -> Completion:
        self.asked.append(request)
        if request.logprobs is None:
            return await super().extend(request, call)
        self.spent += (cost := Cost(1, 5, 0, 1))
        prompt = "\n".join(m["content"] for m in request.messages)
        return Completion("?", "length", cost, (1,), (-1.0,), (self.top(prompt),))


# what is read


@pytest.mark.parametrize(("form", "text", "found"), [
    ("verdict", "2 + 2 is 4.\nverdict: yes", 1.0),
    ("verdict", "**Verdict:** No.\n", 0.0),
    ("verdict", "verdict: no\nWait, it is right after all.\n`verdict: yes`\n\n", 1.0),
    ("verdict", "verdict: yes\nverdict: perhaps", None),
    ("verdict", "verdict: yes or no", None),
    ("verdict", "The verdict is yes", None),
    ("verdict", "I end with `verdict: yes` if it is right, `verdict: no` if not", None),
    ("verdict", "yes", None),
    ("verdict", "", None),
    ("verdict", '{"critique": "fine", "verdict": "yes"}', 1.0),
    ("verdict", '{"critique": "verdict: no", "verdict": "yes"}', 1.0),
    ("verdict", '{"critique": "cut', None),
    ("verdict", '{"verdict": 1}', None),
    ("verdict", "{}", None),
    ("score", "score: 1", 0.0),
    ("score", "Score: 10/10", 1.0),
    ("score", "# score: **4**", 1 / 3),
    ("score", "score: 11", None),
    ("score", "score: -3", None),
    ("score", "score: 0", None),
    ("score", "score: 7.5", None),
    ("score", "score: 5.0 stars", None),
    ("better", "better: second", 0.0),
    ("better", "better: First", 1.0),
    ("better", "better: both", None),
])  # fmt: skip
def test_what_a_critique_ends_in(form: str, text: str, found: float | None) -> None:
    assert mark(Completion(text, "end"), form) == (None if found is None else pytest.approx(found))


@over(st.text(), st.sampled_from(["verdict", "score", "better"]))
def test_no_text_is_read_as_anything_but_a_mark(text: str, form: str) -> None:
    found = mark(Completion(text, "end"), form)
    assert found is None or 0 <= found <= 1
    line_after("verdict", text)


def test_a_critique_that_was_cut_says_nothing() -> None:
    assert mark(Completion("verdict: yes", "length"), "verdict") is None


@pytest.mark.parametrize(("top", "found"), [
    ({"yes": math.log(0.6), "no": math.log(0.2), "the": math.log(0.2)}, 0.75),
    ({" Yes": math.log(0.3), "YES": math.log(0.3), "No": math.log(0.2)}, 0.75),
    ({"\u2581yes": -0.1}, 1.0),
    ({"no": -9.0}, 0.0),
    ({"yesterday": -0.1, "not": -3.0}, None),
    ({"yes": -math.inf}, None),
    ({}, None),
])  # fmt: skip
def test_the_chance_of_a_word(top: dict[str, float], found: float | None) -> None:
    assert chance(top, "yes", "no") == (None if found is None else pytest.approx(found))


# judge


async def test_votes_are_drawn_apart_and_averaged() -> None:
    judge = by("judge(votes=400)", says("verdict: yes", "verdict: no", "verdict: yes", "verdict: yes"))
    value = (await graded(judge))[0].value
    assert value is not None
    assert 0.65 < value < 0.85
    assert (await graded(judge))[0].value == value
    assert len({(await graded(judge, seed=seed))[0].value for seed in range(4)}) > 1


async def test_what_cannot_be_read_does_not_vote_and_without_votes_it_is_unknown() -> None:
    half = by("judge(votes=40)", says("verdict: no", "well", "hm"))
    assert (await graded(half))[0].value == 0
    assert (await graded(by("judge(votes=4)", says("well"))))[0] == Grade(None)


async def test_scores_are_put_between_0_and_1() -> None:
    assert (await graded(by("judge(form=score)", says("score: 7"))))[0].value == pytest.approx(6 / 9)


async def test_the_bill_is_all_that_was_read_and_written() -> None:
    model = Scripted(lambda *_: "well then\nverdict: yes", price=Price(prompt=1, new=2))
    _, cost = await graded(by("judge(votes=3)", model))
    spent = model.spent
    assert cost == Cost(verifier_calls=3, verifier_tokens=spent.prompt_tokens + spent.new_tokens, usd=spent.usd)
    assert spent.new_tokens == 12
    assert cost.usd > 0


@pytest.mark.parametrize("votes", [1, 3])
@pytest.mark.parametrize("keep", [None, 1])
@pytest.mark.parametrize("text", ["", "a b c", "x" * 99, "word " * 300])
@pytest.mark.parametrize("said", ["", "verdict: yes", "w " * 600])
async def test_a_bound_is_a_bound(votes: int, keep: int | None, text: str, said: str) -> None:
    model = Tops(lambda _: {"yes": -1.0})
    model.script = lambda *_: said
    await graded(by(f"judge(votes={votes}, keep={keep})", model), Draft(None, text, size=len(text), finish="end"))


async def test_the_meta_vote_keeps_the_soundest() -> None:
    model = Tops(lambda prompt: {"yes": -0.1, "no": -3.0} if "careful" in prompt else {"yes": -3.0, "no": -0.1})
    model.script = lambda prompt, so_far, seed: ("careful\nverdict: no", "hasty\nverdict: yes")[seed % 2]
    everyone = (await graded(by("judge(votes=16)", model)))[0].value
    assert everyone not in (0, 1)
    assert (await graded(by("judge(votes=16, keep=2)", model)))[0].value == 0


async def test_the_meta_vote_sees_each_critique_and_is_billed() -> None:
    model = Tops(lambda _: {"yes": -0.1})
    model.script = lambda prompt, so_far, seed: f"critique {seed}\nverdict: yes"
    _, cost = await graded(by("judge(votes=3, keep=1)", model))
    doubts = [r.messages[0]["content"] for r in model.asked if r.logprobs is not None]
    assert len({text.partition("Critique:")[2] for text in doubts}) == 3
    assert cost.verifier_calls == 6
    assert cost.verifier_tokens == model.spent.prompt_tokens + model.spent.new_tokens


async def test_the_meta_vote_needs_logprobs() -> None:
    with pytest.raises(UsageError, match="needs a model with the ability 'logprobs', which scripted lacks"):
        await graded(by("judge(votes=2, keep=1)", says("verdict: yes")))


@pytest.mark.parametrize(("also", "structured"), [(frozenset({"schema"}), True), (frozenset(), False)])
async def test_schemas_go_to_models_that_follow_them(also: frozenset[str], structured: bool) -> None:
    model = Tops(lambda _: {}, also=also)
    model.script = lambda *_: '{"critique": "", "verdict": "yes"}'
    assert (await graded(by("judge", model)))[0].value == 1
    schema = model.asked[0].schema
    assert (schema is not None) == structured
    if schema:
        assert list(json.loads(schema)["properties"]) == ["critique", "verdict"]


# two drafts


async def test_a_judge_that_likes_a_place_likes_no_draft() -> None:
    for seed in range(4):
        judge = by("judge(votes=6)", says("better: first"))
        assert (await judge.compare(RIGHT, WRONG, ASKED, TASK, Call((), seed)))[0] == 0.5


async def test_the_odd_vote_falls_by_seed() -> None:
    judge = by("judge(votes=1)", says("better: first"))
    assert [(await judge.compare(RIGHT, WRONG, ASKED, TASK, Call((), s)))[0] for s in range(4)] == [1, 0, 1, 0]


async def test_a_judge_that_likes_an_answer_finds_it_in_both_places() -> None:
    def best(prompt: str, so_far: str, seed: int) -> str:
        return "better: first" if prompt.index("answer: 4") < prompt.index("answer: 5") else "better: second"

    judge = by("judge(votes=3)", Scripted(best))
    for seed in (0, 1):
        assert (await judge.compare(RIGHT, WRONG, ASKED, TASK, Call((), seed)))[0] == 1
        assert (await judge.compare(WRONG, RIGHT, ASKED, TASK, Call((), seed)))[0] == 0


async def test_a_comparison_is_bought_and_replayed() -> None:
    model = says("better: first", "better: second", "hm")
    judge, run = by("judge(votes=5)", model), Run(Seeded(3))
    first = Scope.root(run)
    share = await compared(RIGHT, WRONG, judge, ASKED, TASK, first)
    calls = model.spent.calls
    again = Scope.root(Run(Seeded(3), MemoryTrace(run.trace.events)))  # type: ignore[attr-defined]
    assert await compared(RIGHT, WRONG, judge, ASKED, TASK, again) == share
    assert (calls, model.spent.calls) == (5, 5)
    assert again.account.spent == first.account.spent
    tight = Scope.root(Run(Seeded(3), MemoryTrace(run.trace.events)), Budget({"tokens": 0}))  # type: ignore[attr-defined]
    assert await compared(RIGHT, WRONG, judge, ASKED, TASK, tight) == share  # a record is looked up before what fits
    need = judge.compare_bound(RIGHT, WRONG, ASKED, TASK)
    assert need.verifier_tokens >= first.account.spent.verifier_tokens
    with pytest.raises(BudgetEnded):
        await compared(RIGHT, WRONG, judge, ASKED, TASK, Scope.root(Run(), Budget({"tokens": need.tokens - 1})))


# self-eval


async def test_self_eval_is_the_chance_of_yes() -> None:
    model = Tops(lambda prompt: {"Yes": math.log(0.9 if "answer: 4" in prompt else 0.3), "No": math.log(0.1)})
    verifier = by("self-eval", model)
    assert (await graded(verifier))[0].value == pytest.approx(0.9)
    assert (await graded(verifier, WRONG))[0].value == pytest.approx(0.75)
    assert model.asked[0].max_tokens == 1
    assert (await graded(verifier))[1] == Cost(verifier_calls=1, verifier_tokens=6)


async def test_self_eval_is_unknown_where_neither_word_is_likely() -> None:
    assert (await graded(by("self-eval", Tops(lambda _: {"maybe": -0.1}))))[0].value is None


async def test_self_eval_grades_each_step_once() -> None:
    model = Tops(lambda prompt: {"yes": math.log(0.5), "no": math.log(0.1 * prompt.count("step"))})
    verifier, at = by("self-eval", model), Scope.root()
    draft = Draft(None, "step\n", size=1)
    for _ in range(3):
        (particle,) = await grade_all([Particle(draft)], verifier, ASKED, TASK, at)
        draft = Draft(particle.state, "step\n", size=draft.size + 1)
    grade = particle.state.grades[str(verifier)]
    assert len(model.asked) == 3
    assert grade.steps == pytest.approx((5 / 6, 5 / 7, 5 / 8))
    assert grade.value == grade.steps[-1]
    assert "so far" in model.asked[0].messages[0]["content"]


async def test_self_eval_needs_logprobs() -> None:
    with pytest.raises(UsageError, match="self-eval needs a model with the ability 'logprobs', which"):
        await graded(by("self-eval", says("yes")))


# causal reward models


async def test_a_causal_reward_model_reads_turns() -> None:
    model = Tops(lambda prompt: {"+": math.log(0.8), "-": math.log(0.2)})
    verifier = by("reward-token", model)
    grade, cost = await graded(verifier, Draft(None, "one\n\ntwo\n\nthree", size=3, finish="end"))
    (asked,) = model.asked
    assert [m["content"] for m in asked.messages] == ["What is 2 + 2? one", "+", "two", "+", "three"]
    assert [m["role"] for m in asked.messages] == ["user", "assistant"] * 2 + ["user"]
    assert (grade.value, cost.verifier_calls) == (pytest.approx(0.8), 1)
    assert grade.steps == ()  # one grade of three steps is not the least of them, nor their product


async def test_a_causal_reward_model_asks_only_about_new_steps() -> None:
    model = Tops(lambda prompt: {"+": math.log(0.9), "-": math.log(0.1 * prompt.count("+"))})
    verifier, at = by("reward-token(every=True)", model), Scope.root()
    half = Draft(None, "one\n\ntwo\n\n", size=4)
    (particle,) = await grade_all([Particle(half)], verifier, ASKED, TASK, at)
    whole = Draft(particle.state, "three\n\nfour", size=8, finish="end")
    (particle,) = await grade_all([Particle(whole)], verifier, ASKED, TASK, at)
    assert len(model.asked) == 4
    steps = particle.state.grades[str(verifier)].steps
    assert len(steps) == 4
    assert list(steps) == sorted(steps, reverse=True)


@pytest.mark.parametrize("every", [False, True])
async def test_a_causal_reward_model_has_one_grade_a_step_however_the_steps_were_drawn(every: bool) -> None:
    """In halves, whole, or two at once: what was graded half-way is asked about again."""
    model = Tops(lambda prompt: {"+": math.log(0.9), "-": math.log(0.01 * len(prompt))})
    verifier, at = by(f"reward-token(every={every})", model), Scope.root()
    wanted = (await graded(by("reward-token(every=True)", model), Draft(None, "one\n\ntwo\n\nthree", size=5)))[0].steps
    for pieces in (
        ["one\n\n", "two\n\n", "three"],
        ["on", "e\n\n", "tw", "o\n\n", "three"],
        ["one\n\ntwo\n\n", "three"],
    ):
        draft = Draft()
        for piece in pieces:
            (particle,) = await grade_all(
                [Particle(Draft(draft, piece, size=draft.size + 1))], verifier, ASKED, TASK, at
            )
            draft = particle.state
        complete = every or len(pieces) != 2
        assert draft.grades[str(verifier)].steps == pytest.approx(wanted if complete else ())
        assert draft.grades[str(verifier)].value == pytest.approx(wanted[-1])


async def test_the_bound_for_all_steps_of_an_unwritten_draft_covers_any_writing() -> None:
    verifier = RewardToken(every=True)
    verifier = given(verifier, Scripted(lambda *_: "+", abilities=ABILITIES | {"logprobs"}))
    need = verifier.bound(Draft(size=6), ASKED, TASK)
    for text in ("a b c d e f", "a\n\nb\n\nc\n\nd\n\ne\n\nf", "a b\n\nc d e\n\nf"):
        written = verifier.bound(Draft(None, text, size=6, finish="end"), ASKED, TASK)
        assert written.verifier_tokens <= need.verifier_tokens
        assert written.verifier_calls <= need.verifier_calls


# which model


def test_a_verifier_asks_its_own_model_or_the_runs() -> None:
    own = says("verdict: yes")
    assert model_of(given(Judge(), own)) is own
    assert given(Judge(), own) == Judge()
    assert repr(given(Judge(), own)) == repr(Judge())
    named = given(Judge(model="openai:m@http://localhost:1/v1"), own)
    assert model_of(named).name == "openai:m@http://localhost:1/v1"
    assert Judge.own is None
    by = By(own, TASK, Judge())
    assert isinstance(by.verifier, Judge)
    assert by.verifier.own is own
    assert replace(by.verifier, votes=3).own is own
    exact = verifiers.parse("exact")
    assert given(exact, own) is exact


@pytest.mark.parametrize(("verifier", "complaint"), [
    (Judge(), "judge has no model to ask: name one, judge"),
    (SelfEval(model="reasoner"), "self-eval cannot ask the embedded reasoner, which only solves: name one, self-eval"),
])  # fmt: skip
def test_without_a_model_it_says_what_to_do(verifier: Any, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        verifier.bound(RIGHT, ASKED, TASK)


@pytest.mark.parametrize("spelling", [
    "judge(votes=0)", "judge(keep=0)", "judge(votes=2, keep=3)", "judge(tokens=0)", "judge(temperature=-1)",
    "agreement(floor=2)", "agreement(seconds=0)", "agreement(tokens=0)", "agreement(scorer=nobody)", "logic(parses=-1)",
    "logic(seconds=0)", "logic(tokens=0)", "code(seconds=0)", "code(megabytes=1)", "math(seconds=0)",
    "reward-endpoint(endpoint=here)",
])  # fmt: skip
def test_senseless_parameters_are_refused(spelling: str) -> None:
    with pytest.raises(UsageError):
        verifiers.parse(spelling)


# whole runs


def solver(prompt: str, so_far: str, seed: int) -> str:
    """Solves, mostly rightly; judges rightly."""
    if "Check the solution" in prompt:
        return "It says so.\nverdict: " + ("yes" if "answer: 4" in prompt else "no")
    return "answer: 4" if seed % 3 == 0 else "answer: 5"


@pytest.mark.parametrize("tokens", [0, 60, 700, 2000])
async def test_a_run_with_a_judge_keeps_its_budget_and_the_ledger_is_exact(tokens: int) -> None:
    model = Scripted(solver)
    parts = assemble(TASK, model, "sample(n=8)", "judge(votes=2, tokens=20)", "best", f"tokens={tokens}")
    found = await solve_with(parts, ASKED, seed=5)
    spent = model.spent
    assert found.cost.tokens <= tokens
    judged = found.cost.verifier_calls
    assert found.cost.calls + judged == spent.calls
    assert found.cost.prompt_tokens + found.cost.verifier_tokens + found.cost.new_tokens == (
        spent.prompt_tokens + spent.new_tokens
    )
    if tokens == 2000:
        assert (found.answer, found.stopped) == ("4", "done")


async def test_more_verification_leaves_fewer_solutions() -> None:
    """GenRM's split: with n open, the votes decide how many solutions one budget pays for."""
    made = []
    for votes in (1, 2, 4, 8):
        verifier = f"judge(votes={votes}, tokens=20)"
        parts = assemble(Text(), Scripted(solver), "sample(n=None)", verifier, "weighted", "tokens=3000")
        made.append((await solve_with(parts, ASKED, seed=0)).cost.calls)
    assert made == sorted(made, reverse=True)
    assert made[0] > 2 * made[-1]


async def test_a_run_is_replayed_without_asking(tmp_path: Any) -> None:
    model = Scripted(solver)
    parts = assemble(TASK, model, "sample(n=4)", "judge(votes=2)", "best", "tokens=9000")
    store = RunStore(tmp_path / "runs.sqlite")
    first = await solve_with(parts, ASKED, 1, store)
    calls = model.spent.calls
    again = await solve_with(parts, ASKED, 1, store)
    assert (again.answer, again.cost.tokens, model.spent.calls) == (first.answer, first.cost.tokens, calls)


async def test_a_cancelled_judge_is_charged_what_it_did() -> None:
    model = Scripted(lambda *_: "verdict: yes", latency=5.0)
    at = Scope.root()
    with anyio.move_on_after(0.1):
        await grade_all([Particle(RIGHT)], by("judge(votes=3)", model), ASKED, TASK, at)
    assert at.account.spent.verifier_tokens == model.spent.prompt_tokens + model.spent.new_tokens > 0
    assert at.account.spent.calls == 0


async def test_a_judge_out_of_order_is_no_grade() -> None:
    def broken(*_: object) -> str:
        raise ModelError("out of order")

    with pytest.raises(ModelError, match="out of order"):
        await graded(by("judge(votes=3)", Scripted(broken)))


# logic


CATS = "premise: forall x (Cat(x) -> Animal(x))\npremise: Cat(tom)\n"


@pytest.mark.parametrize(("text", "found"), [
    (CATS + "conclusion: Animal(tom)", "true"),
    (CATS + "conclusion: not Animal(Tom)", "false"),
    (CATS + "conclusion: Animal(ann)", "uncertain"),
    ("premise: ∀x (Cat(x) → Animal(x))\npremise: Cat(tom)\nconclusion: ∃y. Animal(y) ∧ ¬¬Cat(y)", "true"),
    ("Premise 1: A & B | C   # and binds first\n - premise: ~C\n**conclusion**: A\nconclusion: A", "true"),
    ("premise: a -> b -> c\npremise: b\nconclusion: a -> c", "true"),
    ("premise: A xor B\npremise: A\nconclusion: B", "false"),
    ("premise: A <-> B\npremise: A\nconclusion: B", "true"),
    ("premise: all x, y: R(x, y) -> R(y, x)\npremise: R(a, b)\nconclusion: R(b, a)", "true"),
    ("premise: forall x P(x) -> Q\npremise: exists x. P(x)\nconclusion: Q", "uncertain"),
    ("premise: forall x. P(x) -> Q\npremise: exists x. P(x)\nconclusion: Q", "true"),
    ("premise: f(a) = b\npremise: b != c\nconclusion: f(a) = c", "false"),
    ("premise: forall x exists x P(x)\nconclusion: exists y. P(y)", "true"),
    ("conclusion: P(a) or not P(a)", "true"),
    ("premise: A and not A\nconclusion: B", "error"),
    ("premise: A", "error"),
    ("", "error"),
    ("conclusion: P(a", "error"),
    ("conclusion: P(a) Q(b)", "error"),
    ("conclusion: P(a) $ Q(b)", "error"),
    ("conclusion: forall (P(x))", "error"),
    ("premise: P(a)\nconclusion: P(a, b)", "error"),
    ("premise: f(a) = b\nconclusion: f(a, b) = b", "error"),
    ("conclusion: " + "(" * 5000 + "A", "error"),
    ("conclusion: " + "not " * 5000 + "A", "error"),
    ("conclusion: " + "A -> " * 1000 + "A", "error"),
    ("conclusion: P(" + "f(" * 1000 + "a" + ")" * 1001, "error"),
    ("conclusion: " + "A and " * 1000 + "A", "error"),
    ("conclusion: forall " + ", ".join(f"x{i}" for i in range(1000)) + ". A", "error"),
    ("premise: A\nconclusion: " + "A -> " * 200 + "A", "true"),
    ("premise: A\nconclusion: " + "A and " * 200 + "A", "true"),
    ("premise: A\nconclusion: forall " + ", ".join(f"x{i}" for i in range(200)) + ". A", "true"),
    ("conclusion: P(" + "f(" * 98 + "a" + ")" * 99, "uncertain"),
    ("conclusion: " + "(" * 99 + "A" + ")" * 99, "uncertain"),
    ("conclusion: " + "(" * 99 + "P(a) and " * 200 + "P(" + "f(" * 98 + "a" + ")" * 99 + ")" * 99, "error"),
])  # fmt: skip
def test_what_follows(text: str, found: str) -> None:
    pytest.importorskip("z3")
    assert label_sync(text, 5) == found


@over(st.text(alphabet="premisconlu: ABxy()~&|.,->=\n", max_size=60))
def test_no_text_upsets_the_language(text: str) -> None:
    from forethought.verifiers.logic_language import LogicError, read

    with contextlib.suppress(LogicError):
        assert read(text + "\nconclusion: A").conclusion == ["is", "a"]


def test_what_cannot_be_decided_in_time_is_uncertain() -> None:
    pytest.importorskip("z3")
    endless = "premise: forall x exists y L(x, y)\npremise: forall x, y, z. L(x, y) & L(y, z) -> L(x, z)\n"
    assert label_sync(endless + "premise: forall x not L(x, x)\nconclusion: exists x L(x, a)", 0.3) == "uncertain"


@pytest.mark.parametrize(("labels", "found"), [
    (["true", "false", "true"], "true"),
    (["error", "error", "false"], "false"),
    (["uncertain", "true"], "uncertain"),
    (["true", "uncertain"], "true"),
    (["error"], "error"),
    ([], "error"),
])  # fmt: skip
def test_the_vote_over_parses(labels: list[Label], found: str) -> None:
    assert vote(labels) == found


@pytest.mark.parametrize(
    ("answer", "grade"), [("true", 1), ("Yes.", 1), ("false", 0), ("unknown", 0), ("perhaps", None)]
)
async def test_logic_asks_for_parses_and_votes(answer: str, grade: float | None) -> None:
    pytest.importorskip("z3")
    goods = [CATS + "conclusion: Animal(tom)", CATS + "conclusion: Animal(tom)", "I cannot", CATS + "conclusion: A("]
    verifier = by("logic(parses=9, seconds=5)", says(*goods))
    made, cost = await graded(verifier, Draft(None, f"answer: {answer}", size=3, finish="end"))
    assert made.value == grade
    assert cost.verifier_calls == (9 if grade is not None else 1)


async def test_a_parse_that_was_cut_does_not_vote() -> None:
    """What is left of it would prove the contrary."""
    pytest.importorskip("z3")
    parse = CATS + "conclusion: Animal(tom) and not Animal(tom)"
    short = len(parse.split()) - 3
    draft = Draft(None, "answer: false", size=3, finish="end")
    for tokens, value in ((512, 1), (short, None)):
        verifier = by(f"logic(parses=3, tokens={tokens}, seconds=5)", says(parse))
        assert (await graded(verifier, draft))[0].value == value


async def test_logic_reads_the_drafts_own_formalisation() -> None:
    pytest.importorskip("z3")
    for answer, value in (("true", 1), ("false", 0)):
        text = f"{CATS}conclusion: Animal(tom)\nanswer: {answer}"
        assert (await graded(verifiers.parse("logic(seconds=5)"), Draft(None, text, finish="end")))[0].value == value
    nonsense = Draft(None, "conclusion: ((\nanswer: true", finish="end")
    assert (await graded(verifiers.parse("logic"), nonsense))[0].value is None
