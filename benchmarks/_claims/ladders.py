"""The ladders: one kind of run at growing sizes, each read by every claim that names it.

`sizes` are at least four. `spelling` has `{n}`, the size, and may have `{t}`, the temperature chosen on the train split
(`frozen.json`). A ladder of plain samples is drawn once, at its largest size, and read by its beginnings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

FROZEN = Path(__file__).with_name("frozen.json")
TEMPERATURES = (0.6, 0.8, 1.0)
VOTES = ("majority", "weighted", "best")
SIZES = (2, 4, 8, 16)
SMALL = (2, 3, 4, 8)
DEEP = (6, 8, 16, 32)  # a tree search with fewer drafts is a sample: it has not gone below its root yet
SAMPLES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Ladder:
    """`select` are the selections that compete for it on the train split; one alone is fixed by what the ladder stands for."""

    name: str
    spelling: str
    select: tuple[str, ...] = VOTES
    sizes: tuple[int, ...] = SIZES
    verifier: str = "process"
    tasks: tuple[str, ...] = ("chain", "countdown", "procedure")
    sampled: bool = False  # drawn once and read by its beginnings
    temperatures: tuple[float, ...] = (
        TEMPERATURES  # those that compete; one alone is fixed by what the ladder stands for
    )

    def method(self, size: int, temperature: float) -> str:
        """Four drafts a survivor, as published, where a method has a width and an expansion."""
        expand = min(size, 4)
        return self.spelling.format(n=size, t=temperature, width=size // expand, expand=expand)

    def runs(self, temperature: float) -> tuple[str, ...]:
        """The methods that have to be run for it."""
        sizes = self.sizes[-1:] if self.sampled else self.sizes
        return tuple(self.method(size, temperature) for size in sizes)

    @property
    def fixed(self) -> bool:
        """Whether there is nothing to choose."""
        return len(self.select) == 1 and (len(self.temperatures) == 1 or "{t}" not in self.spelling)


@dataclass(frozen=True)
class Choice:
    """What was chosen for a ladder on the train split."""

    temperature: float = 0.8
    select: str = "weighted"


def sampled(name: str, select: str, **more: object) -> Ladder:
    return Ladder(name, "sample(n={n}, temperature={t})", (select,), SAMPLES, sampled=True, **more)  # type: ignore[arg-type]


def hot(name: str, spelling: str, select: str, sizes: tuple[int, ...] = SIZES, **more: object) -> Ladder:
    """A ladder whose claim is about how it samples, at the temperature of the samples that it is compared with."""
    return Ladder(name, spelling, (select,), sizes, temperatures=(1.0,), **more)  # type: ignore[arg-type]


def checked(ladder: Ladder) -> Ladder:
    """The ladder on chains that check themselves, whose drafts differ in length by their luck."""
    return replace(ladder, tasks=("chain-checked",))


WIDE = "(width={width}, expand={expand}, temperature={t})"
PLAIN = "(n={n}, temperature={t})"
ONE_BY_ONE = "(n={n}, batch=1, temperature={t})"  # as published

LADDERS: Mapping[str, Ladder] = {
    ladder.name: ladder
    for ladder in (
        sampled("self-consistency", "majority"),
        sampled("best-of-n", "best"),
        sampled("weighted-best-of-n", "weighted"),
        sampled("rpc", "rpc"),
        sampled("best-of-majority", "best-of-majority"),
        sampled("coverage", "coverage"),
        sampled("warm-coverage", "coverage", temperatures=(1.0,)),
        Ladder("beam", "beam" + WIDE),
        Ladder("dvts", "dvts(n={n}, expand={expand}, temperature={t})"),
        Ladder("rebase", "rebase" + PLAIN),
        Ladder("ets", "ets" + PLAIN),
        Ladder("a-star", "a-star" + PLAIN, ("majority",), (4, 8, 16, 32)),
        Ladder("early-rejection", "early-rejection" + WIDE, sizes=SMALL),
        Ladder("best-first", "best-first(nodes={n})", ("majority",), sizes=(4, 8, 16, 32), tasks=("countdown",)),
        Ladder("mcts", "mcts" + ONE_BY_ONE, sizes=DEEP),
        Ladder("ab-mcts-a", "ab-mcts-a" + ONE_BY_ONE, sizes=DEEP),
        Ladder("ab-mcts-m", "ab-mcts-m" + ONE_BY_ONE, sizes=DEEP),
        Ladder("phi-decoding", "phi-decoding" + WIDE),
        Ladder("self-eval-beam", "self-eval-beam" + WIDE, sizes=SMALL),
        Ladder("particle-filter", "particle-filter" + PLAIN),
        Ladder("particle-filter-published", "particle-filter-published" + PLAIN),
        Ladder("overconfident-filter", "particle-filter-published" + PLAIN, sizes=SMALL, verifier="overconfident"),
        Ladder(
            "overconfident-entropic",
            "entropic-particle-filter-published(n={n}, resampling=multinomial, temperature={t})",  # as the plain one's
            sizes=SMALL,
            verifier="overconfident",
        ),
        Ladder("particle-gibbs", "particle-gibbs(n={n}, sweeps=2, temperature={t})", sizes=(2, 3, 4, 8)),
        Ladder(
            "parallel-tempering", "parallel-tempering(chains=2, n={n}, sweeps=2, temperature={t})", sizes=(2, 3, 4, 5)
        ),
        Ladder("metropolis-hastings", "metropolis-hastings(chains={n}, moves=3, temperature={t})", sizes=(1, 2, 4, 8)),
        Ladder("steer", "steer" + PLAIN, sizes=SMALL),
        Ladder(
            "adaptive-self-consistency",
            "adaptive-self-consistency(n={n}, window=4, temperature={t})",
            ("majority",),
            (4, 8, 16, 32),
        ),
        Ladder("beta-self-consistency", "beta-self-consistency" + PLAIN, ("majority",), (4, 8, 16, 32)),
        # From hardly more than one draft to nearly 16, wherever between them a reward model has its two calls.
        Ladder("capability-aware", "capability-aware(n=16, stop={n}e-2, window=1)", ("best",), (1, 3, 6, 12, 25, 50)),
        Ladder("semantic-entropy", "semantic-entropy(n={n}, rounds=4, temperature={t})", ("majority",), (2, 3, 4, 8)),
        Ladder("confidence-stop", "confidence-stop" + PLAIN, ("majority",), (1, 2, 4, 8)),
        hot("eager", "eager" + PLAIN, "coverage"),
        checked(hot("fractured", "fractured(n={n}, cuts=4, temperature={t})", "coverage", (1, 2, 4, 8))),
        checked(sampled("checked-coverage", "coverage", temperatures=(1.0,))),
        checked(sampled("checked-self-consistency", "majority", temperatures=(1.0,))),
        Ladder("multi-temperature", "multi-temperature(n={n}, intra=1.0, cross=1.0)", ("coverage",), (4, 8, 16, 32)),
    )
}


def frozen(path: Path = FROZEN) -> dict[str, Choice]:
    """The choices made on the train split; those of ladders that had none to make, or were not there, are defaults."""
    chosen = json.loads(path.read_text())["chosen"] if path.exists() else {}
    return {name: choice_of(ladder, chosen.get(name, {})) for name, ladder in LADDERS.items()}


def choice_of(ladder: Ladder, chosen: Mapping[str, object]) -> Choice:
    default = {
        "temperature": ladder.temperatures[0] if len(ladder.temperatures) == 1 else 0.8,
        "select": ladder.select[0] if len(ladder.select) == 1 else "weighted",
    }
    return Choice(**{name: chosen.get(name, value) for name, value in default.items()})  # type: ignore[arg-type]
