"""What tokens cost in money."""

from __future__ import annotations

from dataclasses import dataclass

from forethought.core.cost import Cost


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens: of the prompt, of its cached part (None: no rebate), and of new ones."""

    prompt: float = 0.0
    cached: float | None = None
    new: float = 0.0

    def on(self, cost: Cost) -> Cost:
        """The same cost with its `usd` filled in."""
        cached = self.prompt if self.cached is None else self.cached
        uncached = cost.prompt_tokens - cost.cached_tokens
        usd = (uncached * self.prompt + cost.cached_tokens * cached + cost.new_tokens * self.new) / 1e6
        return cost._replace(usd=usd)
