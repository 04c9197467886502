"""What tokens cost in money."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from forethought.core.cost import Cost
from forethought.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens: of the prompt, of its cached part (None: no rebate), and of new ones."""

    prompt: float = 0.0
    cached: float | None = None
    new: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Price:
        """Read `prompt=0.15,new=0.6`, or with `cached=0.075` besides."""
        prices: dict[str, float] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            name, _, number = (word.strip() for word in part.partition("="))
            if name in prices:
                raise UsageError(f"cannot read the price '{text}': it names {name} twice")
            try:
                prices[name] = float(number)
            except ValueError:
                prices[name] = -1.0
            if name not in {field.name for field in fields(cls)} or not 0 <= prices[name] < math.inf:
                raise UsageError(f"cannot read the price '{part}': write prompt=0.15,new=0.6 (USD per million tokens)")
        return cls(**prices)

    def __str__(self) -> str:
        """As `parse` reads it; nothing where all is free."""
        given = ((field.name, getattr(self, field.name)) for field in fields(self))
        return ",".join(
            f"{name}={value:.15g}" for name, value in given if value is not None and (value or name == "cached")
        )

    def on(self, cost: Cost) -> Cost:
        """The same cost with its `usd` filled in."""
        cached = self.prompt if self.cached is None else self.cached
        uncached = cost.prompt_tokens - cost.cached_tokens
        usd = (uncached * self.prompt + cost.cached_tokens * cached + cost.new_tokens * self.new) / 1e6
        return cost._replace(usd=usd)
