r"""A smooth softmax-gated mixture of experts as an objective of particles: an expert is a particle.

    F(X) = (e^(s_X) E_X, e^(s_X)) ,   out = x + num / den ,   (num, den) = int F d rho .

The expert: one attention head and a two-layer network on normalised tokens, ``nrm(x) = x / (mean(x^2) + floor)^(1/2)``,

    h = nrm(x) ,  u = softmax((h wq)(h wk)^T / key_dim^(1/2)) (h wv) wo ,  E = u + gelu(nrm(x + u) w1) w2 ,

with the capped score ``s = tau tanh(h r / tau)``; every gate is positive, so that everything is smooth.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxspec.checks import check_integers, check_numbers
from jaxspec.flow.objective import MeanFieldObjective

Expert = dict[str, Float[Array, "rows columns"]]
Field = tuple[Float[Array, "batch T dim"], Float[Array, "batch T 1"]]


class SmoothMoEBlock(eqx.Module):
    """One layer of experts; the experts themselves are particles, dictionaries of matrices stacked on a leading axis.

    Attributes:
        dim: width of a token.
        key_dim: width of queries and keys.
        hidden: width of an expert's network.
        tau: cap of the score, > 0.
        floor: of the normalisation, > 0.
    """

    dim: int = eqx.field(static=True)
    key_dim: int = eqx.field(static=True)
    hidden: int = eqx.field(static=True)
    tau: float = 2.0
    floor: float = 1e-2

    def __check_init__(self):
        """Refuse sizes and numbers out of range."""
        check_integers(1, dim=self.dim, key_dim=self.key_dim, hidden=self.hidden)
        check_numbers(0, ends="()", tau=self.tau, floor=self.floor)

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Shapes of an expert's matrices."""
        d, k, hidden = self.dim, self.key_dim, self.hidden
        return {
            "wq": (d, k),
            "wk": (d, k),
            "wv": (d, d),
            "wo": (d, d),
            "w1": (d, hidden),
            "w2": (hidden, d),
            "r": (d, 1),
        }

    def init(self, key: Array, count: int) -> dict[str, Float[Array, "count rows columns"]]:
        """Experts with normal entries of variance ``1 / rows``.

        Args:
            key: typed key.
            count: number of experts.

        Returns:
            The experts, stacked.
        """
        keys = dict(zip(self.shapes, jax.random.split(key, len(self.shapes)), strict=True))
        return {k: jax.random.normal(keys[k], (count, *s)) / s[0] ** 0.5 for k, s in self.shapes.items()}

    def feature(self, particle: Expert, tokens: Float[Array, "batch T dim"]) -> Field:
        """``(e^s E, e^s)`` of one expert.

        Args:
            particle: the expert.
            tokens: inputs.

        Returns:
            Numerator and denominator.
        """
        h = self._normal(tokens)
        scores = (h @ particle["wq"]) @ (h @ particle["wk"]).mT / self.key_dim**0.5
        u = jax.nn.softmax(scores, axis=-1) @ (h @ particle["wv"]) @ particle["wo"]
        out = u + jax.nn.gelu(self._normal(tokens + u) @ particle["w1"], approximate=False) @ particle["w2"]
        gate = jnp.exp(self.tau * jnp.tanh(h @ particle["r"] / self.tau))
        return gate * out, gate

    def output(self, field: Field, tokens: Float[Array, "batch T dim"]) -> Float[Array, "batch T dim"]:
        """``x + num / den``.

        Args:
            field: mean of `feature` over experts.
            tokens: inputs.

        Returns:
            What the layer returns.
        """
        return tokens + field[0] / field[1]

    def _normal(self, x):
        return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.floor)


class Feature(eqx.Module):
    """`SmoothMoEBlock.feature` on given tokens.

    Attributes:
        block: the layer.
        tokens: inputs.
    """

    block: SmoothMoEBlock
    tokens: Float[Array, "batch T dim"]

    def __call__(self, particle: Expert) -> Field:
        """Numerator and denominator of one expert."""
        return self.block.feature(particle, self.tokens)


class Risk(eqx.Module):
    """Half the mean squared distance of the outputs from the targets, per token.

    Attributes:
        block: the layer.
        tokens: inputs.
        targets: what the outputs should be.
        readout: acts on the outputs; None for the identity.
    """

    block: SmoothMoEBlock
    tokens: Float[Array, "batch T dim"]
    targets: Float[Array, "batch T out"]
    readout: Callable | None = None

    def __call__(self, field: Field) -> Float[Array, ""]:
        """The loss."""
        out = self.block.output(field, self.tokens)
        out = out if self.readout is None else self.readout(out)
        return jnp.mean(jnp.sum((out - self.targets) ** 2, axis=-1)) / 2


def moe_objective(
    block: SmoothMoEBlock,
    tokens: Float[Array, "batch T dim"],
    targets: Float[Array, "batch T out"],
    *,
    readout: Callable | None = None,
) -> MeanFieldObjective:
    """Training a layer of experts as an objective of particles.

    Args:
        block: the layer.
        tokens: inputs.
        targets: wanted outputs.
        readout: acts on ``x + num / den``; None for the identity. A function of a module, or an `equinox.Module`.

    Returns:
        The objective; its arrays are traced, so that new data need no compilation.

    Raises:
        ValueError: tokens of another width than the block.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxspec.flow import hamiltonian_flow, integrate
        >>> block = SmoothMoEBlock(dim=4, key_dim=2, hidden=4)
        >>> tokens = jax.random.normal(jax.random.key(0), (2, 3, 4))
        >>> flow = hamiltonian_flow(moe_objective(block, tokens, jnp.zeros_like(tokens)), eps=0.1)
        >>> state = flow.init(block.init(jax.random.key(1), 5))
        >>> _, seen = integrate(flow, state, dt=0.02, num_steps=10)
        >>> bool((jnp.diff(seen.hamiltonian) < 0).all())
        True
    """
    if tokens.shape[-1] != block.dim:
        raise ValueError(f"tokens have shape {tokens.shape}; expected (batch, T, {block.dim})")
    return MeanFieldObjective(Feature(block, tokens), Risk(block, tokens, targets, readout))
