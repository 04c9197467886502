"""Methods: one file each. Importing this package registers those below."""

from forethought.methods import beam, greedy, particle_filter, sample
from forethought.methods.by import By
from forethought.methods.protocol import Law, Method, Need, methods

__all__ = ["By", "Law", "Method", "Need", "beam", "greedy", "methods", "particle_filter", "sample"]
