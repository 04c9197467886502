"""The benchmark of the papers' claims: that its figures mean what they say, and that it runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from _claims import curves, page, samples  # noqa: E402
from _claims.claims import CLAIMS  # noqa: E402
from _claims.curves import Curve  # noqa: E402
from _claims.ladders import LADDERS, frozen  # noqa: E402
from _claims.records import jobs  # noqa: E402

from forethought.tasks import GENERATED  # noqa: E402

AXES = ("new_tokens", "verifier_tokens", "calls", "verifier_calls", "kv_reads")


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
    verdicts = [
        page.judged(claim, curves.Estimate(*found), None).verdict for found in ((5, 4, 6), (2, 1.5, 3), (1, 0.5, 2))
    ]
    assert verdicts == ["holds", "holds, smaller than published", "does not hold"]
    assert page.judged(claim, None, "there is no method").verdict == "not measurable here"


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


def test_no_fall_is_measured_only_where_the_other_falls():
    falling, flat = line(-0.1, 0.9, [1, 2, 4, 8]), line(0.0, 0.5, [1, 2, 4, 8])
    assert samples.no_fall(flat, falling, 1) == pytest.approx((0, 0, 0))
    assert samples.no_fall(falling, flat, 1) is None


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


def test_ladders_that_read_one_run_share_it():
    choices = frozen()
    one = {LADDERS[name]: choices["warm-coverage"] for name in ("warm-coverage", "coverage")}
    assert len(jobs(one, dict.fromkeys(GENERATED, 3))) == 3


def test_quick_run_from_the_command_line(tmp_path):
    """Two problems through a sample, a search and a wrapped verifier, the page, and again from the store alone."""
    command = [
        sys.executable,
        str(BENCHMARKS / "claims.py"),
        "--quick",
        "--workers",
        "0",
        "--store",
        str(tmp_path / "store"),
    ]
    command += ["--only", "beam-best", "--only", "entropic", "--only", "monkeys"]
    command += ["--out", str(tmp_path / "claims.md"), "--json", str(tmp_path / "claims.json")]
    for _ in range(2):
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
        )
        assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "claims.json").read_text())
    assert [claim["claim"] for claim in found["claims"]] == ["beam-best", "entropic", "monkeys"]
    rows = found["ladders"]["beam"]
    assert rows[0]["mean"]["verifier_calls"] > 0
    assert len(list((tmp_path / "store").glob("*.json"))) == 8  # two samples; two sizes of three searches
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


def test_an_unknown_claim_is_one_clear_line():
    command = [sys.executable, str(BENCHMARKS / "claims.py"), "--only", "beem"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "beem" in done.stderr
