"""Selections: rules from a population to a verdict. Importing this package registers those below."""

from forethought.selection import basic
from forethought.selection.protocol import Ranked, Selection, Verdict, selections, wants_grades

__all__ = ["Ranked", "Selection", "Verdict", "basic", "selections", "wants_grades"]
