"""What is measured of the memory with the largest margin: margin and gap, scores, active competitors, spectrum."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments._sweep import sweep
from jaxspec.memory import Associations, hebbian, max_margin, sample_associations, scores, spectrum


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
    """Finds the memory with the largest margin and measures it; n traced."""

    gap_tol: float = 1e-3

    def __call__(self, a: Associations) -> Optimum:
        """The measurements on these associations."""
        found = max_margin(a, gap_tol=self.gap_tol)
        rule = hebbian(a)
        correct, simple = (scores(W, a)[0] * W.shape[0] / jnp.linalg.norm(W) for W in (found.W, rule))
        spectral = spectrum(found.W)
        active = jnp.mean(jnp.sum(found.multipliers > 0, axis=1))
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


def optima(seed: int, p: int, d: int, law: tuple[str, str], seeds: int, gap_tol: float = 1e-3) -> Optimum:
    """Measurements on `draws`.

    Args:
        seed: of the draws.
        p: number of pairs.
        d: dimension.
        law: model and embedding.
        seeds: number of draws.
        gap_tol: relative gap to stop at.

    Returns:
        The measurements, NumPy arrays with a leading axis of draws.
    """
    return sweep(Measure(gap_tol), draws(seed, p, d, law, seeds))


def size_at(load: float, critical: float) -> int:
    """Number of pairs at a fraction of the capacity."""
    return int(np.rint(load * critical))
