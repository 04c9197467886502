"""One solve: an anytime answer, an honest bill, and refusals before anything is spent."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import forethought
from forethought.core.cost import Cost
from forethought.core.errors import ModelError, UsageError
from forethought.core.problem import Problem
from forethought.core.store import RunStore
from forethought.methods.sample import Sample
from forethought.models.scripted import Scripted
from forethought.parts import DEFAULT_BUDGET
from forethought.solving import Solution
from forethought.tasks import GENERATED, Task
from forethought.tasks.chain import Chain
from tests.toy import TableVerifier

pytestmark = pytest.mark.anyio
CHAIN = Problem("chain 48\n1) -5\n", "43", "chain/1/test/0", 1)


def guess(prompt: str, so_far: str, seed: int) -> str:
    """Right in seven cases of eight."""
    return "1) 48-5=43\nanswer: 43".removeprefix(so_far) if seed % 8 else "1) 48-5=44\nanswer: 44".removeprefix(so_far)


def model(script: Callable[[str, str, int], str] = guess, **how: Any) -> Scripted:
    return Scripted(script, **how)


class Nothing(TableVerifier):
    """Likes no draft."""

    async def grade(self, draft: Any, problem: Any, task: Any, call: Any) -> Any:
        from forethought.core.draft import Grade

        return Grade(0.0), Cost(verifier_calls=1)


class Letters(TableVerifier):
    """Knows right from wrong, nearly."""

    async def grade(self, draft: Any, problem: Any, task: Any, call: Any) -> Any:
        from forethought.core.draft import Grade

        return Grade(0.9 if "43" in draft.text else 0.2), Cost(verifier_calls=1, verifier_tokens=1)


async def solve(problem: str | Problem = CHAIN, **how: Any) -> Solution:
    return await forethought.solve(problem, **({"model": model()} | how))


# what comes back


async def test_a_solution() -> None:
    script = model()
    found = await solve(model=script, method="sample(n=9)")
    assert (found.answer, found.text, found.stopped) == ("43", "1) 48-5=43\nanswer: 43", "done")
    assert 0.3 < found.confidence < 1
    assert found.cost._replace(seconds=0.0) == script.spent._replace(critical_tokens=found.cost.critical_tokens)
    assert found.cost.calls == len(found.population) == 9
    assert found.spec["budget"] == "tokens=16000,seconds=120" == str(DEFAULT_BUDGET)
    assert (found.spec["selection"], found.spec["verifier"], found.oracle) == ("majority", None, False)
    assert found.as_json()["ranked"][0] == {"answer": "43", "probability": found.confidence}


async def test_with_a_verifier_votes_are_weighted() -> None:
    found = await solve(verifier=Letters(), method="sample(n=9)")
    assert found.spec["selection"] == "weighted(steps='last', combine='sum')"
    assert found.cost.verifier_calls == 9
    plain = await solve(method="sample(n=9)")
    assert found.answer == plain.answer == "43"
    assert found.confidence > plain.confidence


@pytest.mark.parametrize(("method", "select"), [
    ("greedy", "first"), ("sample(n=8)", "majority"), ("sample(n=8)", "best"), ("beam(width=2, expand=3)", "best"),
    ("particle-filter(n=8)", "weighted"), ("particle-filter-published(n=4)", "majority"),
])  # fmt: skip
def test_the_same_on_asyncio_and_on_trio(method: str, select: str) -> None:
    async def run(seed: int = 4) -> Solution:
        return await solve(verifier=Letters(), method=method, select=select, budget="tokens=300", seed=seed)

    first, again, trio = (anyio.run(run, backend=backend) for backend in ("asyncio", "asyncio", "trio"))
    jsons = [found.as_json() | {"cost": found.cost._replace(seconds=0.0)} for found in (first, again, trio)]
    assert jsons[0] == jsons[1] == jsons[2]
    assert [p.state.text for p in first.population] == [p.state.text for p in trio.population]


def test_the_sync_door() -> None:
    assert forethought.solve_sync(CHAIN, model=model(), method="greedy", seed=2).answer in ("43", "44")


async def test_oracles_are_marked() -> None:
    assert (await solve(verifier="exact", select="best")).oracle
    countdown = Problem("countdown 5 5 = 1\n", name="countdown/1")
    found = await solve(countdown, model=model(lambda prompt, so_far, seed: "5/5=1 | 1"), verifier="exact")
    assert (found.answer, found.oracle) == ("5/5", False)


async def test_a_text_of_a_task_is_told_from_its_form() -> None:
    assert (await solve("chain 48\n1) -5")).spec["task"] == "chain"
    assert (await solve("chain of thought")).spec["task"] == "text"
    assert (await solve("chain 48\n1) -5\n", task="text")).spec["task"] == "text"
    assert (await solve(Problem("?"))).spec["task"] == "text"
    assert (await solve(Problem("chain 48\n1) -5\n"))).spec["task"] == "chain"
    assert (await solve(Problem("chain 48\n1) -5"))).spec["task"] == "chain"


# limits


@pytest.mark.parametrize("name", ["flops", "kv_reads"])
async def test_a_limit_on_what_the_model_does_not_count_is_refused(name: str) -> None:
    script = model()
    told = f"^scripted does not count {name}, so no budget can limit it; it can limit tokens, calls, prompt_tokens, "
    with pytest.raises(UsageError, match=told) as caught:
        await solve(model=script, budget=f"tokens=100,{name}=5")
    assert not {"flops", "kv_reads", "usd"} & set(str(caught.value).partition("it can limit ")[2].split(", "))
    assert script.spent == Cost()


# notes


async def test_texts_without_short_answers_are_noted() -> None:
    found = await solve("hi", model=model(lambda prompt, so_far, seed: f"hello {seed}"), method="sample(n=3)")
    (note,) = found.notes
    assert "no draft states a short answer" in note
    assert found.confidence == pytest.approx(1 / 3)
    for answer in ("answer: 5", r"\boxed{5}"):
        short = await solve(
            "hi", model=model(lambda prompt, so_far, seed, a=answer: f"{seed}\n{a}"), method="sample(n=3)"
        )  # type: ignore[misc]
        assert (short.answer, short.confidence, short.notes) == ("5", pytest.approx(1), [])


class Failing(Letters):
    """Fails at some drafts."""

    async def grade(self, draft: Any, problem: Any, task: Any, call: Any) -> Any:
        if call.seed % 4 == 0:
            raise ModelError("the verifier failed")
        return await super().grade(draft, problem, task, call)


FAILING_GRADES = [
    "sample(n=12)", "first-finish(n=12)", "beam", "dvts", "rebase", "a-star(path=drops)", "best-first", "mcts",
    "mcts(rollout=False)", "ab-mcts-a(batch=4)", "particle-filter", "metropolis-hastings",
]  # fmt: skip


@pytest.mark.parametrize("method", FAILING_GRADES)
async def test_a_draft_whose_grading_fails_is_dropped_wherever_it_is_graded(method: str) -> None:
    asked: dict[str, Any] = {"method": method, "verifier": Failing(), "select": "best", "budget": "tokens=1000000"}
    found = await solve(model=model(), **asked, failures="drop")
    failed = [e for e in found.trace.events if e.kind == "grade failed"]  # type: ignore[attr-defined]
    assert failed
    assert f"{len(failed)} failed drafts were dropped" in found.notes
    with pytest.raises(ModelError, match="the verifier failed"):
        await solve(model=model(), **asked)


@pytest.mark.parametrize("method", ["sample(n=4)", "first-finish(n=4)", "greedy"])
@pytest.mark.parametrize("verifier", [
    "self-eval", "reward-token", "judge(votes=2, keep=1)", "noisy(of='self-eval')",
    "agreement(scorer='self-eval', sandbox=plain)", "code(tests='/nowhere', sandbox=plain)",
])  # fmt: skip
async def test_what_a_verifier_needs_is_found_out_before_anything_is_spent(method: str, verifier: str) -> None:
    script = model()
    with pytest.raises(UsageError, match=r"'logprobs', which scripted lacks|cannot read the tests"):
        await solve(model=script, method=method, verifier=verifier, select="best")
    assert script.spent.calls == 0


async def test_dropped_drafts_are_noted() -> None:
    def fails(prompt: str, so_far: str, seed: int) -> str:
        if seed % 5 == 0:
            raise ModelError("not now")
        return guess(prompt, so_far, seed)

    found = await solve(model=model(fails), method="sample(n=12)", failures="drop")
    missing = 12 - len(found.population)
    assert missing > 0
    assert found.notes == [f"{missing} failed drafts were dropped"]
    with pytest.raises(ModelError, match="not now"):
        await solve(model=model(fails), method="sample(n=12)")
    (many,) = await forethought.solve_many([CHAIN], model=model(fails), method="sample(n=12)", failures="drop")
    assert len(many.population) < 12


@pytest.mark.parametrize(("verifier", "select", "noted"), [
    ("code(sandbox=plain)", "best", True), ("agreement(sandbox=plain)", "best", True),
    ("code(sandbox=plain)", "majority", False), ("exact", "best", False),
])  # fmt: skip
async def test_a_sandbox_without_walls_is_noted(verifier: str, select: str, noted: bool) -> None:
    problem = Problem("Add.", "assert 1 + 1 == 2")
    by = {"model": model(lambda prompt, so_far, seed: "```python\nprint(2)\n```\nanswer: 2"), "verifier": verifier}
    found = await solve(problem, method="sample(n=2)", select=select, **by)
    kind = verifier.partition("(")[0]
    weaker = f"{kind} ran programs with sandbox=plain, which is weaker: no walls, only limits"
    assert found.notes == ([weaker] if noted else [])


# budgets


@pytest.mark.parametrize(
    "method", ["sample(n=None)", "sample(n=400)", "beam(width=4, expand=8)", "particle-filter(n=8)"]
)
async def test_when_the_time_is_over_it_answers_from_what_it_has(method: str) -> None:
    def slow(prompt: str, so_far: str, seed: int) -> str:
        time.sleep(0.002)
        return guess(prompt, so_far, seed)

    began = time.perf_counter()
    found = await solve(model=model(slow), verifier=Letters(), method=method, budget="seconds=0.25,tokens=4000")
    assert time.perf_counter() - began < 1.5
    assert found.cost.seconds < 1
    if found.stopped == "budget" and any(p.state.finished for p in found.population):
        assert found.answer in ("43", "44")


async def test_a_model_that_hangs_is_left() -> None:
    began = time.perf_counter()
    found = await solve(model=model(latency=60), budget="seconds=0.1")
    assert time.perf_counter() - began < 2
    assert (found.stopped, found.answer, found.text, found.confidence) == ("budget", None, None, 0.0)
    assert found.cost.calls == 16


async def test_finished_drafts_count_when_the_others_hang() -> None:
    class Hanging(Scripted):
        async def extend(self, request: Any, call: Any) -> Any:
            if call.seed % 2:
                await anyio.sleep_forever()
            return await super().extend(request, call)

    found = await solve(model=Hanging(guess), method="sample(n=16)", budget="seconds=0.2")
    assert found.stopped == "budget"
    assert found.answer == "43"


@pytest.mark.parametrize("tokens", [0, 1, 3, 4, 10, 30, 95])
async def test_no_token_budget_is_overrun(tokens: int) -> None:
    script = model()
    found = await solve(model=script, method="sample(n=40)", budget=f"tokens={tokens}")
    assert script.spent.new_tokens == found.cost.new_tokens <= tokens
    assert found.stopped == "budget"
    assert (found.answer is None) == (tokens < 4)


async def test_a_budget_that_ends_in_the_grading_says_so() -> None:
    found = await solve(verifier=Letters(), method="greedy", select="best", budget="verifier_calls=0")
    assert (found.stopped, found.cost.calls, found.cost.verifier_calls) == ("budget", 1, 0)
    assert found.answer in ("43", "44")


async def test_a_budget_in_calls_or_dollars() -> None:
    from forethought.models.price import Price

    found = await solve(method="sample(n=40)", budget="calls=7")
    assert (found.cost.calls, found.stopped) == (7, "budget")
    paid = await solve(model=model(price=Price(new=10_000.0)), method="sample(n=40)", budget="usd=1")
    assert 0.01 < paid.cost.usd <= 1
    assert paid.stopped == "budget"


# refusals


@pytest.mark.parametrize(("how", "complaint"), [
    ({"method": "besm"}, "did you mean 'beam'"),
    ({"select": "bset"}, "did you mean 'best'"),
    ({"verifier": "exakt"}, "did you mean 'exact'"),
    ({"task": "chian"}, "did you mean 'chain'"),
    ({"budget": "token=3"}, "no budget entry 'token'"),
    ({"method": "beam", "verifier": "exact"}, "exact grades whole drafts only"),
    ({"problem": "hi", "method": "beam"}, "none was given"),
    ({"problem": "hi", "select": "best"}, "add --verifier"),
    ({"problem": "hi", "task": "chain"}, "this is no chain problem"),
    ({"problem": Problem("hi", name="countdown/1")}, "this is no countdown problem"),
    ({"problem": Problem("hi"), "task": "procedure"}, "this is no procedure problem"),
    ({"problem": " "}, "the problem is empty"),
    ({"failures": "ignore"}, "failures is fail or drop, not 'ignore'"),
    ({"method": "sample(n=None)", "budget": "seconds=3"}, "needs a budget in tokens or calls"),
    ({"budget": {"tokens": 100}}, "a budget is a text such as 'tokens=2000,seconds=10', or a Budget, not {'tokens': 100}"),
    ({"budget": 100}, "or a Budget, not 100"),
    ({"problem": None}, "a problem is a text or a Problem, not None"),
    ({"method": 3}, "a method is given by its spelling or as an object, not 3"),
    ({"method": Sample}, "a method is given by its spelling or as an object, not <class"),
    ({"model": 3}, "a model is given by its spelling or as an object, not 3"),
    ({"select": 3}, "a selection is given by"),
    ({"verifier": 3}, "a verifier is given by"),
    ({"task": 3}, "a task is given by"),
    *(({"seed": seed}, f"a seed is a whole number, not {seed!r}") for seed in ("a", 1.5, None, True)),
    ({"problem": "what?", "verifier": "exact"}, "exact looks at the reference, and this problem of the task text has none"),
    ({"problem": "what?", "verifier": "noisy"}, "noisy looks at the reference"),
    ({"problem": "what?", "verifier": "process"}, "the shipped reward model grades only the tasks chain, "),
    ({"problem": "what?", "verifier": "noisy(of=process)"}, r"process\(path=...\) with a model of your own, judge or reward-"),
])  # fmt: skip
async def test_what_cannot_work_is_refused_before_anything_is_spent(
    how: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    script, file = model(), tmp_path / "runs.sqlite"
    with pytest.raises(UsageError, match=complaint) as caught:
        await solve(**({"model": script, "store": file} | how))
    assert script.spent == Cost()
    assert "\n" not in str(caught.value)
    assert not RunStore(file).runs()


async def test_a_model_without_an_ability_is_refused() -> None:
    script = model(abilities=("extend",))
    with pytest.raises(
        UsageError, match="beam needs a model with the ability 'continue', which scripted lacks; the local"
    ):
        await solve(model=script, verifier=Letters(), method="beam")
    assert script.spent == Cost()
    assert (await solve(model=script)).answer == "43"


def test_importing_costs_nothing_and_names_what_there_is() -> None:
    assert set(forethought.__all__) <= set(dir(forethought))
    assert all(getattr(forethought, name) for name in forethought.__all__)
    with pytest.raises(AttributeError, match="no attribute 'sovle'"):
        _ = forethought.sovle  # type: ignore[attr-defined]


class SlowToLoad(Scripted):
    """Reads its files for a while."""

    def load(self) -> None:
        time.sleep(0.4)


async def test_the_clock_starts_when_models_are_loaded() -> None:
    found = await solve(model=SlowToLoad(guess), method="sample(n=4)", budget="seconds=0.3")
    assert found.stopped == "done"
    assert found.cost.seconds < 0.3


async def test_files_that_cannot_be_read_are_found_out_before_anything_is_recorded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no model folder"):
        await solve(model=f"local:{tmp_path}", store=tmp_path / "runs.sqlite")
    script = model()
    with pytest.raises(UsageError, match="is not there"):
        await solve(model=script, method="beam", verifier="process(path='/nowhere')", store=tmp_path / "runs.sqlite")
    assert script.spent == Cost()
    assert not RunStore(tmp_path / "runs.sqlite").runs()


# stores


async def test_a_stored_solution_is_not_bought_again(tmp_path: Path) -> None:
    script, file = model(), tmp_path / "runs.sqlite"
    first = await solve(model=script, store=file)
    spent = script.spent
    again = await solve(model=script, store=str(file))
    assert script.spent == spent
    assert again.as_json()["ranked"] == first.as_json()["ranked"]
    assert again.cost == first.cost
    other = await solve(model=script, store=file, seed=1)
    assert (first.run, again.run, other.run) == (1, 1, 2)
    assert [found.recorded for found in (first, again, other)] == [False, True, False]
    assert again.as_json() == first.as_json() | {"recorded": True}
    with pytest.raises(KeyError):  # what is done stays so, whatever becomes of a replay
        await solve(model=script, store=file, method="sample(n=16)", task=Unreadable())
    assert [row.status for row in RunStore(file).runs()] == ["done", "done"]


class Leaving(Scripted):
    """An endpoint that may be gone, and files that are read once."""

    here = True
    probing = Cost()

    async def prepare(self) -> None:
        if not self.here:
            raise UsageError("connection refused")

    def owed(self) -> Cost:
        return Cost()

    def load(self) -> None:
        assert self.here


async def test_a_run_that_is_done_is_read_when_its_endpoint_is_gone(tmp_path: Path) -> None:
    script, file = Leaving(guess), tmp_path / "runs.sqlite"
    first = await solve(model=script, store=file)
    script.here = False
    assert (await solve(model=script, store=file)).as_json() == first.as_json() | {"recorded": True}
    with pytest.raises(UsageError, match="connection refused"):
        await solve(model=script, store=file, seed=1)
    assert len(RunStore(file).runs()) == 1


async def test_problems_that_differ_in_anything_are_other_runs(tmp_path: Path) -> None:
    pairs = [("a|reference=b", "c"), ("a", "b|reference=c"), ("a", 1), ("a", "1"), ("a", None), ("a", "None")]
    found = [await solve(Problem(*pair), task="text", store=tmp_path / "runs.sqlite") for pair in pairs]
    assert [one.run for one in found] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("reference", [frozenset({1}), (1, 2), 1j])
async def test_a_reference_that_a_store_cannot_keep_is_refused(tmp_path: Path, reference: Any) -> None:
    with pytest.raises(
        UsageError, match="a store keeps references that are a text, a number, True, False or None, not"
    ):
        await solve(Problem("a", reference), store=tmp_path / "runs.sqlite")
    assert (await solve(Problem("a", reference))).run is None


async def test_a_run_of_an_earlier_version_goes_on_under_its_key(tmp_path: Path) -> None:
    """Keys were once the entries of the spec joined by bars."""
    script, file = model(), tmp_path / "runs.sqlite"
    first = await solve(model=script, store=file)
    with RunStore(file) as store:
        old = "|".join(f"{name}={value}" for name, value in sorted(store.run(1).spec.items()))
        store._db.execute("UPDATE runs SET key = ?", (old,))
    assert (await solve(model=script, store=file)).as_json() == first.as_json() | {"recorded": True}


@pytest.mark.parametrize(("text", "how", "why"), [
    ("answer: 5", {"budget": "tokens=0"}, "nothing was drawn"),
    ("not yet " * 40, {"budget": "tokens=9", "method": "greedy"}, "no draft was finished"),
    ("", {}, "no finished draft states an answer that can be read"),
    ("answer: 5", {"verifier": Nothing()}, "drafts were finished, but weighted found no answer with a grade above 0 of "),
    ("answer: 5", {"select": "abstain(threshold=1.0)", "model": "two"}, "drafts were finished, but abstain found no answer "),
])  # fmt: skip
async def test_why_there_is_no_answer_is_noted(text: str, how: dict[str, Any], why: str) -> None:
    def says(prompt: str, so_far: str, seed: int) -> str:
        return f"answer: {seed}" if "model" in how else text

    found = await solve("hi", **{"method": "sample(n=3)", **how, "model": model(says)})
    assert found.answer is None
    assert found.notes[0].startswith(why)
    assert found.as_json()["notes"] == found.notes


class Unreadable(Chain):
    def answer(self, text: str, problem: Problem) -> str | None:
        raise KeyError(text)


class Here(Scripted):
    """Runs here, on files that others may take the place of."""

    weights = "a hash"


async def test_other_weights_make_another_run(tmp_path: Path) -> None:
    old, new = Here(guess), Here(lambda prompt, so_far, seed: "answer: 7")
    new.weights = "another"
    found = [await solve(model=script, store=tmp_path / "runs.sqlite") for script in (old, new, old, new)]
    assert [(one.run, one.recorded, one.answer) for one in found] == [
        (1, False, "43"), (2, False, "7"), (1, True, "43"), (2, True, "7"),
    ]  # fmt: skip
    told = ["run 1 asked the same of a model with other weights, so this run is a new one"]
    assert [one.notes for one in found] == [[], told, [], []]  # said once, of what was there before
    elsewhere = await solve(model=new, store=tmp_path / "runs.sqlite", seed=1)
    assert elsewhere.notes == []


async def test_a_run_that_failed_is_tried_again(tmp_path: Path) -> None:
    down = [True]

    def moody(prompt: str, so_far: str, seed: int) -> str:
        if down[0] and seed % 3 == 0:
            raise ModelError("not now")
        return guess(prompt, so_far, seed)

    script, file = model(moody), tmp_path / "runs.sqlite"
    with pytest.raises(ModelError, match="not now"):
        await solve(model=script, store=file)
    assert RunStore(file).runs()[0].status == "interrupted"
    down[0] = False
    found = await solve(model=script, store=file)
    assert (found.answer, len(found.population)) == ("43", 16)
    assert RunStore(file).runs()[0].status == "done"


def test_tasks_are_protocols() -> None:
    tasks: list[Task] = list(GENERATED.values())
    assert all(task.step_tokens <= task.draft_tokens for task in tasks)
