"""The backend for OpenAI-compatible endpoints against llama.cpp's own server, with a real model."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import fields, replace
from pathlib import Path

import anyio
import httpx2
import pytest

from forethought.core.budget import Budget
from forethought.core.draft import Draft
from forethought.core.population import Particle
from forethought.core.problem import Problem
from forethought.core.scope import Call, Scope
from forethought.methods import By, methods
from forethought.models import pull
from forethought.models.extend import extend
from forethought.models.openai import OpenAI
from forethought.models.openai_dialect import Dialect
from forethought.models.protocol import Request
from forethought.selection import selections
from forethought.solving import Parts, solve_with
from forethought.tasks import GENERATED, TASKS
from forethought.tasks.text import Text
from forethought.verifiers import grade_all, verifiers
from forethought.verifiers.asking import given
from forethought.verifiers.judge import mark, schema_of
from forethought.verifiers.reward_token import RewardToken
from forethought.verifiers.self_eval import question

pytest.importorskip("xllamacpp")
pytestmark = pytest.mark.anyio
COUNT = ({"role": "user", "content": "Write the numbers from one to ten as words, one a line."},)
HALF = Draft(None, "one\ntwo\n")
STORY = ({"role": "user", "content": "Write a long story about a bear."},)


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    """The address of a llama.cpp server with SmolLM2-135M, in a process of its own."""
    gguf = pull.path() or pull.smollm2(progress=False)
    script = Path(__file__).with_name("llama_server.py")
    with subprocess.Popen(
        [sys.executable, str(script), str(gguf)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.kill()


@pytest.fixture(scope="module")
def shared(llama: str) -> OpenAI:
    return OpenAI("smollm2", llama)


@pytest.fixture
async def model(shared: OpenAI) -> AsyncIterator[OpenAI]:
    """One model, probed once, in an event loop after another."""
    async with shared:
        await shared.prepare()
        yield shared
        shared.dialect = replace(shared.dialect or Dialect(), continuing="flag")


async def test_the_probe(llama: str) -> None:
    async with OpenAI("smollm2", llama) as model:
        at = Scope.root()
        await model.prepare()
        done = await extend(model, Request(STORY, max_tokens=1), at)
        assert model.abilities == {"extend", "continue", "logprobs", "seed", "schema"}
        assert model.dialect is not None
        assert model.dialect.continuing == "flag"
        assert not model.dialect.keeps_stops
        assert done.cost.calls == 8  # the seven of the probe among them
        assert done.cost.new_tokens < 72  # 24 of them at most for the schema
        assert at.account.spent.new_tokens == done.cost.new_tokens


@pytest.mark.parametrize("way", ["flag", "prefill", "apply-template"])
async def test_it_goes_on_step_by_step_in_every_way(model: OpenAI, way: str) -> None:
    assert model.dialect is not None
    model.dialect = replace(model.dialect, continuing=way)  # type: ignore[arg-type]
    draft, request = HALF, Request(COUNT, max_tokens=8, stop=("\n",), temperature=0.0)
    for word in ("three\n", "four\n", "five\n"):
        done = await model.extend(replace(request, draft=draft), Call((), 1))
        assert (done.text, done.finish) == (word, "stop")
        draft = Draft(draft, done.text)


async def test_a_stop_is_told_from_the_end(model: OpenAI) -> None:
    asked = Request(({"role": "user", "content": "Say hi"},), Draft(None, "Hi! How can I help you today?"), 8, ("\n",))
    end = await model.extend(replace(asked, temperature=0.0), Call((), 1))
    assert (end.text, end.finish) == ("", "end")
    stop = await model.extend(Request(COUNT, Draft(None, "one\ntwo\nthree"), 8, ("!", "\n"), 0.0), Call((), 1))
    assert (stop.text, stop.finish) == ("\n", "stop")
    length = await model.extend(Request(COUNT, HALF, 2, temperature=0.0), Call((), 1))
    assert (length.text, length.finish, length.cost.new_tokens) == ("three\n", "length", 2)


async def test_seeds(model: OpenAI) -> None:
    texts = [(await model.extend(Request(STORY, max_tokens=12), Call((), seed))).text for seed in (2**62, 2**62, 3, 4)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


async def test_logprobs(model: OpenAI) -> None:
    done = await model.extend(Request(STORY, max_tokens=5, logprobs=3), Call((), 1))
    assert len(done.logprobs) == len(done.top) == 5
    assert all(logprob <= 0 for logprob in done.logprobs)
    assert all(len(top) == 3 for top in done.top)


async def test_the_ledger_is_the_count_of_the_server(llama: str) -> None:
    before = counted(llama)
    at = Scope.root()
    async with OpenAI("smollm2", llama) as model, anyio.create_task_group() as group:
        await model.prepare()
        for child in at.fork(12):
            group.start_soon(extend, model, Request(STORY, max_tokens=6), child)
    spent, after = at.account.spent, counted(llama)
    assert spent.new_tokens == after["tokens_predicted"] - before["tokens_predicted"]
    assert spent.prompt_tokens - spent.cached_tokens == after["prompt_tokens"] - before["prompt_tokens"]


async def test_cancelling_ends_the_work_on_the_server(model: OpenAI, llama: str) -> None:
    call = Call((), 5)
    await model.extend(Request(STORY, max_tokens=1), call)
    with anyio.move_on_after(1.5):
        await model.extend(Request(STORY, max_tokens=2000), call)
    assert call.so_far is not None
    assert 0 < call.so_far.new_tokens < 1000
    await anyio.sleep(0.5)
    assert not any(slot["is_processing"] for slot in httpx2.get(f"{llama.removesuffix('/v1')}/slots").json())


def counted(llama: str) -> dict[str, int]:
    """The totals of the server since it began: `tokens_predicted` and `prompt_tokens` (those it had to read)."""
    text = httpx2.get(f"{llama.removesuffix('/v1')}/metrics").text
    return {name: int(value) for name, value in re.findall(r"^llamacpp:(\w+)_total (\d+)$", text, re.MULTILINE)}


ON_TRIO = pytest.param("trio", marks=pytest.mark.slow)  # that the two agree is shown where no server is needed
FEW = {"n": 4, "width": 2, "expand": 2, "chains": 2}


@pytest.mark.parametrize("anyio_backend", ["asyncio", ON_TRIO])
@pytest.mark.parametrize("name", sorted(methods))
async def test_every_method_runs_against_it(name: str, model: OpenAI) -> None:
    """Within its budget, with the ledger at what the server says that it did."""
    task = GENERATED["chain"]
    by = By(model, task, verifiers.parse("process"))
    known = {field.name for field in fields(methods[name])}
    method = methods[name](**{name: few for name, few in FEW.items() if name in known})
    selection = selections.parse("best" if "process" in method.needs else "majority")
    solution = await solve_with(Parts(by, method, selection, Budget({"tokens": 160})), task.problem(2, 0), seed=1)
    assert solution.cost.new_tokens > 0
    assert solution.cost.tokens <= 160
    assert solution.stopped in ("done", "budget")


class Short(Text):
    """Texts of a few lines."""

    step_break, step_tokens, draft_tokens, max_steps = "\n", 16, 40, 6


STOPPING = [
    "adaptive-self-consistency(n=4, window=2)", "beta-self-consistency(n=4, window=2)", "first-finish(n=3, k=1)",
    "multi-temperature(n=4, temperatures=2, batch=1)", "semantic-entropy(n=2, rounds=3, shown=True)",
    "hint-marginalization(n=3, rounds=1)", "fractured(n=2, cuts=2)", "confidence-stop(n=2, runs=1, threshold=0.5)",
    "budget-forcing(n=2, most=12, end='10')",
]  # fmt: skip


@pytest.mark.parametrize(
    "spelling",
    ["eager(n=2, entropy=1.0, patience=6)", *(pytest.param(each, marks=pytest.mark.slow) for each in STOPPING)],
)
async def test_sampling_that_knows_when_to_stop_runs_over_http(model: OpenAI, spelling: str) -> None:
    """Also where it is the server's tokens, its probabilities and its way of going on that decide."""
    problem = Problem("Hello! Greet me with one short sentence.")
    parts = Parts(By(model, Short()), methods.parse(spelling), selections.parse("majority"), Budget({"tokens": 600}))
    found = await solve_with(parts, problem, 0)
    assert found.population
    assert 0 < found.cost.new_tokens <= 600
    assert found.stopped == "done"
    assert any(p.state.finished for p in found.population)


# verifiers that ask it


DRAFT = Draft(None, "two and two make four\nanswer: 4", size=12, finish="end")
SUM = Problem("What is 2 + 2?")


async def test_self_eval_reads_what_the_server_tells(model: OpenAI, llama: str) -> None:
    """The same question in raw HTTP: the grade is the chance of yes among the alternatives that it lists."""
    await model.extend(Request(STORY, max_tokens=1), Call((), 1))  # pays for the probe
    verifier = given(verifiers.parse("self-eval"), model)
    grade, cost = await verifier.grade(DRAFT, SUM, TASKS["text"], Call((), 1))
    asked = question(SUM.text, DRAFT, "yes", "no")
    body = {"messages": asked.messages, "max_tokens": 1, "logprobs": True, "top_logprobs": 20, "temperature": 1.0}
    raw = httpx2.post(f"{llama}/chat/completions", json=body, timeout=60).json()
    told = raw["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    mass = {"yes": 0.0, "no": 0.0}
    for entry in told:
        word = entry["token"].strip().lower()
        mass[word] = mass.get(word, 0.0) + math.exp(entry["logprob"])
    assert grade.value == pytest.approx(mass["yes"] / (mass["yes"] + mass["no"]), abs=0.01)
    assert cost.verifier_tokens == raw["usage"]["prompt_tokens"] + 1


@pytest.mark.parametrize("anyio_backend", ["asyncio", ON_TRIO])
@pytest.mark.parametrize("form", ["verdict", "score"])
async def test_a_judge_gets_marks_that_it_can_read(form: str, model: OpenAI, llama: str) -> None:
    """By a schema, even from a tiny model; and it is billed what the server counted."""
    await model.extend(Request(STORY, max_tokens=1), Call((), 1))  # pays for the probe
    verifier = given(verifiers.parse(f"judge(votes=3, form={form}, tokens=120)"), model)
    before = counted(llama)
    at = Scope.root()
    (particle,) = await grade_all([Particle(DRAFT)], verifier, SUM, TASKS["text"], at)
    after = counted(llama)
    value = particle.state.grades[str(verifier)].value
    assert value is None or any(abs(value - k / 54) < 1e-9 for k in range(55))
    written = after["tokens_predicted"] - before["tokens_predicted"]
    read = after["prompt_tokens"] - before["prompt_tokens"]
    assert at.account.spent.verifier_calls == 3
    assert at.account.spent.verifier_tokens >= written + read
    assert at.account.spent.calls == 0


async def test_a_mark_by_schema_is_read(model: OpenAI) -> None:
    """One critique, as the server makes it under the schema: valid JSON unless it was cut."""
    asked = Request(COUNT, max_tokens=300, schema=schema_of("verdict"))
    answer = await model.extend(asked, Call((), 3))
    assert answer.text.lstrip().startswith("{")
    assert (mark(answer, "verdict") is None) == (answer.finish == "length")


async def test_two_drafts_are_compared(model: OpenAI) -> None:
    verifier = given(verifiers.parse("judge(votes=2, tokens=120)"), model)
    share, cost = await verifier.compare(DRAFT, Draft(None, "answer: 5", finish="end"), SUM, TASKS["text"], Call((), 1))
    assert share in (None, 0.0, 0.5, 1.0)
    assert cost.verifier_calls == 2
    assert cost.verifier_tokens <= verifier.compare_bound(DRAFT, DRAFT, SUM, TASKS["text"]).verifier_tokens


async def test_a_reward_token_is_read(model: OpenAI) -> None:
    """This model knows nothing of + and -, so two words stand for them that it is likely to say."""
    (asked,) = RewardToken()._requests(DRAFT.text, SUM, TASKS["text"], 0)
    (top,) = (await model.extend(asked, Call((), 1))).top
    chances = dict[str, float]()
    for piece, logprob in top.items():
        word = piece.strip().lower()
        chances[word] = chances.get(word, 0.0) + math.exp(logprob)
    good, bad = [word for word in chances if word.isalpha() and word.isascii()][:2]
    verifier = given(RewardToken(good=good, bad=bad), model)
    grade, cost = await verifier.grade(DRAFT, SUM, TASKS["text"], Call((), 1))
    assert grade.value == pytest.approx(chances[good] / (chances[good] + chances[bad]), abs=0.02)
    assert cost.verifier_calls == 1
