"""Reward models behind endpoints, served on the loopback by a real classifier, and local ones of any architecture."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, LlamaForTokenClassification

from forethought.core.draft import Draft
from forethought.core.errors import ModelError, UsageError
from forethought.core.population import Particle
from forethought.core.problem import Problem
from forethought.core.scope import Call, Run, Scope, Seeded
from forethought.methods import By, methods
from forethought.models.names import model_named
from forethought.models.reward import RewardModel
from forethought.models.scripted import Scripted
from forethought.parts import weights_of
from forethought.tasks import GENERATED
from forethought.verifiers import grade_all, verifiers
from forethought.verifiers.agreement import Agreement
from forethought.verifiers.classifier import Loaded, loaded
from forethought.verifiers.endpoint import wire
from forethought.verifiers.noisy import Noisy
from tests import tiny

pytestmark = pytest.mark.anyio
TASK = GENERATED["chain"]
ASKED = TASK.problem(2, 0)
STEPS = ("12\n", "34\n", "56\n")
WHOLE = Draft(None, "".join(STEPS), size=6, finish="end")


@dataclass
class Served:
    """A token classifier as vLLM serves it: one softmaxed entry a step tag, which is the line break here."""

    model: Any
    url: str = ""
    failures: list[int] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    gives: Any = None

    def app(self) -> Starlette:
        routes = [
            Route("/pooling", self.pooling, methods=["POST"]),
            Route("/classify", self.classify, methods=["POST"]),
            Route("/v1/classify", self.sglang, methods=["POST"]),
        ]
        return Starlette(routes=routes)

    def scores(self, messages: list[dict[str, str]]) -> tuple[list[list[float]], int]:
        *before, last = [tiny.TOKENIZER.encode(m["content"]).ids for m in messages]
        prompt = [i for ids in before for i in ids]
        with torch.inference_mode():
            chances = self.model(torch.tensor([prompt + last])).logits[0].softmax(-1)
        (tag,) = tiny.TOKENIZER.encode("\n").ids
        return [chances[len(prompt) + i].tolist() for i, token in enumerate(last) if token == tag], len(prompt + last)

    async def pooling(self, request: Request) -> JSONResponse:
        self.asked.append(await request.json())
        if self.failures:
            return JSONResponse({"error": {"message": "busy"}}, self.failures.pop(0), {"Retry-After": "0"})
        steps, count = self.scores(self.asked[-1]["messages"])
        told = steps if self.gives is None else self.gives
        return JSONResponse({"data": [{"index": 0, "data": told}], "usage": {"prompt_tokens": count}})

    async def classify(self, request: Request) -> JSONResponse:
        return self.classified((await request.json())["messages"])

    async def sglang(self, request: Request) -> JSONResponse:
        """SGLang's takes a text, and no chat."""
        return self.classified([{"role": "user", "content": (await request.json())["input"]}])

    def classified(self, messages: list[dict[str, str]]) -> JSONResponse:
        steps, count = self.scores(messages)
        entry = {"index": 0, "label": "1", "probs": steps[-1], "num_classes": 2}
        return JSONResponse({"data": [entry], "usage": {"prompt_tokens": count}})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("classifier")
    served = Served(tiny.classifier(folder))
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        served.url = f"http://127.0.0.1:{held.getsockname()[1]}/v1"
        running = uvicorn.Server(uvicorn.Config(served.app(), log_level="error", lifespan="off"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [held]})
        thread.start()
        while not running.started:
            time.sleep(0.01)
        yield served
        running.should_exit = True
        thread.join()


def spelled(server: Served, **words: Any) -> Any:
    told = {"endpoint": f"tiny@{server.url}", "separator": "\n", **words}
    return verifiers.parse(f"reward-endpoint({', '.join(f'{k}={v!r}' for k, v in told.items())})")


async def grade(server: Served, draft: Draft = WHOLE, **words: Any) -> Any:
    verifier = spelled(server, **words)
    try:
        made, cost = await verifier.grade(draft, ASKED, TASK, Call((), 0))
    finally:
        await wire(server.url).aclose()
    assert cost.verifier_tokens <= verifier.bound(draft, ASKED, TASK).verifier_tokens
    return made, cost


async def test_a_process_model_grades_each_step(server: Served) -> None:
    server.gives = None
    made, cost = await grade(server)
    messages = [*TASK.prompt(ASKED), {"role": "assistant", "content": WHOLE.text}]
    steps, count = server.scores(messages)  # type: ignore[arg-type]
    assert made.steps == pytest.approx([chances[-1] for chances in steps])
    assert (len(made.steps), made.value) == (3, made.steps[-1])
    assert (cost.verifier_calls, cost.verifier_tokens, cost.calls) == (1, count, 0)
    assert server.asked[-1]["model"] == "tiny"
    other, _ = await grade(server, label=0)
    assert other.value == pytest.approx(1 - made.value, abs=1e-6)  # in single precision


@pytest.mark.parametrize("route", ["classify", "sglang"])
async def test_a_classifier_grades_the_whole(server: Served, route: str) -> None:
    made, cost = await grade(server, route=route)
    messages = [*TASK.prompt(ASKED), {"role": "assistant", "content": WHOLE.text}]
    if route == "sglang":
        messages = [{"role": "user", "content": "\n".join(m["content"] for m in messages)}]
    steps, count = server.scores(messages)  # type: ignore[arg-type]
    assert (made.value, made.steps) == (pytest.approx(steps[-1][-1]), ())
    assert (cost.verifier_calls, cost.verifier_tokens) == (1, count)


async def test_another_number_of_scores_than_of_steps_is_an_error(server: Served) -> None:
    """As of a server that pools each token."""
    server.gives = [[0.5, 0.5]] * 9
    with pytest.raises(ModelError, match="gave 9 scores for 3 steps: is"):
        await grade(server)


async def test_failures_before_an_answer_are_tried_again(server: Served) -> None:
    server.gives, server.failures = None, [503, 429]
    before = len(server.asked)
    made, _ = await grade(server)
    assert made.value is not None
    assert len(server.asked) == before + 3


@pytest.mark.parametrize(("gives", "words", "value"), [
    ([0.25], {"separator": ""}, 0.25),
    ([[0.25]], {"separator": ""}, 0.25),
    ([0.0], {"separator": "", "scale": "logit"}, 0.5),
    ([[2.0]], {"separator": "", "scale": "logit"}, 0.8807970779778823),
    ([-800.0], {"separator": "", "scale": "logit"}, 0.0),
    ([0.25, 0.5, 0.75], {}, 0.75),
    (0.5, {"separator": ""}, 0.5),
])  # fmt: skip
async def test_shapes_of_scores(gives: Any, words: dict[str, Any], value: float, server: Served) -> None:
    server.gives = gives
    assert (await grade(server, **words))[0].value == pytest.approx(value)


@pytest.mark.parametrize(("gives", "complaint"), [
    ([1.5], "gave 1.5, which is no probability; for scores take scale=logit"),
    ([float("-0.1")], "no probability"),
    (["yes"], "gave no number"),
    ([[]], "gave no number"),
    ([None], "gave no number"),
    ([], "gave 0 scores for 3 steps"),
])  # fmt: skip
async def test_what_is_no_score_is_an_error(gives: Any, complaint: str, server: Served) -> None:
    server.gives = gives
    with pytest.raises(ModelError, match=complaint):
        await grade(server)


async def test_a_server_that_is_not_there_and_one_that_refuses(server: Served) -> None:
    server.failures = [400]
    with pytest.raises(ModelError, match="400"):
        await grade(server)
    with pytest.raises(UsageError, match="needs an endpoint"):
        await verifiers.parse("reward-endpoint").grade(WHOLE, ASKED, TASK, Call((), 0))


# local classifiers


async def test_a_local_token_classifier_grades_each_step(tmp_path: Path) -> None:
    tiny.classifier(tmp_path, seed=3)
    templated(tmp_path, "")
    verifier = verifiers.parse(f"classifier(path='{tmp_path}')")
    made, cost = await verifier.grade(WHOLE, ASKED, TASK, Call((), 0))
    assert len(made.steps) == 3
    assert made.value == made.steps[-1]
    model = LlamaForTokenClassification.from_pretrained(tmp_path).eval()
    ids = tiny.TOKENIZER.encode("\n".join(m["content"] for m in TASK.prompt(ASKED)) + "\n").ids
    with torch.inference_mode():
        chances = model(torch.tensor([ids + tiny.TOKENIZER.encode(WHOLE.text).ids])).logits[0].softmax(-1)
    assert made.value == pytest.approx(float(chances[-1, -1]), abs=1e-5)
    assert cost.verifier_tokens == len(chances)
    assert cost.verifier_tokens <= verifier.bound(WHOLE, ASKED, TASK).verifier_tokens


async def test_a_reward_model_reads_the_text_of_ids_that_are_not_its_own(tmp_path: Path) -> None:
    tiny.classifier(tmp_path, seed=3)
    model = RewardModel(tmp_path)
    foreign = Draft(None, WHOLE.text, (7, 8, 9), size=3, finish="end", vocabulary="another")
    read, cost = await model.grade(TASK.prompt(ASKED), foreign, None)
    plain, same = await model.grade(TASK.prompt(ASKED), WHOLE, None)
    assert read.steps == pytest.approx(plain.steps, abs=1e-5)
    assert cost == same


@pytest.mark.parametrize("labels", [1, 3])
async def test_a_local_sequence_classifier_grades_the_whole(labels: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tiny.save(LlamaForSequenceClassification(tiny.config(num_labels=labels)).eval(), tmp_path)
    templated(tmp_path, "")
    made, _ = await verifiers.parse(f"classifier(path='{tmp_path}')").grade(WHOLE, ASKED, TASK, Call((), 0))
    assert made.steps == ()
    text = "\n".join(m["content"] for m in TASK.prompt(ASKED)) + "\n" + WHOLE.text
    assert made.value == pytest.approx(whole(tmp_path, text), abs=1e-5)


def templated(folder: Path, template: str) -> None:
    told = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(told | {"chat_template": template}))
    loaded.cache_clear()


def whole(folder: Path, text: str) -> float:
    """The last label's chance, as transformers has it."""
    model = LlamaForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        (logits,) = model(torch.tensor([tiny.TOKENIZER.encode(text).ids])).logits
    return float(logits.sigmoid() if len(logits) == 1 else logits.softmax(-1)[-1])


async def test_a_sequence_classifier_with_a_chat_template_reads_a_chat(tmp_path: Path) -> None:
    """The draft stands in it as it is, blank lines and all."""
    torch.manual_seed(0)
    tiny.save(LlamaForSequenceClassification(tiny.config(num_labels=2)).eval(), tmp_path)
    templated(tmp_path, "{% for m in messages %}{{ m.content }}7\n{% endfor %}")
    verifier = verifiers.parse(f"classifier(path='{tmp_path}')")
    for draft in (WHOLE, Draft(None, "12\n\n 34", finish="end")):
        made, cost = await verifier.grade(draft, ASKED, TASK, Call((), 0))
        text = "".join(m["content"] + "7\n" for m in TASK.prompt(ASKED)) + draft.text + "7\n"
        assert made.value == pytest.approx(whole(tmp_path, text), abs=1e-5)
        assert cost.verifier_tokens == len(tiny.TOKENIZER.encode(text).ids)


async def test_a_token_classifier_reads_no_chat(tmp_path: Path) -> None:
    """As TRL trains them, whatever template the tokenizer has from the model that they began as."""
    tiny.classifier(tmp_path, seed=3)
    verifier, found = verifiers.parse(f"classifier(path='{tmp_path}')"), []
    for template in ("", "{% for m in messages %}{{ m.content }}7\n{% endfor %}"):
        templated(tmp_path, template)
        found.append((await verifier.grade(WHOLE, ASKED, TASK, Call((), 0)))[0])
    assert found[0] == found[1]


@pytest.mark.parametrize(("template", "complaint"), [
    ("{{ raise_exception('no users here') }}", "refuses this chat: no users here"),
    ("{{ raise_exception('one line\\nand another') }}", "refuses this chat: one line$"),
    ("{{ messages[0].content + 1 }}", "refuses this chat"),
    ("{{ messages[0].content }}", "leaves out the assistant's words"),
])  # fmt: skip
async def test_a_chat_template_that_refuses_the_chat_is_told(template: str, complaint: str, tmp_path: Path) -> None:
    tiny.save(LlamaForSequenceClassification(tiny.config(num_labels=2)), tmp_path)
    templated(tmp_path, template)
    with pytest.raises(UsageError, match=complaint):
        await verifiers.parse(f"classifier(path='{tmp_path}')").grade(WHOLE, ASKED, TASK, Call((), 0))


@pytest.mark.parametrize("of", ["grade", "log"])
async def test_a_classifier_steers(of: str, tmp_path: Path) -> None:
    """A finished draft weighs what the classifier says of it alone, by transformers' own numbers."""
    torch.manual_seed(2)
    tiny.save(LlamaForSequenceClassification(tiny.config(num_labels=2)).eval(), tmp_path)
    templated(tmp_path, "")
    by = By(
        Scripted(lambda prompt, so_far, seed: f"{seed % 90 + 10}\n" * (2 - so_far.count("\n"))),
        TASK,
        verifiers.parse(f"classifier(path='{tmp_path}')"),
    )
    pop = await methods.parse(f"steer(n=6, of={of}, strength=2.0, ess=0.0)")(ASKED, by, Scope.root(Run(Seeded(1))))
    assert len({p.state.text for p in pop}) > 2
    prompt = "\n".join(m["content"] for m in TASK.prompt(ASKED)) + "\n"
    for p in pop:
        reward = whole(tmp_path, prompt + p.state.text)
        assert p.logw == pytest.approx(2 * (math.log(reward) if of == "log" else reward) - math.log(6), abs=1e-4)


@pytest.mark.parametrize("kind", [LlamaForTokenClassification, LlamaForSequenceClassification])
async def test_drafts_that_are_graded_together_are_one_batch_with_the_grades_of_each_alone(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    tiny.save(kind(tiny.config(num_labels=2)).eval(), tmp_path)
    verifier = verifiers.parse(f"classifier(path='{tmp_path}')")
    texts = ["12\n", "12\n34\n56\n", "7\n8\n", "12\n34\n"]
    drafts = [Draft(None, text, size=len(text), finish="end") for text in texts]
    alone = [(await verifier.grade(draft, ASKED, TASK, Call((), 0)))[0] for draft in drafts]
    sizes, forward = [], Loaded._forward
    monkeypatch.setattr(Loaded, "_forward", lambda self, rows: sizes.append(len(rows)) or forward(self, rows))
    pop = await grade_all([Particle(d, done=True) for d in drafts], verifier, ASKED, TASK, Scope.root())
    assert sizes == [4]
    for particle, grade in zip(pop, alone, strict=True):
        found = particle.state.grades[str(verifier)]
        assert (found.value, found.steps) == (
            pytest.approx(grade.value, abs=1e-5),
            pytest.approx(grade.steps, abs=1e-5),
        )


async def test_a_classifier_that_fails_fails_everyone_who_waits_and_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.classifier(tmp_path)
    verifier = verifiers.parse(f"classifier(path='{tmp_path}')")
    pop = [Particle(WHOLE, done=True)] * 3
    with monkeypatch.context() as broken:
        broken.setattr(Loaded, "_chances", lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
        with pytest.raises(RuntimeError, match="out of memory"):
            await grade_all(pop, verifier, ASKED, TASK, Scope.root())
    assert len(await grade_all(pop, verifier, ASKED, TASK, Scope.root())) == 3


@pytest.mark.parametrize("passes", [1, 3])
def test_a_reader_that_asyncio_cancels_takes_nobody_with_it(
    passes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own cancellation, which no shield keeps off: who waited gets an error, and who comes later is read."""
    tiny.classifier(tmp_path)
    model, forward = loaded(str(tmp_path)), Loaded._forward
    monkeypatch.setattr(Loaded, "_forward", lambda self, rows: time.sleep(0.2) or forward(self, rows))

    async def cancelled() -> None:
        reader, waiter = (asyncio.ensure_future(model.read([1, 2])) for _ in range(2))
        for _ in range(passes):  # before the batch is closed, or while it is read
            await asyncio.sleep(0)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        with pytest.raises(ModelError, match="was cancelled"):
            await asyncio.wait_for(waiter, 5)
        assert len(await asyncio.wait_for(model.read([1, 2]), 5)) == 2

    asyncio.run(cancelled())


def weights(verifier: Any) -> str | None:
    """What the spec of a run says of a verifier's files, as a new process would read them."""
    model_named.cache_clear()
    loaded.cache_clear()
    return weights_of(By(Scripted(lambda prompt, so_far, seed: "7"), TASK, verifier)).get("verifier_weights")


ASKING = ("judge", "self-eval", "reward-token", "logic", "agreement")


@pytest.mark.parametrize("name", [*ASKING, "classifier", "scorer", "around"])
def test_the_files_of_a_verifier_are_told_by_their_content(name: str, tmp_path: Path) -> None:
    classifier, judge = f"classifier(path='{tmp_path}')", f"judge(model='local:{tmp_path}')"
    parts = {"classifier": classifier, "scorer": Agreement(scorer=classifier), "around": Noisy(of=judge)}
    part = parts.get(name, f"{name}(model='local:{tmp_path}')")
    verifier = verifiers.parse(part) if isinstance(part, str) else part
    found = []
    for seed in (0, 0, 1):
        tiny.classifier(tmp_path, seed=seed)
        found.append(weights(verifier))
    assert found[0]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("name", ASKING)
def test_a_verifier_without_files_tells_of_none(name: str) -> None:
    assert weights(verifiers.parse(name)) is None
    assert weights(verifiers.parse(f"{name}(model='openai:toy@http://localhost:1/v1')")) is None


async def test_what_is_no_classifier_is_told_in_one_line(tmp_path: Path) -> None:
    def refused(path: Path, **told: Any) -> str:
        words = "".join(f", {name}={value}" for name, value in told.items())
        with pytest.raises(UsageError) as caught:
            verifiers.parse(f"classifier(path='{path}'{words})").load()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "holds no classifier that transformers can read" in refused(tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{")
    assert "holds no classifier" in refused(tmp_path)
    plain, broken = tmp_path / "plain", tmp_path / "broken"
    tiny.save(LlamaForCausalLM(tiny.config()), plain)
    assert "it lacks the weights score" in refused(plain)
    tiny.classifier(broken)
    (broken / "model.safetensors").write_bytes(b"nothing")
    assert "holds no classifier" in refused(broken)
    tiny.classifier(tmp_path)
    with pytest.raises(UsageError, match=r"there is no label 2; .* has 2"):
        await verifiers.parse(f"classifier(path='{tmp_path}', label=2)").grade(WHOLE, ASKED, TASK, Call((), 0))


async def test_a_classifier_without_a_path_says_what_to_do() -> None:
    with pytest.raises(UsageError, match="classifier needs a model"):
        await verifiers.parse("classifier").grade(WHOLE, Problem("?"), TASK, Call((), 0))
