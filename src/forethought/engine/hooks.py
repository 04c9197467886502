"""Hooks: they look at a row before its next token is drawn. Two of them, to use or to copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from forethought.core.errors import UsageError
from forethought.core.together import together
from forethought.engine.engine import Engine
from forethought.engine.rows import Hook, Row, Steer
from forethought.engine.sampling import Sampling


@dataclass(frozen=True)
class HighEntropy:
    """Stop before a token whose distribution has more than `nats` of entropy, after `least` tokens at the earliest."""

    nats: float
    least: int = 0

    def __call__(self, row: Row, logits: Tensor) -> Steer:
        if len(row.tokens) < self.least:
            return Steer()
        entropy = torch.special.entr(logits.softmax(-1)).sum()
        return Steer(stop=bool(entropy > self.nats))


@dataclass(frozen=True)
class LowConfidence:
    """Stop when confidence, averaged over the last `window` tokens, falls below `floor`.

    The confidence of a token is the negative mean log-probability of the `top` likeliest: high if one is certain (Fu et al.
    2025, DeepConf, arXiv:2508.15260, section 3; its online rule stops a trace below a threshold fitted on a few first traces).
    """

    floor: float
    window: int = 16
    top: int = 20

    def __call__(self, row: Row, logits: Tensor) -> Steer:
        likeliest = logits.log_softmax(-1).topk(min(self.top, len(logits))).values
        row.noted.append(-float(likeliest.mean()))
        recent = row.noted[-self.window :]
        return Steer(stop=len(recent) == self.window and sum(recent) / self.window < self.floor)


async def fork(engine: Engine, ids: Sequence[int], how: Sampling, seed: int, hook: Hook) -> list[Row]:
    """Write until `hook` stops the row, and go on from there with each of the `how.top` likeliest tokens.

    Returns the branches, whose `ids` are prompt and trunk, or the trunk alone if it was never stopped. A branch is a new
    request whose first token is forced: all before it is in the tree and is not computed again. What is left of `how` goes
    on in it, with its own random stream; presence and frequency count from the fork. Raises UsageError without `how.top`.
    """
    if not how.top:
        raise UsageError("a fork needs to know how many of the likeliest tokens it goes on with: `top`")
    trunk = await engine.generate(ids, how, seed, hook=hook)
    if trunk.finish != "hook":
        return [trunk]
    text, places = (*trunk.ids, *trunk.tokens), enumerate(trunk.top[-1])
    branch = partial(engine.generate, text, written=len(trunk.tokens))
    return await together([partial(branch, _rest(how, trunk, token), _stream(seed, i)) for i, token in places])


def _rest(how: Sampling, trunk: Row, token: int) -> Sampling:
    """What is left to ask for after the trunk, with the first token forced."""
    done = len(trunk.tokens)
    forced = (token, *how.forced[done + 1 :])
    return replace(how, max_tokens=how.max_tokens - done, min_tokens=max(0, how.min_tokens - done), forced=forced)


def _stream(seed: int, branch: int) -> int:
    """A seed of each branch's own, which is no trunk's: not the next one."""
    low, high = np.random.SeedSequence((seed, branch)).generate_state(2).tolist()
    return int(high << 32 | low)
