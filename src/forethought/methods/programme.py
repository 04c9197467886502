"""Which leaves of a tree to keep, as an integer programme (Hooper et al. 2025), and which texts are alike. Needs scipy."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from forethought.core.draft import Draft
from forethought.core.errors import ForethoughtError, UsageError

FREE = (
    -1e-4
)  # the price of all nodes where they cost nothing: then as many as possible are kept, as in the released code


def installed() -> None:
    """Refuse to begin what could not be finished."""
    if importlib.util.find_spec("scipy") is None:
        raise UsageError("ets needs scipy: pip install 'forethought[search]'")


def likeness(texts: Sequence[str], cut: float) -> list[int]:
    """Cluster numbers from 0: texts by the counts of their words, numbers and signs (average linkage, cosine distance)."""
    from scipy.cluster.hierarchy import fcluster, linkage

    counts = [Counter(re.findall(r"\w+|[^\w\s]", text.casefold())) for text in texts]
    columns = sorted(set().union(*counts))
    table = np.array([[1e-9, *(count[word] for word in columns)] for count in counts])  # no row without a direction
    if len(np.unique(table, axis=0)) == 1:
        return [0] * len(texts)
    labels = fcluster(linkage(table, method="average", metric="cosine"), cut, criterion="distance")
    return [int(label) - 1 for label in labels]


def kept(
    leaves: Sequence[Draft], shares: Sequence[float], near: Sequence[int], cost: float, coverage: float
) -> list[bool]:
    """Which leaves x to keep: most of shares . x - cost * (nodes kept / nodes) + coverage * (clusters met / clusters).

    A node above a leaf that is kept is kept; at least one leaf is. `near` are the leaves' clusters, numbered from 0. Where all
    are alike the last term is left out.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    above = list(dict.fromkeys(d for leaf in leaves for d in [*leaf.lineage()][1:]))
    clusters = len(set(near)) if len(set(near)) > 1 else 0
    n, nodes = len(leaves), len(leaves) + len(above)
    gains = np.zeros(nodes + clusters)
    gains[:n] = shares
    gains[:nodes] -= (cost or FREE) / nodes
    gains[nodes:] = coverage / max(clusters, 1)
    rows = [dict.fromkeys(range(n), 1), *edges(leaves, above), *covers(near, nodes, clusters)]
    entries = [(r, column, value) for r, row in enumerate(rows) for column, value in row.items()]
    at, columns, values = (list(part) for part in zip(*entries, strict=True))
    table = coo_array((values, (at, columns)), shape=(len(rows), len(gains))).tocsr()
    least = [1.0] + [0.0] * (len(rows) - 1)
    whole = np.ones(len(gains))
    exact = {"mip_rel_gap": 0.0}
    found = milp(
        -gains, integrality=whole, bounds=Bounds(0, 1), constraints=LinearConstraint(table, least), options=exact
    )
    if found.x is None:
        raise ForethoughtError(f"ets: the integer programme was not solved: {found.message}")
    return [bool(x > 0.5) for x in found.x[:n]]


def edges(leaves: Sequence[Draft], above: Sequence[Draft]) -> Iterator[dict[int, int]]:
    """A row an edge: the upper node is kept if the lower is. One that is above nothing kept is never worth its price."""
    number = {id(draft): i for i, draft in enumerate(above, len(leaves))}
    for column, draft in enumerate([*leaves, *above]):
        if draft.parent is not None:
            yield {number[id(draft.parent)]: 1, column: -1}


def covers(near: Sequence[int], nodes: int, clusters: int) -> Iterator[dict[int, int]]:
    """A row a cluster: it is met only if one of its leaves is kept."""
    for k in range(clusters):
        yield {**{i: 1 for i, cluster in enumerate(near) if cluster == k}, nodes + k: -1}
