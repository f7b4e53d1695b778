"""Norm-constrained parameters in optax: updates rewritten so that the step ends in a ball."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from jaxspec.checks import is_concrete


def project_to_ball(radius: PyTree, *, axis: PyTree = None) -> optax.GradientTransformation:
    """Replaces each update u by ``project(params + u) - params``, the projection on ``||x||_2 <= radius``.

    The last link of an `optax.chain`: the parameters stay in the ball if they start there.

    Args:
        radius: >= 0 (infinity: no constraint), a number or a pytree prefix of the parameters.
        axis: None: one norm for each whole leaf (Frobenius); an axis, or a pytree prefix of them: one norm for each
            vector along it.

    Returns:
        The transformation; its update needs ``params``.

    Raises:
        ValueError: a negative or NaN radius; an update without ``params``.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = optax.chain(optax.sgd(1.0), project_to_ball(1.0))
        >>> w = jnp.array([0.6, 0.8])
        >>> updates, _ = tx.update(jnp.array([-3.0, -4.0]), tx.init(w), w)
        >>> optax.apply_updates(w, updates).round(3)
        Array([0.6, 0.8], dtype=float32)
    """
    for leaf in jax.tree.leaves(radius):
        if is_concrete(leaf) and not np.all(np.asarray(leaf, float) >= 0):
            raise ValueError(f"radius is {leaf}; expected numbers >= 0")

    def update(updates: optax.Updates, params: optax.Params | None = None) -> optax.Updates:
        if params is None:
            raise ValueError("project_to_ball needs params in update(updates, state, params)")
        radii = jax.tree.broadcast(radius, params)
        if axis is None:
            return jax.tree.map(lambda u, x, r: projected(x + u, r) - x, updates, params, radii)
        axes = jax.tree.broadcast(axis, params)
        return jax.tree.map(lambda u, x, r, a: projected(x + u, r, a) - x, updates, params, radii, axes)

    return optax.stateless(update)


@partial(jax.jit, static_argnames="axis", inline=True)
def projected(x: Array, radius: Any, axis: int | tuple[int, ...] | None = None) -> Array:
    """The nearest point with ``||x||_2 <= radius``.

    Args:
        x: array.
        radius: of the ball.
        axis: over which the norm runs; None: all.

    Returns:
        The point; x itself inside.
    """
    # Relative to the largest entry: squares neither overflow nor vanish.
    largest = jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0)
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    norm = unit * jnp.sqrt(jnp.sum((x / unit) ** 2, axis=axis, keepdims=True))
    radius = jnp.asarray(radius, x.dtype)
    return jnp.where(norm > radius, x * (radius / jnp.where(norm > 0, norm, 1)), x)
