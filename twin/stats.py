"""A mean over seeds and how far it may be off: Student's t, without a library of statistics; numbers for JSON."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A mean, and half the width of its confidence interval: None where one value says nothing of the spread."""

    mean: float
    half: float | None


def estimate(values: Sequence[float], confidence: float) -> Estimate:
    """The mean of independent values, and mean +- half, which holds the true mean with this probability.

    Exact for normal values (Student's t). A value that is not a number makes both so: nothing is left out.
    """
    sample = np.asarray(values, dtype=float)
    if sample.size < 2:
        return Estimate(float(sample.mean()), None)
    error = float(sample.std(ddof=1)) / math.sqrt(sample.size)
    return Estimate(float(sample.mean()), t_quantile((1.0 + confidence) / 2.0, sample.size - 1) * error)


def t_quantile(probability: float, freedom: int) -> float:
    """The value that Student's t with whole `freedom` >= 1 stays below with this probability, 0.5 to 1.

    Bisection of the closed form in theta = atan(t / sqrt(freedom)): Abramowitz and Stegun, 26.7.3 and 26.7.4.
    Checked by tests/test_budget.py against scipy.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if 0.5 + _within(middle, freedom) / 2 < probability:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)


def _within(theta: float, freedom: int) -> float:
    """Probability that |t| is at most sqrt(freedom) * tan(theta)."""
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = freedom % 2
    term, total = cosine**odd, 0.0
    for power in range(odd, freedom - 1, 2):  # of the cosine
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return 2.0 / math.pi * (theta + sine * total) if odd else sine * total


def plain(what: Any) -> Any:
    """The same for JSON, which has no NaN and no infinity: what is no number becomes None."""
    if isinstance(what, dict):
        return {key: plain(value) for key, value in what.items()}
    if isinstance(what, list | tuple):
        return [plain(value) for value in what]
    return None if isinstance(what, float) and not math.isfinite(what) else what
