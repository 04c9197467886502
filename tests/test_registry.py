"""Spellings: what is written is read back the same, and every mistake is one line that says what there is."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought.core.errors import UsageError
from forethought.core.registry import Registry, at_least, brief, call_of, require, unknown
from forethought.methods import methods
from forethought.selection import selections
from forethought.verifiers import verifiers

parts: Registry[Any] = Registry("part")


@parts.register("many-parts")
@dataclass(frozen=True)
class Many:
    n: int | None = 4
    rate: float = 0.5
    word: str = "x"
    mode: Literal["sum", "max"] = "sum"
    on: bool = False

    def __post_init__(self) -> None:
        require(self.rate < 10, f"many-parts: rate must be below 10, not {self.rate}")


@parts.register("none")
@dataclass(frozen=True)
class Plain:
    pass


def test_names_come_in_order() -> None:
    assert list(parts) == ["many-parts", "none"]
    assert parts["none"] is Plain
    assert parts.parse("none") == parts.parse(" none() ") == Plain()


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="there is a part 'none' already"):
        parts.register("none")(Plain)


@pytest.mark.parametrize(("text", "part"), [
    ("many-parts", Many()),
    (" many-parts ( n = 3 , rate=1 ) ", Many(3, 1)),
    ("many-parts(n=None, mode=max)", Many(None, mode="max")),
    ("many-parts(mode='max', word=hello, on=True)", Many(mode="max", word="hello", on=True)),
    ("many-parts(rate=-1.5e-3,)", Many(rate=-0.0015)),
    ("many-parts(word='a(b, c=1)')", Many(word="a(b, c=1)")),
])  # fmt: skip
def test_what_is_read(text: str, part: Many) -> None:
    assert parts.parse(text) == part


def test_how_it_is_spelled() -> None:
    assert repr(Many()) == "many-parts(n=4, rate=0.5, word='x', mode='sum', on=False)"
    assert repr(Plain()) == "none"


@pytest.mark.parametrize(("part", "words"), [
    (Many(), "many-parts"), (Plain(), "none"), (Many(3), "many-parts(n=3)"),
    (Many(None, mode="max", on=True), "many-parts(n=None, mode=max, on=True)"),
    (Many(word="a\n"), "many-parts(word='a\\n')"), (Many(word="b c"), "many-parts(word='b c')"),
    (Many(word="None"), "many-parts(word='None')"), (Many(word="if"), "many-parts(word='if')"),
    (Many(word="\ufb01"), "many-parts(word='\ufb01')"), (Many(word="end"), "many-parts(word=end)"),
])  # fmt: skip
def test_in_brief_a_part_has_only_what_is_not_the_default(part: Any, words: str) -> None:
    assert brief(part) == words
    assert parts.parse(words) == part


def test_a_tuple_is_of_parts_of_one_kind() -> None:
    lists: Registry[Any] = Registry("list")

    @lists.register("weights")
    @dataclass(frozen=True)
    class Weights:
        values: tuple[float, ...] = ()

    assert lists.parse("weights(values=(1, 0.5))") == Weights((1, 0.5))
    with pytest.raises(UsageError, match=r"values=\(1, 'x'\) is not a tuple, each part a number"):
        lists.parse("weights(values=(1, 'x'))")


def test_what_a_part_works_out_for_itself_is_no_parameter() -> None:
    shapes: Registry[Any] = Registry("shape")

    @shapes.register("square")
    @dataclass(frozen=True)
    class Square:
        side: int = 2
        area: int = field(init=False, default=4)

        def __post_init__(self) -> None:
            object.__setattr__(self, "area", self.side**2)

    assert brief(Square(3)) == repr(Square(3)) == "square(side=3)"
    assert shapes.parse("square(side=3)").area == 9
    with pytest.raises(UsageError, match="there is no parameter of square 'area'; there are side"):
        shapes.parse("square(area=9)")


@given(
    st.none() | st.integers(),
    st.floats(max_value=9, allow_nan=False, allow_infinity=False),
    st.text(),
    st.sampled_from(["sum", "max"]),
    st.booleans(),
)
def test_a_spelling_is_read_back(n: int | None, rate: float, word: str, mode: Any, on: bool) -> None:
    part = Many(n, rate, word, mode, on)
    assert parts.parse(repr(part)) == part


@pytest.mark.parametrize(("make", "complaint"), [
    (lambda: Many("4"), "many-parts: n='4' is not a whole number or None"),
    (lambda: Many(2.5), "n=2.5 is not a whole number or None"),
    (lambda: Many(rate="fast"), "rate='fast' is not a number"),
    (lambda: Many(4, math.nan), "rate=nan is not a number"),
    (lambda: Many(rate=math.inf), "rate=inf is not a number"),
    (lambda: Many(mode="mean"), "mode='mean' is not one of sum, max"),
    (lambda: replace(Many(), on=1), "on=1 is not True or False"),
    (lambda: methods["steer"](form="diference"), "steer: form='diference' is not one of difference, max, sum"),
    (lambda: selections["best"](steps="first"), "best: steps='first' is not one of last, min, mean, product"),
    (lambda: verifiers["judge"](votes=1.5), "judge: votes=1.5 is not a whole number"),
    (lambda: Many(rate=10), "many-parts: rate must be below 10, not 10"),
])  # fmt: skip
def test_a_part_made_as_an_object_is_checked_as_its_spelling_is(make: Callable[[], Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(complaint)):
        make()


def test_what_no_spelling_gives_is_the_parts_own_matter() -> None:
    holders: Registry[Any] = Registry("holder")

    @holders.register("holder")
    @dataclass(frozen=True)
    class Holder:
        call: Callable[[], Any] | None = None
        of: Registry[Any] | None = None

    assert Holder(dict, parts).of is parts


def test_parameters_have_least_values() -> None:
    at_least(Many(n=None), n=1, rate=0)
    at_least(Many(n=1), n=1)
    with pytest.raises(UsageError, match="many-parts: n must be at least 5, not 4"):
        at_least(Many(), rate=0.5, n=5)


@pytest.mark.parametrize("registry", [methods, selections, verifiers], ids=lambda registry: registry.kind)
def test_every_part_is_found_by_its_spelling(registry: Registry[Any]) -> None:
    for name in registry:
        part = registry.parse(name)
        assert registry.parse(repr(part)) == part
        assert repr(part).partition("(")[0] == name == part.name


@pytest.mark.parametrize(("text", "complaint"), [
    ("many-part", "there is no part 'many-part'; did you mean 'many-parts'?"),
    ("quite-else", "there is no part 'quite-else'; there are many-parts, none"),
    ("", "there is no part ''"),
    ("many-parts(m=1)", "there is no parameter of many-parts 'm'; there are n, rate, word, mode, on"),
    ("many-parts(rat=1)", "did you mean 'rate'?"),
    ("none(n=1)", "there is no parameter of none 'n'"),
    ("many-parts(n=1.5)", "n=1.5 is not a whole number or None"),
    ("many-parts(n=True)", "n=True is not a whole number or None"),
    ("many-parts(n=word)", "n='word' is not a whole number or None"),
    ("many-parts(n=[1])", "n=[1] is not a whole number or None"),
    ("many-parts(rate=word)", "rate='word' is not a number"),
    ("many-parts(rate=False)", "rate=False is not a number"),
    ("many-parts(rate=1e999)", "rate=inf is not a number"),
    ("many-parts(rate=-1e999)", "rate=-inf is not a number"),
    ("many-parts(rate=None)", "rate=None is not a number"),
    ("many-parts(word=1)", "word=1 is not a word"),
    ("many-parts(mode=mean)", "mode='mean' is not one of sum, max"),
    ("many-parts(mode=[1])", "mode=[1] is not one of sum, max"),
    ("many-parts(on=1)", "on=1 is not True or False"),
    ("many-parts(rate=11)", "many-parts: rate must be below 10, not 11"),
    ("many-parts(4)", "write it as name(parameter=value, ...)"),
    ("many-parts(n=4", "write it as name(parameter=value, ...)"),
    ("many-parts(n=4))", "write it as name(parameter=value, ...)"),
    ("many-parts(n=4) and more", "write it as name(parameter=value, ...)"),
    ("many-parts(n=4)(on=True)", "write it as name(parameter=value, ...)"),
    ("many-parts(n=4, n=5)", "write it as name(parameter=value, ...)"),
    ("many-parts(**{'n': 4})", "write it as name(parameter=value, ...)"),
    ("many-parts(*[4])", "write it as name(parameter=value, ...)"),
    ("many-parts(n=\0)", "write it as name(parameter=value, ...)"),
    ("many-parts(n=" + "(" * 5000, "write it as name(parameter=value, ...)"),
    ("many-parts(n=2+2)", "cannot read '2 + 2'"),
    ("many-parts(n=__import__('os'))", "values are numbers, words or None"),
    ("many-parts(n={[]: 1})", "values are numbers, words or None"),
    ("many-parts(n=(lambda: 1)())", "values are numbers, words or None"),
])  # fmt: skip
def test_a_mistake_is_one_line(text: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parts.parse(text)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(alphabet="many-parts(n=1,)'[]{}*:+ \0\n", max_size=30))
@settings(max_examples=200)
def test_no_text_upsets_the_reader(text: str) -> None:
    with contextlib.suppress(UsageError):
        parts.parse(text)


def test_calls_are_split() -> None:
    assert call_of("a-b(c=1, d='e', f=g)", "part") == ("a-b", {"c": 1, "d": "e", "f": "g"})
    assert call_of("a-b", "part") == ("a-b", {})


def test_unknown_names_nothing_where_there_is_nothing() -> None:
    assert unknown("part", "x", []) == "there is no part 'x'; there are "
