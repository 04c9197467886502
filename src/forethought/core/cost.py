"""What was spent: one vector for all compute, the judge's too."""

from __future__ import annotations

from typing import NamedTuple

_new = tuple.__new__  # without the keywords of the constructor


class Cost(NamedTuple):
    """Everything a piece of work used, as its backend counted it.

    A call made inside a verifier books `verifier_*` only. `critical_tokens` is the longest chain of tokens that depend on
    one another, `kv_reads` the token-steps read by attention (the memory term of the Kinetics cost model).
    Costs add in sequence (`a + b`); side by side (`a.beside(b)`) critical tokens and seconds take the maximum.
    """

    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    new_tokens: int = 0
    verifier_calls: int = 0
    verifier_tokens: int = 0
    flops: float = 0.0
    kv_reads: float = 0.0
    critical_tokens: int = 0
    seconds: float = 0.0
    usd: float = 0.0

    @property
    def tokens(self) -> int:
        """What the budget word `tokens` means."""
        return self.new_tokens + self.verifier_tokens

    # These are on the path of every call, several times: written out they take half the time of a loop over the entries,
    # and an account that was just opened begins at ZERO.
    def __add__(self, other: Cost) -> Cost:  # type: ignore[override]
        if self is ZERO:
            return other
        a, b, c, d, e, f, g, h, i, j, k = self
        a_, b_, c_, d_, e_, f_, g_, h_, i_, j_, k_ = other
        return _new(Cost, (a + a_, b + b_, c + c_, d + d_, e + e_, f + f_, g + g_, h + h_, i + i_, j + j_, k + k_))

    def __sub__(self, other: Cost) -> Cost:
        if self is other:
            return ZERO
        a, b, c, d, e, f, g, h, i, j, k = self
        a_, b_, c_, d_, e_, f_, g_, h_, i_, j_, k_ = other
        return _new(Cost, (a - a_, b - b_, c - c_, d - d_, e - e_, f - f_, g - g_, h - h_, i - i_, j - j_, k - k_))

    def taking(self, seconds: float) -> Cost:
        """The same cost with its `seconds` filled in."""
        return _new(Cost, (*self[:9], seconds, self.usd))

    def times(self, count: int) -> Cost:
        return Cost(*(entry * count for entry in self))  # type: ignore[arg-type]

    def beside(self, other: Cost) -> Cost:
        both = self + other
        return both._replace(
            critical_tokens=max(self.critical_tokens, other.critical_tokens),
            seconds=max(self.seconds, other.seconds),
        )


ZERO = Cost()
