"""Small changes of Python code: what a mutant is, and how one is made."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.And: ast.Or, ast.Or: ast.And, ast.USub: ast.UAdd,
}  # fmt: skip
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}
UNSEEN = ("annotation", "returns", "decorator_list")
Change = Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: the `variant`-th of the `node`-th place of a module."""

    module: str
    node: int
    variant: int
    line: int
    kind: str
    before: str
    after: str


def places(node: ast.AST) -> Iterator[ast.AST]:
    """What may be changed. Annotations are not run, and what an error says is not held by tests."""
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name not in UNSEEN:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from places(child)


def changes(node: ast.AST) -> Iterator[tuple[str, Change]]:
    """What can be done to one place, as functions that change it where it is."""
    match node:
        case ast.Compare(ops=ops):
            for i, op in enumerate(ops):
                yield "comparison", partial(swap_comparison, i, SWAPS[type(op)])
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in SWAPS:
            yield "arithmetic", partial(put, "op", SWAPS[type(op)]())
        case ast.BoolOp(op=op):
            yield "and/or", partial(put, "op", SWAPS[type(op)]())
        case ast.UnaryOp(op=ast.USub()):
            yield "sign", partial(put, "op", ast.UAdd())
        case ast.UnaryOp(op=ast.Not()):
            yield "not", partial(negate, "operand")
        case ast.If() | ast.While() | ast.IfExp():
            yield "condition", partial(negate, "test")
        case ast.comprehension(ifs=[_, *_]):
            yield "filter", lambda n: n.ifs.pop()
        case ast.Constant(value=bool(value)):
            yield "constant", partial(put, "value", not value)
        case ast.Constant(value=int(value)):
            yield "constant", partial(put, "value", value + 1)
        case ast.Constant(value=float(value)):
            yield "constant", partial(put, "value", value * 2 or 1.0)
        case ast.Expr(value=ast.Call() | ast.Await()):
            yield "statement", partial(put, "value", ast.Constant(None))
        case ast.Call(func=ast.Name(id=name)) if name in NAMES:
            yield "name", lambda n: put("id", NAMES[n.func.id], n.func)
    if isinstance(node, ast.Call):
        for i, keyword in enumerate(node.keywords):
            if keyword.arg:
                yield "keyword", lambda n, i=i: n.keywords.pop(i)


def put(field: str, value: object, node: ast.AST) -> None:
    setattr(node, field, value)


def negate(field: str, node: ast.AST) -> None:
    setattr(node, field, ast.UnaryOp(ast.Not(), getattr(node, field)))


def swap_comparison(i: int, op: type[ast.cmpop], node: ast.Compare) -> None:
    node.ops[i] = op()


def mutated(text: str, at: int, variant: int) -> tuple[str, str, str, int]:
    """The changed module, and its place before and after."""
    tree = ast.parse(text)
    node = next(n for i, n in enumerate(places(tree)) if i == at)
    before = shown(node)
    list(changes(node))[variant][1](node)
    ast.fix_missing_locations(tree)
    line = getattr(node, "lineno", 0) or node.target.lineno
    return ast.unparse(tree), before, shown(node), line


def shown(node: ast.AST) -> str:
    """The first line of a place."""
    if isinstance(node, ast.If | ast.While):
        return f"{type(node).__name__.lower()} {ast.unparse(node.test)}"
    return ast.unparse(node).splitlines()[0].strip()
