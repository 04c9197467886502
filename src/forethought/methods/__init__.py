"""Methods: one file each. Importing this package registers those below."""

from forethought.methods import (
    beam,
    entropic_particle_filter,
    greedy,
    metropolis_hastings,
    parallel_tempering,
    particle_filter,
    particle_gibbs,
    sample,
    steer,
)
from forethought.methods.by import By
from forethought.methods.protocol import Law, Method, Need, methods

__all__ = [
    "By",
    "Law",
    "Method",
    "Need",
    "beam",
    "entropic_particle_filter",
    "greedy",
    "methods",
    "metropolis_hastings",
    "parallel_tempering",
    "particle_filter",
    "particle_gibbs",
    "sample",
    "steer",
]
