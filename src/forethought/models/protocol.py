"""What a model is: anything that extends drafts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from anyio.lowlevel import RunVar

from forethought.core.cost import ZERO, Cost
from forethought.core.draft import ROOT, Draft
from forethought.core.problem import Message
from forethought.core.registry import require
from forethought.core.scope import Call
from forethought.models.price import Price

if TYPE_CHECKING:
    from forethought.engine.rows import Hook

Ability = Literal["extend", "continue", "logprobs", "loglikelihood", "seed", "ordered", "schema", "controls"]
"""extend: answers a prompt. continue: goes on from a partial assistant text. logprobs: of the chosen tokens.
loglikelihood: scores a given text. seed: the same seed gives the same text. ordered: races are decided by critical
tokens, not by arrival (see `race`). schema: writes JSON by a schema. controls: does what `Controls` ask for."""


@dataclass(frozen=True, slots=True)
class Controls:
    """What may come at each token. A request that has any needs a model with the ability; the defaults ask for nothing.

    `repetition` divides positive logits of tokens seen in prompt or draft and multiplies negative ones; `presence` and
    `frequency` are subtracted once and a time for tokens that this request drew. `banned` token ids never come; no end comes
    before `min_tokens` of this request. `hook` looks at each token before it is drawn, and may stop the sample there or
    bias it; it is a frozen dataclass, since its `repr` is what records know it by. Raises UsageError for another one.
    A draft that a hook stopped is open, even if nothing was drawn: who asked goes on without the hook, since one that stops
    at once would stop for ever.
    """

    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    banned: tuple[int, ...] = ()
    min_tokens: int = 0
    hook: Hook | None = None

    def __post_init__(self) -> None:
        how = getattr(self.hook, "__dataclass_params__", None)
        frozen = self.hook is None or (how is not None and how.frozen)
        require(frozen, f"the hook of a request has to be a frozen dataclass, not {self.hook!r}")


PLAIN = Controls()


@dataclass(frozen=True, slots=True)
class Request:
    """One sample: go on from `draft` under `messages` for at most `max_tokens` new tokens.

    `stop` strings end the sample and are kept in its text. `forced` token ids are taken as if the model had chosen them.
    `logprobs` asks for that many alternatives at each token besides the chosen one; None asks for none at all.
    `schema` is a JSON schema, as text, that the answer has to follow; it needs the ability, and so do `controls`. `top_k`
    of 0 keeps all tokens.
    """

    messages: tuple[Message, ...]
    draft: Draft = ROOT
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    temperature: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0
    logprobs: int | None = None
    forced: tuple[int, ...] = ()
    schema: str | None = None
    top_k: int = 0
    controls: Controls = PLAIN

    @property
    def extras(self) -> str:
        """`top_k` and `controls` as records know them; empty if neither is asked for, as in records from before them."""
        top_k = f" top_k={self.top_k}" if self.top_k else ""
        return top_k if self.controls == PLAIN else f"{top_k} {self.controls}"


@dataclass(frozen=True, slots=True)
class Completion:
    """What came back: the new text (with the stop string that ended it), and what it cost by the backend's count.

    `finish` is `stop` at a stop string, `end` at the end of the text, `length` at `max_tokens`, `hook` where its hook stopped
    it. `tokens` and `logprobs` (natural log) are empty where the backend does not tell them. `top` has the alternatives at
    each token; after a hook it ends with those to the token that was not drawn. `vocabulary` names the one that `tokens` are
    ids of: models of the same name for it mean the same by the same ids.
    """

    text: str
    finish: Literal["stop", "end", "length", "hook"]
    cost: Cost = ZERO
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    top: tuple[dict[str, float], ...] = field(default=())
    vocabulary: str = ""


class Model(Protocol):
    """A frozen generative model. One request is one sample; its seed is `call.seed`."""

    @property
    def name(self) -> str:
        """As it is spelled on the command line."""
        ...

    @property
    def abilities(self) -> frozenset[Ability]: ...

    def bound(self, request: Request) -> Cost:
        """The most that this request can cost. A budget reserves it before anything is sent."""
        ...

    async def extend(self, request: Request, call: Call) -> Completion:
        """Draw one continuation.

        While tokens stream, `call.progress(cost so far)` tells what a cancelled call has already cost. Raises ModelError
        when the model's own retries are used up. Must not catch cancellation.
        """
        ...


class Likelihood(Protocol):
    """The optional ability `loglikelihood`."""

    async def loglikelihood(self, request: Request, continuation: str, call: Call) -> tuple[float, ...]:
        """The log-probability of each token of `continuation` after `request`'s messages and draft."""
        ...


@runtime_checkable
class Loads(Protocol):
    """A model, verifier or task that reads what it needs when it is first used, or now."""

    def load(self) -> None:
        """Read it. Raises UsageError if that cannot be."""
        ...


@runtime_checkable
class Priced(Protocol):
    """A model whose tokens have a price."""

    @property
    def price(self) -> Price | None:
        """None for a model around another one that has none."""
        ...


def price_of(model: object) -> Price | None:
    """The price of a model that has any; it is none for one that runs here."""
    return model.price if isinstance(model, Priced) else None


@runtime_checkable
class Closes(Protocol):
    """A model with connections or files to close."""

    async def aclose(self) -> None: ...


async def close(model: object) -> None:
    """Close what a model has open, if it has anything."""
    if isinstance(model, Closes):
        await model.aclose()


_OPEN: RunVar[list[Closes]] = RunVar("open")


def opened(by: Closes) -> None:
    """Have it closed when the work of this event loop is over."""
    _OPEN.set([*_OPEN.get([]), by])


async def close_opened() -> None:
    """Close what was opened in this event loop."""
    for by in _OPEN.get([]):
        await by.aclose()
    _OPEN.set([])


@runtime_checkable
class Weighty(Protocol):
    """A model or verifier that runs here: what it says depends on its files, which others may take the place of."""

    @property
    def weights(self) -> str:
        """The files by their content, as a short text, empty if it has none. Raises UsageError if they cannot be read."""
        ...


def weights_in(part: object) -> str:
    """The weights of a part that has any, else an empty text. Raises UsageError if they cannot be read."""
    return part.weights if isinstance(part, Weighty) else ""
