"""A scripted model that counts what it really did, and random programs over it.

What a call does is decided by its seed alone; how often it yields, by a noise that no result may depend on.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel

from forethought.core.budget import Account, Budget, amount
from forethought.core.call import Data, bought
from forethought.core.cost import ZERO, Cost
from forethought.core.errors import BudgetEnded, ModelError
from forethought.core.operators import branch, each, merge, prune, race
from forethought.core.population import Particle, posterior
from forethought.core.resample import Scheme, resample
from forethought.core.scope import Call, Scope

Pop = list[Particle[str]]
LONGEST = 24  # a text of this length has ended


@dataclass
class World:
    """The model, the verifier, their own books, and every account with limits that a program has made."""

    noise: random.Random
    streams: bool = True  # whether calls tell their progress
    failing: int = 0  # one call in so many fails; 0: none
    pace: float = 0.0  # seconds a token; 0: only a random number of passes through the loop
    did: Cost = ZERO
    finished: int = 0
    accounts: list[tuple[Account, Budget]] = field(default_factory=list)

    def bound(self, max_tokens: int, size: int) -> Cost:
        return self.cost(max_tokens, size)

    def cost(self, tokens: int, size: int) -> Cost:
        """Powers of two in the entries that are no whole numbers, so that sums are exact in any order."""
        flops, reads, usd = tokens * 2.0, tokens * (size + 1) / 2, tokens / 8
        return Cost(1, size + 1, size, tokens, flops=flops, kv_reads=reads, critical_tokens=tokens, usd=usd)

    async def extend(self, text: str, max_tokens: int, call: Call) -> tuple[str, Cost]:
        length = 1 + call.seed % 7 if call.seed % 3 else max_tokens
        size, bound = len(text), self.bound(max_tokens, len(text))
        return await self._count(call, min(length, max_tokens), lambda n: self.cost(n, size), bound)

    async def grade(self, text: str, call: Call) -> tuple[str, Cost]:
        bound = Cost(verifier_calls=1, verifier_tokens=3)
        return await self._count(call, 1, lambda n: Cost(verifier_calls=1, verifier_tokens=n * 2), bound)

    async def _count(self, call: Call, tokens: int, cost: Callable[[int], Cost], bound: Cost) -> tuple[str, Cost]:
        """Work token by token. Whatever way this ends, the books say what was done."""
        told: Cost | None = None
        try:
            for done in range(tokens):
                await self._pass_time()
                self.check()
                if self.streams:
                    told = cost(done + 1)
                    call.progress(told)
            if self.failing and call.seed % self.failing == 0:
                raise ModelError("the model is out of order")
            told = cost(tokens)
            self.finished += 1
            return "abcdefghij"[call.seed % 10] * tokens, told
        finally:
            self.did += bound if told is None else told

    async def _pass_time(self) -> None:
        if self.pace:
            await anyio.sleep(self.pace * (1 + self.noise.randrange(3)))
        for _ in range(self.noise.randrange(3)):
            await anyio.lowlevel.checkpoint()

    def check(self) -> None:
        """No limit is overrun anywhere, not even by what is reserved."""
        for account, budget in self.accounts:
            for name, limit in budget.limits.items():
                if name == "critical_tokens":
                    assert account.chain - account.start <= limit
                elif name != "seconds":
                    assert amount(account.spent, name) <= limit, (name, account.spent, limit)
                    assert amount(account.spent + account.held, name) <= limit, (name, account.held, limit)


@dataclass(frozen=True)
class Extend:
    """A kernel with a bound: one call of at most `most` tokens, fewer if the budget has less left."""

    world: World
    most: int

    def bound(self, particle: Particle[str]) -> Cost:
        return self.world.bound(self.most, len(particle.state))

    async def __call__(self, particle: Particle[str], at: Scope) -> Particle[str]:
        size = len(particle.state)
        room = next((k for k in range(self.most, 0, -1) if at.account.fits(self.world.bound(k, size))), 0)
        if not room:
            raise BudgetEnded("no room for another token")

        async def act(call: Call) -> tuple[str, Cost]:
            return await self.world.extend(particle.state, room, call)

        key = {"asked": f"{room} after {particle.state}"}
        new = await bought(at, "sample", key, lambda: self.world.bound(room, size), act, to_json, from_json)
        text = particle.state + new
        return particle.moved(text, gain=len(new) / 8 - 0.25, done=len(text) >= LONGEST)


@dataclass(frozen=True)
class Grade:
    """A kernel with a bound: one call to the verifier, which weighs the particle."""

    world: World

    def bound(self, particle: Particle[str]) -> Cost:
        return Cost(verifier_calls=1, verifier_tokens=3)

    async def __call__(self, particle: Particle[str], at: Scope) -> Particle[str]:
        async def act(call: Call) -> tuple[str, Cost]:
            return await self.world.grade(particle.state, call)

        grade = await bought(at, "grade", {"of": particle.state}, lambda: self.bound(particle), act, to_json, from_json)
        return particle.moved(particle.state, gain=(ord(grade[0]) - 100) / 16, done=particle.done)


def to_json(text: str) -> Data:
    return {"text": text}


def from_json(data: Data, cost: Cost) -> str:
    return str(data["text"])


class Unbounded:
    """Hides the bound of a kernel."""

    def __init__(self, inner: Callable[[Particle[str], Scope], Awaitable[Particle[str]]]) -> None:
        self._inner = inner

    async def __call__(self, particle: Particle[str], at: Scope) -> Particle[str]:
        return await self._inner(particle, at)


class Node:
    """A piece of a random program."""

    async def run(self, pop: Pop, at: Scope, world: World) -> Pop:
        raise NotImplementedError


@dataclass(frozen=True)
class Step(Node):
    most: int
    bounded: bool = True

    async def run(self, pop: Pop, at: Scope, world: World) -> Pop:
        kernel = Extend(world, self.most)
        return await each(pop, kernel if self.bounded else Unbounded(kernel), at)


@dataclass(frozen=True)
class Weigh(Node):
    bounded: bool = True

    async def run(self, pop: Pop, at: Scope, world: World) -> Pop:
        kernel = Grade(world)
        return await each(pop, kernel if self.bounded else Unbounded(kernel), at)


@dataclass(frozen=True)
class Fork(Node):
    copies: int

    async def run(self, pop: Pop, at: Scope, world: World) -> Pop:
        return branch(pop, [self.copies] * len(pop))[:6]


@dataclass(frozen=True)
class Best(Node):
    keep: int

    async def run(self, pop: Pop, at: Scope, world: World) -> Pop:
        return prune(pop, self.keep, key=lambda p: p.logw)


@dataclass(frozen=True)
class Redraw(Node):
    n: int
    scheme: Scheme

    async def run(self, pop: Pop, at: Scope, world: World) -> Pop:
        return resample(pop, self.n, posterior(pop), at, self.scheme) if pop else pop


@dataclass(frozen=True)
class Race(Node):
    first: int
    most: int

    async def run(self, pop: Pop, at: Scope, world: World) -> Pop:
        return await race(pop, Extend(world, self.most), at, first=self.first) or pop[:1]


@dataclass(frozen=True)
class Merge(Node):
    async def run(self, pop: Pop, at: Scope, world: World) -> Pop:
        async def fuse(parts: Sequence[Particle[str]], place: Scope) -> str:
            longest = max((p.state for p in parts), key=len)
            return (await Extend(world, 3)(Particle(longest), place)).state

        try:
            return [await merge(pop, fuse, at)] if pop else pop
        except ModelError:
            return pop


@dataclass(frozen=True)
class Every(Node):
    """Runs a program for each particle: a kernel made of operators, which cannot tell its bound."""

    inner: Node

    async def run(self, pop: Pop, at: Scope, world: World) -> Pop:
        async def kernel(particle: Particle[str], place: Scope) -> Particle[str]:
            made = await self.inner.run([particle], place, world)
            if not made:
                raise ModelError("all were dropped")
            return made[0]

        return await each(pop, kernel, at)


@dataclass(frozen=True)
class Within(Node):
    """Runs a program within a budget of its own and goes on from what it kept."""

    budget: Budget
    inner: Node

    async def run(self, pop: Pop, at: Scope, world: World) -> Pop:
        inside: Scope | None = None
        try:
            with at.limit(self.budget) as inside:
                world.accounts.append((inside.account, self.budget))
                return await self.inner.run(pop, inside, world)
        except BudgetEnded:
            kept = inside.kept if inside is not None else None
            return list(kept) if kept is not None else pop


@dataclass(frozen=True)
class Then(Node):
    parts: tuple[Node, ...]

    async def run(self, pop: Pop, at: Scope, world: World) -> Pop:
        for part in self.parts:
            pop = await part.run(pop, at, world)
            at.keep(pop)
        return pop
