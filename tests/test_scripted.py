from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forethought.core.budget import Budget
from forethought.core.cost import Cost
from forethought.core.draft import Draft
from forethought.core.scope import Call, Scope
from forethought.models.extend import extend
from forethought.models.price import Price
from forethought.models.protocol import Completion, Request
from forethought.models.scripted import Scripted

pytestmark = pytest.mark.anyio
ASK = ({"role": "user", "content": "name two fruits"},)
WHOLE = "first: apple\nthen: pear\n"


def rest(prompt: str, so_far: str, seed: int) -> str:
    return WHOLE[len(so_far) :]


async def test_it_says_the_script_to_the_end() -> None:
    done = await Scripted(rest).extend(Request(ASK), Call((), 1))
    assert (done.text, done.finish) == (WHOLE, "end")
    assert done.cost == Cost(calls=1, prompt_tokens=3, new_tokens=4, critical_tokens=4)


async def test_it_goes_on_from_a_draft_and_keeps_the_stop_string() -> None:
    model, draft, texts = Scripted(rest), Draft(), []
    while draft.finish is None:
        done = await model.extend(Request(ASK, draft, stop=("!", "\n")), Call((), 1))
        texts.append(done.text)
        draft = Draft(draft, done.text, finish=None if done.finish == "stop" else "end")
    assert texts == ["first: apple\n", "then: pear\n", ""]
    assert model.spent == Cost(calls=3, prompt_tokens=9 + 2 + 4, new_tokens=2 + 2 + 1, critical_tokens=5)


async def test_it_is_cut_at_the_first_stop_or_at_max_tokens() -> None:
    model = Scripted(lambda prompt, so_far, seed: " a b  c d")
    cut = await model.extend(Request(ASK, max_tokens=2), Call((), 1))
    assert (cut.text, cut.finish, cut.cost.new_tokens) == (" a b  ", "length", 2)
    exact = await model.extend(Request(ASK, max_tokens=4), Call((), 1))
    assert (exact.text, exact.finish) == (" a b  c d", "end")
    stop = await model.extend(Request(ASK, max_tokens=4, stop=("c", "b")), Call((), 1))
    assert (stop.text, stop.finish) == (" a b", "stop")
    late = await model.extend(Request(ASK, max_tokens=2, stop=("c",)), Call((), 1))
    assert (late.text, late.finish) == (" a b  ", "length")


@given(st.text("ab \n", max_size=12), st.integers(1, 6), st.sets(st.sampled_from(["a", "\n", "b b"])))
def test_no_completion_costs_more_than_its_bound(text: str, most: int, stops: set[str]) -> None:
    model = Scripted(lambda prompt, so_far, seed: text, price=Price(1.0, None, 3.0))
    request = Request(ASK, Draft(None, "so far"), max_tokens=most, stop=tuple(stops))

    async def ask() -> Completion:
        return await model.extend(request, Call((), 1))

    done = anyio.run(ask)
    assert all(spent <= most for spent, most in zip(done.cost, model.bound(request), strict=True))
    assert text.startswith(done.text)
    assert model.spent == done.cost


async def test_it_sees_all_messages_and_the_seed() -> None:
    model = Scripted(lambda prompt, so_far, seed: f"{prompt}|{so_far}|{seed}")
    messages = ({"role": "system", "content": "be kind"}, *ASK)
    done = await model.extend(Request(messages, Draft(None, "well")), Call((), 5))
    assert done.text == "be kind\nname two fruits|well|5"


async def test_a_completion_is_passed_on() -> None:
    given = Completion("x", "end", Cost(new_tokens=9), (1,), (-0.1,))
    model = Scripted(lambda prompt, so_far, seed: given)
    assert await model.extend(Request(ASK), Call((), 1)) == given
    assert model.spent == given.cost


async def test_a_cancelled_call_has_cost_its_prompt_and_the_ledger_agrees() -> None:
    model = Scripted(rest, latency=30.0, price=Price(1.0, None, 2.0))
    at = Scope.root()
    with anyio.move_on_after(0.01):
        await extend(model, Request(ASK), at)
    assert model.spent.prompt_tokens == 3
    assert model.spent.usd == pytest.approx(3e-6)
    assert at.account.spent._replace(seconds=0.0) == model.spent


async def test_the_ledger_agrees_and_the_budget_clamps() -> None:
    model = Scripted(rest)
    at = Scope.root(budget=Budget({"tokens": 3}))
    done = await extend(model, Request(ASK), at)
    assert (done.text, done.finish) == ("first: apple\nthen: ", "length")
    assert at.account.spent._replace(seconds=0.0) == model.spent
