"""GRASP: fine-tune without acquiring new reliance on given directions, whatever the optimiser.

The gradient is projected before the inner optimiser, so that its moments hold nothing of the directions, and the update
after it, since a diagonal preconditioner or weight decay turns a projected gradient out of the subspace. For every
positive diagonal ``D`` the step descends: ``<P g, D^-1 P g> >= 0``, which projecting the update alone does not give.
"""

import warnings
from typing import Any, NamedTuple

import optax
from jaxtyping import PyTree

from jaxspec.optim.projection import ProjectionState, Retract, Roles, leaf_projections, project, project_updates


class GraspState(NamedTuple):
    """State of `grasp`.

    Attributes:
        inner: state of the inner optimiser.
        projection: directions and anchors. To go on with other directions of the same shapes replace it by that of
            ``grasp(inner, others, roles).init(params)``; the same compiled step serves.
    """

    inner: Any
    projection: ProjectionState


def grasp(
    inner: optax.GradientTransformation,
    directions: PyTree,
    roles: Roles,
    *,
    retract: Retract = "auto",
    project_gradients: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""``inner`` with gradients and updates projected away from the directions.

    ``g <- P g``, ``D <- inner(g)``, ``D <- P D`` for every leaf that writes into the space of the directions, ``D P``
    for one that reads from it: ``U^T W_t = U^T W_0``, ``W_t U = W_0 U``. For an adapter ``W = W_0 + s b a`` with ``b``
    zero at first and ``b`` writing, ``U^T b = 0`` throughout. A reading ``a`` keeps ``a_0 U``, which must be zero at
    initialisation. A reconstruction: the paper's abstract says "gradient projection" only.

    Args:
        inner: any optimiser, learning rate and weight decay included.
        directions: columns, (d, k), one direction (d,), or a prefix tree of them; see `project_updates`.
        roles: see `project_updates`.
        retract: whether updates are corrected so that rounding cannot add up: True, False, or ``"auto"``, for
            parameters in bfloat16 and float16 (see `project_updates`).
        project_gradients: whether gradients are projected before ``inner``. Without it the moments fill with the
            removed part, and a step may ascend.

    Returns:
        The optimiser; arguments of ``update`` beyond the parameters are handed to ``inner``.

    Raises:
        ValueError: see `project_updates`.
        TypeError: see `project_updates`.

    Warns:
        UserWarning: at ``init``, an adapter whose ``a`` reads from the stream. Adapters on such matrices rebuild the
            factor inside attention and the hidden layer, where no direction of the stream sees it: measured, adapters
            on all matrices with the projection did no better than without (adapters on the down-projections of the MLP
            are the default for this reason). Also the warning of `project_updates`.

    Reference:
        Gilligan-Lee, Egan, Zhu & O'Riordan, "Unsupervised Identification and Removal of Spurious Correlations During
        Fine-Tuning" (arXiv:2605.27676); only the abstract was available.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> tx = grasp(optax.adam(1.0), jnp.array([[0.6], [0.8]]), lambda path: "writes" if path == "b" else "none")
        >>> params = {"b": jnp.zeros((2, 1)), "a": jnp.ones((1, 2))}
        >>> updates, _ = tx.update({"b": jnp.array([[1.0], [0.0]]), "a": params["a"]}, tx.init(params), params)
        >>> bool(abs(0.6 * updates["b"][0, 0] + 0.8 * updates["b"][1, 0]) < 1e-6)  # Adam's own step gives 0.2
        True
    """
    inner = optax.with_extra_args_support(inner)
    last = project_updates(directions, roles, retract=retract)

    def init(params):
        projection = last.init(params)
        _warn_of_readers(leaf_projections(params, projection.directions, roles))
        return GraspState(inner.init(params), projection)

    def update(updates, state, params=None, **extra_args):
        if project_gradients:
            updates = project(updates, leaf_projections(updates, state.projection.directions, roles))
        updates, inner_state = inner.update(updates, state.inner, params, **extra_args)
        updates, projection = last.update(updates, state.projection, params)
        return updates, GraspState(inner_state, projection)

    return optax.GradientTransformationExtraArgs(init, update)


def _warn_of_readers(plan):
    """An adapter is a pair of leaves ``.../a`` and ``.../b``."""
    paths = {leaf.path for leaf in plan}
    readers = [leaf.path for leaf in plan if leaf.right and _partner(leaf.path) in paths]
    if readers:
        shown = ", ".join(readers[:3]) + (f" and {len(readers) - 3} more" if len(readers) > 3 else "")
        warnings.warn(
            f"adapters on matrices that read from the stream ({shown}) can rebuild the factor where no direction of "
            "the stream sees it; adapt the down-projections of the MLP only",
            UserWarning,
            stacklevel=3,
        )


def _partner(path):
    return path[:-1] + "b" if path == "a" or path.endswith("/a") else None
