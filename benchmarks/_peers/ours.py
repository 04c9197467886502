"""Our methods at the peers' settings."""

from __future__ import annotations

from .theirs import BATCH, SWEEPS, WIDTH

OURS = {
    "best-of-n": ("sample(n={n}, temperature={t})", "best"),
    "self-consistency": ("sample(n={n}, temperature={t})", "majority"),
    "beam": (f"beam(width={WIDTH}, expand={{expand}}, temperature={{t}})", "best"),
    "particle-filter": ("particle-filter-published(n={n}, temperature={t})", "best"),
    "entropic-filter": ("entropic-particle-filter-published(n={n}, temperature={t})", "best"),
    "gibbs": (f"particle-gibbs(n={{half}}, sweeps={SWEEPS}, temperature={{t}})", "best"),
    "ab-mcts-a": (f"ab-mcts-a(n={{n}}, batch={BATCH}, temperature={{t}})", "best"),
}


def spelled(name: str, n: int, temperature: float) -> tuple[str, str]:
    """Our method and selection for a stated budget of `n`."""
    method, select = OURS[name]
    return method.format(n=n, t=temperature, expand=max(n // WIDTH, 1), half=max(n // SWEEPS, 1)), select
