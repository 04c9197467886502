"""The command line: shapes of its JSON, exit codes, one clear line for every mistake, and nothing lost on Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from forethought.cli.app import app
from forethought.core.cost import Cost
from forethought.core.errors import ModelError, UsageError
from forethought.core.store import RunStore
from forethought.core.trace import Event
from forethought.models.local import Local
from forethought.models.names import model_named
from forethought.models.price import Price
from forethought.verifiers.process import reward_model
from tests import tiny
from tests.servers import Endpoint, other_server, web_page

SOLUTION = {
    "answer", "text", "confidence", "cost", "stopped", "ranked", "seed", "model", "task", "method", "selection", "verifier",
    "budget", "oracle", "notes", "run", "recorded",
}  # fmt: skip
ROW = {
    "method", "selection", "verifier", "oracle", "task", "difficulty", "accuracy", "low", "high", "ece", "brier", "auc",
    "problems", "failures", "error", "wall_seconds", "mean", "total",
}  # fmt: skip


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    tiny.guesser(folder / "generator")
    tiny.classifier(folder / "reward")
    return {name: folder / name for name in ("generator", "reward")}


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A state folder of its own, and tiny models in the place of the embedded ones, which no later test shall meet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("FORETHOUGHT_MODEL", raising=False)
    monkeypatch.setattr("forethought.reasoner.loader.folder", models.__getitem__)
    monkeypatch.setattr("forethought.verifiers.process.folder", models.__getitem__)
    cold()
    yield
    cold()


def cold() -> None:
    """Forget what models have read, as a new process would."""
    model_named.cache_clear()
    reward_model.cache_clear()


def forethought(*words: object) -> Result:
    found = CliRunner().invoke(app, [str(word) for word in words])
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found


def told(*words: object, code: int = 0) -> Any:
    """What a command prints as JSON."""
    found = forethought(*words, "--json")
    assert (found.exit_code, found.stderr.splitlines()[-3:] if code == 0 and found.exit_code else []) == (code, [])
    return json.loads(found.stdout)


def solved(tmp_path: Path, *words: object, store: str = "runs.sqlite", code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = told("solve", *words, "--store", tmp_path / store, code=code)
    return found


def timeless(found: dict[str, Any], digits: int = 4) -> Any:
    """A solution without its seconds. Grades keep four digits: matrix products of other batches differ in the last bits."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: rounded(entry) for name, entry in value.items() if name != "seconds"}
        if isinstance(value, list):
            return [rounded(entry) for entry in value]
        return pytest.approx(value, rel=10.0**-digits) if isinstance(value, float) else value

    return rounded(found)


def no_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the model was asked again")

    monkeypatch.setattr(Local, "extend", refuse)


# catalogues


@pytest.mark.parametrize(("command", "keys", "names"), [
    ("methods", {"law", "needs", "parameters", "paper", "summary"}, {"greedy", "sample", "beam", "particle-filter"}),
    ("selections", {"needs", "parameters", "paper", "summary"}, {"first", "majority", "weighted", "best"}),
    ("verifiers", {"process", "oracle", "parameters", "summary"}, {"exact", "noisy", "process"}),
    ("tasks", {"difficulties", "middle", "checkable", "summary"}, {"chain", "countdown", "procedure", "text", "math"}),
    ("models", {"ready", "summary"}, {"reasoner", "smollm2", "local:PATH", "openai:MODEL@URL"}),
])  # fmt: skip
def test_what_there_is(command: str, keys: set[str], names: set[str]) -> None:
    rows = told(command)
    assert names <= {row["name"] for row in rows}
    assert all(keys | {"name"} <= row.keys() and row["summary"] for row in rows)
    shown = forethought(command)
    assert shown.exit_code == 0
    assert all(name in shown.stdout for name in names)


def test_help_names_every_command() -> None:
    shown = forethought("--help").stdout
    assert all(command in shown for command in ("solve", "bench", "demo", "pull", "runs", "methods", "models"))


# mistakes


@pytest.mark.parametrize(("words", "parts"), [
    (("solve", "--task", "chain", "--seed", "abc"), ("'--seed'", "solve --help")),
    (("solve", "--problem", "1", "--sed", "3"), ("--sed", "solve --help")),
    (("bench", "--task", "chain", "--out", "there"), ("'--method'", "bench --help")),
    (("bench", "--task", "chain", "--method", "greedy", "--out", "there", "--limit", "0"), ("'--limit'", "bench --help")),
    (("slove",), ("slove", "--help")),
    (("export",), ("run", "export --help")),
])  # fmt: skip
def test_words_that_make_no_command_are_one_line_too(words: tuple[str, ...], parts: tuple[str, ...]) -> None:
    one_line(forethought(*words), *parts)


def test_no_words_at_all_show_the_help() -> None:
    found = forethought()
    assert found.exit_code == 2
    assert "solve" in found.stdout
    assert found.stderr == ""
    assert forethought("--help").exit_code == forethought("solve", "--help").exit_code == 0


def one_line(found: Result, *parts: str) -> None:
    assert found.exit_code == 2, (found.exit_code, found.stderr, found.stdout)
    (line,) = found.stderr.splitlines()
    assert line.startswith("forethought: ")
    assert "Traceback" not in line
    assert found.stdout == ""
    for part in parts:
        assert part in line


@pytest.mark.parametrize(("words", "part"), [
    (("--task", "chain", "--method", "besm"), "no method 'besm'; did you mean 'beam'"),
    (("--task", "chain", "--method", "nothing-like-it"), "there are "),
    (("--task", "chain", "--select", "majorty"), "no selection 'majorty'; did you mean 'majority'"),
    (("--task", "chain", "--verifier", "proces"), "no verifier 'proces'; did you mean 'process'"),
    (("--task", "chian"), "task 'chian'; did you mean 'chain'"),
    (("hello", "--task", "chian"), "task 'chian'; did you mean 'chain'"),
    (("--task", "chain", "--model", "reasonr"), "no model 'reasonr'; did you mean 'reasoner'"),
    (("--task", "chain", "--model", "reasoner+fp16"), "no model 'reasoner+fp16'; did you mean 'reasoner'"),
    (("--task", "chain", "--model", "reasoner+int8+fp32"), "reasoner+int8+fp32 names two precisions"),
    (("--task", "chain", "--model", "openai:gpt"), "openai:"),
    (("--task", "chain", "--model", "openai:gpt@nowhere"), "nowhere"),
    (("--task", "chain", "--model", "openai:m@http://host:port/v1"), "http://host:port/v1 is no address (Invalid port"),
    (("--task", "chain", "--model", "local:"), "no model 'local:'"),
    (("--task", "chain", "--method", "sample(m=3)"), "no parameter of sample 'm'"),
    (("--task", "chain", "--method", "sample(n=0)"), "n must be at least 1, not 0"),
    (("--task", "chain", "--method", "sample(n=many)"), "n='many' is not a whole number or None"),
    (("--task", "chain", "--method", "sample(n=2.5)"), "n=2.5 is not a whole number or None"),
    (("--task", "chain", "--method", "sample(16)"), "write it as name(parameter=value, ...)"),
    (("--task", "chain", "--method", "sample(n=16"), "write it as name(parameter=value, ...)"),
    (("--task", "chain", "--method", ""), "no method ''"),
    (("--task", "chain", "--select", ""), "no selection ''"),
    (("--task", "chain", "--verifier", ""), "no verifier ''"),
    (("--task", "chain", "--model", ""), "no model ''"),
    (("--task", "chain", "--price", ""), "reasoner runs here and has no price"),
    (("--task", "chain", "--select", "weighted(steps=best)"), "one of last, min, mean, product"),
    (("--task", "chain", "--budget", "many"), "cannot read the budget 'many'"),
    (("--task", "chain", "--budget", "tokens=many"), "cannot read the budget 'tokens=many'"),
    (("--task", "chain", "--budget", "toknes=5"), "no budget entry 'toknes'; did you mean 'tokens'?"),
    (("--task", "chain", "--budget", ""), "the budget is empty"),
    (("--task", "chain", "--budget", "tokens=1,tokens=2"), "names tokens twice"),
    (("--task", "chain", "--kv-memory", "900T"), "this machine cannot hold 9.216e+05 GiB of keys and values"),
    (("--task", "chain", "--kv-memory", "1e18G"), "cannot read the amount of memory '1e18G'"),
    (("--task", "chain", "--budget", "tokens=-5"), "at least 0, not -5"),
    (("--task", "chain", "--method", "sample(n=None)", "--budget", "seconds=5"), "needs a budget in tokens or calls"),
    (("--task", "chain", "--model", "local:/not/there"), "/not/there is not there"),
    (("--task", "chain", "--difficulty", "99"), "chain has difficulties 1 to 20, not 99"),
    (("--task", "chain", "--problem", "-1"), "no problem -1"),
    (("--task", "text"), "no generated task 'text'"),
    (("hello", "--problem", "3"), "not both"),
    (("hello", "--difficulty", "3"), "not both"),
    ((), "there is no problem"),
    (("  ",), "the problem is empty"),
    (("hello",), "the embedded reasoner solves only the tasks chain, chain-checked, countdown, procedure"),
    (("hello", "--task", "chain"), "this is no chain problem; they look like: $'chain "),
    (("--task", "chain", "--select", "best", "--model", "smollm2"), "forethought pull smollm2"),
])  # fmt: skip
def test_a_mistake_is_one_line(words: tuple[str, ...], part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forethought.models.pull.path", lambda: None)
    found = forethought("solve", *words)
    one_line(found, part)


@pytest.mark.parametrize("task", ["chain", "chain-checked", "countdown", "procedure"])
def test_the_form_of_a_task_is_shown_so_that_a_shell_takes_it(task: str, tmp_path: Path) -> None:
    (line,) = forethought("solve", "no such form", "--task", task).stderr.splitlines()
    shown = line.partition("they look like: ")[2]
    pasted = subprocess.run(["bash", "-c", f"printf %s {shown}"], capture_output=True, text=True, check=True).stdout
    assert solved(tmp_path, pasted, "--task", task, "--budget", "tokens=0", code=3)["task"] == task


def test_a_text_needs_a_verifier_where_a_method_or_selection_does(models: dict[str, Path]) -> None:
    model = f"local:{models['generator']}"
    beam = forethought("solve", "hi", "--model", model, "--method", "beam")
    one_line(beam, "needs a verifier that grades steps", "none was given")
    one_line(forethought("solve", "hi", "--model", model, "--select", "best"), "add --verifier")
    exact = forethought("solve", "hi", "--model", model, "--method", "beam", "--verifier", "exact")
    one_line(exact, "exact grades whole drafts only")


def test_a_server_that_refuses() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    one_line(forethought("solve", "hi", "--model", f"openai:m@http://127.0.0.1:{port}/v1"), str(port))


def test_a_server_that_is_something_else() -> None:
    with other_server(web_page) as url:
        one_line(forethought("solve", "hi", "--model", f"openai:m@{url}"), url)


def test_a_server_without_this_model() -> None:
    with Endpoint().serve() as endpoint:
        one_line(forethought("solve", "hi", "--model", f"openai:tpy@{endpoint.url}"), "tpy")


@pytest.mark.parametrize(
    "command", [("solve", "hi"), ("bench", "--task", "chain", "--method", "greedy", "--out", "{}")]
)
def test_a_server_counts_no_flops_so_no_budget_limits_them(command: tuple[str, ...], tmp_path: Path) -> None:
    words = [word.format(tmp_path / "out") for word in command]
    with Endpoint().serve() as endpoint:
        found = forethought(*words, "--model", f"openai:toy@{endpoint.url}", "--budget", "tokens=9,kv_reads=5")
    last_line(
        found, f"openai:toy@{endpoint.url} does not count kv_reads, so no budget can limit it; it can limit tokens, "
    )


def test_a_server_that_cannot_continue_runs_no_steps() -> None:
    with Endpoint(continues=()).serve() as endpoint:
        found = forethought("solve", "--task", "chain", "--model", f"openai:toy@{endpoint.url}", "--method", "beam")
    one_line(found, "ability 'continue'", "local models")


def test_a_file_that_is_no_run_store(tmp_path: Path, models: dict[str, Path]) -> None:
    text, other = tmp_path / "notes.txt", tmp_path / "other.sqlite"
    text.write_text("these are my notes, and they are longer than any header\n" * 20)
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    for file in (text, other):
        before = file.read_bytes()
        one_line(forethought("runs", file), f"{file} is no run store")
        one_line(forethought("solve", "--task", "chain", "--store", file), f"{file} is no run store")
        assert file.read_bytes() == before
    one_line(forethought("runs", tmp_path / "nothing"), f"{tmp_path}/nothing is not there")
    one_line(forethought("runs", tmp_path), f"{tmp_path}/run.sqlite is not there")


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    one_line(forethought("solve", "hi", "--model", f"local:{tmp_path}"), "no model folder")


@pytest.mark.parametrize("noise", [b"\0", b"\xff", b"noise "])
def test_a_run_store_overwritten_in_its_middle(noise: bytes, tmp_path: Path) -> None:
    file = tmp_path / "runs.sqlite"
    store = RunStore(file)
    for key in map(str, range(200)):
        row = store.begin(key, {"method": key, "problem": key * 50, "name": key})
        store.trace(row.id).note(Event((1,), "sample", data={"text": key * 50}))
    store.close()
    half = file.stat().st_size // 2
    with file.open("r+b") as opened:
        opened.seek(4096)
        opened.write((noise * half)[:half])
    one_line(forethought("runs", file), f"cannot read {file}: ")
    one_line(forethought("runs", file, "--show", 100), f"cannot read {file}: ")
    one_line(forethought("solve", "--task", "chain", "--store", file), f"cannot write to {file}: ")


def test_a_gguf_file_that_is_none(tmp_path: Path) -> None:
    for content in (b"GGUF but not really", b"GGUF\3\0\0\0", b"", b"<html>"):
        (file := tmp_path / "model.gguf").write_bytes(content)
        one_line(forethought("solve", "hi", "--model", f"local:{file}"), f"{file} is no model file", "tokenizer")
        cold()


def test_bench_refuses_before_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_calls(monkeypatch)
    out = tmp_path / "out"
    one_line(forethought("bench", "--task", "text", "--method", "greedy", "--out", out), "no generated task 'text'")
    one_line(forethought("bench", "--task", "chain", "--method", "greeedy", "--out", out), "did you mean 'greedy'")
    one_line(forethought("bench", "--task", "chain", "--difficulty", 40, "--method", "greedy", "--out", out), "not 40")
    one_line(
        forethought("bench", "--task", "chain", "--method", "greedy", "--select", "", "--out", out), "selection ''"
    )
    late = ("bench", "--task", "chain", "--method", "greedy", "--method", "particle-filter(n=4)", "--out", out)
    one_line(forethought(*late, "--verifier", "exact"), "needs a verifier that grades steps")
    with other_server(web_page) as url:
        one_line(forethought(*late, "--model", f"openai:m@{url}"), url)
    (empty := tmp_path / "empty").mkdir()
    one_line(forethought(*late, "--model", f"local:{empty}"), "no model folder")
    one_line(forethought(*late, "--verifier", f"process(path='{empty}')"), "no model folder")
    assert not out.exists()


def test_a_folder_that_a_bench_cannot_write(tmp_path: Path) -> None:
    (file := tmp_path / "file").write_text("mine")
    one_line(forethought(*BENCH, "--out", file), f"{file}/run.sqlite is no run store")
    one_line(forethought(*BENCH, "--out", file / "below"), f"{file}/below/run.sqlite is no run store")
    (out := tmp_path / "out" / "summary.json").mkdir(parents=True)
    last_line(forethought(*BENCH, "--out", out.parent), f"cannot write {out}")


# solve


def test_a_solution_in_json(tmp_path: Path, models: dict[str, Path]) -> None:
    found = solved(
        tmp_path, "--task", "chain", "--difficulty", 2, "--model", f"local:{models['generator']}", "--seed", 5
    )
    assert found.keys() == SOLUTION
    assert found["cost"].keys() == set(Cost._fields)
    assert all(row.keys() == {"answer", "probability"} for row in found["ranked"])
    assert found["answer"] == found["ranked"][0]["answer"]
    assert found["text"].endswith(f"answer: {found['answer']}")
    assert found["confidence"] == found["ranked"][0]["probability"]
    assert (found["seed"], found["run"], found["stopped"], found["task"]) == (5, 1, "done", "chain")
    assert (found["method"], found["selection"]) == ("sample(n=16, temperature=0.8)", "majority")
    assert (found["verifier"], found["oracle"], found["notes"]) == (None, False, [])
    assert found["budget"] == "tokens=16000,seconds=120"
    cost = found["cost"]
    assert (cost["calls"], cost["verifier_calls"], cost["usd"]) == (16, 0, 0)
    assert 0 < cost["critical_tokens"] < cost["new_tokens"] < 16_000
    assert cost["flops"] > 0 < cost["seconds"]


@pytest.mark.parametrize("words", [
    ("--method", "greedy"),
    ("--method", "sample(n=6)", "--select", "weighted"),
    ("--method", "beam(width=2, expand=2)", "--select", "best"),
    ("--method", "particle-filter(n=4)"),
    ("--method", "sample(n=None)", "--select", "best", "--budget", "tokens=300"),
])  # fmt: skip
def test_the_same_seed_gives_the_same_solution_and_a_stored_one_costs_nothing(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--task", "chain", "--difficulty", "2", *words)
    first = solved(tmp_path, *words, store="a.sqlite", code=code_of(tmp_path, words))
    cold()
    again = solved(tmp_path, *words, store="b.sqlite", code=3 if first["answer"] is None else 0)
    assert timeless(again) == timeless(first)
    before = told("runs", tmp_path / "a.sqlite", "--show", 1)
    no_calls(monkeypatch)
    recorded = solved(tmp_path, *words, store="a.sqlite", code=3 if first["answer"] is None else 0)
    assert timeless(recorded) == timeless(first) | {"recorded": True}
    after = told("runs", tmp_path / "a.sqlite", "--show", 1)
    assert after["events"] == before["events"]
    assert after["status"] == "done"


def code_of(tmp_path: Path, words: tuple[str, ...]) -> int:
    code = forethought("solve", *words, "--store", tmp_path / "c.sqlite").exit_code
    cold()
    return code


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    words = ("--task", "chain", "--difficulty", 2, "--method", "sample(n=8)")
    first, second = solved(tmp_path, *words), solved(tmp_path, *words, "--seed", 1)
    assert (first["run"], second["run"]) == (1, 2)
    assert timeless(first) != timeless(second) | {"run": 1, "seed": 0}


def test_another_precision_is_another_run(tmp_path: Path) -> None:
    names = ("reasoner", "reasoner+fp32", "reasoner+int8")
    words = ("--task", "chain", "--difficulty", 2, "--method", "sample(n=8)")
    found = [solved(tmp_path, *words, "--model", name) for name in names]
    assert [(run["model"], run["run"], run["recorded"]) for run in found] == [
        (name, place, False) for place, name in enumerate(names, 1)
    ]


@pytest.mark.parametrize("limit", ["tokens", "calls", "seconds"])
def test_a_budget_of_nothing_starts_nothing(limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_calls(monkeypatch)
    found = solved(tmp_path, "--task", "chain", "--method", "sample(n=4)", "--budget", f"{limit}=0", code=3)
    assert (found["stopped"], found["cost"]["calls"], found["cost"]["new_tokens"]) == ("budget", 0, 0)


def test_no_answer_is_exit_code_three(tmp_path: Path) -> None:
    words = ("--task", "chain", "--method", "sample(n=4)", "--budget", "tokens=1")
    found = solved(tmp_path, *words, code=3)
    assert (found["answer"], found["text"], found["ranked"], found["confidence"]) == (None, None, [], 0)
    assert found["stopped"] == "budget"
    assert found["cost"]["new_tokens"] <= 1
    shown = forethought("solve", *words)
    assert shown.exit_code == 3
    assert "no answer" in shown.stdout


def test_a_bare_text(tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORETHOUGHT_MODEL", f"local:{models['generator']}")
    found = solved(tmp_path, "hello there", "--method", "sample(n=4)")
    assert (found["task"], found["model"]) == ("text", f"local:{models['generator']}")
    assert found["answer"]


def test_a_text_in_the_form_of_a_task_is_one_of_its_problems(tmp_path: Path) -> None:
    for text in ("countdown 3 7 12 5 = 40", "countdown 3 7 12 5 = 40\n"):
        found = solved(tmp_path, text, "--method", "sample(n=1)", code=3)
        assert found["task"] == "countdown"


def test_a_solution_for_people(tmp_path: Path) -> None:
    words = ("--task", "chain", "--difficulty", 2, "--verifier", "exact", "--select", "best", "--store", tmp_path / "s")
    shown = " ".join(forethought("solve", *words).stdout.split())
    bill = ("bill: 16 calls", "16 verifier calls", "(the default); finished")
    for part in ("answer: ", "confidence", *bill, "best", "oracle", "seed 0"):
        assert part in shown


# runs


def test_runs_are_listed_shown_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "runs.sqlite"
    first = solved(tmp_path, "--task", "chain", "--difficulty", 2, "--method", "sample(n=8)")
    solved(tmp_path, "--task", "chain", "--difficulty", 2, "--budget", "tokens=1", code=3)
    one, two = told("runs", file)
    assert (one["run"], one["status"], one["method"]) == (1, "done", "sample(n=8, temperature=0.8)")
    assert timeless(one["outcome"]) == timeless(first)
    assert two["outcome"]["answer"] is None
    detail = told("runs", file, "--show", 1)
    assert [e["kind"] for e in detail["events"]].count("sample") == 8
    assert "sample(n=8" in forethought("runs", file).stdout
    shown = forethought("runs", file, "--show", 1)
    assert shown.exit_code == 0
    assert "sample" in shown.stdout
    no_calls(monkeypatch)
    assert timeless(told("runs", file, "--resume", 1)) == timeless(first) | {"recorded": True}
    again = forethought("solve", "--task", "chain", "--difficulty", 2, "--method", "sample(n=8)", "--store", file)
    assert "recorded as run 1: this is what it answered then" in " ".join(again.stdout.split())
    assert forethought("runs", file, "--resume", 1).exit_code == 0
    assert told("runs", file, "--resume", 2, code=3)["answer"] is None
    one_line(forethought("runs", file, "--show", 1, "--resume", 1), "not both")
    one_line(forethought("runs", file, "--show", 9), "has no run 9")
    one_line(forethought("runs", file, "--resume", 9), "has no run 9")


def test_runs_without_a_file_are_those_of_the_own_store() -> None:
    one_line(forethought("runs"), "forethought/runs.sqlite is not there")
    forethought("solve", "--task", "chain", "--method", "greedy", "--budget", "tokens=0")
    assert [row["run"] for row in told("runs")] == [1]
    assert told("runs", "--show", 1)["method"].startswith("greedy")


@pytest.mark.parametrize(("then", "told"), [
    ("json_remove(spec, '$.weights')", "with other weights;"),
    ("json_set(spec, '$.budget', '')", "with other budget;"),
])  # fmt: skip
def test_a_run_recorded_in_other_words_does_not_go_on(tmp_path: Path, then: str, told: str) -> None:
    """What the first version wrote is no run of today's: resuming it would silently begin another."""
    file, words = tmp_path / "runs.sqlite", ("--task", "chain", "--difficulty", 2, "--method", "greedy")
    assert forethought("solve", *words, "--budget", "none", "--store", file).exit_code in (0, 3)
    with sqlite3.connect(file) as db:
        db.execute(f"UPDATE runs SET spec = {then}")
    db.close()
    one_line(forethought("runs", file, "--resume", 1), "run 1 cannot go on", told)
    assert len(RunStore(file).runs()) == 1


def test_weights_that_are_replaced_make_another_run(tmp_path: Path) -> None:
    """A model's, and its verifier's; what is told beside them is no part of a model."""
    tiny.guesser(tmp_path / "generator")
    tiny.classifier(tmp_path / "reward")
    words = ["--task", "chain", "--difficulty", 1, "--method", "sample(n=2)", "--select", "best"]
    words += ["--model", f"local:{tmp_path}/generator", "--verifier", f"process(path='{tmp_path}/reward')"]

    def run() -> dict[str, Any]:
        cold()
        found = forethought("solve", *words, "--store", tmp_path / "s", "--json")
        told = json.loads(found.stdout)  # these models also tell why they have no answer
        return {
            **{name: told[name] for name in ("run", "recorded")},
            "notes": [n for n in told["notes"] if "asked" in n],
        }

    assert run() == {"run": 1, "recorded": False, "notes": []}
    (tmp_path / "generator" / "README.md").write_text("read me")
    assert run() == {"run": 1, "recorded": True, "notes": []}
    other = "asked the same of a model with other weights, so this run is a new one"
    tiny.generator(tmp_path / "generator", seed=1)
    assert run() == {"run": 2, "recorded": False, "notes": [f"run 1 {other}"]}
    tiny.classifier(tmp_path / "reward", seed=1)
    assert run() == {"run": 3, "recorded": False, "notes": [f"run 1, 2 {other}"]}
    cold()
    one_line(forethought("runs", tmp_path / "s", "--resume", 1), "run 1 cannot go on", "files", "have changed")
    assert forethought("runs", tmp_path / "s", "--resume", 3).exit_code in (0, 3)


# failures


def test_what_becomes_of_failures_is_said_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extend = Local.extend

    async def moody(self: Local, request: Any, call: Any) -> Any:
        if call.seed % 3 == 0:
            raise ModelError("not now")
        return await extend(self, request, call)

    monkeypatch.setattr(Local, "extend", moody)
    drafts = ("--task", "chain", "--difficulty", 2, "--method", "sample(n=12)")
    solve, bench = ("solve", *drafts, "--store", tmp_path / "s"), ("bench", *drafts, "--limit", 2, "--out", tmp_path)
    for words in (solve, bench):
        assert forethought(*words).exit_code == 1
        last_line(forethought(*words, "--failures", "ignore"), "failures is fail or drop, not 'ignore'")
    found = told(*solve, "--failures", "drop")
    (note,) = found["notes"]
    assert note.endswith(" failed drafts were dropped")
    assert told("runs", tmp_path / "s", "--resume", found["run"])["notes"] == [note]
    assert told(*bench, "--failures", "drop")["rows"][0]["failures"] == 0


# prices


def test_an_endpoint_with_a_price_keeps_a_budget_in_usd(tmp_path: Path) -> None:
    with Endpoint(say=lambda prompt, so_far, seed: f"so it is {seed % 3}").serve() as endpoint:
        model = f"openai:toy@{endpoint.url}"
        words = (tmp_path, "Which is it?", "--model", model, "--method", "sample(n=40)", "--budget", "usd=0.012")
        found = solved(*words, "--price", "prompt=1,new=100")
        cost = found["cost"]
        assert found["stopped"] == "budget"
        assert 0 < cost["usd"] <= 0.012
        uncached = cost["prompt_tokens"] + 100 * cost["new_tokens"]
        assert cost["usd"] == pytest.approx(uncached / 1e6)
        asked = endpoint.calls
        assert solved(*words, "--price", "prompt=1,new=100")["answer"] == found["answer"]
        again = told("runs", tmp_path / "runs.sqlite", "--resume", found["run"])
        assert again["cost"]["usd"] == cost["usd"]
        assert endpoint.calls <= asked + 2 * 12  # the probe of a new process alone
        one_line(forethought("solve", *words[1:], "--store", tmp_path / "s"), "needs the prices", "--price")
    one_line(forethought("solve", "--task", "chain", "--price", "new=1"), "reasoner", "has no price")
    one_line(forethought("solve", "x", "--model", model, "--price", "new=much"), "cannot read the price 'new=much'")


@pytest.mark.parametrize("text", ["prompt=0.15,new=0.6", "prompt=1,cached=0,new=2.5", "new=1e-06", ""])
def test_prices_are_read_as_they_are_written(text: str) -> None:
    assert str(Price.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["new", "new=", "fresh=1", "new=-1", "prompt=nan", "prompt=inf", "0.15", "new=1,new=2"]
)
def test_prices_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="cannot read the price"):
        Price.parse(text)


# bench

BENCH = ("bench", "--task", "chain", "--difficulty", 1, "--limit", 5, "--method", "greedy", "--method", "sample(n=6)")


def test_bench_measures_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (*BENCH, "--select", "majority", "--select", "weighted", "--out", tmp_path)
    rows = told(*words)["rows"]
    assert json.loads((tmp_path / "summary.json").read_text()) == {"rows": rows}
    assert [(row["method"], row["selection"], row["verifier"]) for row in rows] == [
        ("greedy", "majority", None),
        ("greedy", "weighted(steps='last', combine='sum')", "process(path=None)"),
        ("sample(n=6, temperature=0.8)", "majority", None),
        ("sample(n=6, temperature=0.8)", "weighted(steps='last', combine='sum')", "process(path=None)"),
    ]
    for row in rows:
        assert row.keys() == ROW
        assert row["mean"].keys() == row["total"].keys() == set(Cost._fields)
        assert row["total"]["new_tokens"] == pytest.approx(5 * row["mean"]["new_tokens"])
        assert (row["task"], row["difficulty"], row["problems"], row["failures"], row["oracle"]) == (
            "chain",
            1,
            5,
            0,
            False,
        )
        assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1
    assert rows[2]["total"]["verifier_calls"] == 0
    no_calls(monkeypatch)
    began = time.perf_counter()
    assert told(*words)["rows"] == rows
    assert time.perf_counter() - began < 2
    assert "95% CI" in forethought(*words).stdout
    one_line(forethought("runs", tmp_path / "run.sqlite", "--resume", 1), "belongs to a bench")


def test_bench_measures_each_method_and_selection_once(tmp_path: Path) -> None:
    twice = ("--method", "sample(n=6, temperature=0.8)", "--select", "weighted", "--select", "weighted(steps='last')")
    rows = told(*BENCH, *twice, "--out", tmp_path)["rows"]
    assert [row["method"] for row in rows] == ["greedy", "sample(n=6, temperature=0.8)"]
    listed = told("runs", tmp_path)
    assert len(listed) == 2 * 5
    assert {row["selection"] for row in listed} == {"weighted(steps='last', combine='sum')"}


def test_bench_marks_oracles(tmp_path: Path) -> None:
    words = (*BENCH, "--select", "majority", "--select", "best", "--verifier", "exact", "--out", tmp_path)
    rows = told(*words)["rows"]
    assert [row["oracle"] for row in rows] == [False, True, False, True]
    assert rows[3]["accuracy"] >= rows[2]["accuracy"]
    assert "(oracle)" in forethought(*words).stdout


def test_a_failing_model_counts_as_wrong_and_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extend, asked = Local.extend, []

    async def fails_twice(self: Local, request: Any, call: Any) -> Any:
        asked.append(call)
        if len(asked) <= 2:
            raise ModelError("not now")
        return await extend(self, request, call)

    words = ("bench", "--task", "chain", "--difficulty", 1, "--limit", 5, "--method", "greedy", "--out", tmp_path)
    monkeypatch.setattr(Local, "extend", fails_twice)
    assert told(*words)["rows"][0]["failures"] == 2
    assert told(*words)["rows"][0]["failures"] == 0
    assert len(asked) == 7


def test_a_mistake_that_all_problems_of_a_bench_meet_is_told_once(tmp_path: Path) -> None:
    words = ("--method", "sample(n=None)", "--budget", "seconds=5", "--out", tmp_path / "out")
    last_line(forethought("bench", "--task", "chain", "--limit", 5, *words), "needs a budget in tokens or calls")


def last_line(found: Result, part: str) -> None:
    """A mistake that is noticed at work: under the bars of what was done, one line of our own."""
    assert found.exit_code == 2, (found.exit_code, found.stderr)
    (line,) = (line for line in found.stderr.splitlines() if line.startswith("forethought: "))
    assert line == found.stderr.splitlines()[-1]
    assert part in line
    assert found.stdout == ""


def test_a_server_that_takes_the_key_no_more_ends_a_bench_and_what_is_recorded_is_kept(tmp_path: Path) -> None:
    asked: list[str] = []

    def say(prompt: str, so_far: str, seed: int) -> str:
        if prompt.startswith("chain"):
            asked.append(prompt)
            if len(asked) == 6:
                endpoint.key = "another"
        return "answer: 1"

    with Endpoint(say=say).serve() as endpoint:
        words = ("bench", "--task", "chain", "--limit", 12, "--method", "greedy", "--out", tmp_path)
        model = f"openai:toy@{endpoint.url}"
        last_line(forethought(*words, "--model", model), "401")
        done = [row["problem"] for row in told("runs", tmp_path / "run.sqlite") if row["status"] == "done"]
        assert 0 < len(done) < 12
        endpoint.key = None
        before = len(asked)
        cold()
        (row,) = told(*words, "--model", model)["rows"]
    assert (row["problems"], row["failures"]) == (12, 0)
    assert before < len(asked) <= before + 12 - len(done)
    assert not any(problem in prompt for problem in done for prompt in asked[before:])


@pytest.mark.parametrize("failing", ["greedy", "sample"])
def test_a_bench_without_a_single_outcome_fails(failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extend, count = Local.extend, 0

    async def fails(self: Local, request: Any, call: Any) -> Any:
        nonlocal count
        if (request.temperature == 0) == (failing == "greedy"):
            count += 1
            raise ModelError(f"not now, for the time {count}")
        return await extend(self, request, call)

    monkeypatch.setattr(Local, "extend", fails)
    found = forethought(*BENCH, "--out", tmp_path, "--json")
    assert found.exit_code == 1
    *_, line = found.stderr.splitlines()
    assert re.fullmatch(
        rf"forethought: all 5 problems of {failing}.* failed; the last: not now, for the time \d+", line
    )
    rows = json.loads((tmp_path / "summary.json").read_text())["rows"]
    assert json.loads(found.stdout) == {"rows": rows}
    assert sorted(row["failures"] for row in rows) == [0, 5]
    assert {row["failures"]: row["error"] for row in rows} == {0: None, 5: line.partition("last: ")[2]}


def test_ctrl_c_while_the_program_is_still_being_read() -> None:
    code = """
import os, signal, sys
class Impatient:
    def find_spec(self, name, *_):
        if name == "forethought.core.errors":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Impatient())
from forethought.cli import main
main()
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "forethought: interrupted\n")


def test_ctrl_c_ends_at_once_and_the_same_command_goes_on(tmp_path: Path) -> None:
    def say(prompt: str, so_far: str, seed: int) -> str:
        return f"answer: {seed % 3}" if prompt.startswith("chain") else "apple\npear\n".removeprefix(so_far)

    with Endpoint(say=say).serve() as endpoint:
        words = ["--task", "chain", "--limit", "30", "--method", "sample(n=2)", "--out", str(tmp_path), "--json"]
        command = [sys.executable, "-m", "forethought", "bench", *words, "--model", f"openai:toy@{endpoint.url}"]
        endpoint.delay = 0.1
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        wait_for(lambda: finished(tmp_path) >= 3)
        process.send_signal(signal.SIGINT)
        began = time.perf_counter()
        out, error = process.communicate(timeout=20)
        assert time.perf_counter() - began < 2
        assert process.returncode == 130
        assert out == ""
        assert (
            error.splitlines()[-1] == "forethought: interrupted; nothing recorded is lost. Go on with: the same command"
        )
        assert "Traceback" not in error
        endpoint.delay, done, endpoint.calls = 0.0, finished(tmp_path), 0
        assert 3 <= done < 60
        again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        (row,) = json.loads(again.stdout)["rows"]
        assert (row["problems"], row["failures"], row["total"]["calls"]) == (30, 0, row["total"]["calls"])
        probe = 12
        assert 60 - done <= endpoint.calls <= 60 - done + probe
        assert finished(tmp_path) == 60


@pytest.mark.parametrize("command", [
    ("solve", "--task", "countdown", "--method", "sample(n=400)", "--budget", "tokens=1000000", "--store", "{}/run.sqlite"),
    ("bench", "--task", "chain", "--method", "beam(width=4,expand=4)", "--limit", "100", "--out", "{}"),
], ids=["solve", "bench"])  # fmt: skip
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="tells the time of a process by /proc")
def test_ctrl_c_ends_the_reasoner_within_a_second(command: tuple[str, ...], tmp_path: Path) -> None:
    """A second of its own time: other processes of a busy machine take theirs besides."""
    words = [sys.executable, "-m", "forethought", *(word.format(tmp_path) for word in command), "--json"]
    before = children()
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: finished(tmp_path) >= 20, seconds=120)
        stat = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    taken = sum(map(int, stat[11:13])) / os.sysconf("SC_CLK_TCK")
    assert (process.returncode, out) == (130, "")
    assert "Go on with: the same command" in error.splitlines()[-1]
    assert "Traceback" not in error
    assert children() - before - taken < 1
    if command[0] == "solve":
        goes_on(tmp_path / "run.sqlite", words)


def children() -> float:
    """Seconds of processors that this process's children have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def goes_on(file: Path, words: list[str]) -> None:
    """The same command takes what is recorded and makes the rest."""
    with sqlite3.connect(file) as db:
        before = dict(db.execute("SELECT place, data FROM events WHERE kind = 'sample'"))
    assert len(before) < 400
    again = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert json.loads(again.stdout)["cost"]["calls"] >= 400
    with sqlite3.connect(file) as db:
        after = dict(db.execute("SELECT place, data FROM events WHERE kind = 'sample'"))
    assert len(after) == 400
    assert before.items() <= after.items()


def finished(folder: Path) -> int:
    """How many samples are on disk."""
    file = folder / "run.sqlite"
    if not file.exists():
        return 0
    db = sqlite3.connect(file)
    try:
        return int(db.execute("SELECT count(*) FROM events WHERE kind = 'sample'").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    finally:
        db.close()


def wait_for(condition: Any, seconds: float = 30) -> None:
    until = time.perf_counter() + seconds
    while not condition():
        assert time.perf_counter() < until
        time.sleep(0.01)


def test_help_is_quick_and_heavy_libraries_stay_out() -> None:
    code = "import sys, forethought.cli.app; assert not {'torch', 'transformers', 'tokenizers'} & set(sys.modules), 'heavy'"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
    code = "import sys, forethought; assert not {'torch', 'numpy', 'anyio', 'httpx2'} & set(sys.modules), 'heavy'"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_the_demo_compares_methods_and_shows_a_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forethought.cli.demo.PROBLEMS", 2)
    found = CliRunner().invoke(app, ["demo"], terminal_width=160)
    assert found.exit_code == 0, found.output
    for part in (
        "greedy",
        "majority",
        "best",
        "beam(",
        "particle-filter",
        "countdown, difficulty",
        "chain, difficulty",
    ):
        assert part in found.output
    assert "s in all. Next: forethought solve" in found.output
