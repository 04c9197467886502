"""What can go wrong, by whose fault."""

from __future__ import annotations


class ForethoughtError(Exception):
    """Anything this package raises on purpose. Its text is one line that says what to do."""


class UsageError(ForethoughtError):
    """The caller asked for something that is not there or makes no sense. Nothing has been spent."""


class ModelError(ForethoughtError):
    """A model or verifier failed after its own retries. A fan-out may drop it (see `each`)."""


class BudgetEnded(ForethoughtError):
    """The next piece of work does not fit into the budget. Work admitted before it has finished and is kept."""
