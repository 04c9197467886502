"""What resampling until an imperfect verifier accepts can and cannot do.

Stroebl et al. 2024, arXiv:2411.17501: a model that solves a kind of task with probability r, and a verifier that accepts
right answers with probability c (completeness, 1 - false negatives) and refuses wrong ones with probability s (soundness,
1 - false positives). Attempts are drawn until one is accepted, at most k of them; then nothing is answered.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

from forethought.core.registry import require

LONGEST = 100_000  # attempts looked ahead for the best number


@dataclass(frozen=True, slots=True)
class Kind:
    """Tasks of one difficulty: how often the model solves one, and their share among all tasks."""

    solved: float
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Resampling:
    """Resampling until acceptance, over tasks of several kinds."""

    kinds: Sequence[Kind]
    false_positive: float
    false_negative: float = 0.0

    def __post_init__(self) -> None:
        rates = [self.false_positive, self.false_negative, *(kind.solved for kind in self.kinds)]
        require(all(0 <= rate <= 1 for rate in rates), f"rates must lie between 0 and 1, not {rates}")
        shares = [kind.share for kind in self.kinds]
        whole = min(shares, default=0) >= 0 and math.isclose(math.fsum(shares), 1)
        require(whole, f"the shares of the kinds of tasks must sum to 1, not {shares}")

    def accepts(self, kind: Kind) -> tuple[float, float]:
        """The chances that one attempt is accepted and right, and accepted and wrong."""
        return (1 - self.false_negative) * kind.solved, self.false_positive * (1 - kind.solved)

    def right(self, attempts: float) -> float:
        """The chance of a right answer within so many attempts."""
        return self._over(attempts, right=1.0, wrong=0.0)

    def wrong(self, attempts: float) -> float:
        """The chance of a wrong answer within so many attempts."""
        return self._over(attempts, right=0.0, wrong=1.0)

    def cap(self) -> float:
        """The accuracy that no number of attempts exceeds."""
        return self.right(math.inf)

    def _over(self, attempts: float, right: float, wrong: float) -> float:
        total = 0.0
        for kind in self.kinds:
            a, b = self.accepts(kind)
            if a + b > 0:
                total += kind.share * (right * a + wrong * b) * (1 - (1 - a - b) ** attempts) / (a + b)
        return total

    def marginal(self, attempt: int, gain: float, loss: float, price: float = 0.0) -> float:
        """What attempt number `attempt` (from 1) is worth when it comes to it: all before were refused.

        `gain` for a right answer, `loss` (a positive number) for a wrong one, `price` for an attempt.
        """
        reached = [(kind, self._log_reached(kind, attempt)) for kind in self.kinds]
        top = max(log for _, log in reached)
        if top == -math.inf:  # it never comes to it
            return 0.0
        weights = [math.exp(log - top) for _, log in reached]
        worth = (a * gain - b * loss for a, b in (self.accepts(kind) for kind, _ in reached))
        return math.fsum(map(operator.mul, weights, worth)) / math.fsum(weights) - price

    def _log_reached(self, kind: Kind, attempt: int) -> float:
        """The logarithm of the chance that a task is of this kind and refused all attempts before."""
        refused = 1 - sum(self.accepts(kind))
        if kind.share == 0 or (refused <= 0 and attempt > 1):
            return -math.inf
        return math.log(kind.share) + (attempt - 1) * (math.log(refused) if attempt > 1 else 0.0)

    def value(self, attempts: float, gain: float, loss: float, price: float = 0.0) -> float:
        """The expected value of at most so many attempts."""
        worth = gain * self.right(attempts) - loss * self.wrong(attempts)
        return worth - price * self.drawn(attempts) if price else worth

    def drawn(self, attempts: float) -> float:
        """How many attempts are made on average."""
        kinds = ((kind.share, sum(self.accepts(kind))) for kind in self.kinds)
        return math.fsum(p * (attempts if e == 0 else (1 - (1 - e) ** attempts) / e) for p, e in kinds if p)

    def best(self, gain: float, loss: float, price: float = 0.0) -> float:
        """The number of attempts after which to give up; 0 if none is worth it, infinity if every one is.

        Refusals by a verifier that is better than chance tell that a task is hard, so the worth of an attempt only falls
        with their number, and the best number is the last attempt of positive worth. Worse than chance, it only rises.
        """
        if 1 - self.false_negative < self.false_positive:
            return math.inf if self.value(math.inf, gain, loss, price) > 0 else 0
        if self.marginal(1, gain, loss, price) <= 0:
            return 0
        if self.marginal(LONGEST, gain, loss, price) > 0:
            return math.inf
        low, high = 1, LONGEST  # worth something, worth nothing
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.marginal(middle, gain, loss, price) > 0 else (low, middle)
        return low


def solutions(tokens: float, solution: float, verification: float, votes: int) -> float:
    """How many solutions a budget pays for, each with `votes` verifications: C = S (1 + lambda V), arXiv:2504.01005.

    `solution` and `verification` are the tokens of one; `votes` 0 is self-consistency.
    """
    require(min(solution, verification) > 0, "a solution and a verification take more than 0 tokens")
    return tokens / (solution + votes * verification)
