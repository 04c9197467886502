"""Recorded samples: read strictly, counted exactly, replayed through the methods themselves, and exported from runs."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from forethought.bench.recorded import read
from forethought.bench.replay import Replay, replay
from forethought.bench.stats import Calibration, brier, calibration_error
from forethought.cli.app import app
from forethought.core.errors import UsageError
from forethought.selection import selections
from tests.test_cli import at_home, models, told  # noqa: F401

ROW = {
    "select", "method", "n", "accuracy", "low", "high", "mean_samples", "mean_new_tokens", "coverage", "ece", "brier",
    "auc", "problems", "fitted",
}  # fmt: skip


def sample(answer: str | None, **told: Any) -> dict[str, Any]:
    return {"answer": answer, **told}


def line(samples: Sequence[dict[str, Any]], reference: str | None = "a", task: str = "exact") -> dict[str, Any]:
    return {"task": task, "problem": "which?", "reference": reference, "samples": list(samples)}


def written(path: Path, *lines: Any) -> Path:
    path.write_text("".join((text if isinstance(text, str) else json.dumps(text)) + "\n" for text in lines))
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["replay", *map(str, words)])


def rows(file: Path, *words: object) -> list[dict[str, Any]]:
    out = file.with_suffix(".out")
    found = run(file, *words, "--json", out)
    assert found.exit_code == 0, found.stderr
    made: list[dict[str, Any]] = json.loads(out.read_text())
    return made


def letters(text: str, **told: Any) -> list[dict[str, Any]]:
    return [sample(None if letter == "?" else letter, **told) for letter in text]


# rows


def test_a_row_says_what_was_asked(tmp_path: Path) -> None:
    file = written(tmp_path / "r.jsonl", line(letters("aab?")), line(letters("bbba")), line(letters("a")))
    one, two, four, method = rows(
        file, "--select", "majority", "--method", "adaptive-self-consistency(window=2)", "--n", "1,2,4"
    )[:4]
    assert one.keys() == ROW
    assert [(r["select"], r["method"], r["n"]) for r in (one, two, four)] == [("majority", None, n) for n in (1, 2, 4)]
    assert (method["select"], method["method"]) == ("majority", "adaptive-self-consistency(window=2)")
    assert [r["problems"] for r in (one, two, four)] == [3, 2, 2]
    assert [r["accuracy"] for r in (one, two, four)] == pytest.approx([2 / 3, 1 / 2, 1 / 2])
    assert [r["mean_samples"] for r in (one, two, four)] == [1, 2, 4]
    assert [r["coverage"] for r in (one, two, four)] == pytest.approx([(0.5 + 0.25 + 1) / 3, (5 / 6 + 0.5) / 2, 1])
    assert one["mean_new_tokens"] is None
    assert all(r["low"] <= r["accuracy"] <= r["high"] for r in (one, two, four))


def test_ties_share_credit_and_null_does_not_vote(tmp_path: Path) -> None:
    file = written(tmp_path / "r.jsonl", line(letters("??ab")), line(letters("????")))
    (row,) = rows(file, "--n", "4")
    assert row["accuracy"] == pytest.approx(0.25)
    assert row["coverage"] == pytest.approx(0.5)
    assert row["ece"] == pytest.approx(0.25)  # of the one that was answered: 0.25 sure, half right
    assert (row["brier"], row["auc"]) == (pytest.approx(0.25**2), None)


def test_an_answer_is_right_if_one_of_its_samples_is(tmp_path: Path) -> None:
    given = [sample("x", correct=False), sample("x", correct=True), sample("y", correct=False)]
    (row,) = rows(written(tmp_path / "r.jsonl", line(given, None)), "--n", "3")
    assert row["accuracy"] == 1


def test_answers_of_mathematics_are_merged(tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    given = [sample(text) for text in ("3", "1/2", "0.5", "\\frac{1}{2}", "3")]
    (row,) = rows(written(tmp_path / "r.jsonl", line(given, "0.50", "math")), "--n", "5")
    assert (row["accuracy"], row["coverage"]) == (1, 1)


def test_the_checker_of_a_task_of_ours(tmp_path: Path) -> None:
    given = {**line([sample("8-(9-7)"), sample("9-(8-7)")], None, "countdown"), "problem": "countdown 9 7 8 = 8\n"}
    (row,) = rows(written(tmp_path / "r.jsonl", given), "--n", "2")
    assert row["coverage"] == 1


def test_a_list_of_grades_is_made_one_by_the_selection(tmp_path: Path) -> None:
    given = [sample("a", grades={"prm": [0.1, 0.9]}), sample("b", grades={"prm": [0.6, 0.5]})]
    file = written(tmp_path / "r.jsonl", line(given))
    found = rows(file, "--select", "best", "--select", "best(steps=min)", "--n", "2")
    assert [row["accuracy"] for row in found] == [1, 0]
    two = written(
        tmp_path / "two.jsonl", line([sample("a", grades={"x": 1, "y": 0}), sample("b", grades={"x": 0, "y": 1})])
    )
    assert "say which with --grade" in run(two, "--select", "best").stderr
    assert [rows(two, "--select", "best", "--grade", g, "--n", "2")[0]["accuracy"] for g in "xy"] == [1, 0]


@pytest.mark.parametrize("order", ["given", "shuffled"])
def test_a_sample_without_a_text_is_a_text_of_its_own(order: str, tmp_path: Path) -> None:
    given = [sample(a, mean_logprob=-p) for a, p in zip("aabbb", (0.9, 0.8, 0.7, 0.6, 0.5), strict=True)]
    given += [sample(None, mean_logprob=-0.4)] * 2
    apart = [one | {"text": str(i)} for i, one in enumerate(given)]
    alike = [one | {"text": one["answer"] or ""} for one in given]
    found = [
        rows(
            written(tmp_path / f"{i}.jsonl", line(own), line(alike)), "--select", "rpc", "--order", order, "--n", "3,7"
        )
        for i, own in enumerate((given, apart, alike))
    ]
    assert found[0] == found[1] != found[2]


def test_texts_are_compared_only_where_they_are(tmp_path: Path) -> None:
    file = written(tmp_path / "r.jsonl", line([sample("a", text="so a"), sample(None)]))
    assert rows(file, "--select", "mbr(of=text)", "--select", "mbr", "--n", "2")
    file = written(tmp_path / "r.jsonl", line([sample("a", text="so a"), sample("a")]))
    for rule in (
        "mbr(of=text)",
        "mbr(utility=words, of=text)",
        "abstain(of='mbr(of=text)')",
        "conformal(of='mbr(of=text)')",
    ):
        (said,) = run(file, "--select", rule).stderr.splitlines()
        assert said == f"forethought: {rule} needs the text of every sample that has an answer, and some have none"


# random order


def brute(text: str, grades: Sequence[float], n: int, rule: str) -> float:
    """The mean credit over all ordered choices."""
    total = []
    for places in itertools.permutations(range(len(text)), n):
        said = [(text[i], grades[i]) for i in places if text[i] != "?"]
        if rule == "first":
            lead = [said[0][0]] if said else []
        elif rule == "best":
            lead = list({a for a, g in said if g == max(g for _, g in said)})
        else:
            counts = {a: [b for b, _ in said].count(a) for a, _ in said}
            lead = [a for a in counts if counts[a] == max(counts.values())]
        total.append(lead.count("a") / len(lead) if lead else 0.0)
    return math.fsum(total) / len(total)


@pytest.mark.parametrize("rule", ["first", "majority", "best"])
@pytest.mark.parametrize("text", ["aab?b", "abcab?", "??abba", "?????"])
def test_random_order_is_the_exact_expectation(rule: str, text: str, tmp_path: Path) -> None:
    grades = [0.1, 0.7, 0.3, 0.9, 0.3, 0.5][: len(text)]
    given = [sample(None if a == "?" else a, grades={"g": g}, new_tokens=10) for a, g in zip(text, grades, strict=True)]
    found = rows(written(tmp_path / "r.jsonl", line(given)), "--select", rule, "--n", "1,2,3,5", "--order", "shuffled")
    assert [row["accuracy"] for row in found] == pytest.approx([brute(text, grades, n, rule) for n in (1, 2, 3, 5)])
    assert [row["mean_new_tokens"] for row in found] == [10, 20, 30, 50]


@pytest.mark.parametrize("rule", ["first", "majority", "best"])
def test_closed_forms_agree_with_the_mean_over_choices(
    rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(0)
    text = "".join(rng.choice("aabc?") for _ in range(24))
    given = [sample(None if a == "?" else a, grades={"g": rng.random()}) for a in text]
    file = written(tmp_path / "r.jsonl", *[line(given)] * 2)
    words = ("--select", rule, "--n", "3,8", "--order", "shuffled")
    closed = [row["accuracy"] for row in rows(file, *words)]
    monkeypatch.setattr("forethought.bench.replay.expected", lambda *_: None)
    sampled = [row["accuracy"] for row in rows(file, *words)]
    assert sampled == pytest.approx(closed, abs=0.12)
    assert sampled != closed or rule == "none"


def test_random_order_is_the_same_each_time(tmp_path: Path) -> None:
    rng = random.Random(1)
    file = written(tmp_path / "r.jsonl", line(letters("".join(rng.choice("abcdefgh") for _ in range(40)))))
    words = ("--n", "20", "--order", "shuffled", "--select", "top-two")
    assert rows(file, *words) == rows(file, *words)


# methods


def test_methods_stop_as_they_would_have(tmp_path: Path) -> None:
    file = written(
        tmp_path / "r.jsonl", line(letters("aaaabbbb", new_tokens=5)), line(letters("abababab", new_tokens=5))
    )
    (row,) = rows(file, "--method", "adaptive-self-consistency(window=4)", "--n", "8")
    assert row["mean_samples"] == 6  # 4 of one mind, and all 8
    assert row["mean_new_tokens"] == 30
    assert row["accuracy"] == pytest.approx(0.75)  # right, and a tie
    (row,) = rows(file, "--method", "beta-self-consistency(window=4)", "--n", "8")
    assert row["mean_samples"] == 6


def test_the_shortest_wins(tmp_path: Path) -> None:
    given = [sample("b", new_tokens=9), sample("a", new_tokens=3), sample(None, new_tokens=1)]
    (row,) = rows(written(tmp_path / "r.jsonl", line(given)), "--method", "first-finish", "--n", "3")
    assert row["accuracy"] == 1


# calibration


def test_calibration() -> None:
    assert calibration_error([1.0, 1.0], [1, 0]) == 0.5
    assert calibration_error([0.2, 0.2, 0.2, 0.2, 0.2], [1, 0, 0, 0, 0]) == pytest.approx(0)
    assert calibration_error([0.2, 0.9], [1, 0], [3, 1]) == pytest.approx((3 * 0.8 + 0.9) / 4)
    assert brier([1.0, 0.5], [0, 1]) == pytest.approx((1 + 0.25) / 2)
    assert math.isnan(calibration_error([], []))
    assert Calibration.of([0.9, 0.6, 0.3], [1, 0.5, 0]).as_json() == {
        "ece": pytest.approx((0.1 + 0.1 + 0.3) / 3), "brier": pytest.approx((0.01 + 0.01 + 0.09) / 3), "auc": 1.0
    }  # fmt: skip
    assert set(Calibration.of([], []).as_json().values()) == {None}


def test_what_is_fitted_is_fitted_to_other_problems(tmp_path: Path) -> None:
    rng = random.Random(0)

    def problem() -> dict[str, Any]:
        skill = rng.random()
        return line(letters("".join("a" if rng.random() < skill else rng.choice("bcd") for _ in range(8))))

    train, test = (written(tmp_path / f"{name}.jsonl", *[problem() for _ in range(80)]) for name in ("train", "test"))
    plain, held = rows(test, "--select", "majority", "--select", "abstain(risk=0.15)", "--n", "8", "--fit", train)
    assert held["accuracy"] < plain["accuracy"]
    assert held["ece"] is not None
    assert plain["fitted"] is None
    learnt = selections.parse(held["fitted"])
    assert learnt == replace(selections.parse("abstain(risk=0.15)"), threshold=learnt.threshold)  # type: ignore[type-var, attr-defined]
    (again,) = rows(test, "--select", held["fitted"], "--n", "8")
    assert [again[key] for key in ("accuracy", "ece", "fitted")] == [held["accuracy"], held["ece"], None]
    words = ("--select", "majority", "--select", "abstain(risk=0.15)", "--n", "8", "--fit", train)
    assert [line for line in run(test, *words).stdout.splitlines() if line.startswith("n=8")] == [
        f"n=8, fitted: {held['fitted']}"
    ]
    assert rows(test, "--select", "abstain(risk=0.15)", "--n", "8")[0]["accuracy"] == plain["accuracy"]


# mistakes


GOOD = line([sample("a")])


@pytest.mark.parametrize(("bad", "expected"), [
    ("{", "expected a JSON object"),
    ("[1]", "expected a JSON object, not [1]"),
    ({k: v for k, v in GOOD.items() if k != "task"}, "expected task, a string, which is missing"),
    (GOOD | {"problem": 3}, "expected problem to be a string, not 3"),
    (GOOD | {"reference": 3}, "expected reference to be a string or null, not 3"),
    (GOOD | {"samples": {"answer": "a"}}, "expected samples to be a list of objects"),
    (GOOD | {"samples": ["a"]}, "expected samples to be a list of objects"),
    (line([sample("a"), {}]), "sample 2: expected answer, a string or null, which is missing"),
    (line([sample("a"), {"answer": 3}]), "sample 2: expected answer to be a string or null, not 3"),
    (line([sample("a", correct=1)]), "sample 1: expected correct to be true or false, not 1"),
    (line([sample("a", new_tokens=-1)]), "expected new_tokens to be a whole number, at least 0, not -1"),
    (line([sample("a", new_tokens=True)]), "expected new_tokens to be a whole number"),
    (line([sample("a", mean_logprob="x")]), "expected mean_logprob to be a number, at most 0"),
    (line([sample("a", mean_logprob=float("nan"))]), "expected mean_logprob to be a number, at most 0, not NaN"),
    (line([sample("a", grades={"g": []})]), "expected grades to be an object of numbers or lists of numbers"),
    (line([sample("a", grades={"g": [1, None]})]), "expected grades to be"),
    (line([sample("a"), sample(None, correct=True)]), "sample 2: expected correct to be false where answer is null, not true"),
    (line([sample("a", mean_logprob=-(10**400))]), "expected mean_logprob to be a number, at most 0, not -1000"),
    (line([sample("a", grades={"g": 10**400})]), "expected grades to be an object of numbers"),
    (line([sample("a", grades={"g": [1, 10**400]})]), "expected grades to be an object of numbers"),
    (line([sample("a", new_tokens=10**400)]), "expected new_tokens to be a whole number"),
    (line([sample("a", text=None)]), "expected text to be a string, not null"),
    (line([sample("a")], None), "sample 1: expected correct, true or false"),
    (line([sample("a")], "a", "unheard-of"), "sample 1: expected correct, true or false"),
])  # fmt: skip
def test_a_malformed_line_is_named(bad: Any, expected: str, tmp_path: Path) -> None:
    file = written(tmp_path / "r.jsonl", GOOD, "", bad, GOOD)
    found = run(file)
    assert (found.exit_code, found.stdout) == (2, "")
    (said,) = found.stderr.splitlines()
    assert said.startswith(f"forethought: {file}, line 3: ")
    assert expected in said


@pytest.mark.parametrize(("words", "part"), [
    (("--n", "0"), "cannot read --n 0"),
    (("--n", "2,x"), "cannot read --n 2,x"),
    (("--n", "1,3"), "no problem has n=3 samples; the most is 2"),
    (("--order", "random"), "the order is given or shuffled, not random"),
    (("--select", "majorty"), "did you mean 'majority'"),
    (("--select", "best"), "best needs grades, and no sample has any"),
    (("--select", "rpc"), "rpc needs the mean_logprob of samples, and none has it"),
    (("--select", "llm-choice"), "asks a model, so recorded samples are not enough"),
    (("--select", "abstain(test=information)"), "asks the model again"),
    (("--grade", "g"), "no sample has a grade 'g'; there are none"),
    (("--method", "beam"), "beam has no n"),
    (("--method", "fractured"), "needs continue, so recorded samples are not enough"),
    (("--method", "multi-temperature"), "more than whole drafts of the problem at one temperature"),
    (("--method", "first-finish(n=2)"), "needs the new_tokens of every sample"),
    (("--fit", "nowhere.jsonl"), "cannot read nowhere.jsonl"),
    (("--json", "/no/such/folder/out"), "cannot write /no/such/folder/out"),
])  # fmt: skip
def test_a_mistake_is_one_line(words: Sequence[str], part: str, tmp_path: Path) -> None:
    found = run(written(tmp_path / "r.jsonl", line(letters("ab"))), *words)
    assert (found.exit_code, found.stdout) == (2, "")
    (said,) = found.stderr.splitlines()
    assert part in said


def test_a_bench_that_is_replayed_without_an_export_says_how(tmp_path: Path) -> None:
    (store := tmp_path / "run.sqlite").write_bytes(b"SQLite format 3\0\xff")
    for path in (tmp_path, store):
        found = run(path)
        assert found.exit_code == 2
        assert f"{path} is no file of recorded samples; `forethought export {path}` makes one" in found.stderr


def test_nothing_is_padded(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UsageError, match="has no problems"):
        read(tmp_path / "empty.jsonl")
    file = written(tmp_path / "r.jsonl", line([]), line(letters("a")))
    assert [row["problems"] for row in rows(file)] == [1]
    assert "no problem has n=1 samples" in run(written(tmp_path / "none.jsonl", line([])), "--n", "1").stderr


def test_all_rules_of_recorded_samples_at_once(tmp_path: Path) -> None:
    rng = random.Random(3)
    given = [
        line([sample(rng.choice("aab"), mean_logprob=-rng.random(), grades={"g": rng.random()}, new_tokens=4, text=str(i))
              for i in range(12)])
        for _ in range(4)
    ]  # fmt: skip
    rules = ["rpc", "best-of-majority", "mbr(utility=words, of=text)", "top-two", "dawid-skene", "conformal", "abstain"]
    problems = read(written(tmp_path / "r.jsonl", *given))
    found = replay(Replay(problems, "g", "shuffled"), rules, [], [4, 12])
    assert len(found) == 14
    assert all(0 <= row["accuracy"] <= row["coverage"] + 1e-9 for row, _ in found)


# export


def test_a_bench_is_exported_and_replayed_as_it_was(tmp_path: Path) -> None:
    words = ("--method", "sample(n=12)", "--select", "majority", "--select", "weighted", "--limit", "4")
    there = tmp_path / "there"
    measured = told("bench", "--task", "chain", "--difficulty", "2", *words, "--out", there)["rows"]
    out = tmp_path / "samples.jsonl"
    found = CliRunner().invoke(app, ["export", str(there), "--out", str(out)])
    assert found.exit_code == 0, found.stderr
    again = rows(out, "--select", "majority", "--select", "weighted", "--n", "12")
    samples = [sample for line in out.read_text().splitlines() for sample in json.loads(line)["samples"]]
    assert sum(s["answer"] is not None and bool(s["grades"]) for s in samples) > 1
    assert [row["accuracy"] for row in again] == pytest.approx([row["accuracy"] for row in measured])
    assert again[0]["mean_new_tokens"] == pytest.approx(measured[0]["mean"]["new_tokens"])


def test_an_export_of_one_solve_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "runs.sqlite"
    told(
        "solve", "--task", "chain", "--difficulty", "1", "--method", "sample(n=12)", "--select", "rpc", "--store", store
    )
    monkeypatch.setattr("forethought.models.local.Local.extend", None)
    found = CliRunner().invoke(app, ["export", str(store), "--run", "1"])
    for words in ("sample", "sample(n=12)", "sample(temperature=0.8, n=12)"):
        assert CliRunner().invoke(app, ["export", str(store), "--method", words]).stdout == found.stdout
    assert found.exit_code == 0, found.stderr
    (told_line,) = map(json.loads, found.stdout.splitlines())
    assert len(told_line["samples"]) == 12
    assert sum("mean_logprob" in s and s["new_tokens"] > 0 for s in told_line["samples"]) > 1
    for words, part in ((("nowhere",), "is not there"), ((store, "--run", "7"), "no run 7"),
                        ((store, "--method", "beam"), "no finished run"),
                        ((store, "--method", "sampel"), "did you mean 'sample'")):  # fmt: skip
        refused = CliRunner().invoke(app, ["export", *map(str, words)])
        assert refused.exit_code == 2
        assert part in refused.stderr
