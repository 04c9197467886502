"""forethought: inference-time compute on frozen models, within a budget, with every token counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forethought.api import solve, solve_many, solve_sync
    from forethought.core.budget import Budget
    from forethought.core.cost import Cost
    from forethought.core.errors import BudgetEnded, ForethoughtError, ModelError, UsageError
    from forethought.core.problem import Problem
    from forethought.solving import Solution

# Names are looked up when first used, so that importing the package stays cheap and pulls in no numerics.
_HOMES = {
    "Budget": "core.budget",
    "BudgetEnded": "core.errors",
    "Cost": "core.cost",
    "ForethoughtError": "core.errors",
    "ModelError": "core.errors",
    "Problem": "core.problem",
    "Solution": "solving",
    "UsageError": "core.errors",
    "solve": "api",
    "solve_many": "api",
    "solve_sync": "api",
}

__all__ = [
    "Budget",
    "BudgetEnded",
    "Cost",
    "ForethoughtError",
    "ModelError",
    "Problem",
    "Solution",
    "UsageError",
    "solve",
    "solve_many",
    "solve_sync",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'forethought' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"forethought.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
