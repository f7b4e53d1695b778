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
    """Several draws, stacked.

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


def optima(a: Associations, n: int, gap_tol: float = 1e-3) -> Optimum:
    """Measurements on the first n pairs of several draws; another n is measured by the same program.

    Args:
        a: associations with a leading axis of draws.
        n: number of pairs that count.
        gap_tol: relative gap to stop at.

    Returns:
        The measurements, NumPy arrays with a leading axis of draws.
    """
    return sweep(Measure(gap_tol), a, np.full(len(a.x), n))


def both_models(a: Associations) -> dict[str, Associations]:
    """The decoupled draws, and the original ones of the same keys and values.

    Args:
        a: decoupled associations.

    Returns:
        The associations by the name of the model.
    """
    return {"original": a._replace(competitors=None), "decoupled": a}


@dataclass(frozen=True)
class Feasible:
    """Whether the first n pairs are certified feasible."""

    def __call__(self, a: Associations, n: jax.Array) -> jax.Array:
        """The answer."""
        return check_feasible(a, n=n).status == 1


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
