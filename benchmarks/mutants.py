"""Mutation run: how many small changes of the core, the step searches and the particle methods do the tests see?

    python benchmarks/mutants.py            draw, run what has no outcome yet, print the summary
    python benchmarks/mutants.py --again    run the survivors again, after tests were added
    python benchmarks/mutants.py --show     the outcomes so far, and the table of docs/testing.md anew

A mutant is one change of one place of one module: a boundary of a comparison, a sign, a constant, a condition, a keyword, a
call. Each is put into a copy of `src` that comes first on the path, and the tests of that module run until the first failure.
Every outcome is one line of the outcomes file as soon as it is known, so a run that was ended goes on where it was.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from _mutants import Mutant, changes, mutated, places

ROOT = Path(__file__).resolve().parent.parent
PAGE, MARK = ROOT / "docs" / "testing.md", "<!-- from here on: python benchmarks/mutants.py --show -->\n"
OUTCOMES = ROOT / "benchmarks" / "results" / "mutants.jsonl"
SEED, DRAWN, MEMORY = 4, 200, 8 << 30
SECONDS, PATIENCE = 60, 60  # of the processor; of the clock, while nothing of the run asks for the processor

STEP = "step_search identities_search methods tree_methods particles docs"
TREE = "tree_search tree_methods identities_search methods particles docs"
SAMPLING = "step_sampling identities_search methods tree_methods particles docs"
FILTER = "particles laws identities_search methods docs"

# Module: its test files, the fastest first | what must be in a test's name or file (nothing: all tests of these files).
TESTS = {
    "core/blocks": "blocks",
    "core/budget": "budget operators store",
    "core/call": "operators budget store likelihood",
    "core/cost": "operators budget scripted",
    "core/crew": "crew operators",
    "core/draft": "scripted step_sampling step_search",
    "core/fanout": "operators budget likelihood store",
    "core/operators": "operators population budget likelihood",
    "core/population": "population operators resample blocks",
    "core/problem": "solving",
    "core/registry": "registry solving",
    "core/resample": "resample blocks",
    "core/scope": "operators budget resample store",
    "core/store": "store resume",
    "core/together": "together",
    "core/trace": "operators budget store",
    "methods/a_star": f"{STEP} | a_star a-star any_moment",
    "methods/ab_mcts_a": f"{TREE} | test_tree_search ab-mcts-a ab_mcts",
    "methods/ab_mcts_m": f"{TREE} | test_tree_search ab-mcts-m ab_mcts",
    "methods/balance": f"{STEP} | rebase ets alloc",
    "methods/beam": f"{STEP} laws | beam",
    "methods/best_first": "best_first identities_search methods tree_methods docs | test_best_first best-first",
    "methods/boundary": "boundary step_search methods",
    "methods/by": "methods step_sampling",
    "methods/chances": "step_sampling identities_search | test_step_sampling phi self",
    "methods/clusters": "step_sampling phi_decoding",
    "methods/dvts": f"{STEP} | dvts",
    "methods/early_rejection": f"{STEP} | early reject beginning",
    "methods/entropic_particle_filter": f"{FILTER} | entropic look_ahead any_moment",
    "methods/ets": f"{STEP} | ets programme",
    "methods/foresight": "step_sampling phi_decoding",
    "methods/kernels": "step_search step_sampling methods",
    "methods/mcts": f"{TREE} | test_tree_search mcts nodes",
    "methods/metropolis_hastings": f"{FILTER} | metropolis",
    "methods/mixed": f"{TREE} | test_tree_search mcts-m fit",
    "methods/parallel_tempering": f"{FILTER} | tempering exchange temperatures swept chain",
    "methods/particle_filter": f"{FILTER} | particle-filter anneal evidence",
    "methods/particle_gibbs": f"{FILTER} | gibbs sweep reference tempering",
    "methods/phi_decoding": f"phi_decoding {SAMPLING} | test_step_sampling phi",
    "methods/programme": "step_search | ets programme clusters price",
    "methods/rebase": f"{STEP} | rebase",
    "methods/self_eval": "step_sampling",
    "methods/self_eval_beam": f"{SAMPLING} | test_step_sampling self-eval",
    "methods/simulate": f"{TREE} | test_tree_search mcts nodes",
    "methods/steer": f"{FILTER} | steer potential constraint form strength",
    "methods/steps": f"{STEP} | test_step_search",
    "methods/thompson": f"{TREE} | test_tree_search ab-mcts-a",
    "methods/tree": f"{TREE} | test_tree_search mcts",
    "methods/weigh": f"{FILTER} | test_particles test_laws senseless",
    "methods/world": "best_first identities_search | test_best_first best-first",
}
ALWAYS = "page_is_fresh"  # the page of the methods names every default
NEVER = "not embedded"  # those load torch and the shipped models, and are of no one method

# No test can see these. By place.
CHECKS = "a check of lengths that are equal whatever the caller does"
EQUIVALENT = {
    "core/resample:51 True": CHECKS,
    "core/resample:77 1.0": "a cut behind the last stratum lies in none",
    "core/blocks:133 1.0": "equal chances stay equal; a draw's need not sum to one",
    "core/blocks:144 1e-12": "tells rounding from what differs",
    "core/registry:126 1": "only the nearest name is told",
    "core/fanout:134 place.account.chain - place.account.start": "all places of one fan-out start alike",
    "methods/ab_mcts_m:89 -arms[0][0] < new": "two draws of a continuous law are never equal",
    "methods/balance:37 width <= 0 or weight <= 0": "the last weight above zero takes what is left",
    "methods/balance:67 zip(pop, counts, strict=True)": CHECKS,
    "methods/entropic_particle_filter:28 0": "an effective size of one is one living particle, which no temperature moves",
    "methods/phi_decoding:102 zip(drawn, enough, strict=True)": CHECKS,
    "methods/programme:16 0.0001": "at any price below zero as many leaves as possible are kept",
    "methods/programme:33 0": "texts that are all alike are one cluster either way",
}


def sites(module: str) -> Iterator[tuple[str, int, int, str]]:
    """Every change of a module: its place, which of the place's changes it is, and its kind."""
    for at, node in enumerate(places(ast.parse(source(module).read_text()))):
        for variant, (kind, _) in enumerate(changes(node)):
            if hasattr(node, "lineno") or kind == "filter":
                yield module, at, variant, kind


def mutant(module: str, at: int, variant: int, kind: str) -> Mutant:
    _, before, after, line = mutated(source(module).read_text(), at, variant)
    return Mutant(module, at, variant, line, kind, before, after)


def source(module: str, under: Path = ROOT / "src") -> Path:
    return under / "forethought" / f"{module}.py"


# Runs


def pytest_words(module: str) -> list[str]:
    files, _, words = TESTS[module].partition("|")
    chosen = f"({' or '.join([*words.split(), ALWAYS])}) and {NEVER}" if words.strip() else NEVER
    return [f"tests/test_{name}.py" for name in files.split()] + ["-k", chosen]


def outcome(src: Path, words: list[str]) -> tuple[str, str, float]:
    """`survived`, `killed` or `hung`, by which test, and the processor's seconds that it took.

    What kills does so twice: a test that fails once and then passes was upset by a busy machine.
    """
    start = processor()
    state, by = tested(src, words)
    while state == "killed" and tested(src, [*words, "--last-failed"])[0] == "survived":
        state, by = tested(src, words)
    return state, by, processor() - start


def tested(src: Path, words: list[str]) -> tuple[str, str]:
    """One run of tests until the first failure: how it ended, and which test failed."""
    cache = ["-o", f"cache_dir={src / '.pytest_cache'}"]
    fixed = ["-o", "addopts=-m 'not slow'", *cache, "-q", "-x", "--tb=no", "--hypothesis-seed=0"]
    env = {**os.environ, "PYTHONPATH": str(src), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    env["HYPOTHESIS_STORAGE_DIRECTORY"] = str(src / ".hypothesis")
    tests = subprocess.Popen(
        [sys.executable, "-m", "pytest", *fixed, *words],
        cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        preexec_fn=confine,
    )  # fmt: skip
    said = waited(tests)
    if tests.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return "hung", ""
    if tests.returncode == 0:
        return "survived", ""
    by = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR", "E  ", "ImportError"))]
    if tests.returncode not in (1, 2, 3, 4):  # 5: nothing was selected
        raise SystemExit(f"pytest ended with {tests.returncode}: {said[-2000:]}")
    return "killed", (by[0] if by else said[-200:].strip())[:160]


def waited(tests: subprocess.Popen[str]) -> str:
    """What the tests said; ended where they only wait. Time in which others have the processor does not count."""
    idle = 0
    while idle < PATIENCE:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return tests.communicate(timeout=1)[0]
        idle += all(state in "SZ" for state in states(tests.pid))
    os.killpg(tests.pid, signal.SIGKILL)
    return tests.communicate()[0]


def states(session: int) -> list[str]:
    """Of the processes of a session: S sleeps, Z has ended, all others run, would, or are halted."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, of, *_ = stat.read_text().rpartition(")")[2].split()
            found += [state] if int(of) == session else []
    return found


def confine() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))


def processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(drawn: list[Mutant], path: Path) -> None:
    known = {key(row["mutant"]) for row in rows(path)}
    with tempfile.TemporaryDirectory() as folder, path.open("a") as out:
        src = Path(folder) / "src"
        shutil.copytree(ROOT / "src", src, ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run([sys.executable, "-m", "compileall", "-q", src], check=True)
        for one in drawn:
            if key(asdict(one)) not in known:
                state, by, seconds = tried(one, src)
                row = {"mutant": asdict(one), "state": state, "by": by, "processor_seconds": round(seconds, 1)}
                out.write(json.dumps(row) + "\n")
                out.flush()
                print(f"{state:8} {seconds:5.1f} s  {told(row['mutant'])}", flush=True)
        check_unchanged(drawn, path, src)


def tried(one: Mutant, src: Path) -> tuple[str, str, float]:
    """What the tests say of a mutant; the copy is afterwards as it was."""
    text, target = source(one.module).read_text(), source(one.module, src)
    for compiled in target.parent.glob(f"__pycache__/{target.stem}.*"):
        compiled.unlink()  # it could be taken for the changed file's
    target.write_text(mutated(text, one.node, one.variant)[0])
    try:
        return outcome(src, pytest_words(one.module))
    finally:
        target.write_text(text)


def check_unchanged(drawn: list[Mutant], path: Path, src: Path) -> None:
    """Tests that killed every mutant must pass, and in good time, where nothing is changed; others have passed with one."""
    passed = {row["mutant"]["module"] for row in rows(path) if row["state"] == "survived"}
    for words in {tuple(pytest_words(m.module)): 0 for m in drawn if m.module not in passed}:
        state, by, seconds = outcome(src, list(words))
        if state != "survived" or seconds > SECONDS / 2:
            raise SystemExit(f"unchanged: {' '.join(words)}: {state} {by} in {seconds:.0f} s")
        print(f"unchanged they pass in {seconds:.1f} s: {' '.join(words)}", flush=True)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def key(mutant: dict[str, Any]) -> str:
    return json.dumps(mutant, sort_keys=True)


def told(mutant: dict[str, Any]) -> str:
    return "{module}:{line} {kind}: {before}  ->  {after}".format(**mutant)


def place_of(mutant: dict[str, Any]) -> str:
    return "{module}:{line} {before}".format(**mutant)


def summary(drawn: list[Mutant], path: Path) -> str:
    """The table of the page, and every mutant that was not killed by a test that fails."""
    found = {key(row["mutant"]): row for row in rows(path)}
    done = [found[k] for m in drawn if (k := key(asdict(m))) in found]
    alive = [row["mutant"] for row in done if row["state"] == "survived"]
    equal = [m for m in alive if place_of(m) in EQUIVALENT]
    hung = [row["mutant"] for row in done if row["state"] == "hung"]
    seen = len(done) - len(alive)
    lines = ["| | mutants |", "|---|---|", f"| drawn (seed {SEED}) | {len(drawn)} |", f"| run | {len(done)} |"]
    lines += [
        f"| killed by a test that fails | {seen - len(hung)} |",
        f"| hung, which counts as killed | {len(hung)} |",
    ]
    lines += [f"| survived, equivalent | {len(equal)} |", f"| survived, a hole | {len(alive) - len(equal)} |", ""]
    killed = f"{seen / max(len(done), 1):.1%} of those run are killed"
    sharp = f"{seen / max(len(done) - len(equal), 1):.1%} of those that are not equivalent"
    pages = sum(ALWAYS in row["by"] for row in done)
    lines += [
        f"{killed}, {sharp}; {pages} of them only by the freshness of the methods' page: a default was changed.",
        "",
    ]
    lines += [f"* hung: `{told(m)}`" for m in hung]
    lines += [f"* equivalent: `{told(m)}`: {EQUIVALENT[place_of(m)]}" for m in equal]
    lines += [f"* **a hole**: `{told(m)}`" for m in alive if m not in equal]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--show", action="store_true", help="only what is known, here and in the page")
    parser.add_argument("--again", action="store_true", help="run the survivors again, after tests were added")
    parser.add_argument("--outcomes", type=Path, default=OUTCOMES, metavar="FILE")
    asked = parser.parse_args()
    everything = [site for module in TESTS for site in sites(module)]
    drawn = [mutant(*site) for site in random.Random(SEED).sample(everything, DRAWN)]
    print(f"{len(drawn)} of {len(everything)} mutants of {len(TESTS)} modules, seed {SEED}")
    if asked.again:
        kept = [
            json.dumps(row)
            for row in rows(asked.outcomes)
            if row["state"] == "killed" or place_of(row["mutant"]) in EQUIVALENT
        ]
        asked.outcomes.write_text("".join(f"{line}\n" for line in kept))
    if not asked.show:
        asked.outcomes.parent.mkdir(parents=True, exist_ok=True)
        run(drawn, asked.outcomes)
    table = summary(drawn, asked.outcomes)
    PAGE.write_text(PAGE.read_text().partition(MARK)[0] + MARK + "\n" + table)
    print(table)


if __name__ == "__main__":
    main()
