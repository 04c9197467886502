"""Hooks: they look at a row before its next token is drawn. Two of them, to use or to copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from forethought.core.together import together
from forethought.engine.engine import Engine
from forethought.engine.rows import Hook, Row, Verdict
from forethought.engine.sampling import Sampling


@dataclass(frozen=True)
class HighEntropy:
    """Stop before a token whose distribution has more than `nats` of entropy, after `least` tokens at the earliest."""

    nats: float
    least: int = 0

    def __call__(self, row: Row, logits: Tensor) -> Verdict:
        if len(row.tokens) < self.least:
            return Verdict()
        entropy = torch.special.entr(logits.softmax(-1)).sum()
        return Verdict(stop=bool(entropy > self.nats))


@dataclass(frozen=True)
class LowConfidence:
    """Stop when confidence, averaged over the last `window` tokens, falls below `floor`.

    The confidence of a token is the negative mean log-probability of the `top` likeliest: high if one is certain (Fu et al.
    2025, DeepConf, arXiv:2508.15260, section 3; its online rule stops a trace below a threshold fitted on a few first traces).
    """

    floor: float
    window: int = 16
    top: int = 20

    def __call__(self, row: Row, logits: Tensor) -> Verdict:
        likeliest = logits.log_softmax(-1).topk(min(self.top, len(logits))).values
        row.noted.append(-float(likeliest.mean()))
        recent = row.noted[-self.window :]
        return Verdict(stop=len(recent) == self.window and sum(recent) / self.window < self.floor)


async def fork(engine: Engine, ids: Sequence[int], how: Sampling, seed: int, hook: Hook) -> list[Row]:
    """Write until `hook` stops the row, and go on from there with each of the `how.top` likeliest tokens.

    Returns the branches, whose `ids` are prompt and trunk, or the trunk alone if it was never stopped. A branch is a new
    request whose first token is forced: all before it is in the tree and is not computed again.
    """
    trunk = await engine.generate(ids, how, seed, hook=hook)
    if trunk.finish != "hook" or not trunk.top:
        return [trunk]
    text, left = (*trunk.ids, *trunk.tokens), how.max_tokens - len(trunk.tokens)
    return await together(
        [
            partial(engine.generate, text, replace(how, max_tokens=left, forced=(token,)), seed + place)
            for place, token in enumerate(trunk.top[-1], 1)
        ]
    )
