"""Targets of the experiments, by the names that the figures give them."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from jaxspec.peeled import geometric_kernel

ASYMMETRIC = (0.02, 0.55, 0.2, 0.1, 0.05, 0.03, 0.05)

CYCLIC: dict[str, Callable[[], Array]] = {
    "geometric, n = 7": lambda: geometric_kernel(7, 1.0),
    "asymmetric, n = 7": lambda: jnp.asarray(ASYMMETRIC, float),
    "geometric, n = 12": lambda: geometric_kernel(12, 1.0),
    "geometric, n = 12, decay 2": lambda: geometric_kernel(12, 2.0),
}
