"""Verifiers: what gives drafts grades. Importing this package registers those below."""

from forethought.verifiers import (
    aggregated,
    agreement,
    classifier,
    code,
    endpoint,
    exact,
    judge,
    logic,
    mathematics,
    noisy,
    overconfident,
    pattern,
    process,
    reward_token,
    self_eval,
)
from forethought.verifiers.comparing import Comparer, compared
from forethought.verifiers.grading import grade_all, grade_of
from forethought.verifiers.protocol import Aggregation, Verifier, aggregate, verifiers

__all__ = [
    "Aggregation",
    "Comparer",
    "Verifier",
    "aggregate",
    "aggregated",
    "agreement",
    "classifier",
    "code",
    "compared",
    "endpoint",
    "exact",
    "grade_all",
    "grade_of",
    "judge",
    "logic",
    "mathematics",
    "noisy",
    "overconfident",
    "pattern",
    "process",
    "reward_token",
    "self_eval",
    "verifiers",
]
