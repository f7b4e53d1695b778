"""Checks of arguments, where they are known."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxspec.checks import is_concrete
from jaxspec.linalg.scaling import compute_dtype


def check_positive_tree(name: str, tree: Any, hint: str = "") -> None:
    """Raise `ValueError` unless every leaf is traced, or positive and finite.

    Args:
        name: of the argument.
        tree: pytree of numbers.
        hint: what the message says after the expectation.
    """
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    if not leaves:
        raise ValueError(f"{name} has no leaves; expected a number or a pytree of numbers")
    for path, leaf in leaves:
        if is_concrete(leaf) and not (float(leaf) > 0 and math.isfinite(float(leaf))):
            raise ValueError(f"{name}{jax.tree_util.keystr(path)} is {leaf}; expected a finite number > 0{hint}")


def check_weights(weights: Array | None) -> None:
    """Raise `ValueError` unless the weights are None, traced, or probabilities up to 1e-6.

    Args:
        weights: of the particles.
    """
    if weights is None or not is_concrete(weights):
        return
    values = np.asarray(weights, np.float64)
    if values.ndim != 1 or not np.all(values >= 0) or not abs(values.sum() - 1) <= 1e-6:
        raise ValueError(
            f"weights have shape {values.shape}, least {values.min(initial=np.inf):g} and sum {values.sum():g}; "
            "expected one axis, numbers >= 0 and sum 1"
        )


def check_particles(position: PyTree, momentum: PyTree, weights: Array | None, *prefixes: PyTree) -> None:
    """Raise unless ``position`` is a pytree of stacked real matrices, and what goes with it fits.

    Args:
        position: pytree of matrices (N, ..., m, n).
        momentum: of the same shapes and dtypes, or None.
        weights: one per particle, or None.
        *prefixes: pytree prefixes of a particle.
    """
    leaves = jax.tree_util.tree_flatten_with_path(position)[0]
    if not leaves:
        raise ValueError("position has no leaves; expected a pytree of matrices with particles on the leading axis")
    count = None
    for path, leaf in leaves:
        name, shape = f"leaf position{jax.tree_util.keystr(path)}", jnp.shape(leaf)
        compute_dtype(leaf, name)
        if len(shape) < 3 or 0 in shape:
            raise ValueError(f"{name} has shape {shape}; expected (N, ..., m, n) with no empty axis")
        count = shape[0] if count is None else count
        if shape[0] != count:
            raise ValueError(f"{name} has {shape[0]} particles and the first leaf {count}; expected the same number")
    if weights is not None and len(weights) != count:
        raise ValueError(f"weights have length {len(weights)}; expected {count}, one per particle of position")
    if momentum is not None:
        described = [jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), t) for t in (position, momentum)]
        if described[0] != described[1]:
            raise ValueError(f"momentum is {described[1]}; expected shapes and dtypes of position, {described[0]}")
    for prefix in prefixes:
        try:
            jax.tree.broadcast(prefix, position)
        except ValueError as error:
            raise ValueError(f"eps or block_weights is no pytree prefix of a particle: {error}") from error


def check_objective(objective: Any, position: PyTree) -> None:
    """Raise `ValueError` unless the risk takes the mean of the features and returns one real number.

    Args:
        objective: with the fields ``feature`` and ``risk``.
        position: pytree of matrices (N, ..., m, n).
    """
    particle = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), position)
    try:
        z = jax.eval_shape(objective.feature, particle)
        value = jax.eval_shape(objective.risk, z)
    except Exception as error:  # whatever a caller's function raises
        raise ValueError(f"objective does not compose on a particle of {particle}: {error}") from error
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"risk of a field of {z} is {value}; expected one real number")
