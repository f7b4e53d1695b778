"""A start for the refinement that few cells do not trap: soft-impute along a falling threshold.

The refinement is not convex. At few cells per degree of freedom it stays near the one-step estimate, whatever its
ridge. The convex problem ``min 1/2 ||W (Z - M)||^2 + lam ||M||_*`` has no such traps, and its solution moves little
with lam: from the largest lam, at which M is 0, a few steps ``M <- SVT(W Z + (1 - W) M, lam)`` for each of a falling
sequence end near a low-rank completion. Truncated to the rank it replaces the one-step estimate as the start. Measured
at 1.8 to 2.2 cells per degree of freedom it ends where a start at the truth does.

Reference: Mazumder, Hastie, Tibshirani, "Spectral regularization algorithms for learning large incomplete matrices",
JMLR 11 (2010).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxspec.completion.panel.arms import Arm, Factors, scaled_factors
from jaxspec.linalg import top_svd

STEPS = 10
THRESHOLDS = 20
FALL = 0.75
EXTRA = 4


def path_start(arm: Arm, rank: Int[Array, ""], width: int) -> Factors:
    """Factors at the end of the path.

    Args:
        arm: one arm.
        rank: of the result.
        width: singular values kept on the way, at least the rank (static).

    Returns:
        The factors.
    """
    n, m = arm.Z.shape
    # A few more directions than the rank carry the path; what exceeds them is below the threshold anyway.
    kept = min(width + EXTRA, n, m)
    first = top_svd(arm.Z, kept, dense_below=0)

    def step(t: Array, state: tuple) -> tuple:
        (u, s, v), basis = state
        threshold = 0.9 * first.s[0] * FALL ** (t // STEPS)
        filled = jnp.where(arm.W, arm.Z, jnp.matmul(u * s, v.T, precision=jax.lax.Precision.HIGHEST))
        found = top_svd(filled, kept, sweeps=1, start=basis, dense_below=0)
        return (found.u, jnp.maximum(found.s - threshold, 0), found.vt.T), found.basis

    nothing = (first.u, jnp.zeros_like(first.s), first.vt.T)
    (u, s, v), _ = jax.lax.fori_loop(0, STEPS * THRESHOLDS, step, (nothing, first.basis))
    return scaled_factors(u[:, :width], s[:width], v[:, :width], rank)
