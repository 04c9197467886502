"""The benchmark against peers: what a peer asks of our model and verifier is counted as our ledger counts it."""

import sys
from pathlib import Path

import anyio
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import peers
from _peers.session import END, Counted

from forethought.assembly import assemble
from forethought.core.budget import Budget
from forethought.core.cost import Cost
from forethought.core.scope import Run, Seeded
from forethought.solving import populate
from forethought.tasks import GENERATED

AMPLE = Budget({"tokens": 1e6})


@pytest.fixture
def parts():
    return assemble(
        GENERATED["countdown"], "reasoner", "beam(width=1, expand=1, temperature=0)", "process", "best", AMPLE
    )


async def stepped(session: Counted) -> str:
    """A chain drawn step by step, each step graded twice."""
    text = ""
    while not text.endswith(END):
        text += await session.extend(text, "\n")
        for _ in range(2):
            await session.grade(text.removesuffix(END))
    return text.removesuffix(END)


def test_steps_and_grades_cost_what_our_ledger_says(parts):
    """A greedy chain, step by step, is `beam(1, 1)` at temperature 0: the same text, the same bill."""
    task = GENERATED["countdown"]
    problem = task.problem(task.middle, 0)
    session = Counted(parts.by, problem, seed=1, temperature=0.0)
    text = anyio.run(stepped, session)

    async def ours() -> tuple[str, Cost]:
        made = await populate(parts, problem, Run(Seeded(1)))
        return made.population[0].state.text, made.at.cost()

    same, cost = anyio.run(ours)
    assert text == same
    for name in ("calls", "new_tokens", "verifier_calls", "verifier_tokens"):
        assert getattr(session.spent, name) == getattr(cost, name), name


def test_a_whole_draft_ends_by_its_mark(parts):
    task = GENERATED["countdown"]
    problem = task.problem(task.middle, 0)
    session = Counted(parts.by, problem, seed=1, temperature=0.0)
    whole = anyio.run(session.extend, "", None)
    assert whole.endswith(END)
    assert whole.removesuffix(END) == anyio.run(stepped, Counted(parts.by, problem, seed=2, temperature=0.0))


def test_a_pair_that_is_done_is_not_measured_again(tmp_path):
    asked = []

    def measure() -> dict[str, object]:
        asked.append("once")
        return {"solved": {}, "seconds": {"ours": 1.5}}

    first = peers.kept(tmp_path / peers.file("beam", 16, "chain", 75), measure)
    assert peers.kept(tmp_path / peers.file("beam", 16, "chain", 75), measure) == first
    assert len(asked) == 1
    peers.kept(tmp_path / peers.file("beam", 16, "chain", 50), measure)
    assert len(asked) == 2


def test_a_row_says_what_their_method_spends_beyond_its_budget_and_what_was_missed():
    def solved(credit: float, calls: int, tokens: int) -> dict[str, float]:
        return peers.Solved(credit, Cost(calls=calls, new_tokens=tokens)).as_json()

    sides = {"ours": [solved(0.0, 16, 20_000)] * 5, "theirs": [solved(1.0, 70, 900)] * 5}
    row = peers.row("beam", 16, [{"solved": sides, "seconds": {"ours": 2.0, "theirs": 1.0}}] * 2)
    assert row["problems"] == 10
    assert row["calls beyond the stated budget"] == 54
    assert row["ours"]["most tokens"] == 20_000
    assert row["theirs"]["interval"] == (1.0, 1.0)
    assert not any(row["checks"].values())
