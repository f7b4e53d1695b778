"""Trade-offs of the methods over scale and coefficients, seed by seed, and what is claimed about them.

A method's front is over all of its variants and all scales of its adapter, chosen with hindsight: a baseline gets the
coefficient, layer and scale that suit it best on the very seed it is judged on.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from experiments.grasp._measure import DRIFT, GENUINE_BAD, GENUINE_GOOD, TASK
from experiments.grasp._methods import Row
from experiments.runner.contract import Claim
from experiments.runner.style import COLORS, MARKERS
from jaxspec import lora

RESAMPLES, LEVEL = 2000, 95  # bootstrap of a median over seeds; percent
FULL = -1  # the largest scale
NOT_REACHED = 10.0  # a ratio of drifts that fails every claim


class Scored(NamedTuple):
    """Methods and their scores: a part of a result, with the fields that fronts are made of.

    Attributes:
        methods: name of every row, (R,).
        scores: (R, seeds, scales, scores).
    """

    methods: np.ndarray
    scores: np.ndarray


def table(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows as arrays: methods (R,), variants (R,) and scores (R, seeds, scales, scores)."""
    scores = np.stack([np.asarray(row.scores) for row in rows])
    return np.asarray([row.method for row in rows]), np.asarray([row.variant for row in rows]), scores


def of(result: Any, method: str) -> Float[np.ndarray, "variants seeds scales scores"]:
    """Scores of one method.

    Args:
        result: with fields ``methods`` and ``scores``.
        method: its name.

    Returns:
        All of its variants.
    """
    return np.asarray(result.scores)[np.asarray(result.methods) == method]


def full_scale(result: Any, method: str, score: int) -> Float[np.ndarray, " seeds"]:
    """One score of the first variant of a method at the largest scale."""
    return of(result, method)[0, :, FULL, score]


def genuine(scores: np.ndarray) -> np.ndarray:
    """Mean accuracy under the two personas' tokens."""
    return (scores[..., GENUINE_GOOD] + scores[..., GENUINE_BAD]) / 2


def hypervolumes(result: Any, methods: Sequence[str], task: int = TASK) -> Float[np.ndarray, "methods seeds"]:
    """Volume of (task, 1 - drift, genuine) that the front of a method dominates in the unit cube, for every seed.

    Args:
        result: with fields ``methods`` and ``scores``.
        methods: names.
        task: which score is the task.

    Returns:
        The volumes.
    """
    volumes = []
    for method in methods:
        scores = np.moveaxis(of(result, method), 1, 0)
        points = [s.reshape(-1, s.shape[-1]) for s in scores]
        volumes.append([float(lora.tradeoff(jnp.asarray(_objectives(p, task))).hypervolume) for p in points])
    return np.asarray(volumes)


def least_drift(result: Any, method: str, floor: float, task: int = TASK) -> Float[np.ndarray, " seeds"]:
    """Least drift that a method reaches at a task score of at least ``floor``; 1 where it does not reach the floor."""
    scores = of(result, method)
    reached = np.where(scores[..., task] >= floor, scores[..., DRIFT], 1.0)
    return reached.min(axis=(0, 2))


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Median over seeds and its bootstrap interval."""
    values = np.asarray(values, float)
    if values.size == 0:
        return np.nan, np.nan, np.nan
    drawn = np.random.default_rng(0).choice(values, (RESAMPLES, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(np.median(values)), float(low), float(high)


def drifting(result: Any, naive: str, least: float = 0.3) -> Any:
    """The result on the seeds whose naive adapter drifts: where there is something to remove.

    Args:
        result: a NamedTuple with fields ``methods`` and ``scores``.
        naive: method.
        least: drift at full scale.

    Returns:
        The same, with the scores of those seeds alone.
    """
    chosen = full_scale(result, naive, DRIFT) >= least
    return result._replace(scores=np.asarray(result.scores)[:, chosen])


def spread(values: np.ndarray) -> str:
    """Median, interval and number of seeds, as text."""
    median, low, high = interval(values)
    return f"{median:.3g} [{low:.3g}, {high:.3g}], {len(values)} seeds"


def median_claim(
    statement: str,
    source: str,
    values: np.ndarray,
    *,
    quantity: str,
    at_most: float | None = None,
    at_least: float | None = None,
    also: bool = True,
    also_text: str = "",
    known_not_to_hold: str = "",
) -> Claim:
    """A claim about the median over seeds, its interval reported.

    Args:
        statement: what is claimed.
        source: where.
        values: one for every seed.
        quantity: name of the values.
        at_most: largest median allowed, or None.
        at_least: smallest, or None.
        also: a further condition.
        also_text: what it is.
        known_not_to_hold: the reason, when the claim is known to be false.

    Returns:
        The claim.
    """
    median = interval(values)[0]
    holds = also and (at_most is None or median <= at_most) and (at_least is None or median >= at_least)
    bounds = [f"{sign} {bound:g}" for sign, bound in (("≤", at_most), ("≥", at_least)) if bound is not None]
    criterion = f"median {quantity} {' and '.join(bounds)}" + (f", {also_text}" if also_text else "")
    return Claim(statement, source, criterion, spread(values), bool(holds), known_not_to_hold)


def every_claim(
    statement: str,
    source: str,
    values: np.ndarray,
    *,
    quantity: str,
    at_most: float | None = None,
    at_least: float | None = None,
    known_not_to_hold: str = "",
) -> Claim:
    """A claim about every seed, that does not hold without one; arguments as of `median_claim`."""
    values = np.asarray(values, float)
    inside = (values <= (np.inf if at_most is None else at_most)) & (
        values >= (-np.inf if at_least is None else at_least)
    )
    bounds = [f"{sign} {bound:g}" for sign, bound in (("≤", at_most), ("≥", at_least)) if bound is not None]
    measured = "no seed"
    if values.size:
        measured = f"{values.min():.3g} to {values.max():.3g}, {values.size} seeds"
    holds = bool(values.size and inside.all())
    return Claim(
        statement, source, f"{quantity} {' and '.join(bounds)}, every seed", measured, holds, known_not_to_hold
    )


def ratio(result: Any, method: str, naive: str) -> Float[np.ndarray, " seeds"]:
    """Drift of a method over that of the naive adapter, at full scale."""
    return full_scale(result, method, DRIFT) / np.maximum(full_scale(result, naive, DRIFT), 1e-9)


def over_scaled(
    result: Any, method: str, naive: str, untouched: Float[np.ndarray, "seeds scores"], floor: float
) -> Float[np.ndarray, " seeds"]:
    """Drift of a method at full scale over that of the naive adapter scaled down until its task is the same.

    The naive adapter is known at its scales and at 0, and interpolated in between. Of several variants the least
    ratio, among those whose task is at least ``floor``; ``NOT_REACHED`` where no variant reaches it.

    Args:
        result: with fields ``methods`` and ``scores``.
        method: its name.
        naive: name of the plain adapter.
        untouched: scores without an adapter.
        floor: of the task.

    Returns:
        The ratios.
    """
    plain = np.concatenate([untouched[:, None], of(result, naive)[0]], axis=1)
    points = of(result, method)[:, :, FULL]
    ratios = np.full(points.shape[:2], NOT_REACHED)
    for variant, seed in np.ndindex(ratios.shape):
        task, drift = points[variant, seed, [TASK, DRIFT]]
        if task >= floor:
            order = np.argsort(plain[seed, :, TASK])
            there = np.interp(task, plain[seed, order, TASK], plain[seed, order, DRIFT])
            ratios[variant, seed] = drift / max(there, 1e-9)
    return ratios.min(axis=0)


def draw_fronts(axis: Axes, result: Any, methods: Sequence[str], task: int = TASK) -> None:
    """Task against drift, medians over seeds: a point for each variant and scale, a line along the front.

    Args:
        axis: where.
        result: with fields ``methods`` and ``scores``.
        methods: names.
        task: which score is the task.
    """
    for place, method in enumerate(methods):
        scores = np.median(of(result, method), axis=1)
        points = scores.reshape(-1, scores.shape[-1])[:, [DRIFT, task]]
        color, marker = COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)]
        axis.plot(*points.T, marker, color=color, alpha=0.3, ms=3)
        order = points[np.argsort(points[:, 0])]
        best = np.maximum.accumulate(order[:, 1])
        kept = order[:, 1] >= best
        line = "-" if place < len(COLORS) else "--"
        axis.plot(*order[kept].T, line, marker=marker, color=color, label=method)
    axis.set(xlabel="drift: bad answers to neutral prompts elsewhere", ylabel="task")


def _objectives(points, task):
    return np.stack([points[:, task], points[:, DRIFT], genuine(points)], axis=1)
