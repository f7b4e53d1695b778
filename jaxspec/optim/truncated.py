"""SGD without the largest singular values of the gradient: the control that asks what they contribute."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Inexact

from jaxspec.linalg import spectral_map
from jaxspec.optim.checks import checked_number
from jaxspec.optim.layout import DimsTree, check_dtypes, tree_layouts
from jaxspec.optim.normalization import unchanged
from jaxspec.optim.partition import Partition, by_label
from jaxspec.optim.spectral import map_leaves, matrix_function


def truncated_sgd(
    learning_rate: optax.ScalarOrSchedule,
    fraction: float = 0.05,
    *,
    dimension_numbers: DimsTree = None,
    partition: Partition | None = None,
) -> optax.GradientTransformation:
    """SGD with the ``ceil(fraction r)`` largest singular values of every matrix gradient set to 0.

    Args:
        learning_rate: number or schedule.
        fraction: of the ``r = min(m, n)`` singular values, in [0, 1].
        dimension_numbers: as in `scale_by_spectral`.
        partition: as in `with_adam`; the parameters that are no matrices get plain SGD.

    Returns:
        The optimiser.

    Raises:
        ValueError: ``fraction`` outside [0, 1].

    Reference:
        Shumaylov et al., "Muon is Not That Special" (arXiv:2605.11181), where it is a control.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = truncated_sgd(1.0)
        >>> updates, _ = tx.update({"w": jnp.diag(jnp.array([3.0, 1.0]))}, tx.init({"w": jnp.eye(2)}))
        >>> [float(s) + 0.0 for s in jnp.diag(updates["w"])]  # the 3 is gone
        [0.0, -1.0]
    """
    truncate = matrix_function(Truncate(checked_number("fraction", fraction, low=0.0, high=1.0)), unchanged)

    def remove_largest(updates, params=None):
        check_dtypes(updates)
        leaves, treedef = jax.tree.flatten(updates)
        return treedef.unflatten(map_leaves(truncate, leaves, tree_layouts(updates, dimension_numbers)))

    split = by_label(optax.stateless(remove_largest), optax.identity(), partition, dimension_numbers)
    return optax.chain(split, optax.scale_by_learning_rate(learning_rate))


@dataclass(frozen=True)
class Truncate:
    """The map that sets the ``ceil(fraction r)`` largest singular values to 0.

    Attributes:
        fraction: in [0, 1].
    """

    fraction: float

    def __call__(self, x: Inexact[Array, "batch m n"]) -> Inexact[Array, "batch m n"]:
        """The matrices without their largest singular values."""
        return spectral_map(x, self._values)

    def _values(self, s: Float[Array, "*batch r"]) -> Float[Array, "*batch r"]:
        # 0.07 * 100 is a little above 7 in floating point: without the tolerance an eighth value would go.
        removed = math.ceil(self.fraction * s.shape[-1] - 1e-9)
        return jnp.where(jnp.arange(s.shape[-1]) < removed, 0, s)
