"""Methods: one file each. Importing this package registers those below."""

from forethought.methods import (
    adaptive_self_consistency,
    beam,
    beta_self_consistency,
    budget_forcing,
    capability_aware,
    confidence_stop,
    eager,
    first_finish,
    fractured,
    greedy,
    hint_marginalization,
    multi_temperature,
    particle_filter,
    sample,
    semantic_entropy,
)
from forethought.methods.by import By
from forethought.methods.protocol import Law, Method, Need, methods

__all__ = [
    "By",
    "Law",
    "Method",
    "Need",
    "adaptive_self_consistency",
    "beam",
    "beta_self_consistency",
    "budget_forcing",
    "capability_aware",
    "confidence_stop",
    "eager",
    "first_finish",
    "fractured",
    "greedy",
    "hint_marginalization",
    "methods",
    "multi_temperature",
    "particle_filter",
    "sample",
    "semantic_entropy",
]
