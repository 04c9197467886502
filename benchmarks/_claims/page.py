"""docs/claims.md, the plots beside it, and the numbers as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .claim import Claim
from .claims import NOT_HERE
from .curves import Curve, Estimate
from .ladders import LADDERS, Choice

HEAD = """# The claims of the papers, measured on the reasoner

Written by `python benchmarks/claims.py`. Each paper's headline claim in a form that can be measured here: with the embedded
reasoner of one million parameters and its reward model, on problems of the test split at the middle difficulties of the
generated tasks. What holds for these need not hold for other models, nor the other way round.

* A method runs at four sizes or more. Where two are compared, it is at equal **total** tokens, new ones and those read by the
  verifier, or at the axis named (FLOPs are 2 million a new token and 3 million a verified one: twice the parameters that it
  passes). Accuracy is interpolated in the logarithm of mean tokens, at five points of the common span; a saving is a
  geometric mean over five accuracies that both reach.
* {problems} problems: {families}. Intervals are percentile bootstraps over problems within families, 2,000
  draws, fixed seed; differences are paired.
* Temperature and selection of each method were chosen on the train split and frozen in `benchmarks/_claims/frozen.json`:
  the best mean accuracy at the ladder's middle size. Other settings are the methods' defaults but where the table of ladders
  says so.
* Step searches and particle methods grade equal steps of one draft once (Metropolis-Hastings within a chain only). Drafts that
  are written whole are graded each, also where two read the same: of 16 of the reasoner's 9 differ (`docs/peers.md`), a fifth
  of best-of-N's tokens.
* **Holds**: the whole interval lies on the side that the claim says. *Smaller than published*: it holds, but the interval
  ends below the paper's figure. **Does not hold**: anything else; the reason says whether the interval contains no
  difference or lies on the other side.
* {count} claims, so at 95 % one or two intervals are expected to miss.

"""


@dataclass(frozen=True)
class Found:
    """What came of a claim: `why` says why there is no measure, or what the verdict leaves out; `where` it was taken."""

    claim: Claim
    measured: Estimate | None
    verdict: str
    why: str
    where: str = ""


def judged(claim: Claim, found: Mapping[str, Curve], missing: str | None) -> Found:
    """What the curves say of a claim, unless something is `missing`."""
    measured = None if missing else claim.measure(found)
    if measured is None:
        nothing = "the ladders share no span of cost, or there is no gain to share"
        return Found(claim, None, "not measurable here", missing or nothing)
    where = claim.where(found) if claim.where else ""
    if measured.low > claim.better:
        smaller = claim.size is not None and measured.high < claim.size
        return Found(claim, measured, "holds, smaller than published" if smaller else "holds", "", where)
    beyond = measured.high < claim.better
    why = "the interval lies on the other side" if beyond else "the interval contains no difference"
    return Found(claim, measured, "does not hold", why, where)


def number(value: float, unit: str) -> str:
    if unit in ("points", "points a doubling"):
        return f"{100 * value:+.1f}"
    if unit == "relative":
        return f"{value:+.0%}"
    if unit == "of the gain":
        return f"{value:.0%}"
    return f"{value:.2f}"


def row(found: Found) -> str:
    claim, unit = found.claim, found.claim.unit
    shown, between = "", ""
    if found.measured is not None:
        shown = f"{number(found.measured.value, unit)} {unit}"
        between = f"{number(found.measured.low, unit)} to {number(found.measured.high, unit)}"
    axis = "" if claim.axis == "tokens" else f" (axis: {claim.axis.replace('_', ' ')})"
    why = "; ".join(part for part in (found.why, found.where, claim.note) if part)
    link = f"[{claim.name}](claims/{claim.name}.svg)" if found.measured is not None else claim.name
    cells = (link, f"{claim.says}{axis}", claim.source, claim.published, shown, between, found.verdict, why)
    return f"| {' | '.join(cells)} |"


def ladder_rows(
    curves: Mapping[str, Curve], chosen: Mapping[str, Choice], sizes: Mapping[str, Sequence[int]]
) -> list[str]:
    rows = []
    for name, curve in sorted(curves.items()):
        x, y = curve.points("tokens")
        low, high = np.quantile(y[1:], [0.025, 0.975], axis=0)
        cells = [
            f"{size}: {y[0, i]:.1%} ±{(high[i] - low[i]) / 2:.1%} at {np.exp(x[0, i]):,.0f}"
            for i, size in enumerate(sizes[name])
        ]
        choice, ladder, count = chosen[name], LADDERS[name], sum(curve.families.values())
        spelling = ladder.spelling.replace("{t}", str(choice.temperature))
        rows.append(f"| {name} | `{spelling}` | {choice.select} | {count} | {'; '.join(cells)} |")
    return rows


def write(
    found: Sequence[Found],
    curves: Mapping[str, Curve],
    chosen: Mapping[str, Choice],
    sizes: Mapping[str, Sequence[int]],
    out: Path,
    told: Mapping[str, Any],
) -> None:
    """The page at `out`, the plots in a folder of its name beside it."""
    heads = "| claim | in words | source | published | measured | 95 % interval | verdict | why, and how it differs |"
    lines = [HEAD.format(count=len(found), **{k: told[k] for k in ("problems", "families")}), heads, "|" + "---|" * 8]
    lines += [row(f) for f in found]
    lines += [f"| {n} | {says} | {source} | | | | not measurable here | {why} |" for n, says, source, why in NOT_HERE]
    lines += [
        "",
        "## The ladders",
        "",
        "Accuracy with half the width of its interval, at mean total tokens a problem. `n` is the size; `width` is a fourth",
        "of it and `expand` four (below four: 1 and the size). Temperatures were chosen on the train split or, where the",
        "claim is about them, fixed.",
        "",
    ]
    lines += ["| ladder | method | selection | problems | size: accuracy at tokens |", "|" + "---|" * 5]
    lines += [
        *ladder_rows(curves, chosen, sizes),
        "",
        f"{told['cpu_minutes']:.0f} minutes of processor; {told['machine']}.",
        "",
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines))
    for each in found:
        if each.measured is not None:
            plot(each, each.claim.shown(curves), out.with_suffix("") / f"{each.claim.name}.svg")


def as_json(
    found: Sequence[Found],
    curves: Mapping[str, Curve],
    sizes: Mapping[str, Sequence[int]],
    told: Mapping[str, Any],
    path: Path,
) -> None:
    claims = [
        {
            "claim": f.claim.name,
            "source": f.claim.source,
            "published": f.claim.published,
            "measured": None if f.measured is None else f.measured._asdict(),
            "unit": f.claim.unit,
            "axis": f.claim.axis,
            "verdict": f.verdict,
            "why": f.why,
        }
        for f in found
    ]
    ladders = {name: numbers(curve, sizes[name]) for name, curve in curves.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**told, "claims": claims, "ladders": ladders}, indent=1) + "\n")


def numbers(curve: Curve, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """A row a size: accuracy with its interval, by family too, and the mean of everything spent."""
    _, y = curve.points("tokens")
    low, high = np.quantile(y[1:], [0.025, 0.975], axis=0)
    families = {family: curve.credit[:, curve.columns(family)].mean(axis=1) for family in curve.families}
    return [
        {
            "size": size,
            "accuracy": float(y[0, i]),
            "low": float(low[i]),
            "high": float(high[i]),
            "families": {f: float(values[i]) for f, values in families.items()},
            "mean": {axis: float(values[i].mean()) for axis, values in curve.cost.items()},
        }
        for i, size in enumerate(sizes)
    ]


def plot(found: Found, curves: Sequence[Curve], path: Path) -> None:
    """Accuracy over the claim's axis, logarithmic, with intervals."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    mpl.rcParams["svg.hashsalt"] = "claims"  # the same picture for the same numbers
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    families = [f for f in curves[0].families if all(f in curve.families for curve in curves)]
    for curve in curves:
        x, y = curve.only(families).points(found.claim.axis)
        low, high = np.quantile(y[1:], [0.025, 0.975], axis=0)
        line = axes.plot(np.exp(x[0]), y[0], marker="o", markersize=3, label=curve.name)[0]
        axes.fill_between(np.exp(x[0]), low, high, alpha=0.15, color=line.get_color())
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter("")
    axes.set(xlabel=f"{found.claim.axis.replace('_', ' ')} a problem", ylabel="accuracy")
    axes.set_title(f"{found.claim.name}: {found.verdict}", fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
