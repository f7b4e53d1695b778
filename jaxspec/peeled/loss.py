"""The cross-entropy of logits, its gradient, and the minimiser without a budget."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


@partial(jax.jit, inline=True)
def cross_entropies(logits: Float[Array, "V m"], targets: Float[Array, "V m"]) -> Float[Array, " m"]:
    """``logsumexp(z_j) - <p_j, z_j>``, in nats.

    Args:
        logits: columns z_j.
        targets: columns p_j, of sum 1.

    Returns:
        One number per column.
    """
    # As a sum of logarithms of probabilities: near a one-hot target the difference above would cancel.
    return -jnp.sum(targets * jax.nn.log_softmax(logits, axis=0), axis=0)


@partial(jax.jit, inline=True)
def loss_and_gradient(
    logits: Float[Array, "V m"], targets: Float[Array, "V m"], weights: Float[Array, " m"]
) -> tuple[Float[Array, ""], Float[Array, "V m"]]:
    """``L = sum_j pi_j CE_j`` and ``G = (softmax(Z) - P) diag(pi)``.

    Args:
        logits: Z.
        targets: P.
        weights: pi.

    Returns:
        Value and gradient.
    """
    value = jnp.sum(weights * cross_entropies(logits, targets))
    return value, (jax.nn.softmax(logits, axis=0) - targets) * weights


@partial(jax.jit, inline=True)
def unbounded_logits(
    targets: Float[Array, "V m"], weights: Float[Array, " m"]
) -> tuple[Float[Array, "V m"], Bool[Array, ""]]:
    """Minimiser without a budget: the logarithm of the targets, columns centred, 0 where the weight is 0.

    Args:
        targets: P.
        weights: pi.

    Returns:
        The logits (0 for the logarithm of 0) and whether they exist, that is, no weighted target is 0.
    """
    weighted = weights > 0
    positive = targets > 0
    logs = jnp.log(jnp.where(positive, targets, 1))
    centred = jnp.where(weighted, logs - jnp.mean(logs, axis=0), 0)
    return centred, jnp.all(positive | ~weighted)


class ScaledLoss(eqx.Module):
    """The loss as a function of ``Z' = Z diag(scale)``.

    Attributes:
        targets: P, (V, m).
        weights: pi, (m,).
        scale: sqrt(m rho), (m,).
    """

    targets: Float[Array, "V m"]
    weights: Float[Array, " m"]
    scale: Float[Array, " m"]

    def __call__(self, scaled: Float[Array, "V m"]) -> tuple[Float[Array, ""], Float[Array, "V m"]]:
        """Value and gradient at Z'."""
        value, gradient = loss_and_gradient(self.logits(scaled), self.targets, self.weights)
        return value, gradient / self._safe_scale

    def logits(self, scaled: Float[Array, "V m"]) -> Float[Array, "V m"]:
        """Z of Z'; 0 where the mass is 0."""
        return jnp.where(self.scale > 0, scaled / self._safe_scale, 0)

    @property
    def step(self) -> Float[Array, ""]:
        """Reciprocal of a bound of the curvature: the Hessian of logsumexp is at most 1/2."""
        return 2 / jnp.max(self.weights / self._safe_scale**2)

    @property
    def _safe_scale(self) -> Array:
        return jnp.where(self.scale > 0, self.scale, 1)
