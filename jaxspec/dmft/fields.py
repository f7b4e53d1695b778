"""What a trained matrix adds to its initial one, and how that depends on the initial one."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class SpikeFields(eqx.Module):
    r"""The low-rank part ``G M F^T`` of ``W(t) = W(0) + G M F^T`` in normalised units, with its responses.

    ``G = [g^s / sqrt N1]`` and ``F = [phi^s / sqrt N2]`` are the fields that the updates are made of; they depend on
    ``W(0)``, of shape (N1, N2) and entries of variance ``sigma2 / N2``, through Gaussian sources chi and xi:

        ``W(0) phi^a = chi^a + sum_b A[a, b] g^b / sqrt r``,  ``W(0)^T g^b = xi^b + sqrt r sum_a B[b, a] phi^a``.

    Attributes:
        C_left: inner products ``<g^a, g^b>`` (per dimension), (k, k).
        C_right: inner products ``<phi^a, phi^b>``, (k, k).
        A: responses ``sigma2 sqrt(r) E[d phi^a / d xi^b]``, rows phi, columns xi, (k, k).
        B: responses ``sigma2 sqrt(r) E[d g^b / d chi^a]``, rows g, columns chi, (k, k).
        coeff: coefficient of each pair in one update, the diagonal of M, (k,).
        aspect: ``r = N1 / N2``.
        sigma2: ``s2``.
        momentum: mu: after t updates the pair of update s counts ``(1 - mu^(t-s)) / (1 - mu)`` times.
        per_step: static; pairs that one update adds (training points, or outputs). Pair ``s * per_step + n`` is of
            update s.
    """

    C_left: Float[Array, "*batch k k"]
    C_right: Float[Array, "*batch k k"]
    A: Float[Array, "*batch k k"]
    B: Float[Array, "*batch k k"]
    coeff: Float[Array, "*batch k"]
    aspect: Float[Array, "*batch"] | float
    sigma2: Float[Array, "*batch"] | float
    momentum: Float[Array, "*batch"] | float = 0.0
    per_step: int = eqx.field(static=True, default=1)

    @property
    def steps(self) -> int:
        """Number of updates whose fields are here."""
        return self.coeff.shape[-1] // self.per_step

    def independent(self) -> "SpikeFields":
        """The same fields as if they did not depend on the initial matrix."""
        return eqx.tree_at(lambda f: (f.A, f.B), self, (jnp.zeros_like(self.A), jnp.zeros_like(self.B)))

    def truncated(self, t: Int[Array, ""] | int) -> "SpikeFields":
        """The fields after ``t`` updates, in arrays of the same shape: later ones vanish.

        Args:
            t: updates applied; may be traced.

        Returns:
            Fields with the coefficients of `W(t)` and no momentum left to apply.
        """
        age = t - jnp.arange(self.coeff.shape[-1]) // self.per_step
        alive = age > 0
        grown = 1 - jnp.asarray(self.momentum, self.coeff.dtype) ** jnp.maximum(age, 1)
        coeff = jnp.where(alive, self.coeff * grown / (1 - self.momentum), 0.0)
        arrays = (_alive(m, alive) for m in (self.C_left, self.C_right, self.A, self.B))
        return SpikeFields(*arrays, coeff, self.aspect, self.sigma2, 0.0, self.per_step)


def _alive(matrix: Float[Array, "k k"], alive: Bool[Array, "k"]) -> Float[Array, "k k"]:
    # A diverging run is not finite later on: `where`, not a product with zero.
    return jnp.where(alive[:, None] & alive, matrix, 0.0)
