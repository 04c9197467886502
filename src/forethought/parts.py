"""What a run is made of, and by which words a store knows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from forethought.core.budget import Budget
from forethought.core.errors import UsageError
from forethought.core.problem import Problem
from forethought.core.scope import Failures, Run, Seeded
from forethought.core.trace import Trace
from forethought.methods import By, Method
from forethought.models.protocol import price_of, weights_in
from forethought.selection import Selection

WEIGHTS = ("weights", "verifier_weights")  # the entries of a spec that tell the model's and the verifier's
DEFAULT_BUDGET = Budget({"tokens": 16_000, "seconds": 120})


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that a run is made of besides its problem and its seed."""

    by: By
    method: Method
    selection: Selection
    budget: Budget = DEFAULT_BUDGET
    failures: Failures = "fail"

    def run(self, seed: int, trace: Trace) -> Run:
        """A run of these parts, about to begin."""
        return Run(Seeded(seed), trace, failures=self.failures, ordered="ordered" in self.by.model.abilities)

    def spec(self) -> dict[str, Any]:
        """The parts by their spellings: what is stored, and what has to agree for a run to be resumed."""
        price = str(price_of(self.by.model) or "")
        return {
            "model": self.by.model.name,
            "task": self.by.task.name,
            "method": repr(self.method),
            "verifier": None if self.by.verifier is None else str(self.by.verifier),
            "selection": repr(self.selection),
            "budget": str(self.budget),
            "failures": self.failures,
            **({"price": price} if price else {}),
            **weights_of(self.by),
        }


def weights_of(by: By) -> dict[str, str]:
    """What the parts that run here are, by the content of their files: other weights make another run."""
    parts: tuple[object, object] = (by.model, by.verifier)
    return {entry: found for entry, part in zip(WEIGHTS, parts, strict=True) if (found := weights_in(part))}


def asked(parts: Parts, problem: Problem, seed: int, kind: Literal["solve", "bench"]) -> dict[str, Any]:
    """What a run was asked, as the store keeps it. Raises UsageError for a reference that would not come back as it was."""
    reference = problem.reference
    if not isinstance(reference, str | int | float | None):
        raise UsageError(f"a store keeps references that are a text, a number, True, False or None, not {reference!r}")
    told = {"problem": problem.text, "reference": reference, "name": problem.name}
    return parts.spec() | told | {"seed": seed, "kind": kind}


def key_of(spec: Mapping[str, Any]) -> str:
    """Specs that differ in anything have other keys."""
    return json.dumps(spec, sort_keys=True)
