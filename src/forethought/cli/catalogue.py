"""What there is, as rows. The oracle of a verifier is the list of tasks in which it looks at the reference."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from forethought.core.registry import fields_of
from forethought.methods import methods
from forethought.models.names import KINDS
from forethought.selection import selections
from forethought.tasks import GENERATED, TASKS
from forethought.verifiers import verifiers

Row = Mapping[str, Any]


def summary(part: object) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(part) or "").split("\n\n", 1)[0].split())


def parameters(part: Any) -> dict[str, Any]:
    return {field.name: field.default for field in fields_of(part)}


def described(name: str, part: Any) -> dict[str, Any]:
    """What methods and selections both declare."""
    known = {"name": name, "spelling": repr(part()), "needs": sorted(part.needs), "parameters": parameters(part)}
    return known | {"paper": part.paper, "summary": summary(part)}


def method_rows() -> list[Row]:
    return [described(name, methods[name]) | {"law": methods[name].law} for name in methods]


def selection_rows() -> list[Row]:
    return [described(name, selections[name]) for name in selections]


def verifier_rows() -> list[Row]:
    rows: list[Row] = []
    for name in verifiers:
        part = verifiers[name]
        plain = part()
        oracles = sorted(t for t, task in TASKS.items() if plain.oracle(task))
        row = {"name": name, "spelling": repr(plain), "process": plain.process, "oracle": oracles}
        rows.append(row | {"parameters": parameters(part), "summary": summary(part)})
    return rows


def task_rows() -> list[Row]:
    rows: list[Row] = []
    for name, task in TASKS.items():
        made = GENERATED.get(name)
        row = {
            "name": name,
            "difficulties": list(made.difficulties) if made else [],
            "middle": made.middle if made else None,
        }
        rows.append(row | {"checkable": task.checkable, "summary": summary(type(task))})
    return rows


def model_rows() -> list[Row]:
    from forethought.models import pull

    ready = {"reasoner": True, "smollm2": pull.path() is not None}
    return [{"name": name, "ready": ready.get(name), "summary": text} for name, text in KINDS.items()]
