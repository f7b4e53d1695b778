r"""Softmax cross-entropy, the loss that associative memories are usually trained with, as a baseline.

``-mean_mu log(exp S[mu, mu] / sum_nu exp S[mu, nu])`` by full-batch Adam. What it gives is an accuracy and a margin. An
accuracy is not a capacity: that some p are not all recalled after some steps says nothing of what a memory can hold.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxspec.checks import check_integers
from jaxspec.linalg.scaling import safe_divide
from jaxspec.memory.associations import Associations
from jaxspec.memory.certificates import checked_problem, in_units, proven_bounds
from jaxspec.memory.pairs import all_pairs


class CrossEntropy(NamedTuple):
    """A memory trained by cross-entropy.

    Attributes:
        W: scaled to ``||W||_F = d``.
        loss: cross-entropy at the trained scale, in nats.
        accuracy: fraction of recalled pairs.
        margin: smallest margin, for ``||W||_F = d``; positive if every pair is recalled.
    """

    W: Float[Array, "d d"]
    loss: Float[Array, ""]
    accuracy: Float[Array, ""]
    margin: Float[Array, ""]


def fit_cross_entropy(
    a: Associations,
    *,
    n: Int[Array, ""] | int | None = None,
    steps: int = 1000,
    learning_rate: Float[Array, ""] | float = 0.05,
) -> CrossEntropy:
    """Memory trained from zero by full-batch Adam on the softmax cross-entropy of its scores; a baseline.

    Keys and values are taken in units of their own sizes, so that their scale does not matter.

    Args:
        a: the associations.
        n: how many leading pairs count; traced. None: all.
        steps: of Adam (static).
        learning_rate: traced.

    Returns:
        The memory with its accuracy and margin.

    Raises:
        ValueError: ``steps < 1``, a negative ``learning_rate``, n out of range, shapes that do not fit, or numbers that
            are not finite (under jit: W = 0, accuracy 0, loss infinity and margin -infinity).

    Example:
        >>> import jax.numpy as jnp
        >>> float(fit_cross_entropy(Associations(jnp.eye(3), jnp.eye(3)), steps=50).accuracy)
        1.0
    """
    check_integers(1, steps=steps)
    a, n, (learning_rate,) = checked_problem(a, n, learning_rate=learning_rate)
    return _trained(a, n, learning_rate, steps)


@partial(jax.jit, static_argnums=3)
def _trained(a, n, learning_rate, steps):
    a, units = in_units(a)
    pairs = all_pairs(a, n)
    p, d = a.x.shape
    optimizer = optax.adam(learning_rate)

    def loss(W):
        rivals = jnp.where(pairs.mask, -pairs.gaps(W), -jnp.inf)
        return jnp.sum(jax.nn.logsumexp(jnp.pad(rivals, ((0, 0), (1, 0))), axis=1)) / n

    def step(carry, _):
        W, state = carry
        updates, state = optimizer.update(jax.grad(loss)(W), state)
        return (optax.apply_updates(W, updates), state), None

    start = jnp.zeros((d, d), a.x.dtype)
    (W, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=steps)
    size = jnp.linalg.norm(W)
    normal = W * safe_divide(d, size)
    recalled = jnp.all((pairs.gaps(W) > 0) | ~pairs.mask, axis=1) & (jnp.arange(p) < n)
    margin = units.x * units.y * proven_bounds(pairs, normal, jnp.zeros_like(pairs.mask, W.dtype))[0]
    sound = [jnp.where(units.sound, value, bad) for value, bad in ((loss(W), jnp.inf), (margin, -jnp.inf))]
    return CrossEntropy(normal, sound[0], jnp.where(units.sound, jnp.sum(recalled) / n, 0), sound[1])
