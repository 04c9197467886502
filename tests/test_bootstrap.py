"""Intervals: known cases, the coverage they claim, and no chance in them."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought.bench.stats import DRAWS, SEED, interval


def test_known_cases() -> None:
    assert interval([]) == (0.0, 0.0)
    assert interval([1.0] * 50) == (1.0, 1.0)
    assert interval([0.0] * 7) == (0.0, 0.0)
    assert interval([0.25]) == (0.25, 0.25)
    assert (DRAWS, SEED) == (2000, 0)


def test_the_fixed_seed_fixes_the_interval() -> None:
    values = [1.0] * 60 + [0.0] * 40
    assert interval(values) == interval(list(values)) == (0.51, 0.69)


@pytest.mark.parametrize(("right", "of"), [(60, 100), (350, 400), (20, 40)])
def test_it_is_about_as_wide_as_the_normal_one(right: int, of: int) -> None:
    low, high = interval([1.0] * right + [0.0] * (of - right))
    mean = right / of
    half = 1.96 * math.sqrt(mean * (1 - mean) / of)
    assert (low, high) == (pytest.approx(mean - half, abs=0.02), pytest.approx(mean + half, abs=0.02))


def test_a_higher_level_is_wider() -> None:
    values = [1.0, 0.0, 0.5, 1.0, 0.0, 1.0, 1.0, 0.0] * 5
    (a, b), (c, d) = interval(values, 0.8), interval(values, 0.99)
    assert c < a < b < d


def test_it_covers_the_truth_as_often_as_it_says() -> None:
    rng = random.Random(0)
    covered = 0
    for _ in range(200):
        low, high = interval([float(rng.random() < 0.6) for _ in range(60)])
        covered += low <= 0.6 <= high
    assert 0.9 <= covered / 200 <= 0.99


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
@settings(max_examples=40, deadline=None)
def test_the_interval_lies_within_the_values_and_around_the_mean(values: list[float]) -> None:
    low, high = interval(values)
    slack = 1e-12
    assert min(values) - slack <= low <= high <= max(values) + slack
