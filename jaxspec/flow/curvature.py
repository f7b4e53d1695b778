r"""How fast the force changes: the constant ``L`` of every step bound, measured where the particles are.

    L(X) = max_V |DG(X)[V]|_w / |V|_w ,   |V|_w^2 = E_w |V_i|^2 ,

the largest absolute eigenvalue of the second derivative of ``J`` in the weighted metric, from products with it.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from jaxspec.flow.checks import check_objective, check_particles, check_weights
from jaxspec.flow.objective import MeanFieldObjective, force
from jaxspec.linalg.scaling import safe_divide
from jaxspec.linalg.top_eigh import top_eigh


class LocalLipschitz(NamedTuple):
    """What `local_lipschitz` found.

    Attributes:
        value: ``L`` at the position, from below.
        residual: ``|H^2 v - L^2 v| / L^2`` for the direction that was found: some eigenvalue of ``H`` is within about
            half of that share of ``value``.
        products: with the second derivative.
        converged: whether the residual is at most ``tol``.
    """

    value: Float[Array, ""]
    residual: Float[Array, ""]
    products: Int[Array, ""]
    converged: Bool[Array, ""]


def local_lipschitz(
    objective: MeanFieldObjective,
    position: PyTree,
    weights: Float[Array, " N"] | None = None,
    *,
    tol: float = 1e-2,
    max_sweeps: int = 50,
    key: Key[Array, ""] | None = None,
) -> LocalLipschitz:
    """Lipschitz constant ``L`` of the force at a position, by block power iteration on the squared second derivative.

    ``2 (eps/L)^(1/2)`` is the largest stable step of the explicit methods near a minimum, `max_stable_lr` the certified
    one of EMA-Muon. Theorems ask for ``L`` everywhere on the way; this is ``L`` at one place. Take the largest of
    several, such as the start and the end, and check the run by ``converged`` and ``energy_rise`` of its diagnostics.

    Args:
        objective: the objective.
        position: pytree of matrices with particles on the leading axis, N of them, on one device.
        weights: (N,), sum 1; None for 1/N. Particles of weight 0 do not count.
        tol: residual at which to stop (static).
        max_sweeps: most sweeps, each two products with a block of up to 5 directions (static).
        key: randomness of the start; default ``jax.random.key(0)``.

    Returns:
        `LocalLipschitz`; 0 for an objective without curvature.

    Raises:
        ValueError: as `Flow.init`.
        TypeError: as `Flow.init`.

    Example:
        >>> import jax.numpy as jnp
        >>> objective = MeanFieldObjective(lambda x: x, lambda z: 3 * jnp.sum(z**2) / 2)
        >>> round(float(local_lipschitz(objective, jnp.ones((4, 2, 2))).value), 3)
        3.0
    """
    check_particles(position, None, weights)
    check_weights(weights)
    check_objective(objective, position)
    key = jax.random.key(0) if key is None else key
    return _local_lipschitz(objective, position, weights, key, tol, max_sweeps)


@eqx.filter_jit
def _local_lipschitz(objective, position, weights, key, tol, max_sweeps):
    flat, unravel = ravel_pytree(position)
    count = jax.tree.leaves(position)[0].shape[0]
    root = jnp.sqrt(jnp.full(count, 1 / count) if weights is None else weights).astype(flat.dtype)
    inverse = safe_divide(1, root)

    def times(v, factor):
        return jax.tree.map(lambda x: x * factor.astype(x.dtype).reshape(-1, *(1,) * (x.ndim - 1)), v)

    def product(v):
        """Symmetric in the plain metric: ``w^(1/2) DG w^(-1/2)``."""
        direction = times(unravel(v), inverse)
        change = jax.jvp(lambda x: force(objective, x, weights), (position,), (direction,))[1]
        return ravel_pytree(times(change, root))[0].astype(flat.dtype)

    first, rest = jax.random.split(key)
    start = product(jax.random.normal(first, flat.shape, flat.dtype) / jnp.sqrt(flat.size).astype(flat.dtype))
    size = jnp.linalg.norm(start)
    scale = jnp.linalg.norm(product(start / jnp.where(size > 0, size, 1)))
    scale = jnp.where(scale > 0, scale, 1)
    squared = jax.vmap(lambda v: product(product(v) / scale) / scale)
    found = top_eigh(squared, flat.size, 1, oversample=4, tol=tol, max_sweeps=max_sweeps, key=rest, dtype=flat.dtype)
    products = 2 * min(5, flat.size) * found.iterations + 2
    return LocalLipschitz(jnp.sqrt(found.values[0]) * scale, found.residual, products, found.converged)
