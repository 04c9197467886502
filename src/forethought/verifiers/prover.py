"""What follows from premises: z3, asked in a worker process that can be killed."""

from __future__ import annotations

import functools
import importlib.util
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from forethought.core.errors import ModelError, UsageError
from forethought.sandbox.turns import Turns
from forethought.sandbox.worker import SIZE, Workers
from forethought.verifiers.logic_language import Formula, LogicError, read

Label = Literal["true", "false", "uncertain", "error"]
TURNS = Turns("provers", SIZE)


async def label(text: str, seconds: float = 10.0) -> Label:
    """Whether the conclusion of a formalisation follows from its premises, or its opposite does, or neither.

    `error` where the text is not in the language or its premises contradict each other, from which anything follows.
    What cannot be decided in time is uncertain, as in LINC. Raises UsageError where z3 is not installed or
    does not import.
    """
    return await TURNS(lambda: label_sync(text, seconds))


def label_sync(text: str, seconds: float = 10.0) -> Label:
    """`label` for threads."""
    try:
        argument = read(text)
    except LogicError:
        return "error"
    try:
        told: Label = workers().call([argument.premises, argument.conclusion, seconds], 3 * seconds + 1)
    except TimeoutError:
        return "uncertain"
    except ModelError:  # z3 gave up for good on this formula: out of memory, or a crash
        return "error"
    return told


def vote(labels: Sequence[Label]) -> Label:
    """LINC's vote over parses: errors do not vote, the most common label wins, ties go to the first seen."""
    counted: Counter[Label] = Counter(found for found in labels if found != "error")  # keeps the order of arrival
    return max(counted, key=lambda found: counted[found]) if counted else "error"


@functools.cache
def workers() -> Workers:
    if importlib.util.find_spec("z3") is None:
        raise UsageError("the logic verifier needs z3: pip install 'forethought[provers]'")
    return Workers("forethought.verifiers.prover:proved", library="z3")


def proved(premises: list[Formula], conclusion: Formula, seconds: float) -> Label:
    """The proof itself, inside a worker. First whether the conclusion follows, then whether its opposite does."""
    import z3

    terms = Terms(z3)
    given = [terms.formula(premise, {}) for premise in premises]
    goal = terms.formula(conclusion, {})

    def refuted(extra: Any) -> bool:
        solver = z3.Solver()
        solver.set("timeout", round(1000 * seconds))
        solver.add(*given, extra)
        return bool(solver.check() == z3.unsat)

    if refuted(z3.BoolVal(True)):
        return "error"
    return "true" if refuted(z3.Not(goal)) else "false" if refuted(goal) else "uncertain"


class Terms:
    """Formulas of the language as z3's, over one sort of things."""

    def __init__(self, z3: Any) -> None:
        self._z3, self._things = z3, z3.DeclareSort("Thing")

    def formula(self, made: Formula, bound: dict[str, Any]) -> Any:
        word, *rest = made
        if word in ("forall", "exists"):
            variable = self._z3.Const(f"{rest[0]}!{len(bound)}", self._things)
            inner = self.formula(rest[1], bound | {rest[0]: variable})
            return (self._z3.ForAll if word == "forall" else self._z3.Exists)([variable], inner)
        if word == "is":
            return self._applied(f"is {rest[0]}", [self.term(t, bound) for t in rest[1:]], self._z3.BoolSort())
        if word == "=":
            return self.term(rest[0], bound) == self.term(rest[1], bound)
        parts = [self.formula(part, bound) for part in rest]
        return {
            "not": self._z3.Not,
            "and": self._z3.And,
            "or": self._z3.Or,
            "xor": self._z3.Xor,
            "->": self._z3.Implies,
            "<->": lambda a, b: a == b,
        }[word](*parts)

    def term(self, made: Any, bound: dict[str, Any]) -> Any:
        if isinstance(made, str):
            return bound[made] if made in bound else self._z3.Const(made, self._things)
        _, name, *arguments = made
        return self._applied(f"of {name}", [self.term(t, bound) for t in arguments], self._things)

    def _applied(self, name: str, arguments: list[Any], result: Any) -> Any:
        return self._z3.Function(name, *[self._things] * len(arguments), result)(*arguments)
