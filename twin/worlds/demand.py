"""Laws of demand: how many units come in a slot, and laws that differ from a law by a given distance.

A law is an array of probabilities over 0, 1, 2, ... units. How far a law lies from the nominal one is its
Kullback-Leibler divergence KL(law || nominal) in nats: the ball that a robust operator believes in is made of these.
"""

import math
from collections.abc import Callable
from typing import Annotated, Literal, get_args

import msgspec
import numpy as np
from msgspec import Meta

from twin.errors import ScenarioError

TAIL = 1e-9  # probability beyond the largest count of a Poisson law; the largest count takes it

Kind = Literal["nominal", "more", "less", "bursts", "bursts_and_lulls", "wider"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Deployed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The scenario's table [deployed]: how demand in deployment differs from the nominal law that the seat is told."""

    kind: Annotated[
        Kind,
        Meta(
            description="what differs: more or less of it; bursts of three slots' demand in one; bursts_and_lulls, the "
            "mean unchanged; or wider, by the square of the distance from the mean"
        ),
    ] = "nominal"
    radius: Annotated[
        float,
        Meta(ge=0, le=10, description="by how much: KL divergence of the deployed law from the nominal one, nats"),
    ] = 0.0


def poisson(mean_units: float) -> np.ndarray:
    """The Poisson law as an array: (n_counts,) probabilities of 0, 1, ... up to where less than 1e-9 lies beyond."""
    probability: list[float] = []
    left = 1.0
    while left > TAIL or len(probability) <= mean_units:
        k = len(probability)
        log = -mean_units + (k * math.log(mean_units) if k else 0.0) - math.lgamma(k + 1)
        probability.append(math.exp(log))
        left -= probability[-1]
    probability[-1] += 1.0 - math.fsum(probability)
    return np.array(probability)


def divergence(law: np.ndarray, nominal: np.ndarray) -> float:
    """KL(law || nominal), nats; infinite where the law does what the nominal one never does."""
    on = law > 0.0
    if (nominal[on] <= 0.0).any():
        return math.inf
    return max(float(np.sum(law[on] * np.log(law[on] / nominal[on]))), 0.0)


def differing(nominal: np.ndarray, kind: Kind, radius: float) -> np.ndarray:
    """The law of this kind at KL divergence `radius` from the nominal one.

    nominal  (n_counts,)  probabilities; counts it never has, the result never has

    Returns (n_counts,). Raises ScenarioError where no law of this kind is that far away.
    """
    if kind == "nominal" or radius == 0.0:
        return nominal.copy()
    count = np.arange(nominal.size)
    from_mean = (count - nominal @ count) ** 2
    burst = _three_at_once(nominal)
    idle = np.zeros_like(nominal)
    idle[0] = 1.0
    paths: dict[str, tuple[Callable[[float], np.ndarray], float]] = {
        "more": (lambda t: tilted(nominal, t * count), math.inf),
        "less": (lambda t: tilted(nominal, -t * count), math.inf),
        "wider": (lambda t: tilted(nominal, t * from_mean), math.inf),
        "bursts": (lambda t: (1.0 - t) * nominal + t * burst, 1.0),
        "bursts_and_lulls": (lambda t: (1.0 - t) * nominal + t * (burst + 2.0 * idle) / 3.0, 1.0),
    }
    way, end = paths[kind]
    return at_divergence(nominal, way, radius, end)


def tilted(nominal: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """The law proportional to nominal * exp(exponent): of all laws of its mean exponent the one nearest to nominal."""
    weight = np.where(nominal > 0.0, exponent, -np.inf)
    law = nominal * np.exp(weight - weight.max())
    return law / law.sum()


def at_divergence(
    nominal: np.ndarray, way: Callable[[float], np.ndarray], radius: float, end: float = math.inf
) -> np.ndarray:
    """The law on a way out of the nominal law, way(0) = nominal, that has KL divergence `radius`; by bisection.

    way     of a number from 0 to `end`; the divergence must grow along it

    Raises ScenarioError where the whole way lies nearer, or leads at once to counts that the nominal law never has.
    """
    high = min(1.0, end)
    while divergence(way(high), nominal) < radius:
        if high >= min(end, 1e6):
            raise ScenarioError(f"no such law has KL divergence {radius:g} from the nominal demand; take less")
        high *= 2.0
    low = 0.0
    for _ in range(100):
        middle = (low + high) / 2.0
        low, high = (middle, high) if divergence(way(middle), nominal) < radius else (low, middle)
    if low == 0.0 and math.isinf(divergence(way(high), nominal)):
        raise ScenarioError("such a law has counts that the nominal demand never has: it is infinitely far away")
    return way(low)


def _three_at_once(law: np.ndarray) -> np.ndarray:
    """The law of three slots' demand in one, no more than the largest count."""
    three = np.convolve(np.convolve(law, law), law)
    law = three[: law.size].copy()
    law[-1] += three[law.size :].sum()
    return law
