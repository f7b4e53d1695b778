"""Standard errors of units, and averages over units and treated cells with theirs: ATE, groups, ATT, event study."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxspec.completion.panel.covariance import error_sizes, serial_correlation, unit_variances, variance
from jaxspec.completion.panel.design import Design, influence
from jaxspec.completion.panel.refine import degrees_of_freedom
from jaxspec.completion.panel.spectral import ArmsFit


class Report(NamedTuple):
    """What is compiled in beyond the fit.

    Attributes:
        homoskedastic: whether all rows of an arm share a variance.
        block: periods of a block; 0: errors independent over time.
        groups: their number.
        anticipation: periods.
        overlap: whether only periods that both arms cover count.
    """

    homoskedastic: bool
    block: int
    groups: int
    anticipation: int
    overlap: bool


class Asked(NamedTuple):
    """Numbers beyond the fit.

    Attributes:
        level: of the intervals.
        groups: of the units, (n,).
        weights: of the units, (n,).
    """

    level: Float[Array, ""]
    groups: Int[Array, " n"]
    weights: Float[Array, " n"]


class Study(NamedTuple):
    """A fit of both arms with its data, in units in which outcomes are about 1.

    Attributes:
        Y: outcomes.
        D: treatment.
        observed: mask.
        fitted: the fits.
        center: of the fit.
        report: options.
    """

    Y: Float[Array, "n m"]
    D: Bool[Array, "n m"]
    observed: Bool[Array, "n m"]
    fitted: ArmsFit
    center: str | None
    report: Report


def uncertainty(
    study: Study, tau: Float[Array, " n"], periods: Float[Array, " m"], asked: Asked
) -> tuple[Float[Array, " n"], Float[Array, " n"], dict[str, Array]]:
    """Standard errors and degrees of freedom of the units, and all averages.

    Args:
        study: the fit.
        tau: effects of units, NaN where not identified.
        periods: weights of the periods in ``tau``.
        asked: weights and groups of units.

    Returns:
        ``(se, df, averages)``, the averages by the names of the fields of `PanelEffects`.
    """
    fitted, W = study.fitted, study.fitted.arms.W
    designs = fitted.designs(study.center, homoskedastic=study.report.homoskedastic)
    correlation = serial_correlation(W, designs, study.report.block) if study.report.block else None
    identified = jnp.isfinite(tau)
    se = jnp.where(identified, jnp.sqrt(unit_variances(W, designs, periods, correlation)), jnp.nan)
    cells = jnp.sum(W, axis=(0, 2)).astype(se.dtype)
    df = cells - jnp.sum(fitted.rank) - 2 * (study.center is not None)
    df = jnp.where(identified, df, jnp.nan)
    noise = Noise(W, designs, _outcome_sizes(study, designs), correlation)
    averages = _unit_averages(study, noise, tau, periods, asked)
    return se, df, averages | _treated_averages(study, noise, asked.weights)


class Noise(NamedTuple):
    """Linear models of both arms and the sizes of the errors.

    Attributes:
        W: cells of both arms.
        designs: of both arms.
        sizes: of the errors of the observed outcomes, (n, m).
        correlation: over time, or None.
    """

    W: Bool[Array, "2 n m"]
    designs: Design
    sizes: Float[Array, "n m"]
    correlation: Float[Array, "m m"] | None

    def arm(self, index: int) -> tuple[Array, Design]:
        """Cells as numbers and linear model of one arm."""
        return self.W[index].astype(self.sizes.dtype), jax.tree.map(lambda x: x[index], self.designs)

    def standard_error(self, psi: Float[Array, "n m"]) -> Float[Array, ""]:
        """Of ``sum psi E`` over the observed outcomes."""
        return jnp.sqrt(jnp.sum(variance(psi * self.sizes, self.correlation)))


def _outcome_sizes(study: Study, designs: Design) -> Float[Array, "n m"]:
    """Error sizes of all observed outcomes; those of the untreated arm where the treated one has no freedom left."""
    arms = study.fitted.arms
    free = jnp.sum(arms.W, axis=(1, 2)) - jax.vmap(degrees_of_freedom)(arms, study.fitted.rank)
    treated = jnp.where(free[1] > 0, designs.variance[1], designs.variance[0])
    sizes = error_sizes(arms.W, designs._replace(variance=jnp.stack([designs.variance[0], treated])))
    # Anticipation cells belong to no arm, yet the event study looks at their outcomes.
    ours = jnp.sqrt(designs.variance[0])[:, None]
    return jnp.where(study.observed & ~arms.W[0] & ~arms.W[1], ours, sizes)


def _unit_averages(study: Study, noise: Noise, tau: Array, periods: Array, asked: Asked) -> dict[str, Array]:
    identified = jnp.isfinite(tau)
    weights = jnp.where(identified, asked.weights, 0)

    def average(chosen: Array) -> tuple[Array, Array]:
        total = jnp.sum(chosen)
        share = chosen / jnp.where(total > 0, total, 1)
        L = share[:, None] * periods
        psi = influence(*noise.arm(1), L) - influence(*noise.arm(0), L)
        value = jnp.where(total > 0, jnp.sum(share * jnp.where(identified, tau, 0)), jnp.nan)
        return value, jnp.where(total > 0, noise.standard_error(psi), jnp.nan)

    names = ("ate", "ate_se"), ("group_effect", "group_se")
    members = jnp.where(asked.groups == jnp.arange(study.report.groups)[:, None], weights, 0)
    # The whole panel is one more group: one program serves all.
    values = jax.lax.map(average, jnp.concatenate([weights[None], members]))
    found = {}
    for (mean, error), rows in zip(names, (0, slice(1, None)), strict=True):
        found |= {mean: values[0][rows], error: values[1][rows]}
    return found


def _treated_averages(study: Study, noise: Noise, weights: Array) -> dict[str, Array]:
    """ATT and event study: means of ``Y - A(0)`` over cells whose row and column the untreated arm knows."""
    untreated = noise.W[0]
    known = jnp.any(untreated, axis=1)[:, None] & jnp.any(untreated, axis=0) & study.observed
    gap = jnp.where(study.observed, study.Y - study.fitted.outcomes()[0], 0)
    lag = lags_of(study.D)
    m = study.Y.shape[1]

    def average(cells: Array) -> tuple[Array, Array, Array]:
        count = jnp.sum(cells)
        chosen = cells * weights[:, None]
        total = jnp.sum(chosen)
        L = chosen / jnp.where(total > 0, total, 1)

        def error() -> Array:
            return noise.standard_error(L - influence(*noise.arm(0), L))

        zero = jnp.zeros((), L.dtype)
        spread = jax.lax.cond(total > 0, error, lambda: zero)
        found = total > 0
        return jnp.where(found, jnp.sum(L * gap), jnp.nan), jnp.where(found, spread, jnp.nan), count

    def at(index: Array) -> tuple[Array, Array, Array]:
        # Number 2m - 1 is the ATT.
        treated = index == 2 * m - 1
        here = (lag == index - (m - 1)) & (study.D | (lag < 0))
        return average(known & jnp.where(treated, study.D, here))

    values, errors, counts = jax.lax.map(at, jnp.arange(2 * m))
    return {
        "att": values[-1],
        "att_se": errors[-1],
        "event_study": values[:-1],
        "event_se": errors[:-1],
        "event_count": counts[:-1].astype(jnp.int32),
    }


def lags_of(D: Bool[Array, "n m"]) -> Int[Array, "n m"]:
    """Periods since the unit's first treatment; m for a unit that is never treated.

    Args:
        D: treatment.

    Returns:
        The lags.
    """
    m = D.shape[1]
    first = jnp.argmax(D, axis=1)[:, None]
    return jnp.where(jnp.any(D, axis=1)[:, None], jnp.arange(m) - first, m)
