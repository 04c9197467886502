"""Names for parts: `particle-filter(n=16, ess=0.5)` is how a method is asked for, shown, stored and found again."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import keyword
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, Generic, Literal, TypeVar

from forethought.core.errors import UsageError

T = TypeVar("T")


class Registry(Generic[T]):
    """Parts of one kind by name. A part is a frozen dataclass; its fields are its parameters, all with defaults."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._parts: dict[str, type[T]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._parts))

    def __getitem__(self, name: str) -> type[T]:
        if name not in self._parts:
            raise UsageError(unknown(self.kind, name, self))
        return self._parts[name]

    def register(self, name: str) -> Callable[[type[Any]], type[Any]]:
        """Class decorator: enter a part under `name` and let its `repr` be its spelling."""

        def enter(part: type[Any]) -> type[Any]:
            if name in self._parts:
                raise ValueError(f"there is a {self.kind} '{name}' already")
            part.name = name
            part.__repr__ = spelled  # type: ignore[assignment]
            part.__init__ = checked(part)
            self._parts[name] = part
            return part

        return enter

    def parse(self, text: str) -> T:
        """Read `name` or `name(parameter=value, ...)`. Raises UsageError for what is unknown or senseless."""
        name, arguments = call_of(text, self.kind)
        part = self[name]
        known = types_of(part)
        for parameter in arguments:
            if parameter not in known:
                raise UsageError(unknown(f"parameter of {name}", parameter, known))
        return part(**arguments)


def types_of(part: type[Any]) -> Mapping[str, Any]:
    """The parameters of a part in order, each with the type of its values."""
    hints = typing.get_type_hints(part)
    return {f.name: hints[f.name] for f in fields_of(part)}


def fields_of(part: Any) -> list[dataclasses.Field[Any]]:
    """The fields of a part, or of its class, that can be asked for in words: those that its spelling shows."""
    return [f for f in dataclasses.fields(part) if f.init and f.repr]


def checked(part: type[Any]) -> Callable[..., None]:
    """The constructor of a part, which refuses values of another type before the part's own checks read them."""
    make = part.__init__

    @functools.wraps(make)
    def construct(self: Any, *values: Any, **named: Any) -> None:
        known = types_of(part)
        for name, value in (dict(zip(known, values, strict=False)) | named).items():
            if name in known and not fits_hint(value, known[name]):
                raise UsageError(f"{part.name}: {name}={value!r} is not {describe(known[name])}")
        make(self, *values, **named)

    return construct


def spelled(part: Any) -> str:
    """How a part is asked for. Worked out once, since a part never changes: its spelling is the key of its grades."""
    known = vars(part)
    if "_spelling" not in known:
        fields = ", ".join(f"{f.name}={getattr(part, f.name)!r}" for f in fields_of(part))
        known["_spelling"] = f"{part.name}({fields})" if fields else part.name
    return str(known["_spelling"])


def brief(part: Any) -> str:
    """The spelling of a part without the parameters that have their defaults."""
    changed = [f for f in fields_of(part) if getattr(part, f.name) != f.default]
    words = ", ".join(f"{f.name}={word(getattr(part, f.name))}" for f in changed)
    return f"{part.name}({words})" if words else str(part.name)


def word(value: Any) -> Any:
    """A value as people write it: a bare word needs no quotes unless it would be read as something else, such as None."""
    if not isinstance(value, str):
        return value
    bare = value.isidentifier() and value.isascii() and not keyword.iskeyword(value)
    return value if bare else repr(value)


def require(condition: bool, complaint: str) -> None:
    """Refuse a senseless parameter."""
    if not condition:
        raise UsageError(complaint)


def at_least(part: Any, **least: float) -> None:
    """Refuse parameters that are below what each must be at least. None is below nothing."""
    for name, lowest in least.items():
        value = getattr(part, name)
        require(value is None or value >= lowest, f"{part.name}: {name} must be at least {lowest}, not {value}")


def unknown(kind: str, name: str, known: typing.Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    return f"there is no {kind} '{name}'" + (
        f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(known)}"
    )


def call_of(text: str, kind: str) -> tuple[str, Mapping[str, Any]]:
    """Split `name(parameter=literal)`. Names may have hyphens; a bare word as a value is a string."""
    name, bracket, rest = text.strip().partition("(")
    if not bracket:
        return name.strip(), {}
    try:
        tree = ast.parse(f"f({rest}", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    if (
        not isinstance(tree, ast.Call)
        or not isinstance(tree.func, ast.Name)
        or tree.args
        or not distinct(tree.keywords)
    ):
        raise UsageError(f"cannot read the {kind} '{text}': write it as name(parameter=value, ...)")
    return name.strip(), {str(k.arg): literal(k.value, text) for k in tree.keywords}


def distinct(keywords: list[ast.keyword]) -> bool:
    """Whether all have names, each its own."""
    return len({k.arg for k in keywords} - {None}) == len(keywords)


def literal(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Name):
        return node.id
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise UsageError(f"cannot read '{ast.unparse(node)}' in '{text}': values are numbers, words or None") from None


def fits_hint(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is Literal:
        return value in typing.get_args(hint)
    if origin is tuple:  # of any length, all of one kind
        return isinstance(value, tuple) and all(fits_hint(item, typing.get_args(hint)[0]) for item in value)
    if origin in (typing.Union, UnionType):
        return any(fits_hint(value, option) for option in typing.get_args(hint))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint) if hint in (str, bool, NoneType) else True  # no spelling gives any other object


def describe(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        return "a tuple, each part " + describe(typing.get_args(hint)[0])
    options = typing.get_args(hint) or (hint,)
    words = {int: "a whole number", float: "a number", str: "a word", bool: "True or False", NoneType: "None"}
    return " or ".join(words.get(o) or (describe(o) if typing.get_origin(o) else str(o)) for o in options)
