"""Tree searches: against slow references, in degenerate cases, under budgets, failures and resumption."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import anyio
import numpy as np
import pytest

from forethought.core.cost import Cost
from forethought.core.draft import ROOT, Draft, Grade
from forethought.core.errors import ModelError
from forethought.core.problem import Problem
from forethought.core.scope import Call, Scope
from forethought.methods import By, ab_mcts_m, methods, simulate, thompson
from forethought.methods.ab_mcts_a import AbMctsA
from forethought.methods.mcts import Mcts
from forethought.methods.mixed import fit, grid
from forethought.methods.tree import Node, Scores, back_up
from forethought.tasks.protocol import Task
from tests.ladder import PROBLEM, Grader, Ladder, LadderTask, climb, grade
from tests.mixed_mcmc import predictions, wins

pytestmark = pytest.mark.anyio
SEARCHES = [
    "mcts", "mcts(rollout=False)", "mcts(batch=1, n=20)", "ab-mcts-a", "ab-mcts-a(rollout=False)", "ab-mcts-a(prior=beta)",
    "ab-mcts-m", "ab-mcts-m(rollout=False)", "self-eval-beam(expand=4, width=3)", "phi-decoding",
    "phi-decoding(least=0, threshold=0.5)",
]  # fmt: skip
every = pytest.mark.parametrize("spelling", SEARCHES)


@dataclass(frozen=True)
class Simulated:
    """One simulation by the texts: where it drew a step, what it reached, whether that had ended, and the score."""

    leaf: str
    reached: str
    ended: bool
    score: float


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[list[Simulated]]:
    """The rounds of whatever search runs, as they happen; the last search is `log.search`."""
    rounds: list[list[Simulated]] = []
    original = simulate.Search.simulate

    async def recorded(self: simulate.Search, leaves: Sequence[Node], at: Scope) -> list[tuple[Node, float]]:
        asked = [leaf.draft.text for leaf in leaves]
        scored = await original(self, leaves, at)
        done = [
            Simulated(n.parent.draft.text, n.draft.text, n.draft.finish is not None, s) for n, s in scored if n.parent
        ]
        assert sorted(asked) == sorted(s.leaf for s in done)
        rounds.append(done)
        searches[:] = [self]
        return scored

    monkeypatch.setattr(simulate.Search, "simulate", recorded)
    return rounds


searches: list[simulate.Search] = []  # the last one


def steps_of(text: str) -> list[str]:
    """Every beginning of a text, from the empty one to itself."""
    lines = text.splitlines(keepends=True)
    return ["".join(lines[:i]) for i in range(len(lines) + 1)]


# UCT


class SlowUct:
    """UCT written down from a flat list of simulations, with nothing kept between choices."""

    def __init__(self, method: Mcts) -> None:
        self.method = method

    def leaf(self, past: list[Simulated], flying: list[str]) -> str | None:
        at = ""
        while True:
            drawn = sum(s.leaf == at for s in past) + flying.count(at)
            if drawn < self.method.expand:
                return at
            children = dict.fromkeys(s.reached for s in past if s.leaf == at)
            open_ = [c for c in children if not self.exhausted(c, past)]
            if not open_:
                return None
            through = self.visits(at, past) + sum(at in steps_of(f) for f in flying)
            at = max(open_, key=lambda c: self.value(c, past, flying, through))

    def visits(self, text: str, past: list[Simulated]) -> int:
        return sum(text in steps_of(s.reached) for s in past)

    def value(self, text: str, past: list[Simulated], flying: list[str], above: int) -> float:
        scores = [s.score for s in past if text in steps_of(s.reached)]
        pending = sum(text in steps_of(f) for f in flying)
        bonus = math.sqrt(math.log(above) / (len(scores) + pending))
        return sum(scores) / len(scores) + self.method.explore * bonus

    def exhausted(self, text: str, past: list[Simulated]) -> bool:
        if any(s.reached == text and s.ended for s in past):
            return True
        children = {s.reached for s in past if s.leaf == text}
        full = sum(s.leaf == text for s in past) >= self.method.expand
        return full and all(self.exhausted(c, past) for c in children)


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("rollout", [True, False])
@pytest.mark.parametrize("seed", range(3))
async def test_mcts_does_what_a_slow_reference_does(
    log: list[list[Simulated]], batch: int, rollout: bool, seed: int
) -> None:
    method = Mcts(n=40, expand=2 + seed, explore=[0.0, 0.5, 2.0][seed], batch=batch, rollout=rollout)
    await climb(repr(method), seed)
    slow, past = SlowUct(method), list[Simulated]()
    assert log
    for done in log:
        flying: list[str] = []
        while len(flying) < min(batch, 40 - len(past)) and (leaf := slow.leaf(past, flying)) is not None:
            flying.append(leaf)
        assert sorted(s.leaf for s in done) == sorted(flying)
        past += done
    assert len(past) == 40 or slow.exhausted("", past)
    counted = 0
    nodes = [searches[0].root]
    while nodes:
        node = nodes.pop()
        nodes += node.children.values()
        text = node.draft.text
        scores = [s.score for s in past if text in steps_of(s.reached)]
        assert (node.below.n, node.pending) == (len(scores), 0)
        assert node.below.total == pytest.approx(sum(scores))
        assert node.drawn == sum(s.leaf == text for s in past)
        assert node.closed == slow.exhausted(text, past)
        counted += 1
    assert counted == len({s.reached for s in past}) + 1


async def test_scores_are_grades_of_the_step_or_of_a_draft_written_from_it(log: list[list[Simulated]]) -> None:
    await climb("mcts(n=30, rollout=False)")
    assert all(s.score == grade(s.reached) for done in log for s in done)
    log.clear()
    pop, _, _ = await climb("mcts(n=30)")
    scores = sorted(s.score for done in log for s in done)
    assert scores == sorted(grade(p.state.text) for p in pop)
    by_step: dict[str, set[float]] = {}
    for done in log:
        for s in done:
            by_step.setdefault(s.reached, set()).add(s.score)
    assert max(map(len, by_step.values())) > 1  # a step that was drawn again is the same node with another rollout


@pytest.mark.parametrize(
    "spelling", ["mcts(n=60, explore=0.2, expand=6, batch=1, rollout=False)", "ab-mcts-a(n=60)", "ab-mcts-m(n=60)"]
)
async def test_searches_find_better_drafts_than_samples_do(spelling: str) -> None:
    found = [
        np.mean([grade(p.state.text) for seed in range(8) for p in (await climb(each, seed))[0]])
        for each in (spelling, "sample(n=60)")
    ]
    assert found[0] > found[1] + 0.03


async def test_an_equal_step_is_not_graded_twice() -> None:
    _, at, by = await climb("mcts(n=60, expand=30, rollout=False)")
    assert at.account.spent.verifier_calls < 40 < at.account.spent.calls
    assert at.account.spent.verifier_calls == by.verifier.spent.verifier_calls  # type: ignore[union-attr]


async def test_a_tree_with_nothing_new_ends_the_search() -> None:
    pop, at, _ = await climb("mcts(n=100000, expand=2, rollout=False)")
    assert at.account.spent.calls <= 2 + 4 + 8 + 16
    assert all(p.state.finished for p in pop)


# AB-MCTS


@pytest.mark.parametrize("spelling", ["ab-mcts-a(n=60, batch=4)", "ab-mcts-m(n=60, batch=4)"])
async def test_ab_mcts_books_scores_as_published(log: list[list[Simulated]], spelling: str) -> None:
    await climb(spelling, seed=2)
    past = [s for done in log for s in done]
    nodes, depths = [searches[0].root], set[int]()
    while nodes:
        node = nodes.pop()
        nodes += node.children.values()
        text = node.draft.text
        wider = [s.score for s in past if s.leaf == text]
        deeper = [s.score for s in past if text in steps_of(s.leaf) and s.leaf != text]
        own = [s.score for s in past if s.reached == text]
        for have, want in ((node.wider, wider), (node.deeper, deeper), (node.below, own + wider + deeper)):
            assert have.n == len(want)
            assert (have.total, have.squares) == pytest.approx((sum(want), sum(x * x for x in want)))
        depths.add(len(steps_of(text)))
    assert len(depths) >= 4  # it does go deeper


def quantiles(draws: np.ndarray) -> np.ndarray:
    return np.quantile(draws, [0.05, 0.25, 0.5, 0.75, 0.95])


def scores_of(values: Sequence[float]) -> Scores:
    scores = Scores()
    for value in values:
        scores.add(value)
    return scores


def drawn(prior: str, values: Sequence[float], pending: int = 0) -> np.ndarray:
    posterior, draw = thompson.PRIORS[prior]
    arm = np.array([posterior(scores_of(values), pending)]).T
    return draw(np.tile(arm, 200_000), np.random.default_rng(1))


@pytest.mark.parametrize("scores", [[], [0.4], [0.1, 0.9, 0.5, 0.5], [0.8] * 20])
def test_a_normal_arm_is_drawn_from_the_published_posterior(scores: list[float]) -> None:
    n, mean = len(scores), float(np.mean(scores)) if scores else 0.0
    kappa, nu = 1 + n, 1 + n
    tau2 = (0.1 + sum((x - mean) ** 2 for x in scores) + n * mean**2 / (1 + n)) / nu
    chance = np.random.default_rng(2)
    variance = nu * tau2 / 2 / chance.gamma(nu / 2, size=200_000)  # inverse gamma
    want = n * mean / kappa + np.sqrt(variance / kappa) * chance.standard_normal(200_000)
    assert quantiles(drawn("normal", scores)) == pytest.approx(quantiles(want), abs=0.02)


def test_a_beta_arm_is_drawn_from_jeffreys_posterior() -> None:
    draws = drawn("beta", [1.0, 0.5, 0.5])
    assert draws.mean() == pytest.approx(2.5 / 4, abs=0.005)
    assert draws.var() == pytest.approx(2.5 * 1.5 / 16 / 5, abs=0.002)


async def test_a_beta_arm_refuses_what_is_no_share_and_what_was_found_is_kept() -> None:
    class Unbounded(Grader):
        async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
            return Grade(-1.5), Cost(verifier_calls=1)

    at, by = Scope.root(), By(Ladder(), LadderTask(), Unbounded())
    with pytest.raises(
        ModelError, match=r"prior=beta needs grades in \[0, 1\], and one was -1.5; prior=normal takes any"
    ):
        await methods.parse("ab-mcts-a(prior=beta)")(PROBLEM, by, at)
    assert at.kept
    assert await methods.parse("ab-mcts-a")(PROBLEM, by, Scope.root())


def test_what_is_pending_sharpens_an_arm_and_does_not_move_it() -> None:
    few, many = (quantiles(drawn("normal", [1.0, 0.5, 0.5], pending)) for pending in (0, 12))
    assert few[2] == pytest.approx(many[2], abs=0.01)
    assert (many[4] - many[0]) * 2 == pytest.approx(few[4] - few[0], rel=0.02)


def grown(groups: Sequence[Sequence[float]], ended: Sequence[bool]) -> Node:
    """A root with a child a group; the first score is the child's own, the others came from below it."""
    root = Node(ROOT)
    for i, (scores, end) in enumerate(zip(groups, ended, strict=True)):
        child = root.child(Draft(ROOT, f"{i}\n", finish="end" if end else None))
        for k, score in enumerate(scores):
            back_up(child.child(Draft(child.draft, f"{k}\n")) if k else child, score)
    return root


@pytest.mark.parametrize("search", ["a", "m"])
def test_ab_mcts_goes_where_the_scores_are(search: str) -> None:
    chance = np.random.default_rng(0)

    def goes(groups: list[list[float]], ended: list[bool] | None = None) -> list[str]:
        root = grown(groups, ended or [False] * len(groups))
        seen = defaultdict(Counter)
        for child, scores in zip(root.children.values(), groups, strict=True):
            seen[child].update(round(100 * s) for s in scores)
        arms: defaultdict[Node, thompson.Arms] = defaultdict(thompson.Arms)
        for child in root.children.values():
            AbMctsA().learn(child, arms)

        def pick() -> Node | None:
            if search == "a":
                return AbMctsA().deeper(root, arms[root], chance)
            return ab_mcts_m.deeper(root, seen, chance)

        return ["wider" if (child := pick()) is None else child.draft.new for _ in range(400)]

    good, bad = [0.9, 0.88, 0.92, 0.95, 0.91, 0.89], [0.1, 0.12, 0.08, 0.11, 0.15, 0.05]
    both = goes([good, bad])
    assert both.count("0\n") > 200 > 5 * both.count("1\n")
    assert goes([bad, [0.1]]).count("wider") > 120
    assert "0\n" not in goes([good, bad], [True, False])  # finished drafts cannot be gone deeper into
    assert set(goes([good], [True])) == {"wider"}


async def test_scores_at_and_below_a_node_are_counted_to_two_digits(
    log: list[list[Simulated]], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: dict[Node, Counter[int]] = {}
    original = ab_mcts_m.deeper

    def spied(node: Node, seen: ab_mcts_m.Seen, chance: np.random.Generator) -> Node | None:
        counts.update(seen)
        return original(node, seen, chance)

    monkeypatch.setattr(ab_mcts_m, "deeper", spied)
    await climb("ab-mcts-m(n=40)")
    past = [s for done in log for s in done]
    assert len(counts) > 10
    for node, seen in counts.items():
        assert seen == Counter(int(100 * s.score + 0.5) for s in past if node.draft.text in steps_of(s.reached))


def test_a_child_whose_scores_are_all_the_same_is_left_alone() -> None:
    assert not ab_mcts_m.settled(Counter([100, 100, 100]))
    assert ab_mcts_m.settled(Counter([100, 100, 100, 3]))
    assert not ab_mcts_m.settled(Counter([100, 100, 3, 3]))


# the mixed model


async def recorded_trees(count: int) -> list[list[list[float]]]:
    """The scores at the root, grouped by child, of trees that searches have grown; sharp, blurred and binary ones."""
    trees = []
    for seed in range(count):
        chance = random.Random(seed)
        search = simulate.Search(PROBLEM, By(Ladder(), LadderTask(), Grader()), 0.8, rollout=True)
        at, seen = Scope.root(), defaultdict(Counter)
        for k in range(chance.randrange(1, 40)):
            rng = np.random.Generator(np.random.PCG64(seed * 1000 + k))
            leaf = ab_mcts_m.descend(search.root, seen, rng)
            leaf.begin()
            if seed % 5:
                await search.simulate([leaf], at)
            else:  # a step of its own each time, and a score without end: many children
                leaf.end()
                leaf.drawn += 1
                draft = Draft(leaf.draft, f"{leaf.drawn}\n")
                back_up(leaf.child(draft), min(max(chance.gauss(0.5, 0.2), 0.0), 1.0))
        groups = []
        for child in search.root.children.values():
            scores, nodes = [], [child]
            while nodes:
                node = nodes.pop()
                nodes += node.children.values()
                own = node.below.n - node.wider.n - node.deeper.n
                if own:
                    mean = (node.below.total - node.wider.total - node.deeper.total) / own
                    scores += [float(mean > 0.5) if seed % 3 == 2 else mean] * own
            groups.append(scores)
        trees.append(groups)
    return trees


def same_choices(trees: list[list[list[float]]], chains: int, steps: int) -> list[float]:
    """Total variation between the choices by MCMC and by the closed form: a new child, or which one."""
    gaps = []
    for k, groups in enumerate(trees):
        want = wins(predictions(groups, k, chains, warm=steps // 2, steps=steps), seed=k)
        sums = [[f(g) for g in groups] for f in (len, sum, lambda g: sum(x * x for x in g))]
        have = wins(fit(*sums).predict(np.random.default_rng(k), 100_000), seed=k)
        gaps.append(float(abs(want - have).sum() / 2))
    return gaps


@pytest.mark.parametrize("groups", [[[0.5]], [[0.2, 0.4], [0.9]], [[0.1], [0.15, 0.2, 0.1], [0.8, 0.7]]])
def test_the_posterior_has_the_moments_of_a_quadrature_of_the_model(groups: list[list[float]]) -> None:
    """All scores are jointly Gaussian given the two scales: no group is summed up, nothing is integrated by hand."""
    off = np.array([score - 0.5 for group in groups for score in group])
    which = np.array([j for j, group in enumerate(groups) for _ in group])
    middles = (np.arange(150) + 0.5) / 150
    a2, s2 = (v.reshape(-1, 1, 1) for v in np.meshgrid(middles**2, (0.01 + 1.49 * middles) ** 2))
    covariance = 0.2**2 + a2 * (which[:, None] == which) + s2 * np.eye(len(off))
    by_off, by_one = np.moveaxis(np.linalg.solve(covariance, np.column_stack([off, np.ones(len(off))])), 2, 0)
    a2, s2 = a2.ravel(), s2.ravel()
    log_p = -0.5 * by_off @ off - 0.5 * np.linalg.slogdet(covariance)[1] - a2 / (2 * 0.2**2) - s2 / (2 * 0.3**2)
    mu, variance = 0.5 + 0.2**2 * by_off.sum(1), 0.2**2 - 0.2**4 * by_one.sum(1)
    want = np.average([a2, s2, mu, mu**2 + variance], axis=1, weights=np.exp(log_p))
    have = fit([len(g) for g in groups], [sum(g) for g in groups], [sum(x * x for x in g) for g in groups])
    found = np.average([*grid()[:2], have.mu, have.mu**2 + have.var_mu], axis=1, weights=have.mass)
    assert found == pytest.approx(want, rel=0.01)


@pytest.mark.parametrize("groups", [[[0.5]], [[0.2, 0.4], [0.9]], [[0.1], [0.15, 0.2, 0.1], [0.8, 0.7]]])
def test_predictions_spread_as_the_model_that_is_followed_step_by_step(groups: list[list[float]]) -> None:
    """Scales and mean, then the group's own mean given its scores, then a score."""
    known = fit([len(g) for g in groups], [sum(g) for g in groups], [sum(x * x for x in g) for g in groups])
    chance, size = np.random.default_rng(0), 200_000
    cell = chance.choice(len(known.mass), size, p=known.mass / known.mass.sum())
    a2, s2 = grid()[0][cell], grid()[1][cell]
    mu = known.mu[cell] + np.sqrt(known.var_mu[cell]) * chance.standard_normal(size)
    columns = [mu + np.sqrt(a2 + s2) * chance.standard_normal(size)]
    for group in groups:
        sure = 1 / a2 + len(group) / s2
        alpha = (mu / a2 + sum(group) / s2) / sure + chance.standard_normal(size) / np.sqrt(sure)
        columns.append(alpha + np.sqrt(s2) * chance.standard_normal(size))
    have = known.predict(np.random.default_rng(1), size)
    assert have.mean(0) == pytest.approx(np.mean(columns, axis=1), abs=0.005)
    assert have.std(0) == pytest.approx(np.std(columns, axis=1), rel=0.02)


def test_the_closed_form_chooses_as_mcmc_does() -> None:
    trees = anyio.run(recorded_trees, 13)
    assert max(same_choices([trees[i] for i in (1, 2, 8)], chains=80, steps=400)) < 0.06


@pytest.mark.slow
def test_the_closed_form_chooses_as_mcmc_does_on_fifty_trees() -> None:
    trees = anyio.run(recorded_trees, 50)
    gaps = same_choices(trees, chains=400, steps=800)
    print(
        f"{len(trees)} trees of {min(sum(map(len, t)) for t in trees)} to {max(sum(map(len, t)) for t in trees)} scores:"
    )
    print(f"total variation at most {max(gaps):.4f}, {np.mean(gaps):.4f} on average")
    assert max(gaps) < 0.1
