"""Any sequence or token classifier in Hugging Face format as a reward model."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from anyio import to_thread

from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.errors import UsageError
from forethought.core.problem import Problem
from forethought.core.scope import Call
from forethought.models.local import needed
from forethought.tasks.protocol import Task
from forethought.verifiers.asking import written
from forethought.verifiers.endpoint import steps_of
from forethought.verifiers.protocol import verifiers


@verifiers.register("classifier")
@dataclass(frozen=True)
class Classifier:
    """A classifier from a folder or the hub (`path`), run by transformers on the prompt and the draft.

    A sequence classifier grades the text as a whole; a token classifier grades each step, at the last token of what
    `separator` puts behind it. The grade is the probability of `label` (the last one by default), of a single output its
    logistic function. Nothing is kept between calls: each reads the whole text and is charged so. For Llama token
    classifiers `process` is faster.
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
        scores = await to_thread.run_sync(lambda: loaded(self._path).scores(ids, self.label))
        steps = tuple(scores[end] for end in ends) if len(scores) > 1 else ()
        return Grade(scores[-1], steps), Cost(verifier_calls=1, verifier_tokens=len(ids))

    def _ids(self, text: str, problem: Problem, task: Task) -> tuple[list[int], list[int]]:
        """The token ids of prompt and steps, and the places at which the steps end."""
        tokenizer = loaded(self._path).tokenizer
        ids = list(tokenizer("\n".join(m["content"] for m in task.prompt(problem)) + "\n")["input_ids"])
        ends = []
        for step in steps_of(text, task):
            ids += tokenizer(step + self.separator, add_special_tokens=False)["input_ids"]
            ends.append(len(ids) - 1)
        return ids, ends

    @property
    def _path(self) -> str:
        if self.path is None:
            raise UsageError("classifier needs a model: classifier(path='folder')")
        return self.path


@dataclass(frozen=True)
class Loaded:
    """A model with its tokenizer."""

    model: Any
    tokenizer: Any

    def scores(self, ids: list[int], label: int) -> list[float]:
        """The probability of the label: one number, or one a token."""
        import torch

        with torch.inference_mode():
            logits = self.model(torch.tensor([ids])).logits[0].float()
        chances = logits.sigmoid()[..., 0] if logits.shape[-1] == 1 else logits.softmax(-1)[..., label]
        return [float(chance) for chance in chances.reshape(-1)]


@functools.cache
def loaded(path: str) -> Loaded:
    with needed():
        from transformers import (
            AutoConfig,
            AutoModelForSequenceClassification,
            AutoModelForTokenClassification,
            AutoTokenizer,
        )

    kinds = AutoConfig.from_pretrained(path).architectures or [""]
    tokens = kinds[0].endswith("TokenClassification")
    kind = AutoModelForTokenClassification if tokens else AutoModelForSequenceClassification
    model = kind.from_pretrained(path).eval()
    if model.config.pad_token_id is None:
        model.config.pad_token_id = model.config.eos_token_id
    return Loaded(model, AutoTokenizer.from_pretrained(path))
