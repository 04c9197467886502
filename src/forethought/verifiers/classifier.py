"""Any sequence or token classifier in Hugging Face format as a reward model."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from anyio import to_thread

from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.errors import ModelError, UsageError
from forethought.core.problem import Message, Problem
from forethought.core.registry import require
from forethought.core.scope import Call
from forethought.engine.compute import computed
from forethought.models.local import fingerprint, needed
from forethought.models.reading import first_line
from forethought.tasks.protocol import Task
from forethought.verifiers.asking import one_text, written
from forethought.verifiers.endpoint import steps_of
from forethought.verifiers.protocol import verifiers

ROWS = 32  # in one batch
DRAFT = "\ue000draft\ue000"  # stands for a draft in a chat template; no text holds these two characters


@verifiers.register("classifier")
@dataclass(frozen=True)
class Classifier:
    """A classifier from a folder or the hub (`path`), run by transformers on the prompt and the draft.

    A sequence classifier grades the text as a whole, as a chat where its tokenizer has a template for one, as such models are
    trained. A token classifier grades each step, at the last token of what `separator` puts behind it; it reads prompt and
    steps one below the other, as TRL trains them. The grade is the probability of `label` (the last one by default), of a
    single output its logistic function. Texts that are graded together are one batch; nothing is kept between calls: each
    reads the whole text and is charged so. For Llama token classifiers `process` is faster.
    """

    name = "classifier"
    process = True
    path: str | None = None
    label: int = -1
    separator: str = "\n"

    def oracle(self, task: Task) -> bool:
        return False

    def bound(self, draft: Draft, problem: Problem, task: Task) -> Cost:
        return Cost(verifier_calls=1, verifier_tokens=len(self._ids(written(draft), problem, task)[0]))

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        ids, ends = self._ids(draft.text, problem, task)
        scores = self._scores(await loaded(self._path).read(ids))
        return Grade(scores[-1], tuple(scores[end] for end in ends)), Cost(verifier_calls=1, verifier_tokens=len(ids))

    def _scores(self, chances: Any) -> list[float]:
        """The probability of the label: one number, or one a token."""
        labels = chances.shape[-1]
        known = labels == 1 or -labels <= self.label < labels
        require(known, f"classifier: there is no label {self.label}; {self.path} has {labels}")
        return [float(chance) for chance in chances[..., 0 if labels == 1 else self.label]]

    def load(self) -> None:
        loaded(self._path)

    @property
    def weights(self) -> str:
        """The files of a folder by their content; empty for a name of the hub. Raises UsageError if they cannot be read."""
        return loaded(self._path).weights

    def _ids(self, text: str, problem: Problem, task: Task) -> tuple[list[int], list[int]]:
        """The token ids of prompt and draft; of a token classifier, the places at which the steps end."""
        model, messages = loaded(self._path), task.prompt(problem)
        tokenizer, prompt = model.tokenizer, one_text(messages) + "\n"
        if not model.by_token:
            templated = bool(tokenizer.chat_template)
            before, behind = chat(tokenizer, messages) if templated else (prompt, "")
            return list(tokenizer(before + text + behind, add_special_tokens=not templated)["input_ids"]), []
        ids, ends = list(tokenizer(prompt)["input_ids"]), list[int]()
        for step in steps_of(text, task):
            ids += tokenizer(step + self.separator, add_special_tokens=False)["input_ids"]
            ends.append(len(ids) - 1)
        return ids, ends

    @property
    def _path(self) -> str:
        if self.path is None:
            raise UsageError("classifier needs a model: classifier(path='folder')")
        return self.path


def chat(tokenizer: Any, prompt: Sequence[Message]) -> tuple[str, str]:
    """What stands before and behind a draft that answers the prompt. Raises UsageError where the template refuses it."""
    from jinja2 import TemplateError

    try:
        whole = tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": DRAFT}], tokenize=False)
    except (TemplateError, ValueError, TypeError) as error:
        raise UsageError(f"the classifier's chat template refuses this chat: {first_line(error)}") from None
    before, draft, behind = whole.rpartition(DRAFT)
    require(bool(draft), "the classifier's chat template leaves out the assistant's words")
    return before, behind


@dataclass(slots=True)
class Batch:
    """Texts that came together; once they are read, the chances of each: a row a token, or one of the whole."""

    rows: list[list[int]] = field(default_factory=list)
    done: anyio.Event = field(default_factory=anyio.Event)
    chances: list[Any] = field(default_factory=list)
    error: Exception | None = None


class Loaded:
    """A model with its tokenizer. Texts that are graded together are read together."""

    def __init__(self, model: Any, tokenizer: Any, weights: str) -> None:
        self.tokenizer, self.weights, self._model = tokenizer, weights, model
        self.by_token: bool = type(model).__name__.endswith("TokenClassification")
        self._open: Batch | None = None

    async def read(self, ids: list[int]) -> Any:
        """The chances of one text. The first to come reads for all that come in the same pass of the loop, even cancelled."""
        batch, first = self._open, self._open is None
        if batch is None:
            batch = self._open = Batch()
        place = len(batch.rows)
        batch.rows.append(ids)
        if first:
            with anyio.CancelScope(shield=True):
                await self._read_all(batch)
        else:
            await batch.done.wait()
        if batch.error is not None:
            raise batch.error
        return batch.chances[place]

    async def _read_all(self, batch: Batch) -> None:
        try:
            try:
                await anyio.lowlevel.checkpoint()
            finally:  # also where asyncio itself cancels, which no shield keeps off
                self._open = None
            batch.chances = await to_thread.run_sync(computed, functools.partial(self._forward, batch.rows))
        except Exception as error:  # noqa: BLE001 - not swallowed: raised again to everyone who waits
            batch.error = error
        except BaseException:
            batch.error = ModelError("the classifier was cancelled while it read")
            raise
        finally:
            batch.done.set()

    def _forward(self, rows: list[list[int]]) -> list[Any]:
        import torch

        with torch.inference_mode():
            return [chances for i in range(0, len(rows), ROWS) for chances in self._chances(rows[i : i + ROWS])]

    def _chances(self, rows: list[list[int]]) -> list[Any]:
        """One batch, filled up with a token that no row ends with: a sequence classifier grades at the last other one."""
        import torch

        ends, longest = {row[-1] for row in rows}, max(map(len, rows))
        filler = next(i for i in range(len(rows) + 1) if i not in ends)
        self._model.config.get_text_config().pad_token_id = filler
        ids = torch.tensor([row + [filler] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        logits = self._model(ids, attention_mask=mask).logits.float()
        chances = logits.sigmoid() if logits.shape[-1] == 1 else logits.softmax(-1)
        return [c[: len(row)] if c.dim() > 1 else c[None] for c, row in zip(chances, rows, strict=True)]


@functools.cache
def loaded(path: str) -> Loaded:
    """Raises UsageError if the path holds no classifier."""
    with needed():
        from safetensors import SafetensorError
        from transformers import AutoTokenizer

        try:
            weights = fingerprint(Path(path)) if Path(path).is_dir() else ""
            return Loaded(computed(lambda: classifier(path)), AutoTokenizer.from_pretrained(path), weights)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            why = str(error).strip().partition("\n")[0]
            raise UsageError(f"classifier: {path} holds no classifier that transformers can read: {why}") from None


def classifier(path: str) -> Any:
    """The model at a path. A head that the files lack would grade at random, so it is refused."""
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification

    kinds = AutoConfig.from_pretrained(path).architectures or [""]
    tokens = kinds[0].endswith("TokenClassification")
    kind = AutoModelForTokenClassification if tokens else AutoModelForSequenceClassification
    model, told = kind.from_pretrained(path, output_loading_info=True)
    if told["missing_keys"]:
        raise ValueError(f"it lacks the weights {min(told['missing_keys'])}")
    return model.eval()
