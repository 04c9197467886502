"""What selections that hold back answers share: the votes they read, and the problems they learn from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from forethought.core.errors import UsageError
from forethought.core.registry import require
from forethought.selection.protocol import Known, Tallying, selections
from forethought.selection.votes import Numbers


@cache
def counting(spelling: str, asked: str) -> Tallying:
    """The selection of this spelling, which has to be one that counts."""
    found = selections.parse(spelling)
    if not isinstance(found, Tallying):
        raise UsageError(f"{asked}: it can read the votes of selections that only count, and {spelling} asks a model")
    return found


def outcomes(of: Tallying, known: Sequence[Known]) -> tuple[Numbers, Numbers]:
    """A row a problem: how sure the selection is, and how right (ties share the credit); abstentions are left out."""
    sure, right = [], []
    for votes, correct in known:
        tally = of.tally(votes)
        lead = tally.leading
        some = lead.any(1)
        sure += tally.confidence[some].tolist()
        right += ((lead & correct).sum(1)[some] / lead.sum(1)[some]).tolist()
    require(bool(sure), "there are no problems with an answer to learn from")
    return np.array(sure), np.array(right)
