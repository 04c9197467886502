"""What a claim is: a paper's word in a form that can be measured here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from . import curves
from .curves import Curve, Estimate

Curves = Mapping[str, Curve]


@dataclass(frozen=True)
class Claim:
    """`ladders` are what it reads, the method of the paper first; `published` is the paper's own figure.

    `better` is where its measure must lie for the claim to hold: an interval wholly above it. `size` is the least published
    figure, where the measure is of the same kind. `note` says how the form here differs from the paper's.
    """

    name: str
    says: str
    source: str
    ladders: tuple[str, ...]
    measure: Callable[[Curves], Estimate | None]
    unit: str
    better: float
    published: str
    size: float | None = None
    axis: str = "tokens"
    note: str = ""
    drawn: Callable[[Curves], Sequence[Curve]] | None = None  # the plot's curves, where they are not the ladders
    where: Callable[[Curves], str] | None = None  # of what part of the ladders the measure tells

    def shown(self, found: Curves) -> Sequence[Curve]:
        """The curves of its plot."""
        return self.drawn(found) if self.drawn else [found[name] for name in self.ladders]


def saving(
    name: str,
    says: str,
    source: str,
    a: str,
    b: str,
    published: str,
    size: float | None,
    axis: str = "tokens",
    note: str = "",
) -> Claim:
    """`a` needs fewer tokens than `b` for the same accuracy."""
    measure = lambda found: curves.saving(found[a], found[b], axis)  # noqa: E731
    where = lambda found: curves.compared(found[a], found[b])  # noqa: E731
    return Claim(name, says, source, (a, b), measure, "x", 1.0, published, size, axis, note, where=where)


def gain(
    name: str, says: str, source: str, a: str, b: str, published: str, axis: str = "tokens", note: str = ""
) -> Claim:
    """`a` is more accurate than `b` at the same tokens."""
    measure = lambda found: curves.gain(found[a], found[b], axis)  # noqa: E731
    return Claim(name, says, source, (a, b), measure, "points", 0.0, published, None, axis, note)
