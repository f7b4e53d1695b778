"""Targets and optima that several test files share."""

import jax.numpy as jnp
import numpy as np

from jaxspec.peeled import geometric_kernel

ASYM7 = np.array([0.02, 0.55, 0.2, 0.1, 0.05, 0.03, 0.05])

# name -> (kernel, E, value, multiplier, moduli of the frequencies 1.., rank)
CYCLIC = {
    "geom7_half": (("geom", 7), 0.5, 1.6967303406, 0.05413702, (1.75, 0, 0), 2),
    "geom7": (("geom", 7), 1.0, 1.5594369192, 0.0269123872, (3.286728, 0.146039, 0.067233), 6),
    "asym7": (("asym", 7), 1.0, 1.5279360044, 0.0396668598, (2.222158, 0.572903, 0.704939), 6),
    "asym7_two": (("asym", 7), 2.0, 1.3745627600, 0.00704281, (3.626003, 1.482889, 1.891107), 6),
    "geom12": (("geom", 12), 1.0, 1.9117932325, 0.0316999582, (5.359581, 0.640419, 0, 0, 0, 0), 4),
    "geom12_two": (
        ("geom", 12),
        2.0,
        1.6644034144,
        0.0115188089,
        (8.955446, 1.855622, 0.657676, 0.254165, 0.226164, 0.101854),
        11,
    ),
}

# name -> (action, (V, m), target, value)
HOMOGENEOUS = {
    "S5": ("symmetric", 5, (0.92, 0.02, 0.02, 0.02, 0.02), 5, 0.8636145852),
    "S6": ("symmetric", 6, (0.45, 0.45, 0.025, 0.025, 0.025, 0.025), 15, 1.3615348589),
    "S4": ("symmetric", 4, (0.5, 0.3, 0.15, 0.05), 24, 1.1595669159),
    "AGL5": ("affine", 5, (0.5, 0.25, 0.12, 0.08, 0.05), 20, 1.3364573694),
    "AGL7": ("affine", 7, tuple(ASYM7), 42, 1.5456772279),
    "order21": ("squares", 7, tuple(ASYM7), 21, 1.5456772279),
    "fano": ("fano", 7, (0.3, 0.3, 0.025, 0.3, 0.025, 0.025, 0.025), 7, 1.6412746817),
    "S7": ("symmetric", 7, (0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.02), 5040, 1.6697682920),
}


def kernel(name, length):
    """The kernel of an oracle; needs double precision."""
    return jnp.asarray(ASYM7) if name == "asym" else geometric_kernel(length, 1.0)


def random_targets(seed, V, m, concentration=1.0):
    """Dirichlet columns."""
    return np.random.default_rng(seed).dirichlet(np.full(V, concentration), m).T
