"""What is measured of the memory with the largest margin: margin and gap, scores, active competitors, spectrum."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments._sweep import sweep
from jaxspec.memory import Associations, check_feasible, hebbian, max_margin, sample_associations, scores, spectrum


class Optimum(NamedTuple):
    """Measurements on one draw (or, stacked, on several).

    Attributes:
        lower: margin of the memory found.
        upper: certified upper bound of the largest margin.
        correct: correct scores of the memory with ``||W||_F = d``, (p,).
        hebbian: those of the Hebbian memory, (p,).
        active: competitors with a positive multiplier, mean over rows.
        s: singular values over ``sqrt d``, (d,).
        m4: mean of ``s^4``.
        ks: distance to the quarter circle.
    """

    lower: Any
    upper: Any
    correct: Any
    hebbian: Any
    active: Any
    s: Any
    m4: Any
    ks: Any


@dataclass(frozen=True)
class Measure:
    """Finds the memory with the largest margin and measures it."""

    gap_tol: float = 1e-3

    def __call__(self, a: Associations, n: jax.Array) -> Optimum:
        """The measurements on the first n pairs; scores of the others are NaN."""
        found = max_margin(a, n=n, gap_tol=self.gap_tol)
        counts = jnp.arange(len(a.x)) < n
        rule = hebbian(a._replace(x=a.x * counts[:, None]))
        correct, simple = (scores(W, a)[0] * W.shape[0] / jnp.linalg.norm(W) for W in (found.W, rule))
        spectral = spectrum(found.W)
        correct, simple = (jnp.where(counts, value, jnp.nan) for value in (correct, simple))
        active = jnp.sum(found.multipliers > 0) / n
        return Optimum(found.lower, found.upper, correct, simple, active, spectral.s, spectral.m4, spectral.ks)


def draws(seed: int, p: int, d: int, law: tuple[str, str], seeds: int) -> Associations:
    """Several draws, stacked; under the same seed both models share their keys and values.

    Args:
        seed: of the draws.
        p: number of pairs.
        d: dimension.
        law: model and embedding.
        seeds: number of draws.

    Returns:
        The associations, with a leading axis.
    """
    model, embedding = law
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), d), seeds)
    found = [sample_associations(key, p, d, model=model, embedding=embedding) for key in keys]
    return jax.tree.map(lambda *v: jnp.stack(v), *found)


def optima(seed: int, n: int, p: int, d: int, law: tuple[str, str], seeds: int, gap_tol: float = 1e-3) -> Optimum:
    """Measurements on the first n pairs of `draws`; another n of the same p is measured by the same program.

    Args:
        seed: of the draws.
        n: number of pairs that count.
        p: number of pairs drawn.
        d: dimension.
        law: model and embedding.
        seeds: number of draws.
        gap_tol: relative gap to stop at.

    Returns:
        The measurements, NumPy arrays with a leading axis of draws.
    """
    return sweep(Measure(gap_tol), draws(seed, p, d, law, seeds), np.full(seeds, n))


class Capacities(NamedTuple):
    """Capacities of several draws.

    Attributes:
        low: largest n certified feasible.
        high: smallest n certified infeasible, or one more than the pairs drawn.
        undecided: calls without an answer.
        calls: all calls.
    """

    low: np.ndarray
    high: np.ndarray
    undecided: np.ndarray
    calls: np.ndarray


@dataclass(frozen=True)
class Status:
    """Whether the first n pairs are certified feasible (1), infeasible (-1), or neither (0)."""

    def __call__(self, a: Associations, n: jax.Array) -> jax.Array:
        """The status."""
        return check_feasible(a, n=n).status


def capacities(a: Associations) -> Capacities:
    """Bisection of the number of leading pairs that one memory recalls, draw by draw; undecided calls count apart.

    Args:
        a: associations with a leading axis of draws.

    Returns:
        The capacities.
    """
    seeds, p = a.x.shape[:2]
    low, high, counts = np.full(seeds, 1), np.full(seeds, p + 1), np.zeros((2, seeds), int)

    def answer(n: np.ndarray) -> np.ndarray:
        nonlocal low, high
        status, open_ = sweep(Status(), a, np.clip(n, 2, p)), n > 1
        low = np.where((status == 1) & open_, np.maximum(low, n), low)
        high = np.where((status == -1) & open_, np.minimum(high, n), high)
        counts[0] += open_
        counts[1] += (status == 0) & open_
        return (status == 1) | ~open_

    bisected(answer, low, high)
    return Capacities(low, high, counts[1], counts[0])


def bisected(answer: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Largest n with a positive answer, entry by entry, as far as bisection finds it.

    Args:
        answer: n, shape (S,) -> booleans.
        low: taken for positive.
        high: taken for negative.

    Returns:
        The largest n.
    """
    while np.any(high - low > 1):
        middle = np.maximum((low + high) // 2, low)
        yes = answer(middle)
        low, high = np.where(yes, middle, low), np.where(yes, high, np.maximum(middle, low + 1))
    return low


def size_at(load: float, critical: float) -> int:
    """Number of pairs at a fraction of the capacity."""
    return int(np.rint(load * critical))
