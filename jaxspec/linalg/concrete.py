"""Whether numbers can be looked at while Python runs: what every check of an argument asks first."""

from typing import Any

import jax


def is_concrete(*values: Any) -> bool:
    """Whether no leaf of ``values`` is traced, nor divided over several processes, of which each holds a part only.

    Args:
        *values: pytrees.

    Example:
        >>> is_concrete(1.0, {"a": jax.numpy.ones(2)})
        True
        >>> jax.jit(lambda x: 0 if is_concrete(x) else 1)(1.0)
        Array(1, dtype=int32, weak_type=True)
    """
    return all(_held(leaf) for leaf in jax.tree.leaves(values))


def _held(leaf: Any) -> bool:
    if isinstance(leaf, jax.core.Tracer):
        return False
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated
