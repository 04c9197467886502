"""The parameter `step`: where a method's steps end."""

from __future__ import annotations

import dataclasses

import pytest

from forethought.core.draft import Draft
from forethought.core.errors import UsageError
from forethought.core.population import Population
from forethought.core.scope import Run, Scope, Seeded
from forethought.methods import By, methods
from forethought.methods.boundary import Boundary, boundary_of
from forethought.models.scripted import Scripted
from forethought.tasks import GENERATED
from forethought.tasks.text import Text
from tests.ladder import PROBLEM, Grader, LadderTask, climb

pytestmark = pytest.mark.anyio
STEPPED = [name for name in methods if "step" in {f.name for f in dataclasses.fields(methods[name])}]  # type: ignore[arg-type]
stepped = pytest.mark.parametrize("name", STEPPED)
TOLD = "One. Is it two? It is 2.5 here!\nThen three. Four."


class Told(Text):
    name, step_tokens, max_steps = "told", 6, 9


async def told(step: str, text: str = TOLD) -> list[str]:
    """The steps of a text under a boundary."""
    script = lambda prompt, so_far, seed: text[len(so_far) :]  # noqa: E731
    by = By(Scripted(script), Told(), Grader())
    (particle,) = await methods.parse(f"beam(width=1, expand=1{step})")(PROBLEM, by, Scope.root(Run(Seeded(0))))
    assert particle.state.text == text
    assert particle.state.finished
    return particle.state.steps


def read(pop: Population[Draft]) -> list[tuple[list[str], float]]:
    return [(p.state.steps, p.logw) for p in pop]


async def test_steps_end_at_a_string_a_sentence_or_after_tokens() -> None:
    assert await told("") == ["One. Is it two? It is ", "2.5 here!\nThen three. Four."]  # cut at the task's six tokens
    assert await told(", step=sentence") == ["One. ", "Is it two? ", "It is 2.5 here!\n", "Then three. ", "Four."]
    assert await told(", step='\\n'") == ["One. Is it two? It is ", "2.5 here!\n", "Then three. Four."]
    assert await told(", step=4") == ["One. Is it two? ", "It is 2.5 here!\n", "Then three. Four."]
    assert await told(", step=9") == ["One. Is it two? It is 2.5 here!\nThen ", "three. Four."]  # above the task's cap


@stepped
async def test_the_tasks_own_boundary_by_any_name_changes_nothing(name: str) -> None:
    """A line of the ladder is two tokens."""
    own = read((await climb(name, seed=5))[0])
    assert own
    for step in ("'\\n'", "2"):
        assert read((await climb(f"{name}(step={step})", seed=5))[0]) == own


@stepped
async def test_small_steps_do_not_cut_a_draft_short(name: str) -> None:
    """A draft has eight tokens and its task six steps; who writes one to its end does so in one piece."""
    pop, _, _ = await climb(f"{name}(step=1)", seed=3)
    assert all(p.state.finished for p in pop if p.logw > -1e9)
    assert max(len(p.state.steps) for p in pop) >= (2 if name in ("mcts", "ab-mcts-a", "ab-mcts-m") else 5)


@stepped
@pytest.mark.parametrize("step", ["0", "-3", "''"])
def test_senseless_steps_are_refused(name: str, step: str) -> None:
    with pytest.raises(UsageError, match=f"{name}: step is a number of tokens of at least 1, a string, or sentence"):
        methods.parse(f"{name}(step={step})")


async def test_where_a_world_says_what_a_move_is_step_says_nothing() -> None:
    by = By(Scripted(lambda prompt, so_far, seed: "x\n"), GENERATED["countdown"], Grader())
    with pytest.raises(UsageError, match="a matter of countdown, not of step"):
        await methods.parse("best-first(step=sentence)")(GENERATED["countdown"].problem(3, 0), by, Scope.root())


def chain(*pieces: str) -> Draft:
    draft = Draft()
    for piece in pieces:
        draft = Draft(draft, piece, size=draft.size + len(piece.split()))
    return draft


def test_a_step_counts_once_in_however_many_pieces_it_was_drawn() -> None:
    sentences = boundary_of(Told(), "sentence")
    assert sentences.whole(chain("It ", "is. ", "So")) == [False, True, False]
    assert sentences.whole(chain("It is. So", " be it.", " ")) == [
        True,
        False,
        True,
    ]  # a token that goes on behind its break
    assert sentences.whole(chain("a b c d e f ", "g. ")) == [True, True]  # cut at the task's cap
    assert sentences.within(chain("It ", "is"))
    assert not sentences.within(chain("It ", "is. "))
    assert not Boundary(("\n",), 8, 2).full(chain("a\n", "b"))
    assert Boundary(("\n",), 8, 2).full(chain("a\n", "b", "c\n"))


async def test_half_steps_of_a_methods_own_boundary_are_finished() -> None:
    pop, _, _ = await climb("early-rejection(width=2, expand=2, tokens=1, step=2)", seed=1)
    whole, _, _ = await climb("early-rejection(width=2, expand=2, tokens=1)", seed=1)
    assert read(pop) == read(whole)
    assert all(len(p.state.steps) > LadderTask.max_steps for p in pop)  # letters and line breaks: two pieces a step
