"""Intervals and areas equal what counting says."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from forethought.bench.stats import area_under_curve, covered


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=40))
def test_the_area_is_the_share_of_pairs_in_order(steps: list[tuple[bool, int]]) -> None:
    good, bad = [s for right, s in steps if right], [s for right, s in steps if not right]
    area = area_under_curve([right for right, _ in steps], [s for _, s in steps])
    if not good or not bad:
        assert math.isnan(area)
        return
    above = sum((g > b) + 0.5 * (g == b) for g in good for b in bad)
    assert math.isclose(area, above / (len(good) * len(bad)), abs_tol=1e-12)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9))))
def test_intervals_cover_what_any_of_them_covers(spans: list[tuple[int, int]]) -> None:
    seconds = {second for begin, length in spans for second in range(begin, begin + length)}
    assert covered([(begin, begin + length) for begin, length in spans]) == len(seconds)
