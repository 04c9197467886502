"""The benchmark of the papers' claims: that its figures mean what they say, and that it runs."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import anyio
import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import claims  # noqa: E402
from _claims import curves, memory, page, samples  # noqa: E402
from _claims.claims import CLAIMS  # noqa: E402
from _claims.curves import Curve  # noqa: E402
from _claims.ladders import LADDERS, frozen  # noqa: E402
from _claims.records import jobs  # noqa: E402

from forethought.assembly import assemble  # noqa: E402
from forethought.core.budget import Budget  # noqa: E402
from forethought.core.draft import ROOT, Draft  # noqa: E402
from forethought.core.scope import Run, Seeded  # noqa: E402
from forethought.methods import methods  # noqa: E402
from forethought.methods.simulate import Search  # noqa: E402
from forethought.tasks import GENERATED  # noqa: E402

from .ladder import climb  # noqa: E402

AXES = ("new_tokens", "verifier_tokens", "calls", "verifier_calls", "kv_tokens")


def line(slope: float, start: float, tokens: list[float], problems: int = 40) -> Curve:
    """Accuracy `start + slope * log2(tokens)` on every problem."""
    credit = np.array([[start + slope * np.log2(t)] * problems for t in tokens])
    cost = {axis: np.zeros_like(credit) for axis in AXES} | {"new_tokens": np.array([[t] * problems for t in tokens])}
    return Curve("line", {"chain": problems // 2, "countdown": problems // 2}, credit, cost, [[]] * problems)


def test_gain_is_the_distance_between_parallel_lines():
    found = curves.gain(line(0.1, 0.3, [1, 2, 4, 8]), line(0.1, 0.1, [2, 4, 8, 16]))
    assert found == pytest.approx((0.2, 0.2, 0.2))


def test_saving_is_the_factor_between_parallel_lines():
    found = curves.saving(line(0.1, 0.3, [1, 2, 4, 8]), line(0.1, 0.1, [1, 2, 4, 8, 16, 32]))
    assert found == pytest.approx((4, 4, 4))


def test_a_steeper_line_is_steeper_by_its_slope():
    found = curves.steeper(line(0.15, 0.1, [1, 2, 4, 8]), line(0.1, 0.3, [1, 3, 9]))
    assert found == pytest.approx((0.05, 0.05, 0.05))


def test_curves_that_share_no_cost_have_no_gain():
    assert curves.gain(line(0.1, 0.1, [1, 2]), line(0.1, 0.1, [4, 8])) is None


def test_intervals_are_of_problems_within_their_families():
    """One family always right, the other a coin: all of the spread is the coin's."""
    credit = np.array([[1.0] * 60 + [0.0, 1.0] * 70])
    cost = {axis: np.ones_like(credit) for axis in AXES}
    coin = Curve("coin", {"chain": 60, "countdown": 140}, credit, cost, [[]] * 200)
    _, y = coin.points("tokens")
    assert y[0, 0] == pytest.approx(0.65)
    assert np.std(y[1:, 0]) == pytest.approx(0.7 * np.sqrt(0.25 / 140), rel=0.05)
    assert coin.only(["countdown"]).credit.mean() == 0.5


def test_what_a_verdict_says():
    (claim,) = (c for c in CLAIMS if c.name == "filter-beam")
    measured = [curves.Estimate(*found) for found in ((5, 4, 6), (2, 1.5, 3), (1, 0.5, 2))]
    made = [replace(claim, measure=lambda _, m=m: m, where=None) for m in measured]
    verdicts = [page.judged(one, {}, None).verdict for one in made]
    assert verdicts == ["holds", "holds, smaller than published", "does not hold"]
    assert page.judged(claim, {}, "there is no method").verdict == "not measurable here"


def test_first_accepted_draft_in_expectation():
    """Two drafts, the first wrong: accepted with 0.2 it costs 4, else the right one is taken with 0.9."""
    assert samples.utilities([False, True]) == pytest.approx([-0.8, -0.8 + 0.8 * 0.9])


def test_short_drafts_that_are_right():
    drafts = [{"size": s, "right": r, "answer": "1"} for s, r in ((3, True), (5, False), (3, False), (9, False))]
    assert samples.short_less_mean(drafts) == pytest.approx(0.5 - 0.25)


def test_the_first_to_finish_cuts_the_others_off():
    drafts = [{"size": s, "right": r, "answer": a} for s, r, a in ((3, True, "1"), (2, False, None), (9, False, "2"))]
    assert samples.finished_first(drafts) == (1.0, 3 + 2 + 3)
    assert samples.finished_first(drafts[1:2]) == (0.0, 2)


def rows(*accuracies: float, problems: int = 40) -> Curve:
    """Accuracy by size, the same on every problem."""
    credit = np.array([[accuracy] * problems for accuracy in accuracies])
    return Curve("rows", {"chain": problems}, credit, {axis: np.ones_like(credit) for axis in AXES}, [[]] * problems)


def test_no_fall_is_measured_from_the_peak_of_the_other_and_only_where_that_falls():
    peaked, rising = rows(0.3, 0.7, 0.6, 0.5), rows(0.2, 0.4, 0.5, 0.6)
    assert samples.no_fall(rising, peaked) == pytest.approx((0.2, 0.2, 0.2))
    assert samples.no_fall(peaked, peaked) == pytest.approx((-0.2, -0.2, -0.2))
    assert samples.no_fall(peaked, rising) is None


def test_the_peak_is_chosen_on_other_problems():
    """Sizes that differ by luck alone: the best of eight on the same problems falls behind, on other problems it does not."""
    chance = np.random.default_rng(1).random((8, 2000)) < 0.5
    curve = Curve("luck", {"chain": 2000}, chance.astype(float), {}, [[]] * 2000)
    found = samples.since_peak(curve, curve)
    assert found.low < 0 < found.high
    assert found.value > curve.credit[-1].mean() - curve.credit.mean(axis=1).max()


def test_a_tree_of_drafts_holds_each_shared_beginning_once():
    stem = Draft(ROOT, "abc", size=3)
    leaves = [Draft(stem, "de", size=5), Draft(stem, "f", size=4), stem]
    assert memory.unique_tokens(leaves) == 3 + 2 + 1


def test_the_memory_of_a_search_is_the_mean_over_its_rounds():
    """A beam of one, of one step a round: it holds one step, then two, and so on, but not the finished draft."""
    beam = "beam(width=1, expand=1, temperature=0)"
    task = GENERATED["chain"]
    parts = assemble(task, "reasoner", beam, "process", "first", Budget({"tokens": 1e6}))
    made, kv = anyio.run(memory.populate_watched, parts, task.problem(task.middle, 0), Run(Seeded(0)))
    draft = made.population[0].state
    sizes = [node.size for node in draft.lineage() if node.size and not node.finished]
    assert len(sizes) > 1
    assert kv == pytest.approx(np.mean(sizes))
    sample = replace(parts, method=methods.parse("sample(n=2)"))
    made, kv = anyio.run(memory.populate_watched, sample, task.problem(task.middle, 0), Run(Seeded(0)))
    assert kv == sum(p.state.size for p in made.population)


def test_the_curve_of_first_finishers_is_made_once():
    drafts = [[{"size": 3, "right": True, "answer": "1"}] * 4] * 40
    curve = Curve("drafts", {"chain": 40}, np.zeros((1, 40)), {}, drafts)
    assert samples.first_to_finish(curve) is samples.first_to_finish(curve)


@pytest.mark.parametrize(("right", "gained"), [([True] + [False] * 9, True), ([True] * 10, False)])
def test_the_best_number_of_drafts_is_judged_on_other_problems(right, gained):
    """With one right draft at first all further ones only cost; where all are right more never hurt."""
    drafts = [[{"right": r} for r in right]] * 40
    curve = Curve("drafts", {"chain": 40}, np.zeros((1, 40)), {}, drafts)
    assert (samples.finite_best(curve).low > 0) == gained


def test_every_claim_reads_ladders_of_four_sizes_or_more():
    for claim in CLAIMS:
        for name in claim.ladders:
            assert len(LADDERS[name].sizes) >= 4


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["mcts", "ab-mcts-a", "ab-mcts-m"])
async def test_a_tree_search_goes_below_its_root_at_every_size(name, monkeypatch):
    """Else its smallest sizes would be repeated sampling under another name."""
    simulate, deep = Search.simulate, 0

    async def watched(search, leaves, at):
        nonlocal deep
        deep += sum(leaf is not search.root for leaf in leaves)
        return await simulate(search, leaves, at)

    monkeypatch.setattr(Search, "simulate", watched)
    for size in LADDERS[name].sizes:
        deep = 0
        for seed in range(10):
            await climb(LADDERS[name].method(size, 0.8), seed)
        assert deep > 0


def test_a_saving_says_at_which_accuracies_it_is_told():
    short, long = line(0.05, 0.0, [4, 16]), replace(line(0.05, 0.0, [8, 256]), name="long")
    assert curves.compared(short, long) == "at 15% to 20%; long goes on to 40%"
    assert curves.compared(short, short) == "at 10% to 20%"


def test_ladders_that_read_one_run_share_it():
    choices = frozen()
    one = {LADDERS[name]: choices["warm-coverage"] for name in ("warm-coverage", "coverage")}
    assert len(jobs(one, dict.fromkeys(GENERATED, 3))) == 3


def test_quick_run_from_the_command_line(tmp_path):
    """Two problems through everything that any claim reads, the page, and again from the store alone."""
    command = [
        sys.executable,
        str(BENCHMARKS / "claims.py"),
        "--quick",
        "--workers",
        "0",
        "--store",
        str(tmp_path / "store"),
    ]
    command += ["--out", str(tmp_path / "claims.md"), "--json", str(tmp_path / "claims.json")]
    for _ in range(2):
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
        )
        assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "claims.json").read_text())
    assert [claim["claim"] for claim in found["claims"]] == [claim.name for claim in CLAIMS]
    assert {claim["why"] for claim in found["claims"]} == {"two problems measure nothing"}
    assert found["ladders"]["beam"][0]["mean"]["verifier_calls"] > 0
    assert "| beam |" in (tmp_path / "claims.md").read_text()


def test_settings_are_chosen_on_the_train_split_and_frozen(tmp_path):
    settings, store = tmp_path / "frozen.json", tmp_path / "store"
    command = [sys.executable, str(BENCHMARKS / "claims.py"), "--choose", "--workers", "0", "--problems", "1"]
    command += ["--only", "rpc", "--only", "monkeys", "--settings", str(settings), "--store", str(store)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr
    chosen = json.loads(settings.read_text())["chosen"]
    assert chosen["self-consistency"]["select"] == "majority"
    assert "warm-coverage" not in chosen  # nothing to choose: its temperature is what it stands for
    assert {json.loads(path.read_text())["job"]["split"] for path in store.glob("*.json")} == {"train"}
    assert frozen(settings)["self-consistency"].temperature == chosen["self-consistency"]["temperature"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for a process in /proc")
def test_workers_end_when_the_run_is_killed(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import os, sys, time\n"
        f"sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from multiprocessing import get_context\n"
        "from _claims.records import end_with_parent\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPoolExecutor(1, get_context('spawn'), initializer=end_with_parent)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        worker = Path("/proc", run.stdout.readline().strip())
        assert worker.exists()
        run.send_signal(signal.SIGKILL)
    until = time.monotonic() + 20
    while worker.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not worker.exists()


def test_as_many_problems_as_the_page_promises():
    """At least 300 over the three families; the settings are chosen on the same mixture."""
    assert sum(claims.PROBLEMS[name] for name in ("chain", "countdown", "procedure")) >= 300
    assert all(claims.TRAIN[name] * 2 in (count, count - 1) for name, count in claims.PROBLEMS.items())


def test_an_unknown_claim_is_one_clear_line():
    command = [sys.executable, str(BENCHMARKS / "claims.py"), "--only", "beem"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "beem" in done.stderr
