"""Selections: rules from a population to a verdict. Importing this package registers those below."""

from forethought.selection import (
    abstain,
    basic,
    best_of_majority,
    conformal,
    dawid_skene,
    llm_choice,
    mbr,
    pairwise,
    rpc,
    top_two,
)
from forethought.selection.protocol import Fitted, Ranked, Selection, Tallying, Verdict, selections, wants_grades

__all__ = [
    "Fitted",
    "Ranked",
    "Selection",
    "Tallying",
    "Verdict",
    "abstain",
    "basic",
    "best_of_majority",
    "conformal",
    "dawid_skene",
    "llm_choice",
    "mbr",
    "pairwise",
    "rpc",
    "selections",
    "top_two",
    "wants_grades",
]
