"""Row-scaled spectral completion: one effect per unit from a panel with unknown propensities.

For each arm ``X(a)_ij = W(a)_ij Y_ij / phat_i(a)`` with ``phat_i(a)`` the row's share of cells in the arm; the paper's
estimator is ``Mhat = X(1)_s - X(0)_s``, the difference of best low-rank approximations. What the paper proves concerns
this one step; the refinement that follows on request is ours.

Reference: Mehrotra, Tran, Vu, Zampetakis, "Improved Guarantees for Heterogeneous Treatment-Effect Estimation via Matrix
Completion", arXiv 2605.30319 (2026).
"""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxspec.completion.panel import arms as panel_arms
from jaxspec.completion.panel import inputs
from jaxspec.completion.panel.arms import Arm, Factors
from jaxspec.completion.panel.design import Design, make_design
from jaxspec.completion.panel.inputs import Number, Numbers, Panel, Rank, Static
from jaxspec.completion.panel.path import path_start
from jaxspec.completion.panel.ranks import flip_rank, gap_rank
from jaxspec.completion.panel.refine import Refined, residual_variance
from jaxspec.completion.panel.refine import refine as refined
from jaxspec.completion.panel.result import PanelFit
from jaxspec.completion.panel.row_errors import one_step_row_errors, refined_row_errors
from jaxspec.completion.scaled import data_scale
from jaxspec.linalg import ordered
from jaxspec.linalg.scaling import safe_divide

FEW = 4.0
THIN = 0.1
UNEVEN = 0.5


def row_scaled_spectral(
    Y: Any,
    D: Any,
    *,
    rank: Rank = "flip",
    observed: Any = None,
    propensity: Any = "row",
    propensity_rank: int = 2,
    center: str | None = None,
    refine: int | None = 0,
    tol: Number | None = None,
    max_refine: int = 200,
    clip: Number = 0.05,
    rank_max: int = 8,
    gap_threshold: Number | None = None,
    key: PRNGKeyArray | None = None,
    sign_block: int = 1,
    start: str = "one_step",
    validate: bool = True,
) -> PanelFit:
    r"""``Mhat = [X(1)]_s - [X(0)]_s`` with ``X(a)_ij = W(a)_ij Y_ij / phat_i(a)``: both outcome matrices of a panel.

    ``refine=0`` is the paper's estimator. Row scaling removes confounding of units (the probability of treatment may
    depend on the unit); if it varies within a row together with the outcome, the one-step estimate is biased like the
    row difference in means: use ``refine`` or ``propensity="low_rank"``. For estimates with standard errors and
    warnings see `panel_effects`. Works on outcomes divided by a power of two next to their size. Not differentiable.

    Args:
        Y: outcomes, units by periods, (n, m); anything where not observed.
        D: treatment, boolean or 0 and 1, (n, m), any on/off pattern.
        rank: ``"flip"`` (sign-flip parallel analysis, see `ranks`), ``"gap"`` (the paper's rule, with
            ``gap_threshold``), an integer, or a pair for the untreated and the treated arm (static).
        observed: where the outcome is observed, (n, m); None: everywhere.
        propensity: ``"row"`` (the paper), ``"low_rank"``, or known probabilities P(D = 1), (n, m), which are multiplied
            by the row's observed share. Known probabilities serve ``tau`` *worse* than ``"row"`` where outcomes are
            large (root mean square error .136 against .082 at n = m = 300): the row share normalises itself.
        propensity_rank: of the low-rank propensity (static).
        center: None (the paper), ``"row"`` or ``"two_way"``: fixed effects fitted on the arm's cells, removed before
            and added back after (static).
        refine: sweeps of alternating ridge least squares, see `refine` (static). None: until a sweep moves each arm by
            less than .01 of its sampling error (``motion``). A fixed number saves sweeps where cells are scattered at
            random, where 2 or 3 are enough; under staggered adoption 2 are far from enough.
        tol: sweep until both arms change by less than this, relatively; takes the place of ``refine``.
        max_refine: sweeps at most with ``tol`` or ``refine=None`` (static); ``converged`` says whether they sufficed.
        clip: smallest probability used, in (0, 1]; not for ``"row"``.
        rank_max: largest rank to choose (static); more than the short side of Y counts as that side.
        gap_threshold: for ``"gap"``: in the units of the singular values of X.
        key: randomness of the sign flips; None: ``jax.random.key(0)``.
        sign_block: consecutive periods that share a sign in the flips (static); about 4 / (1 - rho) for errors whose
            correlation falls like rho^lag, or the choice counts their correlation as rank. At 100 x 100, rho = .8 and
            true rank 2, of 80 arms 76 got rank 8 (the ceiling) with 1; with 20, 39 got 2 and 24 got 3.
        start: of the refinement (static): ``"one_step"``, the paper's estimate; ``"path"``, a convex path of falling
            thresholds, which frees a refinement that is stuck at few cells per degree of freedom, see `path`; or
            ``"auto"``: the path for an arm whose ``ratio`` is below 4, that has less than a tenth of a row's periods,
            or whose share of some period's cells is below half its share of all, as under staggered adoption.
        validate: whether to look at values (static). False for a traced panel that is divided over devices: the
            check's host call and the devices' exchanges can wait for each other on emulated CPU devices.

    Returns:
        The fit. Rows without a cell in one of the arms are not identified and NaN in ``tau`` and ``effect``.

    Raises:
        ValueError: for bad input, naming the argument, the value and what was expected.
        TypeError: for complex outcomes.

    Example:
        >>> import jax.numpy as jnp
        >>> i, j = jnp.arange(12.0)[:, None], jnp.arange(16)
        >>> D = (i * i + 3 * j * j + i * j) % 7 < 3
        >>> row_scaled_spectral(1 + i + 2.0 * D, D, rank=1, refine=20).tau[:3].round(2)
        Array([2., 2., 2.], dtype=float32)

    Reference:
        Mehrotra, Tran, Vu, Zampetakis, arXiv 2605.30319 (2026).
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
    return _fit(data, numbers, static)


@eqx.filter_jit
def _fit(data: Panel, numbers: Numbers, static: Static) -> PanelFit:
    scale = data_scale(data.Y, data.observed)
    Y = data.Y / scale
    return panel_fit(fit_arms(Y, data.observed, data.arms(), numbers, scale, static), scale, static)


class ArmsFit(NamedTuple):
    """Fits of one or both arms, in units in which outcomes are about 1.

    Attributes:
        arms: the cells, with a leading axis.
        factors: of each arm.
        rank: of each arm.
        singular_values: of X.
        phat: probabilities, (a, n, 1) or (a, n, m).
        sigma2: residual variances.
        path: of the rank choice.
        iterations: sweeps.
        change: of the last sweep.
        converged: as in `PanelFit`.
        motion: of the last sweep.
    """

    arms: Arm
    factors: Factors
    rank: Int[Array, " a"]
    singular_values: Float[Array, "a _"]
    phat: Float[Array, "a n _"]
    sigma2: Float[Array, " a"]
    path: Float[Array, "a _"]
    iterations: Int[Array, ""]
    change: Float[Array, " a"]
    converged: Bool[Array, ""]
    motion: Float[Array, " a"]

    def outcomes(self) -> Float[Array, "a n m"]:
        """The estimates, offsets included."""
        return self.factors.product() + self.arms.unit_offset[..., None] + self.arms.time_offset[..., None, :]

    def designs(self, center: str | None, *, homoskedastic: bool = False) -> Design:
        """The linear model around the fit of each arm."""
        make = partial(make_design, center=center, homoskedastic=homoskedastic)
        return jax.vmap(make)(self.arms, self.factors, self.rank)


def fit_arms(
    Y: Float[Array, "n m"],
    observed: Bool[Array, "n m"],
    W: Bool[Array, "a n m"],
    numbers: Numbers,
    scale: Float[Array, ""],
    static: Static,
) -> ArmsFit:
    """The fit of the given arms; traceable, without checks.

    Args:
        Y: outcomes over ``scale``; finite everywhere.
        observed: where they count.
        W: cells of the untreated arm, or of both, with a leading axis of length 1 or 2.
        numbers: checked options.
        scale: of the data, for the gap threshold.
        static: checked options.

    Returns:
        The fits.
    """
    count = len(W)
    arms = jax.vmap(lambda w: panel_arms.make_arm(Y, w, static.center))(W)
    phat = _probabilities(observed, W, numbers, static)
    X = arms.Z / phat
    length = static.rank_max + 1
    kept = min(max(static.width, length), *Y.shape)
    u, s, v = jax.vmap(lambda x: panel_arms.top(x, kept))(X)
    values = jnp.pad(s, ((0, 0), (0, max(length - kept, 0))))[:, :length]
    path = jnp.full((count, length), jnp.nan, Y.dtype)
    if static.choice == "flip":
        waiting = arms._replace(Z=ordered(arms.Z, s))
        rank, path = flip_rank(
            waiting, phat, numbers.key, rank_max=static.width, length=length, block=static.sign_block
        )
    elif static.choice == "gap":
        padded = jnp.pad(s, ((0, 0), (0, 1)))[:, : static.width + 1]
        rank = jax.vmap(gap_rank, (0, None))(padded, numbers.gap_threshold / scale)
    else:
        rank = numbers.ranks[:count]
    cut = slice(0, static.width)
    start = jax.vmap(panel_arms.scaled_factors)(u[:, :, cut], s[:, cut], v[:, :, cut], rank)
    if static.sweeps != 0 and static.start != "one_step" and static.width:
        start = _path(arms, observed, start, rank, static)
    if static.sweeps == 0:
        nan = jnp.full(count, jnp.nan, Y.dtype)
        done = Refined(start, jnp.zeros((), jnp.int32), nan, jnp.array(True), nan)
    else:
        done = refined(arms, start, rank, sweeps=static.sweeps, tol=numbers.tol, max_sweeps=static.max_refine)
    sigma2 = jax.vmap(residual_variance)(arms, done.factors, rank)
    return ArmsFit(arms, done.factors, rank, values, phat, sigma2, path, *done[1:])


def _path(arms: Arm, observed: Bool[Array, "n m"], one_step: Factors, rank: Array, static: Static) -> Factors:
    """The start at the end of the path; with ``"auto"`` only for an arm with few cells in all, a row or a period."""

    def walk() -> Factors:
        waiting = arms._replace(Z=ordered(arms.Z, one_step))
        return jax.vmap(partial(path_start, width=static.width))(waiting, rank)

    if static.start == "path":
        return walk()
    counts = jnp.sum(arms.W, axis=2)
    # The scaled outcomes of a row with few cells outweigh all others, and the leading directions are its own.
    thin = jnp.any((counts > 0) & (counts < THIN * arms.W.shape[2]), axis=1)
    few = thin | _uneven(observed, arms.W) | (ratios(jnp.sum(counts, axis=1), rank, arms.Z) < FEW)
    found = jax.lax.cond(jnp.any(few), walk, lambda: one_step)
    return jax.tree.map(lambda new, old: jnp.where(few[:, None, None], new, old), found, one_step)


def _uneven(observed: Array, W: Bool[Array, "a n m"]) -> Bool[Array, " a"]:
    """Whether some period has less than half of the arm's share of cells: blocks are missing, not scattered cells.

    The scaled outcomes then are low-rank in the blocks, too, and a refinement that starts there stays there.
    """
    seen, arm = jnp.sum(observed, axis=0), jnp.sum(W, axis=1)
    share = jnp.sum(arm, axis=1, keepdims=True) / jnp.maximum(jnp.sum(seen), 1)
    return jnp.any(arm < UNEVEN * share * seen, axis=1)


def ratios(cells: Array, rank: Array, like: Array) -> Float[Array, " a"]:
    """Cells over degrees of freedom; infinite at rank 0, where nothing is to be determined.

    Args:
        cells: of each arm.
        rank: of each arm.
        like: array whose last two axes are the panel's and whose dtype is the result's.

    Returns:
        The ratios.
    """
    n, m = like.shape[-2:]
    free = rank.astype(like.dtype) * (n + m - rank)
    return safe_divide(cells, free, jnp.inf)


def _probabilities(observed: Array, W: Bool[Array, "a n m"], numbers: Numbers, static: Static) -> Float[Array, "a n _"]:
    dtype = numbers.clip.dtype
    if static.propensity == "row":
        return jax.vmap(lambda w: panel_arms.row_shares(w, dtype))(W)[..., None]
    if static.propensity == "low_rank":
        return jax.vmap(lambda w: panel_arms.low_rank_shares(w, static.propensity_rank, numbers.clip))(W)
    seen = panel_arms.row_shares(observed, dtype)[:, None]
    treated = numbers.known
    both = jnp.stack([1 - treated, treated])[: len(W)]
    return jnp.clip(both * seen, numbers.clip, 1)


def panel_fit(fitted: ArmsFit, scale: Float[Array, ""], static: Static) -> PanelFit:
    """The fit of both arms in the units of the data.

    Args:
        fitted: both arms.
        scale: of the data.
        static: options.

    Returns:
        The public result.
    """
    arms, rank = fitted.arms, fitted.rank
    counts = jnp.sum(arms.W, axis=2)
    identified = jnp.all(counts > 0, axis=0)
    A0, A1 = jnp.where((counts > 0)[..., None], fitted.outcomes(), jnp.nan)
    effect = jnp.where(identified[:, None], A1 - A0, jnp.nan)
    squares = row_mean_squares(fitted, static.sweeps == 0, static.center)
    chosen = static.choice != "given"
    return PanelFit(
        A0=A0 * scale,
        A1=A1 * scale,
        effect=effect * scale,
        tau=jnp.mean(effect, axis=1) * scale,
        rank=rank,
        singular_values=fitted.singular_values * scale,
        propensity=fitted.phat[..., 0] if static.propensity == "row" else fitted.phat,
        identified=identified,
        row_rmse=jnp.where(identified, jnp.sqrt(jnp.sum(squares, axis=0)), jnp.nan) * scale,
        sigma2=fitted.sigma2 * scale * scale,
        rank_path=fitted.path,
        ratio=ratios(jnp.sum(counts, axis=1), rank, arms.Z),
        overlap=_overlap(arms.W, counts, rank, identified),
        at_rank_max=(rank == static.width) & chosen,
        iterations=fitted.iterations,
        converged=fitted.converged,
        change=fitted.change,
        left=fitted.factors.left * scale,
        right=fitted.factors.right,
        unit_offset=arms.unit_offset * scale,
        time_offset=arms.time_offset * scale,
        motion=fitted.motion,
    )


def row_mean_squares(fitted: ArmsFit, one_step: bool, center: str | None) -> Float[Array, "a n"]:
    """Estimated mean square error of every row of every arm.

    Args:
        fitted: the arms.
        one_step: whether there was no refinement (static).
        center: of the fit (static).

    Returns:
        In the squared units of the fit.
    """
    if one_step:
        return jax.vmap(one_step_row_errors)(fitted.arms, fitted.factors, fitted.phat)
    designs = fitted.designs(center)
    return jax.vmap(refined_row_errors)(fitted.arms.W.astype(designs.rows.dtype), designs)


def _overlap(W: Array, counts: Array, rank: Array, identified: Array) -> Float[Array, "2"]:
    least = jnp.maximum(rank, 1)[:, None]
    rows, columns = counts >= least, jnp.sum(W, axis=1) >= least
    share = jnp.sum(identified & rows, axis=1) / jnp.maximum(jnp.sum(identified), 1)
    return share * jnp.mean(columns, axis=1)
