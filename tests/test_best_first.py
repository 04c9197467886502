"""Best-first search in worlds that can be reset: a maze, a tool, Countdown; and where a text is all the world there is."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from fractions import Fraction

import pytest

from forethought.api import solve_sync
from forethought.core.budget import Budget
from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.errors import BudgetEnded, UsageError
from forethought.core.population import Population
from forethought.core.problem import Problem
from forethought.core.scope import Call, Run, Scope, Seeded
from forethought.methods import By, methods
from forethought.tasks import generated_task
from forethought.tasks.countdown import Countdown, reachable, value_of
from forethought.tasks.environments import ENVIRONMENTS, CountdownMoves
from forethought.tasks.protocol import Task
from tests.ladder import LINES, PROBLEM, Grader, Ladder, LadderTask, climb, grade

pytestmark = pytest.mark.anyio


@dataclass
class Maze:
    """Squares of a grid; a wall with a trap in front of it: what looks nearest leads nowhere."""

    problem: Problem
    goal = (4, 2)
    walls = frozenset({(3, 1), (3, 2), (3, 3), (2, 3), (2, 1)})

    def start(self) -> tuple[int, int]:
        return (0, 2)

    def moves(self, state: tuple[int, int]) -> list[str]:
        return [] if state == self.goal else [move for move in "ESNW" if self._free(self._to(state, move))]

    def _to(self, state: tuple[int, int], move: str) -> tuple[int, int]:
        x, y = {"E": (1, 0), "W": (-1, 0), "S": (0, 1), "N": (0, -1)}[move]
        return state[0] + x, state[1] + y

    def _free(self, at: tuple[int, int]) -> bool:
        return 0 <= at[0] <= 4 and 0 <= at[1] <= 4 and at not in self.walls

    def read(self, state: tuple[int, int], text: str) -> str | None:
        move = {"a": "E", "b": "S", "c": "N"}.get(text.strip(), "")
        return move if move in self.moves(state) else None

    async def step(self, state: tuple[int, int], move: str) -> tuple[tuple[int, int], str]:
        assert move in self.moves(state)
        return self._to(state, move), move

    def value(self, state: tuple[int, int]) -> float:
        return 1 - (abs(state[0] - self.goal[0]) + abs(state[1] - self.goal[1])) / 8


@dataclass
class Safe:
    """A tool that only tells how many digits of a code are right from the left; its state is what was dialled."""

    problem: Problem
    code = (2, 0, 1)

    def start(self) -> tuple[int, ...]:
        return ()

    def moves(self, state: tuple[int, ...]) -> list[str]:
        return ["0", "1", "2"] if len(state) < 3 else []

    def read(self, state: tuple[int, ...], text: str) -> str | None:
        return str("abc".index(text[0])) if self.moves(state) else None

    async def step(self, state: tuple[int, ...], move: str) -> tuple[tuple[int, ...], str]:
        after = (*state, int(move))
        right = len([*itertools.takewhile(lambda pair: pair[0] == pair[1], zip(after, self.code, strict=False))])
        return after, f"{move}: {right} right.\n"

    def value(self, state: tuple[int, ...]) -> float:
        return (
            float(state == self.code)
            if len(state) == 3
            else (0.3 + 0.2 * len(state)) * (state == self.code[: len(state)])
        )


async def play(spelling: str, world: type, seed: int = 0) -> tuple[Population[Draft], Scope]:
    at = Scope.root(Run(Seeded(seed)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENVIRONMENTS, "ladder", world)
        return await methods.parse(spelling)(PROBLEM, By(Ladder(), LadderTask()), at), at


async def test_goes_back_out_of_a_trap_to_the_way_round() -> None:
    (found,), at = await play("best-first(moves=all, nodes=100, depth=12, rounds=1)", Maze)
    maze, state = Maze(PROBLEM), (0, 2)
    for move in found.state.text:
        state, _ = await maze.step(state, move)
    assert state == maze.goal
    assert found.state.finished
    assert len(found.state.text) == 8  # the shortest way round the wall, none of the moves into the trap
    assert not at.account.spent.calls


async def test_makes_moves_in_the_order_of_their_states_values() -> None:
    """By hand: which states are entered, one a move."""
    entered: list[tuple[int, int]] = []

    class Watched(Maze):
        async def step(self, state: tuple[int, int], move: str) -> tuple[tuple[int, int], str]:
            after = await super().step(state, move)
            entered.append(after[0])
            return after

    (found,), _ = await play("best-first(moves=all, nodes=6, depth=9, rounds=1)", Watched)
    # East twice into the trap; back, which is no news; then the other ways from (1, 2), of which the last is the start.
    assert entered == [(1, 2), (2, 2), (1, 2), (1, 3), (1, 1), (0, 2)]
    assert found.state.text == "EE"  # the nearest place, and the first of its value
    entered.clear()
    await play("best-first(moves=all, nodes=6, depth=2, rounds=1)", Watched)
    assert entered == [(1, 2), (2, 2), (1, 3), (1, 1), (0, 2), (0, 3)]


async def test_a_tool_is_used_better_with_more_nodes() -> None:
    opened = []
    for nodes in (3, 6, 40):
        made = [await play(f"best-first(nodes={nodes}, rounds=1, draws=8, expand=3)", Safe, seed) for seed in range(20)]
        opened.append(sum(pop[0].state.text == "2: 1 right.\n0: 2 right.\n1: 3 right.\n" for pop, _ in made))
        assert all(at.account.spent.calls % 8 == 0 for _, at in made)
    assert opened[0] < 3 < opened[1] <= opened[2]
    assert opened[2] >= 13  # 2 is proposed with chance 1 - 0.8^8 = 0.83, 1 with 0.94


async def test_only_the_most_frequent_moves_are_proposed() -> None:
    """a is drawn most often, and the code begins with c: with one proposal a state the search cannot find it."""
    (found,), _ = await play("best-first(expand=1, draws=200, rounds=1)", Safe)
    assert found.state.text.startswith("0: 0 right")


async def test_each_round_commits_to_the_best_way() -> None:
    (one,), _ = await play("best-first(moves=all, nodes=3, depth=1, rounds=1)", Safe)
    (three,), _ = await play("best-first(moves=all, nodes=3, depth=1, rounds=3)", Safe)
    assert one.state.text == "2: 1 right.\n"
    assert three.state.text == "2: 1 right.\n0: 2 right.\n1: 3 right.\n"
    assert (one.done, three.done) == (False, True)


# countdown


def test_countdown_as_moves_reaches_what_can_be_reached() -> None:
    """Every game played to its end by all moves: the values that `reachable` allows, and no others."""
    for index in range(6):
        problem = Countdown().problem(2, index)
        world = CountdownMoves(problem)
        ends = {state[0] for state in all_ends(world)}
        assert ends == {n for n in range(1, 100) if reachable(tuple(sorted(world.start())), n)}


def all_ends(world: CountdownMoves) -> list[tuple[int, ...]]:
    states, ends = [world.start()], []
    while states:
        state = states.pop()
        after = [follow(world, state, move) for move in world.moves(state)]
        states += after
        ends += [] if after else [state]
    return ends


def follow(world: CountdownMoves, state: tuple[int, ...], move: str) -> tuple[int, ...]:
    try:
        world.step(state, move).send(None)
    except StopIteration as end:
        return end.value[0]  # type: ignore[no-any-return]
    raise AssertionError("a move of countdown waits for nothing")


async def test_what_countdown_writes_is_right_and_read_by_its_task() -> None:
    task, chance = Countdown(), random.Random(4)
    for index in range(20):
        problem = task.problem(chance.choice(task.difficulties), index)
        world, text = CountdownMoves(problem), ""
        state = world.start()
        while moves := world.moves(state):
            move = chance.choice(moves)
            before, (state, said) = state, await world.step(state, move)
            assert value_of(move) == Fraction(state[0])
            assert len(state) == len(before) - 1
            text += said
        answer = task.answer(text, problem)
        assert answer is not None
        assert task.correct(answer, problem) == (world.value(state) == 1.0)


@pytest.mark.parametrize(("text", "want"), [
    ("7*3=21 | 21 1\n", "7*3"), ("3*7=99", "7*3"), ("1+3=4", "3+1"), ("3-7=", None), ("7-3=4 | 4 1\n", "7-3"), (" 7/1", "7/1"),
    ("7/3=2", None), ("8+1=9", None), ("7+7=14", None), ("seven", None), ("", None),
])  # fmt: skip
def test_a_models_words_are_read_as_legal_moves(text: str, want: str | None) -> None:
    world = CountdownMoves(Problem("countdown 7 3 1 = 10\n"))
    assert world.read(world.start(), text) == want


@pytest.mark.slow
def test_countdown_is_solved_by_search_where_the_model_alone_fails() -> None:
    """The embedded reasoner proposes, the world does the sums, and says when the target is met."""
    task, solved = generated_task("countdown"), {"greedy": 0, "best-first(draws=8, nodes=12)": 0}
    for index in range(20):
        problem = task.problem(3, index)
        for spelling in solved:
            found = solve_sync(problem, method=spelling, verifier="process", budget="tokens=4000")
            solved[spelling] += bool(found.answer and task.correct(found.answer, problem))
    print(solved)
    assert solved["best-first(draws=8, nodes=12)"] > solved["greedy"]


# a text is all the world there is


async def test_in_a_text_a_step_is_a_move() -> None:
    for seed in range(4):
        (found,), at, _ = await climb("best-first(expand=3, draws=9, nodes=30)", seed)
        assert found.state.finished
        (sample,), _, _ = await climb("sample(n=1)", seed)
        assert grade(found.state.text) > grade(sample.state.text)
        texts = [p.new for p in found.state.lineage()]
        assert texts[-1] == ""
        assert at.account.spent.verifier_calls <= 30 * 5


async def test_a_text_that_has_not_ended_is_written_to_its_end() -> None:
    (found,), _, _ = await climb("best-first(nodes=1, rounds=1, draws=4)")
    assert found.state.finished
    assert found.state.text.endswith("a\na\na\n")


async def test_the_best_text_that_has_ended_is_there_when_the_budget_ends() -> None:
    class Watched(Grader):
        async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
            seen.append(draft.text)
            return await super().grade(draft, problem, task, call)

    cut_after_an_end = 0
    for calls in range(8, 90, 3):
        seen: list[str] = []
        at = Scope.root(Run(Seeded(1)), Budget({"calls": calls}))
        method = methods.parse("best-first(draws=8, expand=3, nodes=60, rounds=1)")
        with pytest.raises(BudgetEnded):
            await method(PROBLEM, By(Ladder(), LadderTask(), Watched()), at)
        kept = at.kept or []
        assert all(p.state.finished for p in kept if p.done)
        best = max(seen, key=grade, default="")
        if best.count("\n") == LINES:
            assert best in [p.state.text for p in kept if p.done]
            cut_after_an_end += 1
    assert cut_after_an_end


@pytest.mark.parametrize(("spelling", "verified", "complaint"), [
    ("best-first", False, "needs a verifier that grades steps"), ("best-first(moves=all)", True, "cannot tell its legal moves"),
])  # fmt: skip
async def test_says_what_it_lacks_before_anything_is_spent(spelling: str, verified: bool, complaint: str) -> None:
    model = Ladder()
    with pytest.raises(UsageError, match=complaint):
        await methods.parse(spelling)(PROBLEM, By(model, LadderTask(), Grader() if verified else None), Scope.root())
    assert not model.spent.calls
