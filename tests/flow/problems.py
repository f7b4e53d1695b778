"""Problems with known solutions, shared by the tests of the flow."""

import jax.numpy as jnp
import numpy as np

from jaxspec.flow import MeanFieldObjective, hamiltonian_flow

TARGET = np.array([[1.0, 2], [-1, 0.5], [0.3, -2]])


def particles(count, m=3, d=4):
    i, a, b = np.arange(count)[:, None, None], np.arange(m)[None, :, None], np.arange(d)[None, None, :]
    return np.sin(1 + (i + 1) * 2**0.5 + (a + 1) * (i + 2) * 3**0.5 + (b + 1) * (i + 3) * 5**0.5)


def tanh_problem(m=3, d=4, nd=16):
    """A tanh layer on ``nd`` fixed inputs."""
    j = np.arange(nd)[:, None]
    x = jnp.asarray(np.cos((np.arange(d) + 1) * (j + 0.5) * np.pi / nd))
    y = jnp.asarray(0.5 * np.sin(2 * np.pi * (np.arange(m) + 1) * (j + 0.5) / nd))
    return MeanFieldObjective(lambda p: jnp.tanh(x @ p.T), lambda z: jnp.sum((z - y) ** 2) / (2 * nd))


def identity(p):
    return p


def squares(z):
    return jnp.sum(z**2) / 2


def distance(z):
    return jnp.sum((z - TARGET) ** 2) / 2


QUADRATIC, TO_TARGET = MeanFieldObjective(identity, squares), MeanFieldObjective(identity, distance)


def quick_flow(objective, **options):
    """A flow whose polar factor compiles in a moment: its engines have tests of their own."""
    return hamiltonian_flow(objective, polar_engine="svd", **options)
