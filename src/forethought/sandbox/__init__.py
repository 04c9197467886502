"""Processes that can be killed: programs that nobody has read, and libraries that may hang."""

from forethought.sandbox.limits import Kind, Limits, Outcome, Status
from forethought.sandbox.run import Program, run, run_sync

__all__ = ["Kind", "Limits", "Outcome", "Program", "Status", "run", "run_sync"]
