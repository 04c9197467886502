"""Self-evaluation guided beam search, phi-decoding, and the small things they are made of."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from forethought.core.cost import Cost
from forethought.core.draft import ROOT, Draft
from forethought.core.errors import UsageError
from forethought.core.population import Particle
from forethought.core.problem import Problem
from forethought.core.scope import Call, Run, Scope, Seeded
from forethought.methods import By, methods, phi_decoding
from forethought.methods.chances import distinct, likelihood, softmax
from forethought.methods.clusters import k_means, tf_idf
from forethought.methods.foresight import agreement, gains, paired
from forethought.methods.phi_decoding import PhiDecoding
from forethought.methods.self_eval import said
from forethought.methods.self_eval_beam import SelfEvalBeam
from forethought.models.protocol import Completion, Request
from forethought.parts import Parts
from forethought.refusals import check
from forethought.selection import selections
from forethought.tasks import GENERATED
from forethought.verifiers import verifiers
from tests.ladder import LINES, Grader, Ladder, LadderTask, climb
from tests.toy import NEXT, Enumerated, ToyModel, expected_measure, table
from tests.toy import PROBLEM as TOY

pytestmark = pytest.mark.anyio


def events(at: Scope, kind: str) -> list[Mapping[str, object]]:
    return [e.data for e in at.run.trace.events if e.kind == kind]  # type: ignore[attr-defined]


# the self-evaluation beam


class Reference:
    """The exact law of `self-eval-beam(width=1, expand=2)` on the toy world, by going through all pairs of steps."""

    def __init__(self, tau: float, r: float) -> None:
        self.tau, self.r, self.measure = tau, r, defaultdict[str, float](float)
        self.go("", 0.0, 1.0)

    def next(self, text: str) -> dict[str, float]:
        return NEXT if len(text) < 2 else {".": 1.0}

    def go(self, text: str, total: float, mass: float) -> None:
        """`total` is the sum of the log scores of the steps so far."""
        options = self.next(text)
        for pair in itertools.product(options, repeat=2):
            p = math.prod(options[t] for t in pair)
            kinds = dict.fromkeys(pair)
            scores = {t: total + self.step(text + t, options[t]) for t in kinds}
            law = {t: pair.count(t) * math.exp(math.exp(scores[t] / (len(text) + 1)) / self.tau) for t in kinds}
            for t in kinds:
                chance = mass * p * law[t] / sum(law.values())
                if t == ".":  # the beam has ended: all finished candidates come back
                    self.measure[text + t] += chance
                else:
                    self.go(text + t, scores[t], chance)

    def step(self, text: str, p: float) -> float:
        return self.r * math.log(table(text)) + (1 - self.r) * math.log(p)


@pytest.mark.parametrize(("tau", "rho"), [(0.5, 0.0), (1.5, 1.0)])
async def test_the_self_evaluation_beam_follows_its_law(tau: float, rho: float) -> None:
    method = methods.parse(f"self-eval-beam(width=1, expand=2, tau={tau}, rho={rho})")
    have = await expected_measure(lambda by, at: method(TOY, by, at))
    assert have == pytest.approx(dict(Reference(tau, 2**rho / (2**rho + 1)).measure), rel=1e-9)


async def test_at_tau_zero_the_best_are_kept() -> None:
    pop, _, by = await climb("self-eval-beam(width=1, expand=64, tau=0.0, rho=40.0)")
    text = ""
    for _ in range(LINES):  # 64 draws see all three ways
        text = max((text + letter + "\n" for letter in "abc"), key=lambda t: by.verifier and grade_path(t))
    assert pop[0].state.text == text


@pytest.mark.parametrize(("spelling", "logprobs", "asked"), [
    ("self-eval-beam(width=1, expand=2)", False, 0), ("phi-decoding(width=2, expand=2, depth=2)", False, 0),
    ("phi-decoding(width=2, depth=0)", False, 0), ("a-star(expand=2)", False, 0), ("sample(n=2)", True, 0),
    ("sample(n=2)", False, None), ("beam(width=1, expand=2)", False, None),
])  # fmt: skip
async def test_likelihoods_are_asked_for_where_they_are_read_and_alternatives_never(
    spelling: str, logprobs: bool, asked: int | None
) -> None:
    class Noting(Ladder):
        async def extend(self, request: Request, call: Call) -> Completion:
            seen.add(request.logprobs)
            return await super().extend(request, call)

    seen: set[int | None] = set()
    by = By(Noting(), LadderTask(), Grader(), logprobs=logprobs)
    await methods.parse(spelling)(Problem("climb"), by, Scope.root())
    assert seen == {asked}


def test_only_the_best_are_kept_below_a_tau_of_five_thousandths_as_in_the_released_code() -> None:
    """Two steps of nearly the same score: the law of any tau above would keep either."""
    drawn = [Particle(Draft(ROOT, f"{x}\n", (), (x,))) for x in (-1.004, -1.0)]

    def kept(tau: float) -> set[str]:
        by, places = By(Ladder(), LadderTask()), [Scope.root(Run(Seeded(seed))) for seed in range(40)]
        return {SelfEvalBeam(width=1).kept(drawn, [1, 1], tau, by, at)[0].state.new for at in places}

    assert kept(0.0049) == {"-1.0\n"}
    assert kept(0.005) == {"-1.0\n", "-1.004\n"}


def grade_path(text: str) -> float:
    from tests.ladder import grade

    lines = text.splitlines(keepends=True)
    return math.prod(grade("".join(lines[: i + 1])) for i in range(len(lines)))


async def test_equal_steps_are_judged_once() -> None:
    _, at, _ = await climb("self-eval-beam(width=1, expand=40)")
    assert at.account.spent.calls == 40 * LINES
    assert at.account.spent.verifier_calls <= 3 * LINES


class Asked(Ladder):
    """A ladder that is sure that lines of c are correct, and says so when asked."""

    def __init__(self, top: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.top, self.questions = top, list[str]()

    async def extend(self, request: Request, call: Call) -> Completion:
        content = request.messages[-1]["content"]
        if "(A) Correct" not in content:
            return await super().extend(request, call)
        self.questions.append(content)
        assert (request.max_tokens, request.logprobs, request.temperature, request.draft) == (1, 5, 0.0, ROOT)
        sure = {" A": math.log(0.9), "B": math.log(0.1)}
        unsure = {"A": math.log(0.01), " B": math.log(0.9)}
        cost = Cost(calls=1, new_tokens=1, critical_tokens=1)
        self.spent += cost
        answer = sure if '"c"' in content else unsure
        return Completion("A", "length", cost, top=(dict(answer if self.top is None else self.top),))


async def test_without_a_verifier_the_model_is_asked() -> None:
    model = Asked()
    at = Scope.root(Run(Seeded(0)))
    by = By(model, LadderTask())
    pop = await methods.parse("self-eval-beam(width=1, expand=30, tau=0.0)")(Problem("climb"), by, at)
    assert pop[0].state.text == "c\n" * LINES
    assert at.account.spent.calls == model.spent.calls == 30 * LINES + len(model.questions)
    assert at.account.spent.verifier_calls == 0
    assert all(q.startswith("climb\n") for q in model.questions)


async def test_a_model_that_cannot_say_is_guided_by_likelihood() -> None:
    by = By(Asked({"x": -0.1}), LadderTask())
    pop = await methods.parse("self-eval-beam(width=1, expand=30, tau=0.0)")(Problem("climb"), by, Scope.root())
    assert pop[0].state.text == "a\n" * LINES


@pytest.mark.parametrize(
    ("top", "want"),
    [((), None), (({"x": -1.0},), None), (({"B": 0.0},), 0.0), (({"A": math.log(0.3), " (A": math.log(0.2)},), 0.5)],
)
def test_what_the_model_said(top: tuple[dict[str, float], ...], want: float | None) -> None:
    assert said(Completion("A", "length", top=top)) == (None if want is None else pytest.approx(want))


# phi-decoding


async def test_phi_looks_ahead_from_likely_steps_only() -> None:
    method = "phi-decoding(width=2, expand=8, depth=1, sigma={})"
    _, all_, _ = await climb(method.format(1e9))
    _, some, _ = await climb(method.format(0.5))
    assert all_.account.spent.calls == 16 + 16 + 2
    assert some.account.spent.calls < all_.account.spent.calls


async def test_phi_ends_early_when_foresights_agree() -> None:
    calls = [
        (await climb(f"phi-decoding(width=2, expand=2, {ends})"))[1].account.spent.calls
        for ends in ("depth=1", *(f"least={least}, threshold=0.1" for least in (0, 1, 2, 3)), "depth=3")
    ]
    assert calls[0] == calls[1] == calls[2] < calls[3] < calls[4] == calls[5]


async def test_phi_goes_on_while_no_cluster_holds_more_than_the_threshold() -> None:
    method = "phi-decoding(width=2, expand=2, clusters=1, least=0, depth=3, threshold={})"
    calls = [(await climb(method.format(threshold)))[1].account.spent.calls for threshold in (0.99, 1)]
    assert calls[0] < calls[1]


async def test_phi_without_foresight_is_samples_weighted_in_the_larger_cluster() -> None:
    pop, at, _ = await climb("phi-decoding(width=6, depth=0)")
    assert at.account.spent.calls == 6
    pairs = [(ROOT, p.state) for p in pop]
    law = np.array([math.exp(p.logw) for p in pop])
    assert law.sum() == pytest.approx(1)
    alive = [i for i, p in enumerate(law) if p > 0]
    assert len(alive) >= 3
    odds = np.log(law[alive]) - np.log(law[alive[0]])
    values = np.array([likelihood(pairs[i][1]) for i in alive])
    assert odds == pytest.approx((values - values[0]) / 0.1)


class Sure(Ladder):
    """Once it has said b it is sure of all that follows, although a is what it says first more often."""

    async def extend(self, request: Request, call: Call) -> Completion:
        told = await super().extend(request, call)
        sure = request.draft.text.startswith("b")
        return replace(told, logprobs=tuple(-0.01 for _ in told.logprobs)) if sure else told


async def test_phi_draws_by_cluster_and_by_how_sure_the_model_is_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    laws: list[np.ndarray] = []

    def spied(law: np.ndarray, n: int, at: Scope) -> list[int]:
        laws.append(law)
        return distinct(law, n, at)

    monkeypatch.setattr(phi_decoding, "distinct", spied)
    method = methods.parse("phi-decoding(width=1, expand=20, depth=1, temper=0.01, clusters=1, sigma=9)")
    await method(Problem("climb"), By(Sure(), LadderTask()), Scope.root(Run(Seeded(1))))
    law = laws[-1] / laws[-1].sum()  # half flat, since all are of one cluster, and half on those that began with b
    sure = law > law.min() * 1.5
    assert len(law) == 20
    assert 1 <= sure.sum() < 15
    assert law == pytest.approx(0.5 / 20 + 0.5 * sure / sure.sum(), abs=1e-6)


async def test_in_width_pruning_keeps_what_is_above_and_tops_up() -> None:
    def step(i: int, logprob: float) -> Draft:
        return Draft(ROOT, f"{i}\n", (), (logprob, logprob))

    drawn = [Particle(step(i, value)) for i, value in enumerate([-0.1, -0.2, -0.15, -5.0])]
    at = Scope.root()
    assert PhiDecoding().in_width(drawn, 2, at) == drawn[:3]
    assert PhiDecoding().in_width(drawn, 4, at) == drawn
    same = [Particle(step(i, -1.0)) for i in range(5)]  # none is above the mean: drawn instead
    assert len(PhiDecoding().in_width(same, 3, at)) == 3


def test_gains_are_over_the_value_of_where_a_step_came_from() -> None:
    parent = Draft(ROOT, "p\n", (), (-1.0,))
    step, ended = Draft(parent, "s\n", (), (-2.0,)), Draft(parent, "e", (), (-0.25, -0.75), finish="end")
    end = Draft(step, "and so on", (), (-0.5, -0.1))
    steps = [Particle(step), Particle(ended, done=True)]
    pairs = paired(steps, [Particle(end, done=True), Particle(ended, done=True)])
    assert pairs == [(step, end), (ended, ended)]
    assert gains(pairs, {parent: -1.0}) == pytest.approx([0.7, 0.5])
    assert gains(pairs[1:], {ended: -0.5}) == pytest.approx([0.0])  # one that had ended before gains nothing


def test_agreement_is_the_share_of_a_cluster() -> None:
    told = ["four plus four", "four plus four again", "a banana", "four plus four"]
    pairs = [(Draft(ROOT, t), Draft(ROOT, t)) for t in told]
    pairs = [(end, end) for _, end in pairs]
    assert agreement(pairs, 2).tolist() == [0.75, 0.75, 0.25, 0.75]
    assert agreement(pairs, 1).tolist() == [1.0] * 4


# clusters and draws


def test_tf_idf_by_hand() -> None:
    rows = tf_idf(["b a a", "b"])
    rare = math.log(3 / 2) + 1
    length = math.hypot(2 * rare, 1.0)
    assert rows == pytest.approx(np.array([[2 * rare / length, 1 / length], [0.0, 1.0]]))
    assert tf_idf(["", "!"]).shape == (2, 0)


def test_k_means_finds_what_is_apart() -> None:
    chance = np.random.default_rng(0)
    points = np.concatenate([chance.normal(centre, 0.1, (20, 3)) for centre in (0.0, 2.0, 5.0)])
    labels = k_means(points, 3)
    assert [len(set(labels[i : i + 20])) for i in (0, 20, 40)] == [1, 1, 1]
    assert len(set(labels)) == 3


@pytest.mark.parametrize("seed", range(5))
def test_k_means_is_lloyds_algorithm_from_the_first_point_and_the_farthest(seed: int) -> None:
    points = np.random.default_rng(seed).random((40, 2))
    centres = [points[0]]
    while len(centres) < 4:
        centres.append(max(points, key=lambda p: min(math.dist(p, c) for c in centres)))
    for _ in range(100):
        labels = [min(range(4), key=lambda k: math.dist(p, centres[k])) for p in points]
        centres = [np.mean([p for p, k in zip(points, labels, strict=True) if k == i], axis=0) for i in range(4)]
    assert k_means(points, 4).tolist() == labels


@pytest.mark.parametrize("texts", [["same"] * 5, ["", "", ""], ["one"]])
def test_there_are_no_more_clusters_than_different_points(texts: Sequence[str]) -> None:
    assert set(k_means(tf_idf(texts), 3)) == {0}


def test_likelihood_is_of_the_last_tokens() -> None:
    step = Draft(ROOT, "ab", (), (-1.0, -2.0))
    assert (likelihood(ROOT), likelihood(step)) == (0.0, -1.5)
    assert likelihood(Draft(step, "")) == -1.5


def test_distinct_draws_one_after_another() -> None:
    law = [0.5, 0.3, 0.0, 0.2]
    found: Counter[tuple[int, ...]] = Counter()
    script: dict[tuple[int, ...], tuple[int, Sequence[float]]] = {}
    exact = defaultdict[tuple[int, ...], float](float)
    for first, second in itertools.permutations([0, 1, 3], 2):
        exact[first, second] = law[first] * law[second] / (1 - law[first])
    while True:
        source = Enumerated(script)
        picked = tuple(distinct(law, 2, Scope.root(Run(source=source))))
        made = script | source.fresh
        found[picked] += math.prod(p[i] for i, p in made.values())  # type: ignore[assignment]
        while made:
            place, (i, probs) = made.popitem()
            if i + 1 < len(probs):
                script = made | {place: (i + 1, probs)}
                break
        else:
            break
    assert dict(found) == pytest.approx(dict(exact))
    assert sorted(distinct(law, 9, Scope.root())) == [0, 1, 3]
    assert distinct(law, 0, Scope.root()) == []


def test_softmax_of_large_numbers() -> None:
    assert softmax(np.array([1000.0, 1000.0, -math.inf])).tolist() == [0.5, 0.5, 0.0]


@pytest.mark.parametrize("verifier", [None, "exact"])
def test_a_model_that_cannot_judge_its_steps_is_refused_before_the_run(verifier: str | None) -> None:
    class Reasoner(ToyModel):
        name = "reasoner"

    chain, method, first = GENERATED["chain"], methods.parse("self-eval-beam"), selections.parse("first")
    given = verifiers.parse(verifier) if verifier else None
    with pytest.raises(UsageError, match=r"asks its model about its own steps, .* add --verifier process") as caught:
        check(chain.problem(1, 0), Parts(By(Reasoner(Seeded(0)), chain, given), method, first))
    assert "\n" not in str(caught.value)
    check(chain.problem(1, 0), Parts(By(Reasoner(Seeded(0)), chain, verifiers.parse("process")), method, first))
    check(chain.problem(1, 0), Parts(By(ToyModel(Seeded(0)), chain), method, first))
