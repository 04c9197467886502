"""Budgets and the ledger that holds them: reserved before it is spent, so no limit can be overrun."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import add, sub
from types import MappingProxyType

from forethought.core.cost import ZERO, Cost
from forethought.core.errors import UsageError
from forethought.core.registry import unknown

ENTRIES = ("tokens", *Cost._fields)
BY_CLOCK_OR_CHAIN = ("seconds", "critical_tokens")  # these do not add up over a fan-out
NO_LIMITS: Mapping[str, float] = MappingProxyType({})
UNLIMITED = "none"


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits on any entries of the cost; `tokens` stands for new plus verifier tokens. No entry, no limit."""

    limits: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, limit in self.limits.items():
            if name not in ENTRIES:
                raise UsageError(unknown("budget entry", name, ENTRIES))
            if math.isnan(limit) or limit < 0:
                raise UsageError(f"the budget's {name} must be a number of at least 0, not {limit}")

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `tokens=2000,seconds=10`, or `none` for a budget without limits."""
        limits: dict[str, float] = {}
        if text.strip() == UNLIMITED:
            return cls(limits)
        for part in filter(None, (p.strip() for p in text.split(","))):
            name, _, number = (word.strip() for word in part.partition("="))
            if name in limits:
                raise UsageError(f"the budget '{text}' names {name} twice")
            try:
                limits[name] = float(number)
            except ValueError:
                raise UsageError(f"cannot read the budget '{part}': write it as tokens=2000,seconds=10") from None
        if not limits:
            raise UsageError("the budget is empty: write it as tokens=2000,seconds=10, or leave it out for the default")
        return cls(limits)

    def __str__(self) -> str:
        """As `parse` reads it."""
        return ",".join(f"{name}={limit:.15g}" for name, limit in self.limits.items()) or UNLIMITED

    @property
    def exact(self) -> bool:
        """Whether the same seed must give the same outcome under it: no limit depends on the clock or on prices."""
        return not {"seconds", "usd"} & set(self.limits)


amount: Callable[[Cost, str], float] = getattr
"""An entry of the cost, or its `tokens`."""


class Account:
    """The ledger of one place. What is spent here is spent in every account around it.

    A *grant* is an account that was paid for in advance: its allowance is held in the accounts around it until it closes,
    so inside it only the allowance itself can run out, and they are told what was spent when it does.
    """

    __slots__ = ("_grant", "_limits", "_names", "_parent", "chain", "chain_limit", "held", "spent", "start")

    def __init__(self, parent: Account | None = None, limits: Mapping[str, float] = NO_LIMITS) -> None:
        self._parent = parent
        self._limits = tuple((n, v) for n, v in limits.items() if n not in BY_CLOCK_OR_CHAIN) if limits else ()
        self._names: tuple[str, ...] = parent._names if parent else ()
        if self._limits:
            self._names = tuple({*self._names, *(n for n, _ in self._limits)})
        self._grant: Cost | None = None
        self.spent = self.held = ZERO
        self.start: int = parent.chain if parent else 0
        self.chain: int = self.start
        self.chain_limit: float = parent.chain_limit if parent else math.inf
        if "critical_tokens" in limits:
            self.chain_limit = min(self.chain_limit, self.start + limits["critical_tokens"])

    @property
    def limited(self) -> bool:
        """Whether any limit but time holds here, so that work has to be admitted."""
        return bool(self._names) or self.chain_limit < math.inf

    def child(self, limits: Mapping[str, float] = NO_LIMITS) -> Account:
        return Account(self, limits)

    def grant(self, allowance: Cost) -> None:
        """Pay in advance for this account, which is new and has no limits of its own. The caller has seen the allowance to fit.
        Close it with `settle`.
        """
        if self._names and self._parent is not None:
            self._grant = allowance
            self._limits = tuple((name, amount(allowance, name)) for name in self._names)
            self._parent._hold(add, allowance)

    def settle(self) -> None:
        """Close a grant: what was spent here is spent in every account around it, and what was not goes back."""
        if self._grant is not None and self._parent is not None:
            allowance, self._grant, self._limits = self._grant, None, ()
            self._parent._book(self.spent, allowance)

    def fits(self, need: Cost) -> bool:
        """Whether `need` can be reserved now, here and in every account that pays for this one."""
        if self.chain + need.critical_tokens > self.chain_limit:
            return False
        account: Account | None = self if self._names else None
        while account is not None:
            spent, held = account.spent, account.held
            for name, limit in account._limits:
                if amount(spent, name) + amount(held, name) + amount(need, name) > limit:
                    return False
            account = None if account._grant is not None else account._parent
        return True

    def reserve(self, need: Cost) -> None:
        """Hold `need`, which the caller has seen to fit. End it with `charge(cost, need)`."""
        if self._names:
            self._hold(add, need)

    def _hold(self, change: Callable[[Cost, Cost], Cost], need: Cost) -> None:
        """Change what is held, here and in every account that pays for this one."""
        account: Account | None = self
        while account is not None:
            if account._limits:  # no one looks at what others hold
                account.held = change(account.held, need)
            account = None if account._grant is not None else account._parent

    def charge(self, cost: Cost, reserved: Cost = ZERO) -> None:
        """Book what a call really cost, here and in every account that pays for this one, and let its reservation go."""
        self.chain += cost.critical_tokens
        self._book(cost, reserved)

    def _book(self, cost: Cost, reserved: Cost) -> None:
        if self._names and reserved is not ZERO:
            self._hold(sub, reserved)
        account: Account | None = self
        while account is not None:
            account.spent += cost
            account = None if account._grant is not None else account._parent

    def join(self, children: list[Account]) -> None:
        """After a fan-out: the chain goes on from the longest of its branches."""
        self.chain = max([self.chain, *(child.chain for child in children)])

    @property
    def cost(self) -> Cost:
        """What was spent here so far (seconds: see `Scope.cost`)."""
        return self.spent._replace(critical_tokens=self.chain - self.start)
