"""A small language of first-order logic, as a model writes it: one premise a line, and a conclusion.

    premise: forall x (Cat(x) -> Animal(x))      # all x., ∀x
    premise: Cat(tom) and not Dog(tom)           # & ∧, ~ ¬
    premise: exists y, z. Likes(y, z) or y = z   # some, ∃; | ∨; !=, ≠
    conclusion: Animal(tom) xor Dog(tom)         # ⊕; -> →; <-> ↔

`not` binds tightest, then `and`, `xor`, `or`, `->` (to the right), `<->`. A quantifier followed by a dot reaches to the end
of its formula or bracket, one without a dot only over what follows at once. Names are taken without regard to case; what no
quantifier binds is a constant; a name with arguments is a predicate, or a function where it is an argument or beside `=`. A
predicate or function has one number of arguments throughout. A formula has at most 200 operators, and brackets and terms
stand at most 100 deep in each other. Whatever stands after `#` is not read.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Formula = list[Any]
"""JSON: ["and", f, g], ["not", f], ["forall", name, f], ["=", t, u], ["is", name, t, ...]; a term is a name or
["of", name, t, ...]."""

TOKEN = re.compile(r"\s*(?:(<->|<=>|->|=>|!=|[()~¬∧&∨|⊕→↔∀∃,.:=≠!^])|([^\W]\w*)|(\S))")
WORDS = {
    "&": "and", "∧": "and", "^": "and", "|": "or", "∨": "or", "⊕": "xor", "~": "not", "¬": "not", "!": "not", "→": "->",
    "=>": "->", "↔": "<->", "<=>": "<->", "iff": "<->", "implies": "->", "∀": "forall", "all": "forall", "∃": "exists",
    "some": "exists", "≠": "!=",
}  # fmt: skip
LEVELS = ("<->", "->", "or", "xor", "and")  # loosest first
KEYWORDS = {*LEVELS, "not", "forall", "exists", "=", "!=", "(", ")", ",", ".", ":"}
DEEPEST, MOST = 100, 200  # nested brackets and terms, operators of a formula: so that no text exhausts any stack
LINE = re.compile(r"^[ \t*\-\d.)]*(premise|conclusion)[ \t\d]*:(.*)$", re.IGNORECASE | re.MULTILINE)


class LogicError(ValueError):
    """A text that is not in the language. Says where."""


@dataclass(frozen=True, slots=True)
class Argument:
    """Premises and a conclusion."""

    premises: tuple[Formula, ...]
    conclusion: Formula


def read(text: str) -> Argument:
    """The premises and the last conclusion of a text; its other lines are not read. Raises LogicError."""
    premises, conclusion, arities = [], None, dict[tuple[str, str], int]()
    for kind, line in LINE.findall(text):
        formula = Reader(line.partition("#")[0], arities).whole()
        if kind.lower() == "premise":
            premises.append(formula)
        else:
            conclusion = formula
    if conclusion is None:
        raise LogicError("there is no line `conclusion: ...`")
    return Argument(tuple(premises), conclusion)


def tokens(line: str) -> list[str]:
    found = []
    for sign, name, other in TOKEN.findall(line):
        if other:
            raise LogicError(f"cannot read '{other}' in '{line.strip()}'")
        word = (sign or name).casefold()
        found.append(WORDS.get(word, word))
    return found


@dataclass
class Reader:
    """Recursive descent over one formula. `arities` holds for all formulas of a text."""

    line: str
    arities: dict[tuple[str, str], int]
    place: int = 0
    depth: int = 0
    operators: int = 0
    words: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.words = tokens(self.line)

    def whole(self) -> Formula:
        made = self.binary(0)
        if self.here is not None:
            raise self.wrong("the end")
        return made

    @property
    def here(self) -> str | None:
        return self.words[self.place] if self.place < len(self.words) else None

    def wrong(self, wanted: str) -> LogicError:
        found = "the end" if self.here is None else f"'{self.here}'"
        return LogicError(f"{wanted} should stand where {found} is in '{self.line.strip()}'")

    @contextmanager
    def deeper(self) -> Iterator[None]:
        self.depth += 1
        if self.depth > DEEPEST:
            raise LogicError(f"'{self.line.strip()[:60]}' is nested too deeply")
        yield
        self.depth -= 1

    def operator(self) -> None:
        """Count one: whatever is read becomes no deeper than there are operators, plus the depth of its terms."""
        self.operators += 1
        if self.operators > MOST:
            raise LogicError(f"'{self.line.strip()[:60]}' has more than {MOST} operators")

    def take(self, word: str) -> bool:
        there = self.here == word
        self.place += there
        return there

    def need(self, word: str) -> None:
        if not self.take(word):
            raise self.wrong(f"'{word}'")

    def name(self) -> str:
        if self.here is None or self.here in KEYWORDS:
            raise self.wrong("a name")
        self.place += 1
        return self.words[self.place - 1]

    def binary(self, level: int) -> Formula:
        if level == len(LEVELS):
            return self.unary()
        word, parts = LEVELS[level], [self.binary(level + 1)]
        while self.take(word):
            self.operator()
            parts.append(self.binary(level + 1))
        if word == "->":
            return functools.reduce(lambda right, left: [word, left, right], reversed(parts))
        return functools.reduce(lambda left, right: [word, left, right], parts)

    def unary(self) -> Formula:
        with self.deeper():
            if self.take("not"):
                self.operator()
                return ["not", self.unary()]
            for word in ("forall", "exists"):
                if self.take(word):
                    return self.quantified(word)
            if self.take("("):
                return self.bracketed()
            return self.atom()

    def quantified(self, word: str) -> Formula:
        names = [self.name()]
        while self.take(","):
            names.append(self.name())
        far = self.take(".") or self.take(":")
        made = self.binary(0) if far else self.unary()
        for name in reversed(names):
            self.operator()
            made = [word, name, made]
        return made

    def bracketed(self) -> Formula:
        made = self.binary(0)
        self.need(")")
        return made

    def atom(self) -> Formula:
        name = self.name()
        arguments = self.arguments() if self.take("(") else []
        for sign in ("=", "!="):
            if self.take(sign):
                equal = ["=", self.term_of(name, arguments), self.term()]
                return equal if sign == "=" else ["not", equal]
        self.check("predicate", name, len(arguments))
        return ["is", name, *arguments]

    def arguments(self) -> list[Any]:
        made = [self.term()]
        while self.take(","):
            made.append(self.term())
        self.need(")")
        return made

    def term(self) -> Any:
        with self.deeper():
            name = self.name()
            return self.term_of(name, self.arguments() if self.take("(") else [])

    def term_of(self, name: str, arguments: list[Any]) -> Any:
        self.check("function", name, len(arguments))
        return ["of", name, *arguments] if arguments else name

    def check(self, kind: str, name: str, arity: int) -> None:
        known = self.arities.setdefault((kind, name), arity)
        if known != arity:
            raise LogicError(f"the {kind} '{name}' has {known} and {arity} arguments")
