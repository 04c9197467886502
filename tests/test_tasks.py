"""Problems are stable, their solutions right, their checkers exact, and no text can upset a reader of answers."""

from __future__ import annotations

import random
import re
import time
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from forethought.core.errors import UsageError
from forethought.core.problem import Problem
from forethought.tasks import GENERATED, TASKS, GeneratedTask, generated_task, task_named
from forethought.tasks.chain import Chain
from forethought.tasks.chain_checked import ChainChecked
from forethought.tasks.countdown import LARGEST, Countdown, value_of
from forethought.tasks.generated import Split
from forethought.tasks.procedure import Procedure
from forethought.tasks.text import Text, boxed, normalised

LEVELS = [(task, level) for task in GENERATED.values() for level in task.difficulties]
NAMES = [f"{task.name}-{level}" for task, level in LEVELS]
final = pytest.mark.parametrize(  # families whose drafts never mend a step
    ("task", "level"),
    [pair for pair in LEVELS if pair[0].name != "chain-checked"],
    ids=[name for name in NAMES if not name.startswith("chain-checked")],
)
generated = pytest.mark.parametrize("task", GENERATED.values(), ids=list(GENERATED))
CHAIN = Problem("chain 48\n1) -5\n2) *3\n", "29", "chain/2", 2)
COUNTDOWN = Problem("countdown 17 3 9 = 60\n")
PROCEDURE = Problem("procedure abc\n1) swap\n2) next\n3) drop\n", "da", "procedure/3", 3)

# generators


@pytest.mark.parametrize(("task", "level"), LEVELS, ids=NAMES)
@pytest.mark.parametrize("split", ["train", "test"])
def test_solutions_are_right(task: GeneratedTask, level: int, split: Split) -> None:
    for index in range(10):
        problem = task.problem(level, index, split)
        text = task.solution(problem)
        answer = task.answer(text, problem)
        assert answer is not None
        assert task.correct(answer, problem) is True
        assert task.right_so_far(text, problem) == [True] * len(text.splitlines())
        assert len(text.splitlines()) <= task.max_steps
        assert (problem.name, problem.difficulty) == (f"{task.name}/{level}/{split}/{index}", level)
        assert task.reads(problem.text)
        assert task.prompt(problem) == ({"role": "user", "content": problem.text},)


@final
def test_a_corrupted_step_is_noticed_and_what_follows_it_is_wrong(task: GeneratedTask, level: int) -> None:
    for index in range(5):
        problem = task.problem(level, index)
        steps = task.solution(problem).splitlines(keepends=True)
        for place, step in enumerate(steps):
            text = "".join([*steps[:place], corrupted(step), *steps[place + 1 :]])
            assert task.right_so_far(text, problem) == [True] * place + [False] * (len(steps) - place)
        answer = task.answer("".join([*steps[:-1], corrupted(steps[-1])]), problem)
        assert answer is None or not task.correct(answer, problem)


@final
def test_an_attempt_without_slips_is_right_and_one_with_slips_alone_goes_wrong_at_once(
    task: GeneratedTask, level: int
) -> None:
    always = []
    for index in range(20):
        problem, rng = task.problem(level, index), random.Random(index)
        right = task.attempt(problem, rng, slip=0.0)
        assert all(task.right_so_far(right, problem))
        wrong = task.attempt(problem, rng, slip=1.0)
        assert len(wrong.splitlines()) == len(right.splitlines())
        always.append(task.right_so_far(wrong, problem)[0])
    if task.checkable:  # any legal operation counts as a slip, so some of them are right
        assert not all(always)
    else:
        assert not any(always)


def test_what_follows_a_slip_builds_on_it() -> None:
    for task in (Chain(), Procedure()):
        problem = task.problem(6, 0)
        steps = task.attempt(problem, random.Random(0), slip=1.0).splitlines()
        states = [line.split("=")[-1].split()[-1] for line in steps]
        assert states[-1] == states[-2]  # the answer is the last state, right or wrong
        if task.name == "chain":
            assert all(re.match(rf"\d+\) {state}[-+*]", line) for state, line in zip(states, steps[1:-1], strict=False))


@pytest.mark.parametrize("task", [Chain(), Procedure()], ids=["chain", "procedure"])
def test_slips_are_as_frequent_as_asked(task: GeneratedTask) -> None:
    rng, slipped = random.Random(0), 0
    for index in range(400):
        problem = task.problem(5, index, "train")
        slipped += not all(task.right_so_far(task.attempt(problem, rng, slip=0.1), problem))
    assert abs(slipped / 400 - (1 - 0.9**5)) < 0.08


def test_a_step_that_is_written_again_is_right_again() -> None:
    problem = Problem("chain-checked 48\n1) -5\n2) *3\n", "29", "chain-checked/2", 2)
    lines = ["1) 48-5=44", "check 48-5=43", "1) 48-5=43", "check 48-5=43", "2) 43*3=29", "check 43*3=28", "answer: 29"]
    task, text = ChainChecked(), "\n".join(lines)
    assert task.right_so_far(text, problem) == [False, False, True, True, True, True, True]
    assert task.right_so_far(text.replace("answer: 29", "answer: 28"), problem)[-1] is False
    assert task.right_so_far("\n".join([*lines[2:4], lines[-1]]), problem) == [True, True, False]  # a step is missing
    assert task.right_so_far("\n".join([*lines[4:6]]), problem) == [False, False]
    assert task.right_so_far("one\n" + text, problem)[0] is False


def test_checks_mend_most_slips_and_drafts_differ_in_length() -> None:
    task, rng = ChainChecked(), random.Random(0)
    problems = [task.problem(8, index, "train") for index in range(300)]
    texts = [task.attempt(problem, rng, slip=0.02) for problem in problems]
    right = [task.right_so_far(text, p)[-1] for text, p in zip(texts, problems, strict=True)]
    slipped = [not all(task.right_so_far(text, p)) for text, p in zip(texts, problems, strict=True)]
    assert sum(slipped) > 3 * (len(right) - sum(right)) > 0
    assert len({len(text.splitlines()) for text in texts}) >= 4
    answers = [task.answer(text, p) == p.reference for text, p in zip(texts, problems, strict=True)]
    assert all(answer for answer, good in zip(answers, right, strict=True) if good)  # a wrong step times 0 is luck


def corrupted(step: str) -> str:
    """The step with another result: the last number or letter of its arithmetic is changed."""
    before, equals, after = step.partition("=")
    if equals:
        return before + equals + re.sub(r"\d+", lambda m: str((int(m[0]) + 1) % 100), after, count=1)
    letter = step.rstrip()[-1]
    other = "ab"[letter == "a"] if letter.isalpha() else "01"[letter == "0"]
    return step.rstrip()[:-1] + other + step[len(step.rstrip()) :]


@generated
def test_train_and_test_have_no_problem_in_common(task: GeneratedTask) -> None:
    texts = {split: {asked(p.text) for p in drawn(task, split)} for split in ("train", "test")}
    assert not texts["train"] & texts["test"]


def drawn(task: GeneratedTask, split: Split) -> list[Problem]:
    return [task.problem(level, index, split) for level in task.difficulties for index in range(60)]


def asked(text: str) -> str:
    """What is asked, whatever it is called and in whatever order numbers are given that may be used in any."""
    kind, _, rest = text.partition(" ")
    numbers, _, target = rest.partition(" = ")
    return f"{sorted(numbers.split())} {target}" if kind == "countdown" else rest


def test_a_chain_that_checks_itself_is_in_the_split_of_the_chain() -> None:
    """The forms differ in the solution only."""
    chain, checked = GENERATED["chain"], GENERATED["chain-checked"]
    for one, other in ((chain, checked), (checked, chain)):
        trained = {asked(one.problem(1, index, "train").text) for index in range(800)}
        tested = {asked(other.problem(1, index, "test").text) for index in range(100)}
        assert not trained & tested


@pytest.mark.parametrize(("task", "level", "index", "split", "text", "reference"), [
    ("chain", 1, 0, "test", "chain 27\n1) *2\n", "54"),
    ("chain", 8, 0, "test", "chain 40\n1) -5\n2) -6\n3) -3\n4) -6\n5) *2\n6) *3\n7) *4\n8) -7\n", "73"),
    ("countdown", 1, 0, "test", "countdown 20 7 = 27\n", None),
    ("countdown", 3, 0, "test", "countdown 2 18 8 = 12\n", None),
    ("procedure", 1, 0, "test", "procedure gch\n1) next\n", "hch"),
    ("procedure", 8, 0, "test",
     "procedure hggebag\n1) drop\n2) drop\n3) drop\n4) copy\n5) copy\n6) swap\n7) rotate\n8) next\n", "hgehhh"),
])  # fmt: skip
def test_problems_never_change(task: str, level: int, index: int, split: str, text: str, reference: str | None) -> None:
    problem = GENERATED[task].problem(level, index, split)  # type: ignore[arg-type]
    assert (problem.text, problem.reference) == (text, reference)


@generated
def test_difficulties(task: GeneratedTask) -> None:
    assert task.middle in task.difficulties
    with pytest.raises(UsageError, match=f"{task.name} has difficulties 1 to {task.difficulties[-1]}, not 0"):
        task.problem(0, 0)
    with pytest.raises(UsageError, match="not 99"):
        task.problem(99, 0)


def test_tasks_by_name() -> None:
    assert set(TASKS) == {*GENERATED, "math", "text"}
    assert task_named("chain") is generated_task("chain")
    with pytest.raises(UsageError, match="there is no task 'chian'; did you mean 'chain'"):
        task_named("chian")
    with pytest.raises(
        UsageError, match="there is no generated task 'text'; there are chain, chain-checked, countdown, procedure"
    ):
        generated_task("text")


@pytest.mark.parametrize(("task", "text"), [
    (Chain(), "chain 100\n1) +1\n"), (Chain(), "chain 5\n"), (Chain(), "chain 5\n1) /2\n"), (Chain(), "chain 5\n1) +1"),
    (Countdown(), "countdown 5 = 5\n"), (Countdown(), "countdown 5 500 = 5\n"), (Countdown(), "countdown 5 6 = 11"),
    (Procedure(), "procedure abc\n1) jump\n"), (Procedure(), "procedure xyz\n1) swap\n"),
    (Procedure(), "procedure ab\n1) swap\n"),
])  # fmt: skip
def test_other_forms_are_not_read(task: GeneratedTask, text: str) -> None:
    assert not task.reads(text)
    assert not any(other.reads(text) for other in GENERATED.values())


# answers

BITS = [
    "answer: ",
    "1) ",
    "17*3=51 | ",
    "51 9\n",
    "51+9=60 | 60",
    "\n",
    " ",
    "=",
    "|",
    "((",
    "٣",
    "9" * 5000,
    "\\boxed{",
    "\0",
]
texts = st.text() | st.lists(st.sampled_from(BITS) | st.text(max_size=5), max_size=12).map("".join)


@pytest.mark.parametrize(("task", "problem"), [(Chain(), CHAIN), (Countdown(), COUNTDOWN), (Procedure(), PROCEDURE)])
@given(text=texts)
@example(text="answer: " + "9" * 5000)
@example(text="17*3=51 | " + "9" * 5000)
@example(text="9" * 5000 + "*3=51 | 51 9\n51+9=60 | 60")
@settings(deadline=None, max_examples=50)
def test_no_text_upsets_a_task(task: GeneratedTask, problem: Problem, text: str) -> None:
    answer = task.answer(text, problem)
    assert answer is None or isinstance(task.correct(answer, problem), bool)
    assert len(task.right_so_far(text, problem)) == len(text.splitlines())
    assert task.correct(text, problem) in (True, False)


@pytest.mark.parametrize("text", [
    "", "1) 48-5=43\n", "1) 48-5=43\nanswer: ", "answer:43", "answer: x", "answer: 29\nmore", "answer: " + "9" * 5000,
])  # fmt: skip
def test_chains_without_an_answer(text: str) -> None:
    assert Chain().answer(text, CHAIN) is None


def test_chain_answers_are_canonical() -> None:
    assert Chain().answer("answer: 29", CHAIN) == Chain().answer("answer: 029 \n", CHAIN) == "29"
    assert Chain().correct("29", CHAIN)
    assert not Chain().correct("9", CHAIN)
    assert Chain().correct("29", Problem(CHAIN.text)) is None


@pytest.mark.parametrize("text", ["", "answer: ", "answer: xyz", "answer: ba c", "1) swap cba\n", "answer: ba\nmore"])
def test_procedures_without_an_answer(text: str) -> None:
    assert Procedure().answer(text, PROCEDURE) is None


def test_prefix_match_counts_states_before_the_first_wrong_one() -> None:
    task, states = Procedure(), ["1) swap cba", "2) next dba", "3) drop db"]
    assert task.solution(PROCEDURE).splitlines() == [*states, "answer: db"]
    for right in range(4):
        wrong = [*states[:right], *("x" for _ in states[right:])]
        assert task.prefix_match("\n".join(wrong), PROCEDURE) == right / 3
    assert task.prefix_match("", PROCEDURE) == 0
    assert task.prefix_match(task.solution(PROCEDURE), PROCEDURE) == 1
    assert task.prefix_match("\n".join(["x", *states]), PROCEDURE) == 0


# countdown


@pytest.mark.parametrize(("text", "answer"), [
    ("17*3=51 | 51 9\n51+9=60 | 60", "(17*3)+9"),
    ("17*3=51 | 9 51\n51+9=60 | 60\n", "(17*3)+9"),
    ("3*17=51 | 51 9\n9+51=60 | 60", "9+(3*17)"),
])  # fmt: skip
def test_any_valid_solution_counts(text: str, answer: str) -> None:
    assert Countdown().answer(text, COUNTDOWN) == answer
    assert Countdown().correct(answer, COUNTDOWN)


def test_another_way_to_the_target_counts() -> None:
    problem, task = Problem("countdown 2 3 4 = 24\n"), Countdown()
    for text in ("4*3=12 | 12 2\n12*2=24 | 24", "3*2=6 | 6 4\n6*4=24 | 24", "4*2=8 | 8 3\n8*3=24 | 24"):
        assert all(task.right_so_far(text, problem))
        assert task.correct(task.answer(text, problem) or "", problem)


@pytest.mark.parametrize("text", [
    "",
    "17*3=51 | 51 9\n",  # a number is left over
    "17*3=51 | 51",
    "17*3=51 | 51 9\n17+9=26 | 51 26\n51+9=60 | 60",  # a number is used twice
    "17*3=51 | 51 9\n52+8=60 | 60",  # numbers that are not there
    "17*3=52 | 52 9\n52+9=60 | 60",  # false arithmetic, though the expression has the right value
    "60",
    "17*3=51 | 51 9\n51/0=60 | 60",
])  # fmt: skip
def test_what_is_no_solution_has_no_answer(text: str) -> None:
    assert Countdown().answer(text, COUNTDOWN) is None


@pytest.mark.parametrize("answer", [
    "17*3+8", "(17*3)-9", "17*3", "17*3+9+9", "60", "17*3*9/9+9", "", "17*3+9+True", "(17*3)+9)", "17*3+9 if 1 else 0",
    "+".join(["9"] * 40_000), "9" * 5000,
])  # fmt: skip
def test_a_wrong_expression_is_wrong(answer: str) -> None:
    assert Countdown().correct(answer, COUNTDOWN) is False


@pytest.mark.parametrize("step", [
    "17*3=50 | 50 9\n", "17*3=51 | 51 9 9\n", "17*3=51 | 51\n", "17-17=0 | 0 3 9\n", "9-17=8 | 8 3\n", "17+3=20 | 20 9\n",
    "17*9=153 | 153 3\n", "17/3=5 | 5 9\n", "nonsense\n",
])  # fmt: skip
def test_a_wrong_first_step_is_noticed(step: str) -> None:
    assert Countdown().right_so_far(step, COUNTDOWN) == [False]


def test_a_long_step_is_refused_at_once() -> None:
    began = time.perf_counter()
    assert Countdown().right_so_far("17*3=51 | " + "1" * 5000 + "x", COUNTDOWN) == [False]
    assert Countdown().right_so_far("17*3=51 | " + "1 " * 5000 + "x", COUNTDOWN) == [False]
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize(("expression", "value"), [
    ("7", Fraction(7)), ("(1+2)*3", Fraction(9)), ("1/3", Fraction(1, 3)), ("8-2-1", Fraction(5)),
    ("2 * (3 + 4)", Fraction(14)),
])  # fmt: skip
def test_values_are_exact(expression: str, value: Fraction) -> None:
    assert value_of(expression) == value


@pytest.mark.parametrize("expression", [
    "", "1/0", "1/(2-2)", "__import__('os')", "9**9**9", "1//2", "x", "1.5", "True", "1if 1else 2", "'a'*3", "[1]", "1;2",
    "1 2",
    "(lambda: 1)()", "1\n", "\0", "\ud800", "٣", "0x10", "1_0", "(" * 5000 + "1" + ")" * 5000, "1+" * 100_000 + "1",
    "-" * 100_000 + "1", "(1+" * 300 + "1" + ")" * 300, "9" * 5000,
])  # fmt: skip
def test_what_is_no_expression_has_no_value(expression: str) -> None:
    assert value_of(expression) is None


@given(st.text(alphabet="0123456789+-*/() eE_.jx'[]", max_size=40))
@settings(deadline=None, max_examples=50)
def test_every_text_has_a_value_or_none(text: str) -> None:
    value = value_of(text)
    assert value is None or isinstance(value, Fraction)


def test_all_results_on_the_way_are_small_whole_numbers() -> None:
    task = Countdown()
    for index in range(40):
        problem = task.problem(6, index)
        for line in task.solution(problem).splitlines():
            assert all(0 < int(n) <= LARGEST for n in re.findall(r"\d+", line))


# text


@pytest.mark.parametrize(("text", "answer"), [
    (r"So \boxed{42}.", "42"),
    (r"First \boxed{1}, no, \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{a{b{c}}} and answer: 7", "a{b{c}}"),
    (r"\boxed{ 1,234,567 }", "1234567"),
    ("Thinking.\nAnswer: 41\nAnswer: 42.", "42"),
    ("**Answer:** Forty  Two!", "forty two"),
    ("**Final answer: 42**", "42"),
    ("Answer:\n42", "42"),
    ("answer: f(x)", "f(x)"),
    ("answer: .5.", ".5"),
    ("**Answer:** $.50", ".50"),
    ("  The   Whole\nText. ", "the whole text"),
    (r"cut off \boxed{42", r"cut off \boxed{42"),
    (r"\boxed{}", r"\boxed{}"),
    ("", None),
    (" \n. ", None),
])  # fmt: skip
def test_answers_of_texts(text: str, answer: str | None) -> None:
    assert Text().answer(text, Problem("?")) == answer


@pytest.mark.parametrize("text", [r"\boxed{42}", "answer: 42"])
def test_short_answers(text: str) -> None:
    assert Text().short_answer(text) == "42"
    assert Text().short_answer("nothing of the kind") is None


@given(texts)
def test_no_text_upsets_the_reader(text: str) -> None:
    answer = Text().answer(text, Problem("?"))
    assert answer is None or answer
    assert boxed(text) is None or "\\boxed{" in text


@given(st.text())
def test_to_normalise_twice_changes_nothing(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


LONG = ["\n" * 50_000, "answer" + " " * 50_000, "answer: x" + "." * 50_000 + "x", "\\boxed{" * 20_000]


@pytest.mark.parametrize("text", LONG)
def test_long_texts_are_read_in_no_time(text: str) -> None:
    began = time.perf_counter()
    Text().answer(text, Problem("?"))
    assert time.perf_counter() - began < 1


def test_a_text_is_checked_against_a_reference_only() -> None:
    assert Text().correct("42", Problem("?", "42.")) is True
    assert Text().correct("42", Problem("?", 42)) is True
    assert Text().correct("43", Problem("?", "42")) is False
    assert Text().correct("42", Problem("?")) is None
    assert Text().correct(".5", Problem("?", ".5")) is True
    assert Text().correct("5", Problem("?", ".5")) is False
