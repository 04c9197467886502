"""Tables, bills and trees for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from forethought.core.cost import Cost
from forethought.core.draft import Draft
from forethought.core.population import Population
from forethought.core.registry import Registry, brief
from forethought.methods import By, methods
from forethought.selection import selections
from forethought.solving import Solution

console = Console()


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> Table:
    made = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for name in columns:
        made.add_column(name, overflow="fold")
    for row in rows:
        made.add_row(*(escape(str(cell)) for cell in row))
    return made


def cell(value: object) -> str:
    """A value as people read it."""
    if isinstance(value, list) and value and all(isinstance(item, int) for item in value):
        return f"{value[0]} to {value[-1]}"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return (
        {True: "yes", False: "no", None: "-"}.get(value, str(value)) if isinstance(value, bool | None) else str(value)
    )


def bench_table(rows: Sequence[Mapping[str, Any]], title: str | None = None) -> Table:
    """Accuracy with its interval, and what it cost."""
    made = table(("method", "selection", "accuracy", "95% CI", "tokens", "verifier", "wall s"), [], title)
    for row in rows:
        mark = " (oracle)" if row["oracle"] else ""
        failed = f" ({row['failures']} failed)" if row["failures"] else ""
        cells = (
            short(row["method"]),
            short(row["selection"], selections) + mark,
            f"{row['accuracy']:.1%}{failed}",
            f"{100 * row['low']:.0f} to {row['high']:.0%}",
            f"{row['mean']['new_tokens']:,.0f}",
            f"{row['mean']['verifier_tokens']:,.0f}",
            "-" if row["wall_seconds"] is None else f"{row['wall_seconds']:.1f}",
        )
        made.add_row(*map(escape, cells))
    made.caption = (
        "tokens and verifier tokens are means a problem, the cap counts both; wall s are of all problems together"
    )
    made.caption_justify = "left"
    return made


def short(spelling: str, parts: Registry[Any] = methods) -> str:
    """A spelling as people write it: without what has its default."""
    return brief(parts.parse(spelling))


def bill(cost: Cost) -> str:
    parts = [f"{cost.calls:,} calls", f"{cost.new_tokens:,} new tokens", f"{cost.prompt_tokens:,} prompt tokens"]
    if cost.cached_tokens:
        parts.append(f"({cost.cached_tokens:,} cached)")
    if cost.verifier_calls:
        parts.append(f"{cost.verifier_calls:,} verifier calls, {cost.verifier_tokens:,} verifier tokens")
    if cost.usd:
        parts.append(f"{cost.usd:.4f} USD")
    return ", ".join([*parts, f"{cost.seconds:.2f} s"])


def solution(found: Solution) -> RenderableType:
    lines: list[RenderableType] = []
    if found.answer is None:
        lines.append(Text(f"no answer: {found.notes[0]}", style="bold"))
    else:
        if found.text is not None and found.text.strip() != found.answer:
            lines.append(Text(found.text.rstrip()))
        lines.append(Text(f"\nanswer: {found.answer}   (confidence {found.confidence:.2f})", style="bold"))
    others = [f"{r.answer} {r.probability:.2f}" for r in found.verdict.ranked[1:5]]
    if others:
        lines.append(Text("others: " + ", ".join(others)))
    lines.append(Text(f"bill:   {bill(found.cost)}"))
    default = " (the default)" if found.spec["budget"] == "tokens=16000,seconds=120" else ""
    why = "the budget ended it" if found.stopped == "budget" else "finished"
    lines.append(Text(f"budget: {found.spec['budget']}{default}; {why}"))
    oracle = "   the verifier is an oracle: it looks at the reference" if found.oracle else ""
    lines.append(Text(f"run:    {found.spec['method']}, {found.spec['selection']}, seed {found.seed}{oracle}"))
    if found.recorded:
        lines.append(
            Text(f"note:   recorded as run {found.run}: this is what it answered then, nothing was asked again")
        )
    lines += [Text(f"note:   {note}") for note in found.notes[found.answer is None :]]
    return Group(*lines)


def tree(pop: Population[Draft], by: By, title: str, correct: Mapping[str, bool | None]) -> Tree:
    """The drafts of a population as a tree of steps: shared beginnings are shown once, with their grades."""
    root = Tree(escape(title))
    nodes: dict[tuple[str, ...], Tree] = {(): root}
    for particle in pop:
        lineage = [d for d in particle.state.lineage() if d.new][::-1]
        steps: tuple[str, ...] = ()
        for draft in lineage:
            parent, steps = nodes[steps], (*steps, draft.new)
            if steps not in nodes:
                nodes[steps] = parent.add(label(draft, by, correct.get(draft.text)))
    return root


def label(draft: Draft, by: By, right: bool | None) -> Text:
    made = Text(draft.new.strip().replace("\n", " / "))
    grade = by.value(draft) if by.verifier is not None else None
    if grade is not None:
        made.append(f"  {grade:.2f}", style="green" if grade >= 0.5 else "red")
    if draft.finished:
        made.append({True: "  right", False: "  wrong", None: "  end"}[right], style="bold")
    return made
