"""One request to the engine, and what has become of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

import numpy as np
from torch import Tensor

from forethought.engine.pages import Span
from forethought.engine.prefixes import Node, common
from forethought.engine.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Steer:
    """What a hook wants: `stop` ends the row before its next token, `bias` is added to logits by token id (-inf bars one)."""

    stop: bool = False
    bias: Mapping[int, float] = field(default_factory=dict)


Hook = Callable[["Row", Tensor], Steer | None]
"""Looks at a row and at the logits [vocabulary] of its next token before that is drawn. It may not change them."""


@dataclass(eq=False, slots=True)
class Row:
    """`tokens` are the new ones, `logprobs` their natural logarithms under the model at temperature 1, `top` the alternatives
    asked for. `cached` tokens were known to the tree, `computed` ones were not; `reads` counts the token-steps that
    attention looked at. `outputs` is what a classifier said after each token of `ids`. `finish` is `hook` where its hook
    stopped it; `top` then ends with the alternatives to the token that was not drawn. `noted` is what the hook writes down of
    this row, so that one hook serves any number of them. The last `written` of `ids` are the draft that `tokens` go on from:
    the rule that stops rows reads the two together.
    """

    ids: tuple[int, ...]
    how: Sampling
    seed: int
    progress: Callable[[Row], None] = lambda row: None
    graded_from: int | None = None
    hook: Hook | None = None
    written: int = 0
    noted: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[dict[int, float]] = field(default_factory=list)
    outputs: list[float] = field(default_factory=list)
    finish: Literal["stop", "end", "length", "hook"] | None = None
    error: Exception | None = None
    cached: int = 0
    computed: int = 0
    reads: int = 0
    done: bool = False
    cancelled: bool = False
    place: Place | None = None
    uniforms: list[float] = field(default_factory=list)

    @property
    def seat(self) -> Place:
        """Its place; only a live row has one."""
        assert self.place is not None
        return self.place

    @property
    def prompt(self) -> tuple[int, ...]:
        return self.ids[: len(self.ids) - self.written]

    @property
    def waits(self) -> bool:
        """Whether it has yet to begin."""
        return self.place is None and not self.done and not self.cancelled

    @property
    def length(self) -> int:
        return len(self.ids) + len(self.tokens)

    @property
    def most(self) -> int:
        """The tokens that it may come to."""
        return len(self.ids) + self.how.max_tokens

    @property
    def reusable(self) -> int:
        """How many tokens need not be computed if the tree knows them: all up to the first whose output is asked for."""
        if self.graded_from is not None:
            return self.graded_from - 1
        return len(self.ids) - 1 if self.how.max_tokens else len(self.ids)

    @property
    def ended(self) -> bool:
        return self.finish is not None or self.error is not None

    def stream(self) -> float:
        """The next number of this row's own random stream; neighbours in the batch have no part in it."""
        if not self.uniforms:
            self.uniforms = np.random.Generator(np.random.Philox(self.seed)).random(self.how.max_tokens).tolist()
        return self.uniforms[len(self.tokens)]


def soon(row: Row, known: int, reading: Sequence[Row]) -> int:
    """How many tokens of a row those who read now will have computed for it, if that is more than are `known`, else 0."""
    ids, at = row.ids, slice(known, known + 1)
    found = (common(ids, r.ids, 0) for r in reading if r.ids[at] == ids[at])  # who differs there shares no more
    most = min(max(found, default=0), row.reusable)
    return most if most > known else 0


def by_prompt(rows: Sequence[Row], last: int) -> list[Row]:
    """Rows whose `last` ones are put together by prompt, prompts in the order of their first rows: the more rows of a prompt
    are live at once, the more of a step is read once for all of them. No earlier row waits longer for that.
    """
    first, prompts = max(len(rows) - last, 0), dict[tuple[int, ...], list[Row]]()
    for row in rows[first:]:
        prompts.setdefault(row.prompt, []).append(row)
    return [*rows[:first], *chain.from_iterable(prompts.values())]


@dataclass(eq=False, slots=True)
class Place:
    """Where the keys and values of a live row's first `filled` tokens are.

    The first `known` lie in the tree down to `node`, which the row has locked. Attention reads `shared` spans of the pool
    together with other rows, and those of its `own` where they lie. So it was decided for the first `planned` tokens; None
    where nothing is read alone in place. `copied` spans of the pool, `head` tokens, stand at the beginning of the row's slot,
    and the tokens from `tail` on behind them. `last` is the hidden state after a prompt of which nothing is left to read.
    """

    node: Node
    known: int
    filled: int
    tail: int
    promised: int = 0
    last: Tensor | None = None
    shared: tuple[Span, ...] = ()
    own: tuple[Span, ...] = ()
    planned: int | None = None
    copied: tuple[Span, ...] = ()
    head: int = 0

    @property
    def columns(self) -> int:
        return self.head + self.filled - self.tail

    def column(self, token: int) -> int:
        """Where in the slot a token of the tail stands."""
        return self.head + token - self.tail
