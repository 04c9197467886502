"""phi-decoding, held to a slow reference: the same words and the same lots, and by its own arithmetic the same search."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, pstdev
from typing import NamedTuple

import pytest

from forethought.core.draft import Finish
from forethought.core.scope import Call, Run, Scope, Seeded
from forethought.core.trace import Path
from forethought.methods import By, methods
from forethought.methods.phi_decoding import PhiDecoding
from forethought.models.protocol import Completion, Request
from tests.ladder import PROBLEM, Ladder, LadderTask

pytestmark = pytest.mark.anyio

# the world: no two different bags of these phrases are equally far from a third, so that rounding decides nothing

PHRASES = (
    "We add two and two, and two more.\n", "It is not four; it is six, or two and four. ", "Six less one is five.\n",
    "So we have five of six, and one is left. ", "Is one of the six left? One is.\n",
)  # fmt: skip
END = "That is all: we have six."


class Short(LadderTask):
    draft_tokens, max_steps = 12, 99  # some drafts are cut


class Said(NamedTuple):
    """What the model was asked for, and what it said."""

    text: str
    temperature: float
    whole: bool
    told: Completion


class Rambler(Ladder):
    """A token is a phrase, a line a few of them; chance says when to end, and how sure it is of each. Notes what it said."""

    def __init__(self, phrases: Sequence[str], noise: int) -> None:
        super().__init__(noise)
        self.phrases, self.said = phrases, dict[Path, Said]()

    async def extend(self, request: Request, call: Call) -> Completion:
        told = await super().extend(request, call)
        self.said[call.place] = Said(request.draft.text, request.temperature, not request.stop, told)
        return told

    def _tokens(self, request: Request, seed: int) -> tuple[list[str], tuple[float, ...], str]:
        chance, tokens, logprobs, finish = random.Random(seed), list[str](), list[float](), ""
        while not finish:
            tokens.append(END if chance.random() < 0.15 else chance.choice(self.phrases))
            logprobs.append(math.log(chance.uniform(0.2, 1.0)))
            stop, cut = request.stop and tokens[-1].endswith("\n"), len(tokens) == request.max_tokens
            finish = "end" if tokens[-1] == END else "stop" if stop else "length" if cut else ""
        return tokens, tuple(logprobs), finish


Lot = tuple[Sequence[float], int]
"""What could be drawn, and what was."""


@dataclass(frozen=True)
class Lots(Seeded):
    """Choices by a seed. Notes them."""

    drawn: list[Lot] = field(default_factory=list)

    def choose(self, place: Path, probs: Sequence[float]) -> int:
        self.drawn.append((probs, super().choose(place, probs)))
        return self.drawn[-1][1]


# the reference


@dataclass(frozen=True, eq=False)
class Beam:
    """`new` is what was said last, `sure` its mean log-probability; `value` is that of the last foresight."""

    text: str = ""
    new: str = ""
    size: int = 0
    sure: float = 0.0
    value: float = 0.0
    finish: Finish | None = None


Look = tuple[Beam, Beam]
"""A step and its foresight; one that has ended is its own."""


class SlowPhi:
    """The algorithm by the book, with lists."""

    def __init__(self, method: PhiDecoding, said: Sequence[Said], drawn: Sequence[Lot]) -> None:
        self.method, self.said, self.drawn = method, iter(said), iter(drawn)

    def answers(self) -> list[tuple[str, float]]:
        """The texts that it ends with, and the weight of each."""
        beams = [Beam()] * self.method.width
        for step in range(1, self.method.depth + 1):
            if all(beam.finish for beam in beams):
                break
            looks = self.looked(self.likely(beams))
            shares = self.shares(looks)
            beams = self.chosen(looks, shares)
            if self.over(step, looks, shares):
                break
        return self.weighed(self.looked(beams))

    def likely(self, beams: list[Beam]) -> list[Beam]:
        """In-width pruning: the likely steps, filled up to the width with others; what has ended stays."""
        ended, growing = [b for b in beams if b.finish], [b for b in beams if not b.finish]
        steps = [self.asked(beam, whole=False) for beam in growing for _ in range(self.method.expand)]
        sure = [step.sure for step in steps]
        least = fmean(sure) - self.method.sigma * pstdev(sure)
        kept, rest = [i for i, s in enumerate(sure) if s > least], [i for i, s in enumerate(sure) if s <= least]
        law = softmax([sure[i] / self.method.temper for i in rest])
        kept += [rest[i] for i in self.lots(law, self.method.width - len(ended) - len(kept))]
        return ended + [steps[i] for i in sorted(kept)]

    def looked(self, beams: Sequence[Beam]) -> list[Look]:
        return [(beam, beam if beam.finish else self.asked(beam, whole=True)) for beam in beams]

    def shares(self, looks: Sequence[Look]) -> list[float]:
        labels = clusters(looks, self.method.clusters)
        return [labels.count(label) / len(labels) for label in labels]

    def gains(self, looks: Sequence[Look]) -> list[float]:
        return [(end.sure - beam.value) / self.method.temper for beam, end in looks]

    def chosen(self, looks: Sequence[Look], shares: Sequence[float]) -> list[Beam]:
        law = [(p + q) / 2 for p, q in zip(softmax(shares), softmax(self.gains(looks)), strict=True)]
        picked = [looks[i] for i in self.lots(law, self.method.width)]
        return [replace(beam, value=end.sure) for beam, end in picked]

    def over(self, step: int, looks: Sequence[Look], shares: Sequence[float]) -> bool:
        """In-depth pruning. The first step is 1."""
        same = all(end.text == looks[0][1].text for _, end in looks)
        agreed = max(shares) > self.method.threshold
        return (agreed and step >= self.method.least) or (same and step > self.method.least)

    def weighed(self, looks: Sequence[Look]) -> list[tuple[str, float]]:
        """One of the larger of two clusters answers."""
        whole = [(beam, end) for beam, end in looks if end.finish == "end"]
        if not whole:
            return [(end.text, 1.0) for _, end in looks]
        labels = clusters(whole, 2)
        larger = max((0, 1), key=labels.count)
        inside = [i for i, label in enumerate(labels) if label == larger]
        law = dict(zip(inside, softmax([self.gains(whole)[i] for i in inside]), strict=True))
        return [(end.text, law.get(i, 0.0)) for i, (_, end) in enumerate(whole)]

    def asked(self, beam: Beam, *, whole: bool) -> Beam:
        """What the model said next, which was asked just this."""
        said, temperature = next(self.said), self.method.foresight if whole else self.method.temperature
        assert said[:3] == (beam.text, temperature, whole)
        size = beam.size + len(said.told.logprobs)
        ends: Finish | None = "end" if said.told.finish == "end" else "length" if size == Short.draft_tokens else None
        return Beam(beam.text + said.told.text, said.told.text, size, fmean(said.told.logprobs), beam.value, ends)

    def lots(self, law: Sequence[float], n: int) -> list[int]:
        """`n` different indices; each was drawn by just this law, over those that are left."""
        left, picked = list(range(len(law))), list[int]()
        for _ in range(n):
            (probs, i), total = next(self.drawn), sum(law[j] for j in left)
            assert [p / sum(probs) for p in probs] == pytest.approx([law[j] / total for j in left], rel=1e-9)
            picked.append(left.pop(i))
        return picked


def softmax(scores: Sequence[float]) -> list[float]:
    weights = [math.exp(score - max(scores)) for score in scores]
    return [weight / sum(weights) for weight in weights]


# its clusters

Point = dict[str, float]
"""How much of each word."""


def clusters(looks: Sequence[Look], k: int) -> list[int]:
    """Lloyd's algorithm on the steps, each with what was said after it."""
    points = tf_idf([step.new + (end.new if end is not step else "") for step, end in looks])
    centres = starts(points, k)
    before, labels = None, nearest(points, centres)
    while labels != before:
        members = [[p for p, label in zip(points, labels, strict=True) if label == i] for i in range(len(centres))]
        centres = [mean(some) if some else centre for some, centre in zip(members, centres, strict=True)]
        before, labels = labels, nearest(points, centres)
    return labels


def starts(points: Sequence[Point], k: int) -> list[Point]:
    """The first, and those that are farthest from all before."""
    centres = [points[0]]
    while len(centres) < k:
        gaps = [min(distance(point, centre) for centre in centres) for point in points]
        if max(gaps) < 1e-9:
            break
        centres.append(points[gaps.index(max(gaps))])
    return centres


def tf_idf(texts: Sequence[str]) -> list[Point]:
    bags = [Counter(re.findall("[a-z]+", text.lower())) for text in texts]
    rarity = {w: math.log((1 + len(bags)) / (1 + sum(w in bag for bag in bags))) + 1 for w in set().union(*bags)}
    points = [{word: n * rarity[word] for word, n in bag.items()} for bag in bags]
    return [{word: x / math.hypot(*point.values()) for word, x in point.items()} for point in points]


def distance(p: Point, q: Point) -> float:
    return math.fsum((p.get(word, 0.0) - q.get(word, 0.0)) ** 2 for word in p.keys() | q.keys())


def mean(points: Sequence[Point]) -> Point:
    return {word: fmean(point.get(word, 0.0) for point in points) for word in set().union(*points)}


def nearest(points: Sequence[Point], centres: Sequence[Point]) -> list[int]:
    gaps = [[distance(point, centre) for centre in centres] for point in points]
    return [row.index(min(row)) for row in gaps]


# the method


@pytest.mark.parametrize("spelling", [
    "phi-decoding", "phi-decoding(sigma=0.4, temper=0.5)", "phi-decoding(sigma=0, width=3, expand=3)",
    "phi-decoding(width=2, expand=4, clusters=2, least=2, threshold=0.5)", "phi-decoding(width=5, expand=2, sigma=0.7)",
    "phi-decoding(width=3, expand=1, sigma=1.3, least=0, threshold=1)", "phi-decoding(width=1, expand=3, depth=5, least=3)",
    "phi-decoding(width=2, expand=1, least=0, threshold=1, sigma=2)", "phi-decoding(depth=0, width=6)",
    "phi-decoding(width=2, expand=1, sigma=0, temper=0.001)", "phi-decoding(depth=2, sigma=9, clusters=5, temper=0.05)",
    "phi-decoding(expand=2, sigma=0)", "phi-decoding(width=1, expand=1, least=2, threshold=1)",
    "phi-decoding(depth=1)", "phi-decoding(width=8, foresight=0.3, temperature=0.9)",
])  # fmt: skip
async def test_it_does_what_a_slow_reference_does(spelling: str) -> None:
    method = methods.parse(spelling)
    assert isinstance(method, PhiDecoding)
    for seed in range(12):
        model, lots = Rambler(PHRASES[: (1, 2, 5)[seed % 3]], noise=seed), Lots(seed)
        pop = await method(PROBLEM, By(model, Short()), Scope.root(Run(lots)))
        slow = SlowPhi(method, [model.said[place] for place in sorted(model.said)], lots.drawn)
        assert [(p.state.text, pytest.approx(math.exp(p.logw))) for p in pop] == slow.answers()
        assert not [*slow.said, *slow.drawn]
