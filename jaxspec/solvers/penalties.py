"""Penalty policies of the consensus ADMM: small frozen objects that turn the last step into the next penalties rho.

A policy has two methods, ``init(rho, ax, duals) -> memory`` and ``update(memory, step) -> (rho, memory)``; anything
with these two works. The engine keeps rho within a factor ``limit`` of its first value either way (an optional
attribute of the policy; 1e6 without it) and leaves the duals ``W_i = -rho_i
u_i`` unchanged.

With r_i = y_i - A_i x and s_i = rho_i A_i (x - x_old), each policy pulls the penalties towards the point where primal
and dual move at the same relative rate. One common factor multiplies all penalties unless ``per_block`` is set.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Blocks = tuple[Array, ...]
Number = float | Float[Array, ""]


class Step(NamedTuple):
    """One ADMM iteration as the penalty policies see it; tuples run over blocks.

    Attributes:
        k: iteration number, from 1.
        rho: penalties that the iteration used, shape (m,).
        ax_old: A_i x before the iteration.
        ax: A_i x after it.
        y: proximal points y_i.
        duals_old: W_i before the iteration.
        duals: W_i after it.
    """

    k: Int[Array, ""]
    rho: Float[Array, " m"]
    ax_old: Blocks
    ax: Blocks
    y: Blocks
    duals_old: Blocks
    duals: Blocks

    @property
    def subgradients(self) -> Blocks:
        """``What_i = rho_i (A_i x_old - y_i) + W_i``: an exact subgradient of f_i at y_i."""
        return tuple(
            rho * (ax - y) + w for rho, ax, y, w in zip(self.rho, self.ax_old, self.y, self.duals_old, strict=True)
        )


def limit_of(penalty: Any) -> float:
    """Factor from its first value within which the engine keeps rho.

    Args:
        penalty: policy.

    Returns:
        Its ``limit``, or 1e6.
    """
    return getattr(penalty, "limit", 1e6)


def block_norms(blocks: Blocks, others: Blocks | None = None) -> Float[Array, " m"]:
    """Frobenius norm of every block, ``||blocks_i - others_i||_F``.

    Args:
        blocks: arrays.
        others: arrays of the same shapes; None: 0.

    Returns:
        The norms, shape (m,).
    """
    differences = blocks if others is None else tuple(a - b for a, b in zip(blocks, others, strict=True))
    return jnp.sqrt(jnp.stack([sum_of_squares(block) for block in differences]))


def sum_of_squares(x: Array) -> Float[Array, ""]:
    """``||x||_F^2``."""
    flat = x.ravel()
    return jnp.vdot(flat, flat, precision=jax.lax.Precision.HIGHEST)


def _ratio(numerator: Array, denominator: Array, rho: Array, per_block: bool) -> Float[Array, " m"]:
    """Factor that makes ``rho * denominator`` equal to ``numerator``; 1 where either is 0 or not finite."""
    scaled = rho * denominator
    if not per_block:
        numerator, scaled = jnp.linalg.norm(numerator), jnp.linalg.norm(scaled)
    usable = (numerator > 0) & (scaled > 0) & jnp.isfinite(numerator) & jnp.isfinite(scaled)
    factor = jnp.where(usable, numerator / jnp.where(usable, scaled, 1), 1)
    return jnp.broadcast_to(factor, rho.shape)


class Fixed(eqx.Module):
    """rho never changes."""

    def init(self, rho: Array, ax: Blocks, duals: Blocks) -> Any:
        """No memory."""
        return ()

    def update(self, memory: Any, step: Step) -> tuple[Array, Any]:
        """The same rho."""
        return step.rho, memory


class Geometric(eqx.Module):
    """``rho <- min(growth * rho, max * first rho)`` after every iteration: the growing penalty of HaLRTC.

    The duals stop moving once rho is large: on problems that are not exactly recoverable it stalls before the optimum.

    Attributes:
        growth: factor per iteration.
        max: largest penalty over the first one, scalar or one per block.

    Reference:
        Liu, Musialski, Wonka, Ye, "Tensor completion for estimating missing values in visual data", PAMI 2013.
    """

    growth: Number = 1.05
    max: Any = float("inf")
    limit = float("inf")

    def init(self, rho: Array, ax: Blocks, duals: Blocks) -> Array:
        """Remembers the first rho."""
        return rho

    def update(self, memory: Array, step: Step) -> tuple[Array, Array]:
        """The grown rho."""
        return jnp.minimum(self.growth * step.rho, jnp.maximum(self.max, 1) * memory).astype(memory.dtype), memory


def _balance(primal: Array, dual: Array, step: Step, mu: Number, factor: Number, until: int) -> Array:
    up = primal > mu * dual
    down = dual > mu * primal
    moved = step.rho * jnp.where(up, factor, jnp.where(down, 1 / jnp.asarray(factor, step.rho.dtype), 1))
    return jnp.where(step.k <= until, moved, step.rho)


class ResidualBalance(eqx.Module):
    """Doubles rho where ``||r|| > mu ||s||``, halves it where ``||s|| > mu ||r||``; depends on the scale of the data.

    Attributes:
        mu: how far apart the residuals may be.
        factor: the step.
        adapt_until: iterations after which rho stays (static); this keeps convergence.
        per_block: one factor per block instead of a common one (static).

    Reference:
        He, Yang, Wang 2000; Boyd et al. 2011, section 3.4.1.
    """

    mu: Number = 10.0
    factor: Number = 2.0
    adapt_until: int = eqx.field(static=True, default=200)
    per_block: bool = eqx.field(static=True, default=False)

    def init(self, rho: Array, ax: Blocks, duals: Blocks) -> Any:
        """No memory."""
        return ()

    def update(self, memory: Any, step: Step) -> tuple[Array, Any]:
        """The balanced rho."""
        primal = block_norms(step.y, step.ax)
        dual = step.rho * block_norms(step.ax, step.ax_old)
        if not self.per_block:
            primal, dual = jnp.linalg.norm(primal), jnp.linalg.norm(dual)
        return _balance(primal, dual, step, self.mu, self.factor, self.adapt_until), memory


class RelativeResidual(eqx.Module):
    """`ResidualBalance` on ``||r|| / max(||y||, ||A x||)`` against ``||s|| / ||W||``: free of scale.

    Attributes:
        mu: how far apart the relative residuals may be.
        factor: the step.
        adapt_until: iterations after which rho stays (static); without it rho can overflow on small problems.
        per_block: one factor per block instead of a common one (static).

    Reference:
        Wohlberg, "ADMM penalty parameter selection by residual balancing", 2017.
    """

    mu: Number = 5.0
    factor: Number = 2.0
    adapt_until: int = eqx.field(static=True, default=200)
    per_block: bool = eqx.field(static=True, default=False)

    def init(self, rho: Array, ax: Blocks, duals: Blocks) -> Any:
        """No memory."""
        return ()

    def update(self, memory: Any, step: Step) -> tuple[Array, Any]:
        """The balanced rho."""
        norms = [
            block_norms(step.y, step.ax),
            step.rho * block_norms(step.ax, step.ax_old),
            block_norms(step.y),
            block_norms(step.ax),
            block_norms(step.duals),
        ]
        if not self.per_block:
            norms = [jnp.linalg.norm(norm) for norm in norms]
        primal, dual, y, ax, duals = norms
        # r / max(|y|, |Ax|) > mu s / |W| with the denominators multiplied out: 0 / 0 then changes nothing.
        return _balance(primal * duals, dual * jnp.maximum(y, ax), step, self.mu, self.factor, self.adapt_until), memory


class Displacement(eqx.Module):
    """The default: pulls rho towards ``||dW|| / ||dA x||``, the displacements over a window of iterations.

    With l = exponent * log(target / rho), rho <- rho * exp(clip(l, +-bound / (1 + j)^1.5)) in window j = 0, 1, ...; the
    total change of log rho is summable, which keeps convergence. Free of the scale of the data.

    Attributes:
        window: iterations per window (static).
        exponent: part of the way to go, in (0, 1].
        deadband: factor within which target and rho count as equal.
        bound: largest |change of log rho| in the first window.
        per_block: one target per block instead of a common one (static).

    Reference:
        Residual balancing made free of scale; the same target as the norm form of the spectral rule of McCann and
        Wohlberg.
    """

    window: int = eqx.field(static=True, default=5)
    exponent: Number = 0.7
    deadband: Number = 1.2
    bound: Number = 8.0
    per_block: bool = eqx.field(static=True, default=False)

    def init(self, rho: Array, ax: Blocks, duals: Blocks) -> Any:
        """Remembers where the window started."""
        return ax, duals

    def update(self, memory: Any, step: Step) -> tuple[Array, Any]:
        """The new rho at the end of a window, else the old one."""

        def adapt(memory: Any) -> tuple[Array, Any]:
            ax_start, duals_start = memory
            moved = block_norms(step.duals, duals_start), block_norms(step.ax, ax_start)
            log_ratio = jnp.log(_ratio(*moved, step.rho, self.per_block))
            limit = self.bound / (step.k / self.window).astype(step.rho.dtype) ** 1.5
            change = jnp.clip(self.exponent * log_ratio, -limit, limit)
            change = jnp.where(jnp.abs(log_ratio) <= jnp.log(jnp.asarray(self.deadband, step.rho.dtype)), 0, change)
            return step.rho * jnp.exp(change), (step.ax, step.duals)

        return jax.lax.cond(step.k % self.window == 0, adapt, lambda memory: (step.rho, memory), memory)


class NormRatio(eqx.Module):
    """``rho <- (1 - omega_k) rho + omega_k ||W|| / ||A x||`` with omega_k = 2^(-k / half_life).

    Attributes:
        half_life: iterations after which the weight of the target halves.
        per_block: one target per block instead of a common one (static).

    Reference:
        Lorenz and Tran-Dinh, "Non-stationary Douglas-Rachford and ADMM", 2019.
    """

    half_life: Number = 50.0
    per_block: bool = eqx.field(static=True, default=False)

    def init(self, rho: Array, ax: Blocks, duals: Blocks) -> Any:
        """No memory."""
        return ()

    def update(self, memory: Any, step: Step) -> tuple[Array, Any]:
        """The averaged rho."""
        omega = 2.0 ** (-step.k.astype(step.rho.dtype) / self.half_life)
        factor = _ratio(block_norms(step.duals), block_norms(step.ax), step.rho, self.per_block)
        return step.rho * (1 - omega + omega * factor), memory


class Spectral(eqx.Module):
    """Barzilai-Borwein estimates of the two curvatures every two iterations from the fourth on.

    slope(p, q) = MG if 2 MG > SD else SD - MG / 2 with SD = <p,p>/<p,q>, MG = <p,q>/<q,q>; a from (dWhat, dy), b from
    (-dW, dA x); rho = sqrt(a b), or the one whose correlation exceeds ``correlation``, or kept.

    Attributes:
        correlation: least correlation at which an estimate is trusted.
        change: rho changes by at most 1 + change / k^2 either way.

    Reference:
        Xu, Figueiredo, Goldstein, "Adaptive ADMM with spectral penalty parameter selection", AISTATS 2017.
    """

    correlation: Number = 0.2
    change: Number = 100.0

    def init(self, rho: Array, ax: Blocks, duals: Blocks) -> Any:
        """Remembers What, y, W and A x of two iterations ago."""
        return duals, ax, duals, ax

    def update(self, memory: Any, step: Step) -> tuple[Array, Any]:
        """The new rho on even iterations, else the old one."""

        def adapt(memory: Any) -> tuple[Array, Any]:
            now = (step.subgradients, step.y, step.duals, step.ax)
            d_sub, d_y, d_dual, d_ax = jax.tree.map(lambda new, old: new - old, now, memory)
            # A decreasing curve has negative slope: W falls as A x grows.
            a, a_correlation = _slope(d_sub, d_y)
            b, b_correlation = _slope(jax.tree.map(jnp.negative, d_dual), d_ax)
            use_a, use_b = a_correlation > self.correlation, b_correlation > self.correlation
            current = jnp.exp(jnp.mean(jnp.log(step.rho)))
            target = jnp.where(use_a & use_b, jnp.sqrt(a * b), jnp.where(use_a, a, jnp.where(use_b, b, current)))
            limit = 1 + self.change / step.k.astype(step.rho.dtype) ** 2
            factor = jnp.clip(jnp.where(jnp.isfinite(target) & (target > 0), target / current, 1), 1 / limit, limit)
            return jnp.where(step.k >= 4, step.rho * factor, step.rho), now

        return jax.lax.cond(step.k % 2 == 0, adapt, lambda memory: (step.rho, memory), memory)


def _slope(p: Blocks, q: Blocks) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Barzilai-Borwein slope of p over q and their correlation; correlation 0 where it is undefined."""
    pp, qq = sum(map(sum_of_squares, p)), sum(map(sum_of_squares, q))
    pq = sum(jnp.vdot(a, b, precision=jax.lax.Precision.HIGHEST) for a, b in zip(p, q, strict=True))
    usable = (pp > 0) & (qq > 0) & (pq > 0)
    steepest, minimal = pp / jnp.where(usable, pq, 1), pq / jnp.where(usable, qq, 1)
    slope = jnp.where(2 * minimal > steepest, minimal, steepest - minimal / 2)
    return slope, jnp.where(usable, pq / jnp.sqrt(jnp.where(usable, pp, 1)) / jnp.sqrt(jnp.where(usable, qq, 1)), 0)
