"""Panels that several parts of this paper measure: a generator with known effects, correlated errors, a real panel.

``A0 = X Z^T`` with X, Z uniform on (-1, 1) and the first column of Z equal to 1; ``A1`` the same with the first column
x of X replaced by ``2 x + 1/2``, so that unit i has the effect ``x_i + 1/2`` in every period.
"""

import csv
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

DATA = Path(__file__).parent / "data"
FIRST_YEAR_OF_TREATMENT = 1989
WIDTH = 3


class Design(NamedTuple):
    """Law of a panel; all but the shape may be traced.

    Attributes:
        shape: units and periods (static).
        rank: of either arm, at most 3; 0: no signal at all.
        sigma: standard deviation of the errors.
        within: whether the probability of treatment varies within a unit, with the product of the second factors of
            unit and period, which is part of the outcome; else it depends on the unit's first factor.
        low: smallest probability of treatment.
        high: largest.
        spell: consecutive periods that share their treatment status; for propensities of units (static).
    """

    shape: tuple[int, int]
    rank: Any = 2
    sigma: Any = 0.5
    within: Any = False
    low: Any = 0.35
    high: Any = 0.65
    spell: int = 1


class Panel(NamedTuple):
    """A panel with its truth.

    Attributes:
        Y: outcomes, (n, m).
        D: treatment, (n, m).
        A0: expected outcomes without treatment, (n, m).
        A1: with treatment, (n, m).
        p: probability of treatment, (n, m).
    """

    Y: Float[Array, "n m"]
    D: Bool[Array, "n m"]
    A0: Float[Array, "n m"]
    A1: Float[Array, "n m"]
    p: Float[Array, "n m"]

    @property
    def tau(self) -> Float[Array, " n"]:
        """Effect of every unit."""
        return jnp.mean(self.A1 - self.A0, axis=1)


def draw(key: PRNGKeyArray, design: Design, errors: Float[Array, "n m"] | None = None) -> Panel:
    """A panel of the generator; traceable.

    Args:
        key: randomness.
        design: the law.
        errors: in units of ``sigma``; None: standard normal.

    Returns:
        The panel.
    """
    n, m = design.shape
    units, periods, treated, noise = jax.random.split(key, 4)
    x = jax.random.uniform(units, (n, WIDTH), minval=-1.0)
    z = jax.random.uniform(periods, (m, WIDTH), minval=-1.0).at[:, 0].set(1.0)
    p = probabilities(x, z, design)
    A0 = (x * (jnp.arange(WIDTH) < design.rank)) @ z.T
    A1 = A0 + jnp.where(jnp.asarray(design.rank) > 0, x[:, :1] + 0.5, 0)
    levels = jax.random.uniform(treated, (n, -(-m // design.spell)))
    D = jnp.repeat(levels, design.spell, axis=1)[:, :m] < p
    errors = jax.random.normal(noise, (n, m)) if errors is None else errors
    return Panel(jnp.where(D, A1, A0) + design.sigma * errors, D, A0, A1, p)


def probabilities(x: Float[Array, "n k"], z: Float[Array, "m k"], design: Design) -> Float[Array, "n m"]:
    """Of treatment, for given factors of units and periods."""
    index = jnp.where(design.within, jnp.outer(x[:, 1], z[:, 1]), x[:, :1])
    return design.low + (design.high - design.low) * (index + 1) / 2


def adopted(
    key: PRNGKeyArray, shape: tuple[int, int], sigma: float, missing: float, switching: Bool[Array, ""]
) -> tuple[Panel, Bool[Array, "n m"]]:
    """A panel of rank 3 around 20 whose units adopt the treatment earlier the larger their first factor u.

    ``A0 = 20 + 3 u + 2 sin(j / 6) + u v^T``, effects ``2 + .8 u``; adoption at ``m (1 - u / 4 + N / 4) / 2``, a quarter
    of the units never. Beside it the same with a treatment that switches at random, more often for units of large u.

    Args:
        key: randomness.
        shape: units and periods (static).
        sigma: standard deviation of the errors.
        missing: share of the outcomes that are not observed.
        switching: whether the treatment switches.

    Returns:
        The panel and the mask of observed outcomes.
    """
    n, m = shape
    units, periods, when, treated, noise, hidden = jax.random.split(key, 6)
    u, v = jax.random.normal(units, (n, 2)), jax.random.normal(periods, (m, 2))
    A0 = 20 + 3 * u[:, :1] + 2 * jnp.sin(jnp.arange(m) / 6) + u @ v.T
    A1 = A0 + 2 + 0.8 * u[:, :1]
    start = jnp.round(m / 2 - m / 8 * (u[:, 0] + jax.random.normal(when, (n,))))
    start = jnp.where(jnp.arange(n) < n // 4, m, jnp.clip(start, m // 8, m - 4))
    p = jnp.clip(0.45 + 0.2 * u[:, :1] + 0.1 * jnp.sin(jnp.arange(m) / 5), 0.1, 0.9)
    D = jnp.where(switching, jax.random.uniform(treated, shape) < p, jnp.arange(m) >= start[:, None])
    Y = jnp.where(D, A1, A0) + sigma * jax.random.normal(noise, shape)
    return Panel(Y, D, A0, A1, p), jax.random.bernoulli(hidden, 1 - missing, shape)


def autoregressive(key: PRNGKeyArray, shape: tuple[int, int], rho: float) -> Float[Array, "n m"]:
    """Standard normal errors with correlation ``rho^lag`` over time."""
    fresh = jax.random.normal(key, shape[::-1])

    def step(last: Array, new: Array) -> tuple[Array, Array]:
        now = rho * last + (1 - rho**2) ** 0.5 * new
        return now, now

    _, later = jax.lax.scan(step, fresh[0], fresh[1:])
    return jnp.concatenate([fresh[:1], later]).T


def row_errors(estimate: Float[Array, "n m"], panel: Panel) -> Float[Array, " n"]:
    """Root mean square error of every row of the effect matrix."""
    return jnp.sqrt(jnp.mean((estimate - (panel.A1 - panel.A0)) ** 2, axis=1))


def proposition_99() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Cigarette sales per head, the treatment, and the states: 39 states by 1970-2000, California treated from 1989."""
    with open(DATA / "california_prop99.csv", newline="") as file:
        header, *rows = csv.reader(file)
    table = np.asarray(rows, dtype=float)
    states = header[1:]
    Y = table[:, 1:].T
    late = table[:, 0] >= FIRST_YEAR_OF_TREATMENT
    return Y, (np.asarray(states) == "California")[:, None] & late, states
