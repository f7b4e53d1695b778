"""Effects of units with intervals, and averages of them with standard errors, from one fit of both arms."""

import warnings
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxspec.completion import validation
from jaxspec.completion.panel import inputs
from jaxspec.completion.panel.covariance import error_sizes, serial_correlation, unit_variances, variance
from jaxspec.completion.panel.design import Design, influence
from jaxspec.completion.panel.inputs import Number, Numbers, Panel, Rank, Static
from jaxspec.completion.panel.refine import degrees_of_freedom
from jaxspec.completion.panel.result import PanelEffects, PanelFit
from jaxspec.completion.panel.spectral import ArmsFit, fit_arms, panel_fit
from jaxspec.completion.panel.student import two_sided_quantile
from jaxspec.completion.scaled import data_scale

LEAST_RATIO = 2.0
ARMS = ("untreated", "treated")


def panel_effects(
    Y: Any,
    D: Any,
    *,
    rank: Rank = "flip",
    observed: Any = None,
    propensity: Any = "row",
    propensity_rank: int = 2,
    center: str | None = None,
    refine: int = 2,
    tol: Number | None = None,
    max_refine: int = 200,
    clip: Number = 0.05,
    rank_max: int = 8,
    gap_threshold: Number | None = None,
    key: PRNGKeyArray | None = None,
    sign_block: int = 1,
    start: str = "auto",
    se: str = "heteroskedastic",
    cov: str = "independent",
    block: int | None = None,
    level: Number = 0.95,
    groups: Any = None,
    weights: Any = None,
    anticipation: int = 0,
    periods: str = "all",
    validate: bool = True,
) -> PanelEffects:
    r"""``tau_i = mean_j (A(1) - A(0))_ij`` for every unit, with intervals, and averages: ATE, ATT, event study, CATE.

    The fit is that of `row_scaled_spectral` with refinement. Standard errors hold the fitted factors' own error to
    first order and assume errors independent over units and, unless ``cov="block"``, over time. They know no bias: a
    rank too small, or a treatment that depends on the errors, is not in them. The intervals of units are Student's; in
    small panels with weak overlap averages are covered less than nominally (measured .89 and .85 at 95%, 40 x 80 with
    propensities .15 to .85, normal quantiles).

    Warns, where nothing is traced, of overlap below 1, fewer than 2 cells per degree of freedom, a rank at its ceiling
    and units that are not identified. ATT and event study rest on the untreated arm only.

    Args:
        Y: as in `row_scaled_spectral`.
        D: as there.
        rank: as there.
        observed: as there.
        propensity: as there.
        propensity_rank: as there.
        center: as there.
        refine: as there, but 2; 0 is the paper's estimator, which has no standard errors: they are NaN.
        tol: as there.
        max_refine: as there.
        clip: as there.
        rank_max: as there.
        gap_threshold: as there.
        key: as there.
        sign_block: as there.
        start: as there, but ``"auto"``.
        se: ``"heteroskedastic"``: one error variance per unit, or ``"homoskedastic"``: one per arm (static).
        cov: ``"independent"`` over time, or ``"block"``: errors of a unit correlated up to ``block`` periods, see
            `covariance` (static).
        block: periods of a block (static); None: ``ceil(2 m^(1/2))``, at most a third of m.
        level: probability of coverage of the intervals, in (0, 1).
        groups: group of each unit, integers from 0, (n,), -1: in none; None: no groups.
        weights: of the units in the averages, not negative, (n,); None: equal.
        anticipation: periods before each start of treatment in which units may react already; their cells count in
            neither arm and are predicted (static).
        periods: over which ``tau``, ATE and groups average (static): ``"all"``, or ``"overlap"``: those in which both
            arms have at least ``max(1, rank)`` cells, so that nothing is extrapolated to periods without an arm (as
            staggered adoption has at its beginning).
        validate: as in `row_scaled_spectral` (static).

    Returns:
        The effects.

    Raises:
        ValueError: for bad input, naming the argument, the value and what was expected.
        TypeError: for complex outcomes.

    Example:
        >>> import jax.numpy as jnp
        >>> i, j = jnp.arange(12.0)[:, None], jnp.arange(16)
        >>> D = (i * i + 3 * j * j + i * j) % 7 < 3
        >>> effects = panel_effects(1 + i + 2.0 * D, D, rank=1, refine=10)
        >>> round(float(effects.ate), 2)
        2.0
    """
    data = inputs.panel(Y, D, observed, validate=validate)
    static, numbers = inputs.options(
        data,
        rank=rank,
        propensity=propensity,
        propensity_rank=propensity_rank,
        center=center,
        refine=refine,
        tol=tol,
        max_refine=max_refine,
        clip=clip,
        rank_max=rank_max,
        gap_threshold=gap_threshold,
        key=key,
        sign_block=sign_block,
        start=start,
    )
    report = _report(data, se=se, cov=cov, block=block, anticipation=anticipation, periods=periods)
    labels, count = _groups(groups, data.Y.shape[0])
    asked = Asked(_level(level, data.Y.dtype), labels, _weights(weights, data.Y))
    effects = _effects(data, numbers, asked, static, report._replace(groups=count))
    warn_of(effects.fit)
    return effects


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


def _report(data: Panel, *, se: str, cov: str, block: int | None, anticipation: int, periods: str) -> Report:
    m = data.Y.shape[1]
    if se not in ("heteroskedastic", "homoskedastic"):
        raise ValueError(f"se must be 'heteroskedastic' or 'homoskedastic', got {se!r}")
    if cov not in ("independent", "block"):
        raise ValueError(f"cov must be 'independent' or 'block', got {cov!r}")
    if block is not None and cov != "block":
        raise ValueError(f"block is for cov='block', got block={block} with cov={cov!r}")
    block = max(min(int(np.ceil(2 * m**0.5)), m // 3), 1) if block is None else block
    if isinstance(block, bool) or not isinstance(block, int) or not 1 <= block <= m:
        raise ValueError(f"block must be an integer from 1 to {m}, the number of periods, got {block!r}")
    if isinstance(anticipation, bool) or not isinstance(anticipation, int) or anticipation < 0:
        raise ValueError(f"anticipation must be an integer >= 0, got {anticipation!r}")
    if periods not in ("all", "overlap"):
        raise ValueError(f"periods must be 'all' or 'overlap', got {periods!r}")
    return Report(se == "homoskedastic", block if cov == "block" else 0, 0, anticipation, periods == "overlap")


def _level(level: Any, dtype: Any) -> Array:
    if validation.is_concrete(level) and not 0 < float(level) < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    return jnp.asarray(level, dtype)


def _groups(groups: Any, n: int) -> tuple[Array, int]:
    if groups is None:
        return jnp.full(n, -1), 0
    if not validation.is_concrete(groups):
        raise ValueError("groups must be known when the program is traced: their number is a shape")
    labels = np.asarray(groups)
    if labels.shape != (n,):
        raise ValueError(f"groups must have one entry for each of the {n} units, got shape {labels.shape}")
    if labels.dtype.kind not in "iu" or labels.min() < -1:
        raise ValueError("groups must be integers from 0, or -1 for a unit in none")
    return jnp.asarray(labels), int(labels.max()) + 1


def _weights(weights: Any, Y: Array) -> Array:
    n = Y.shape[0]
    if weights is None:
        return jnp.ones(n, Y.dtype)
    weights = jnp.asarray(weights, Y.dtype)
    if weights.shape != (n,):
        raise ValueError(f"weights must have one entry for each of the {n} units, got shape {weights.shape}")
    good = jnp.isfinite(weights) & (weights >= 0)
    return validation.checked(weights, good, "weights must be non-negative and finite")


def warn_of(fit: PanelFit, *, arms: tuple[int, ...] = (0, 1)) -> None:
    """Python warnings for what a fit cannot answer; silent under a trace.

    Args:
        fit: the fit.
        arms: of which to speak.
    """
    if not validation.is_concrete(*fit) or fit.tau.ndim != 1:
        return
    texts = []
    lost = int(np.sum(~np.asarray(fit.identified)))
    if lost and len(arms) == 2:
        texts.append(f"{lost} of {fit.tau.size} units have no cell in one of the arms: their effects are NaN")
    for arm in arms:
        overlap, ratio, name = float(fit.overlap[arm]), float(fit.ratio[arm]), ARMS[arm]
        if overlap < 1:
            texts.append(
                f"overlap of the {name} arm is {overlap:.3g}: the rest of its cells lie in rows or columns about which "
                "it has too little data, and effects there are extrapolated"
            )
        if ratio < LEAST_RATIO:
            texts.append(
                f"the {name} arm has {ratio:.3g} cells per degree of freedom (ratio): its fit is weakly determined"
            )
        if bool(fit.at_rank_max[arm]):
            texts.append(
                f"the rank of the {name} arm is {int(fit.rank[arm])}, the ceiling of the choice: serial correlation "
                "can cause this (sign_block), or rank_max is too small"
            )
    for text in texts:
        warnings.warn(text, UserWarning, stacklevel=3)


@eqx.filter_jit
def _effects(data: Panel, numbers: Numbers, asked: Asked, static: Static, report: Report) -> PanelEffects:
    scale = data_scale(data.Y, data.observed)
    Y, W = data.Y / scale, data.arms()
    if report.anticipation:
        W = W.at[0].set(W[0] & ~before_starts(data.D, report.anticipation))
    fitted = fit_arms(Y, data.observed, W, numbers, scale, static)
    fit = panel_fit(fitted, scale, static)
    study = Study(Y, data.D, data.observed, fitted, static.center, report)
    shares = _period_weights(fitted, report.overlap)
    A0, A1 = fitted.outcomes()
    tau = jnp.where(fit.identified, (A1 - A0) @ shares, jnp.nan)
    se, df, averages = _uncertainty(study, tau, shares, asked)
    if static.sweeps == 0:
        nan = jnp.full_like(se, jnp.nan)
        se, df = nan, nan
        averages = {
            name: jnp.full_like(value, jnp.nan) if name.endswith("_se") else value for name, value in averages.items()
        }
    se = se * scale
    quantile = two_sided_quantile(jnp.full_like(df, asked.level), df)
    # A standard error of 0 is one of 0 at any number of degrees of freedom.
    half = jnp.where(se == 0, 0, quantile * se)
    counts = averages.pop("event_count")
    values = {name: value * scale for name, value in averages.items()}
    m = Y.shape[1]
    return PanelEffects(
        fit=fit,
        tau=tau * scale,
        se=se,
        df=df,
        ci_low=tau * scale - half,
        ci_high=tau * scale + half,
        event_count=counts,
        lags=jnp.arange(-(m - 1), m),
        **values,
    )


def _period_weights(fitted: ArmsFit, overlap: bool) -> Float[Array, " m"]:
    """Weights of the periods in the effects of units, with sum 1; NaN if no period counts."""
    dtype, m = fitted.sigma2.dtype, fitted.arms.W.shape[-1]
    if not overlap:
        return jnp.full(m, 1 / m, dtype)
    enough = jnp.sum(fitted.arms.W, axis=1) >= jnp.maximum(fitted.rank, 1)[:, None]
    both = jnp.all(enough, axis=0)
    return jnp.where(jnp.any(both), both / jnp.maximum(jnp.sum(both), 1).astype(dtype), jnp.nan)


def before_starts(D: Bool[Array, "n m"], periods: int) -> Bool[Array, "n m"]:
    """Cells within so many periods before a start of treatment.

    Args:
        D: treatment.
        periods: at least 1 (static).

    Returns:
        The cells.
    """
    soon = jnp.zeros_like(D)
    for lead in range(1, min(periods, D.shape[1] - 1) + 1):
        soon = soon.at[:, :-lead].set(soon[:, :-lead] | D[:, lead:])
    return soon & ~D


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


def _uncertainty(study: Study, tau: Array, periods: Array, asked: Asked) -> tuple[Array, Array, dict[str, Array]]:
    """Standard errors and degrees of freedom of the units, and all averages."""
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
