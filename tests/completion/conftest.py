"""Problems of known optimum, and penalty policies that choose among others or write down what they see."""

import logging
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec import solvers
from jaxspec.completion import blocks


class Case(NamedTuple):
    """A tensor-completion problem whose optimum two conic solvers agree on to 8 digits."""

    tensor: np.ndarray
    mask: np.ndarray
    lam: float | None
    weights: tuple[float, ...]
    modes: tuple[tuple[int, ...], ...]
    optimum: float
    norm: float | None = None

    def blocks(self, method="auto"):
        """The regulariser."""
        return blocks.unfoldings(self.tensor.shape, self.weights, self.modes, method=method)


def waves(shape, period, observed):
    """The tensor ``cos(sum (a+1) i_a) + prod (i_a+1)/n_a / 2`` and a mask, both of the index alone."""
    index = np.indices(shape)
    axes = range(len(shape))
    tensor = np.cos(sum((a + 1) * index[a] for a in axes)) + 0.5 * np.prod([(index[a] + 1) / shape[a] for a in axes], 0)
    mask = (sum((2 * a + 3) * index[a] for a in axes) + index[0] * index[1]) % period < observed
    return tensor, mask


def third(n):
    """Equal weights on the plain unfoldings."""
    return (1 / n,) * n, tuple((mode,) for mode in range(n))


TRAIN = ((0,), (0, 1), (0, 1, 2))
CASES = {
    "A": Case(*waves((4, 5, 3), 5, 3), None, *third(3), 7.22910572, 4.8027301),
    "B": Case(*waves((4, 4, 4), 7, 4), None, (0.5, 0.3, 0.2), third(3)[1], 6.90225758),
    "C": Case(*waves((3, 4, 5), 5, 3), 0.3, *third(3), 2.04912725, 4.2551252),
    "D": Case(*waves((2, 3, 3, 2), 5, 3), None, *third(4), 4.85391702),
    "E": Case(*waves((4, 5, 3), 5, 3), 0.05, (0.6, 0.2, 0.2), third(3)[1], 0.36339571),
    "F": Case(*waves((3, 3, 3, 3), 7, 4), None, (0.3, 0.4, 0.3), TRAIN, 9.45061206),
    "G": Case(*waves((3, 3, 3, 3), 7, 4), 0.1, (1.0,), ((0, 1),), 0.94777802),
}


class Switch(eqx.Module):
    """The policy number ``index``; all of them compile at once."""

    index: jax.Array
    policies: tuple

    def init(self, rho, ax, duals):
        """Memories of all."""
        return tuple(policy.init(rho, ax, duals) for policy in self.policies)

    def update(self, memory, step):
        """Penalties of the chosen one."""
        pairs = [policy.update(mine, step) for policy, mine in zip(self.policies, memory, strict=True)]
        return jnp.stack([rho for rho, _ in pairs])[self.index], tuple(mine for _, mine in pairs)


class Recorder(eqx.Module):
    """A policy that also keeps every step of the iteration in its memory."""

    policy: Any
    length: int = eqx.field(static=True)

    def init(self, rho, ax, duals):
        """Empty pages."""
        one = solvers.penalties.Step(jnp.zeros((), jnp.int32), rho, ax, ax, ax, duals, duals)
        pages = jax.tree.map(lambda leaf: jnp.zeros((self.length, *leaf.shape), leaf.dtype), one)
        return self.policy.init(rho, ax, duals), pages

    def update(self, memory, step):
        """Penalties of the inner policy; the step is written to its page."""
        mine, pages = memory
        rho, mine = self.policy.update(mine, step)
        return rho, (mine, jax.tree.map(lambda page, leaf: page.at[step.k - 1].set(leaf), pages, step))


POLICIES = {
    "displacement": solvers.Displacement(),
    "displacement_per_block": solvers.Displacement(per_block=True),
    "relative_residual": solvers.RelativeResidual(),
    "relative_residual_per_block": solvers.RelativeResidual(per_block=True),
    "residual": solvers.ResidualBalance(),
    "norm_ratio": solvers.NormRatio(),
    "spectral": solvers.Spectral(),
    "fixed": solvers.Fixed(),
}


@pytest.fixture(scope="session")
def cases():
    """Name -> `Case`."""
    return CASES


@pytest.fixture(scope="session")
def make_waves():
    """The deterministic tensor and mask of a shape."""
    return waves


@pytest.fixture(scope="session")
def chosen_policy():
    """Name -> penalty policy; one compilation serves all names."""
    names, policies = list(POLICIES), tuple(POLICIES.values())
    return lambda name: Switch(jnp.asarray(names.index(name)), policies)


@pytest.fixture(scope="session")
def recorder():
    """``recorder(policy, length)``: the policy, with every step kept."""
    return Recorder


@pytest.fixture
def compilations():
    """``compilations(call)``: what XLA compiles during the call."""

    def count(call):
        messages = []
        handler = logging.Handler()
        handler.emit = lambda record: messages.append(record.getMessage())
        logger = logging.getLogger("jax")
        logger.addHandler(handler)
        propagate, logger.propagate = logger.propagate, False
        try:
            with jax.log_compiles():
                jax.block_until_ready(call())
        finally:
            logger.removeHandler(handler)
            logger.propagate = propagate
        return [message for message in messages if message.startswith("Finished XLA compilation")]

    return count
