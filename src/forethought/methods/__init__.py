"""Methods: one file each. Importing this package registers those below."""

from forethought.methods import (
    ab_mcts_a,
    ab_mcts_m,
    beam,
    greedy,
    mcts,
    particle_filter,
    phi_decoding,
    sample,
    self_eval_beam,
)
from forethought.methods.by import By
from forethought.methods.protocol import Law, Method, Need, methods

__all__ = [
    "By",
    "Law",
    "Method",
    "Need",
    "ab_mcts_a",
    "ab_mcts_m",
    "beam",
    "greedy",
    "mcts",
    "methods",
    "particle_filter",
    "phi_decoding",
    "sample",
    "self_eval_beam",
]
