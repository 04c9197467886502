"""Verifiers: what gives drafts grades. Importing this package registers those below."""

from forethought.verifiers import exact, overconfident, pattern, process
from forethought.verifiers.grading import grade_all, grade_of
from forethought.verifiers.protocol import Aggregation, Verifier, aggregate, verifiers

__all__ = [
    "Aggregation",
    "Verifier",
    "aggregate",
    "exact",
    "grade_all",
    "grade_of",
    "overconfident",
    "pattern",
    "process",
    "verifiers",
]
