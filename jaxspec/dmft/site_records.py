"""Records of a sweep over single sites: what it is made with, what it carries, what it leaves."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Problem(NamedTuple):
    """Numbers of a training run.

    Attributes:
        kx: kernel of the inputs, (P, P).
        y: targets, (P,).
        rates: ``eta gamma0 mask / |batch|``; zero in the last row, (T, P).
        share: what is left of update s at time t, ``share[t, s]``; 0 for s >= t, (T, T).
        kept: what is left of the initial weights, (T,).
        gamma0: feature-learning strength.
        sigma2: variance of the weights.
    """

    kx: Float[Array, "P P"]
    y: Float[Array, " P"]
    rates: Float[Array, "T P"]
    share: Float[Array, "T T"]
    kept: Float[Array, " T"]
    gamma0: Float[Array, ""]
    sigma2: Float[Array, ""]

    @property
    def kept_rows(self) -> Float[Array, " R"]:
        """``kept`` of every row."""
        return jnp.repeat(self.kept, len(self.y))


class Layer(NamedTuple):
    """Sites of one layer, R = T P rows.

    Attributes:
        phi: activations, (R, S).
        slope: ``phi'(h)``, (R, S).
        bend: ``phi''(h) z``, (R, S); None without tangents.
        g: back-propagated fields, (R, S).
        chi_noise: white noise of the forward source, (R or P, S).
        xi_noise: of the backward source, (R or 1, S).
        chi_root: triangular root of the forward source's covariance; rows not reached are those of I, (R, R).
        xi_root: of the backward source's.
        readout_phi: tangent of phi in the readout weight, last layer, (R, S).
        readout_g: tangent of g in the readout weight.
    """

    phi: Array
    slope: Array
    bend: Array | None
    g: Array
    chi_noise: Array
    xi_noise: Array
    chi_root: Array
    xi_root: Array
    readout_phi: Array | None
    readout_g: Array | None


class Trace(NamedTuple):
    """Kernels, responses and outputs so far: fields of the solution, rows and columns flattened.

    Attributes:
        Phi: (L, R, R), and so G, A and B (the last layer of A and B stays 0).
        f: outputs, (T, P), and so delta.
        ntk: (T, P, P).
    """

    Phi: Array
    G: Array
    A: Array
    B: Array
    f: Array
    delta: Array
    ntk: Array


class Rules(NamedTuple):
    """What a sweep is made with.

    Attributes:
        problem: numbers.
        activation: elementwise, of a number.
        tangent: whether responses are means of derivatives, else by Stein's lemma.
        chunk: sites whose responses are computed at once.
        over: mesh axis over which sites are divided.
    """

    problem: Problem
    activation: Callable[[Array], Array]
    tangent: bool
    chunk: int
    over: str | None

    def slope(self, h: Array) -> Array:
        """Derivative of the activation.

        Args:
            h: two axes.
        """
        return jax.vmap(jax.vmap(jax.grad(self.activation)))(h)

    def curvature(self, h: Array) -> Array:
        """Second derivative of the activation.

        Args:
            h: two axes.
        """
        return jax.vmap(jax.vmap(jax.grad(jax.grad(self.activation))))(h)
