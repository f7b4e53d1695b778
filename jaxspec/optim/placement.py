"""Work on leaves whose types say how they lie on the devices."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array


def placed_as_given(function: Callable[..., Sequence[Array]], leaves: Sequence[Array], *others: Any) -> list[Array]:
    """``function(leaves, *others)``, every result lying as its leaf does.

    Axes in the type of an array (explicit sharding) forbid to stack leaves that lie differently and to contract axes
    that are divided: the work is handed to the compiler, and every result is put where its leaf lies.

    Args:
        function: list of leaves, then ``others``, to as many results of the same shapes.
        leaves: arrays of any shapes.
        others: pytrees of arrays that the work needs besides.

    Returns:
        The results.
    """
    placements = [jax.typeof(x).sharding for x in leaves]
    explicit = [placed.mesh for placed in placements if placed.mesh.explicit_axes]
    if not explicit:
        return list(function(list(leaves), *others))
    out = [
        placed if placed.mesh.explicit_axes else NamedSharding(explicit[0], PartitionSpec()) for placed in placements
    ]
    run = jax.sharding.auto_axes(lambda xs, *rest: tuple(function(list(xs), *rest)), out_sharding=tuple(out))
    return list(run(tuple(leaves), *others))
