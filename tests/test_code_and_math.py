"""Verifiers that run programs and do algebra."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given as over
from hypothesis import strategies as st

import forethought
from forethought.core.cost import ZERO
from forethought.core.draft import UNKNOWN, Draft
from forethought.core.errors import UsageError
from forethought.core.problem import Problem
from forethought.core.scope import Call
from forethought.models.protocol import weights_in
from forethought.models.scripted import Scripted
from forethought.sandbox import bubblewrap, equality
from forethought.sandbox.equality import at_once, equal, equal_sync, folded
from forethought.tasks import task_named
from forethought.tasks.text import Text
from forethought.verifiers import verifiers
from forethought.verifiers.asking import given
from forethought.verifiers.programs import program_of, same
from tests.listed import Listed

pytestmark = pytest.mark.anyio
complaint = bubblewrap.complaint(shutil.which("bwrap"))
strong = pytest.mark.skipif(complaint is not None, reason=str(complaint))
TASK = Text()
TESTS = Problem("Add two numbers.", "assert add(2, 2) == 4\nassert add(-1, 1) == 0")
GOOD, BAD = "def add(a, b):\n    return a + b\n", "def add(a, b):\n    return a * b\n"


async def grade(verifier: Any, text: str, problem: Problem = TESTS, finish: Any = "end") -> float | None:
    made, cost = await verifier.grade(Draft(None, text, finish=finish), problem, TASK, Call((), 0))
    assert cost.new_tokens == cost.calls == 0
    return made.value  # type: ignore[no-any-return]


# programs in texts


@pytest.mark.parametrize(("text", "program"), [
    ("```python\nx = 1\n```", "x = 1\n"),
    ("First\n```py\nx = 1\n```\nthen better\n```python\nx = 2\n```\nDone.", "x = 2\n"),
    ("```\nx = 1\n```\n```json\n{}\n```", "x = 1\n"),
    ("```python\nx = 1", "x = 1"),
    ("x = 1", "x = 1"),
    ("```bash\nls\n```", None),
    ("```python\n```", None),
    ("  \n", None),
])  # fmt: skip
def test_which_program_a_text_has(text: str, program: str | None) -> None:
    assert program_of(text) == program


@pytest.mark.parametrize(("one", "other", "found"), [
    ("4", "4.0", True), ("4", "5", False), ("1,000", "1000", True), ("0.1", "0.1000000000001", True), ("Paris", "paris.", True),
    ("0", "0.0", True), ("4", "four", False), ("nan", "nan", True), ("1e3", "1000", True),
])  # fmt: skip
def test_which_answers_are_the_same(one: str, other: str, found: bool) -> None:
    assert same(one, other) is same(other, one) is found


# code


@pytest.mark.parametrize("sandbox", [pytest.param("bubblewrap", marks=strong), "plain"])
@pytest.mark.parametrize(("text", "value"), [
    (GOOD, 1.0),
    (f"It is simple:\n```python\n{GOOD}```", 1.0),
    (BAD, 0.0),
    ("def add(a, b)", 0.0),
    ("", 0.0),
    ("import sys; sys.exit(0)", 0.0),
    ("import os; os._exit(0)", 0.0),
    ("quit()", 0.0),
    ("while True: pass", 0.0),
    ("'''" + GOOD, 0.0),
    (GOOD + "if __name__ == '__main__':\n    input()", 1.0),
    ("import numpy\n" + GOOD, 0.0),
])  # fmt: skip
async def test_tests_pass_or_fail(text: str, value: float, sandbox: str) -> None:
    assert await grade(verifiers.parse(f"code(sandbox={sandbox}, seconds=1)"), text) == value


async def test_nothing_can_be_said_without_an_end_or_without_tests() -> None:
    code = verifiers.parse("code(sandbox=plain)")
    assert await grade(code, GOOD, finish=None) is None
    assert await grade(code, GOOD, Problem("Add two numbers.")) is None


async def test_a_user_may_have_tests_too(tmp_path: Path) -> None:
    file = tmp_path / "tests.py"
    file.write_text("assert add(1, 1) == 2")
    code = verifiers.parse(f"code(tests='{file}', sandbox=plain)")
    assert (code.oracle(TASK), verifiers.parse("code").oracle(TASK)) == (False, True)
    assert [await grade(code, text, Problem("")) for text in (GOOD, BAD)] == [1, 0]
    with pytest.raises(UsageError, match="cannot read the tests"):
        await grade(verifiers.parse(f"code(tests='{tmp_path / 'none'}', sandbox=plain)"), GOOD)


def test_tests_are_known_by_their_content(tmp_path: Path) -> None:
    file = tmp_path / "tests.py"
    file.write_text("assert add(1, 1) == 2")
    spelling = f"code(tests='{file}', sandbox=plain)"
    before = verifiers.parse(spelling)
    known = weights_in(before)
    file.write_text("assert add(1, 1) == 3")
    after = verifiers.parse(spelling)
    assert known == weights_in(before) != weights_in(after)
    assert weights_in(verifiers.parse("code")) == ""
    assert (anyio.run(grade, before, GOOD), anyio.run(grade, after, GOOD)) == (1, 0)


async def test_without_a_sandbox_it_says_so_before_anything_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    for spelling in ("code", "agreement"):
        verifier = given(verifiers.parse(spelling), Scripted(lambda *_: "x"))
        with pytest.raises(UsageError, match="only in a sandbox, and bubblewrap is not here"):
            verifier.load()
    with pytest.raises(UsageError, match="only in a sandbox"):
        await grade(verifiers.parse("code"), GOOD)


HUMANEVAL = os.environ.get("FORETHOUGHT_HUMANEVAL")
MUTATIONS = [(r"\breturn (.+)", r"return [\1]"), (r"\byield (.+)", r"yield [\1]")]


def rows(path: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in gzip.decompress(Path(path).read_bytes()).splitlines()]


@pytest.mark.slow
@pytest.mark.skipif(not HUMANEVAL, reason="FORETHOUGHT_HUMANEVAL is the path of HumanEval.jsonl.gz")
@pytest.mark.parametrize("sandbox", [pytest.param("bubblewrap", marks=strong)])
async def test_the_reference_solutions_of_humaneval_pass_and_mutated_ones_fail(sandbox: str) -> None:
    """A mutation wraps every returned value into a list."""
    assert HUMANEVAL
    problems = rows(HUMANEVAL)
    code = verifiers.parse(f"code(sandbox={sandbox}, seconds=20)")
    right, wrong = dict[str, float | None](), dict[str, float | None]()

    async def check(row: dict[str, str], solution: str, found: dict[str, float | None]) -> None:
        tests = Problem(row["prompt"], f"{row['test']}\ncheck({row['entry_point']})")
        found[row["task_id"]] = await grade(code, row["prompt"] + solution, tests)

    async with anyio.create_task_group() as group:
        for row in problems:
            mutant = row["canonical_solution"]
            for pattern, change in MUTATIONS:
                mutant = re.sub(pattern, change, mutant)
            assert mutant != row["canonical_solution"]
            group.start_soon(check, row, row["canonical_solution"], right)
            group.start_soon(check, row, mutant, wrong)
    assert len(problems) == 164
    assert [name for name, value in right.items() if value != 1] == []
    assert [name for name, value in wrong.items() if value != 0] == []


# agreement


async def agreed(translation: str, answer: str = "answer: 4", **parameters: Any) -> float | None:
    words = ", ".join(f"{k}={v!r}" for k, v in {"sandbox": "plain", **parameters}.items())
    verifier = given(verifiers.parse(f"agreement({words})"), Scripted(lambda *_: translation))
    draft = Draft(None, answer, size=2, finish="end")
    made, cost = await verifier.grade(draft, Problem("What is 2 + 2?"), TASK, Call((), 0))
    bound = verifier.bound(draft, Problem("What is 2 + 2?"), TASK)
    assert all(spent <= most for spent, most in zip(cost, bound, strict=True))
    assert cost.verifier_calls == 1 + ("scorer" in parameters)
    return made.value  # type: ignore[no-any-return]


@pytest.mark.parametrize(("translation", "value"), [
    ("```python\nprint(2 + 2)\n```", 1.0),
    ("```python\nprint('so:')\nprint(2.0 + 2)\n```", 1.0),
    ("```python\nprint(5)\n```", 1e-6),
    ("```python\nprint(5 / 0)\n```", None),
    ("```python\npass\n```", None),
    ("```python\nprint(4); import sys; sys.exit()\n```", None),
    ("I cannot.", None),
])  # fmt: skip
async def test_words_and_program_agree(translation: str, value: float | None) -> None:
    assert await agreed(translation) == value


async def test_a_translation_that_was_cut_is_unknown() -> None:
    """What is left of it prints another number than the whole."""
    program = "```python\nx = 2 + 2\nprint(x+1)\nprint(x)\n```"
    assert await agreed(program) == 1.0
    assert await agreed(program, tokens=7) is None


async def test_an_endless_translation_is_unknown() -> None:
    assert await agreed("```python\nwhile True: pass\n```", seconds=0.5) is None


async def test_a_scorer_grades_those_that_agree() -> None:
    right = {"scorer": "noisy(false_negative=0, false_positive=0)"}
    draft, asked = Draft(None, "answer: 4", size=2, finish="end"), Problem("What is 2 + 2?", "4")
    for program, value in (("print(4)", 1.0), ("print(3)", 1e-6)):
        spelling = f"agreement(sandbox=plain, scorer='{right['scorer']}')"
        verifier = given(verifiers.parse(spelling), Scripted(lambda *_, told=program: told))
        assert (await verifier.grade(draft, asked, TASK, Call((), 0)))[0].value == value
        assert verifier.oracle(TASK)


async def test_an_unfinished_draft_costs_nothing() -> None:
    verifier = given(verifiers.parse("agreement(sandbox=plain)"), Scripted(lambda *_: "never"))
    assert await verifier.grade(Draft(None, "answer"), TESTS, TASK, Call((), 0)) == (UNKNOWN, ZERO)


# math


EQUAL = [
    ("1/2", "0.5"), (r"\frac{1}{2}", "0.5"), (r"\dfrac12", r"\frac{1}{2}"), ("x+1", "1+x"), (r"\sqrt{8}", r"2\sqrt{2}"),
    ("(1,2)", r"\left( 1, 2 \right)"), (r"\{1,2\}", r"\{2,1\}"), ("1,000", "1000"), ("10\\%", "0.1"), ("2x^2", r"x^2 \cdot 2"),
    (r"\text{Evelyn}", "Evelyn"), ("5", "x=5"), ("-3", "-3.0"), (r"\boxed{7}", "7"), ("[0,1)", "[0, 1)"),
]  # fmt: skip
OTHER = [
    ("3", "4"),
    ("x+1", "x+2"),
    (r"\frac{1}{3}", "0.33"),
    ("(1,2)", "(2,1)"),
    ("[0,1)", "[0,1]"),
    ("1 1/2", "11/2"),
    ("5", ""),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_what_is_equal(one: str, other: str) -> None:
    pytest.importorskip("math_verify")
    assert equal_sync(one, other, 20) is True


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_what_is_not(one: str, other: str) -> None:
    pytest.importorskip("math_verify")
    assert equal_sync(one, other, 20) is False


@over(st.fractions(-(10**6), 10**6, max_denominator=1000), st.integers(0, 9))
def test_decimals_need_no_algebra(value: Any, places: int) -> None:
    text = f"{float(value):.{places}f}"
    assert at_once(text, text + ("0" if places else ".0")) is True
    assert at_once(str(int(value)), str(int(value) + 1)) is False


@over(st.text(alphabet="1 ab\\{}()/dfrac,leftright"))
def test_folding_settles(text: str) -> None:
    once = folded(text)
    assert at_once(text, text) is True
    assert at_once(text, " " + text + " ") is True
    assert len(once) <= len(text)


def test_a_hard_pair_is_unknown_and_the_next_one_works() -> None:
    pytest.importorskip("math_verify")
    begun = time.monotonic()
    assert equal_sync("9^{9^{9^{9^9}}}", "9^{9^{9^{9^8}}}", 1) is None
    assert time.monotonic() - begun < 10
    assert equal_sync(r"\frac{1}{2}", "0.5", 20) is True


def test_many_threads_get_the_right_answers() -> None:
    """math-verify's own time limits give wrong answers in threads."""
    pytest.importorskip("math_verify")
    pairs = [(pair, True) for pair in EQUAL[:10]] + [(pair, False) for pair in OTHER[:5]]
    with ThreadPoolExecutor(8) as threads:
        found = threads.map(lambda entry: equal_sync(*entry[0], 20), pairs * 8)
        assert list(found) == [right for _, right in pairs * 8]


def test_two_hundred_pairs_a_second() -> None:
    """Sixteen answers to each of twenty problems, as a vote asks about them, in seconds of the worker's processor."""
    pytest.importorskip("math_verify")
    answers = [rf"\frac{{{a}}}{{7}}" if a % 2 else f"{a}x+{a % 5}" for a in range(20)]
    pairs = [(answer, told) for answer in answers for told in (answer, answers[0], f"({answer})", "12") * 4]
    equality.verified("x", "x+0")
    begun = time.process_time()
    found = [at_once(*pair) or equality.verified(*pair) for pair in pairs]
    rate = len(pairs) / (time.process_time() - begun)
    assert found == [told in (answer, f"({answer})") for answer, told in pairs]
    assert rate > 100  # 200 and more on an idle machine


async def test_the_verifier_reads_the_box() -> None:
    pytest.importorskip("math_verify")
    math, half = verifiers.parse("math(seconds=20)"), Problem("Half of one?", r"\frac{1}{2}")
    texts = (r"so \boxed{0.5}", r"so \boxed{2}", "answer: 1/2", "")
    assert [await grade(math, text, half) for text in texts] == [1, 0, 1, 0]
    assert await grade(math, r"\boxed{0.5}", half, finish="length") is None
    assert await grade(math, r"\boxed{0.5}", Problem("Half of one?")) is None
    assert math.oracle(TASK)


MATH = task_named("math")


@pytest.mark.parametrize(("text", "answer"), [
    (r"So \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
    ("So it is.\nAnswer: **$X + 1$**.", "$X + 1$"),
    ("answer: 3\nbut no: \\boxed{4}", "4"),
    ("I do not know", None),
    (r"\boxed{}", None),
])  # fmt: skip
def test_which_answer_a_problem_of_mathematics_gets(text: str, answer: str | None) -> None:
    assert MATH.answer(text, Problem("?")) == answer


async def test_live_votes_merge_what_is_mathematically_equal() -> None:
    pytest.importorskip("math_verify")
    asked = Problem("What is a half?", "0.5")
    for method, drawn in (("sample(n=6)", 6), ("adaptive-self-consistency(n=6, window=3)", 3)):
        model = Listed([r"\boxed{\frac{1}{2}}", "answer: 1/2", r"\boxed{0.50}", "answer: 7", "answer: 7", "who knows"])
        found = await forethought.solve(asked, task="math", model=model, method=method)
        assert (found.answer, len(found.population)) == (r"\frac{1}{2}", drawn)
        assert found.confidence == pytest.approx(3 / drawn)
        assert MATH.correct(found.answer, asked)


async def test_mathematics_without_the_library_is_refused_before_anything_is_spent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(equality.importlib.util, "find_spec", lambda name: None)
    equality.workers.cache_clear()
    model = Scripted(lambda *_: "answer: 1")
    with pytest.raises(UsageError, match=re.escape("pip install 'forethought[math]'")):
        await forethought.solve("1 + 0", task="math", model=model)
    assert model.spent == ZERO


async def test_a_library_that_does_not_import_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("math_verify")
    pytest.importorskip("z3")
    from forethought.verifiers import prover

    for module in (equality, prover):
        monkeypatch.setattr(module, "workers", module.workers.__wrapped__)
    for name in ("math_verify", "z3"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('half of it')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(UsageError, match="ImportError: half of it"):
        await equal("x+1", "1+x")
    with pytest.raises(UsageError, match="ImportError: half of it"):
        await prover.label("conclusion: A")


async def test_without_the_library_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equality.importlib.util, "find_spec", lambda name: None)
    equality.workers.cache_clear()
    with pytest.raises(UsageError, match=re.escape("pip install 'forethought[math]'")):
        await equal("x", "y")
    from forethought.verifiers import prover

    prover.workers.cache_clear()
    with pytest.raises(UsageError, match=re.escape("pip install 'forethought[provers]'")):
        await prover.label("conclusion: A")
