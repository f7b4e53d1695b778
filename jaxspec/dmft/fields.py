"""What a trained matrix adds to its initial one, and how that depends on the initial one."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@jax.jit
def remembered(
    momentum: Float[Array, ""] | float, shrink: Float[Array, " steps"]
) -> tuple[Float[Array, "times steps"], Float[Array, " times"]]:
    """What is left of every update, and of the start, after t = 0, ..., steps updates.

    ``theta(t + 1) = shrink_t theta(t) + u(t)``, ``u(t) = mu u(t - 1) + step_t`` have the solution
    ``theta(t) = kept[t] theta(0) + sum_{s<t} share[t, s] step_s``.

    Args:
        momentum: mu.
        shrink: factor of the parameters in each update, ``1 - eta weight_decay``.

    Returns:
        ``(share, kept)``; ``share[t, s] = 0`` for s >= t.
    """

    def update(state, now):
        share, velocity, kept = state
        factor, own = now
        velocity = momentum * velocity + own
        share, kept = factor * share + velocity, factor * kept
        return (share, velocity, kept), (share, kept)

    blank, one = jnp.zeros_like(shrink), jnp.ones((), shrink.dtype)
    _, (share, kept) = jax.lax.scan(update, (blank, blank, one), (shrink, jnp.eye(len(shrink), dtype=shrink.dtype)))
    return jnp.concatenate([blank[None], share]), jnp.concatenate([one[None], kept])


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
        momentum: mu: without decay the pair of update s counts ``(1 - mu^(t-s)) / (1 - mu)`` times after t updates.
        shrink: factor of the matrix in every update (weight decay), (steps,); None: 1.
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
    shrink: Float[Array, "*batch steps"] | None = None
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
            Fields of ``W(t) = W'(0) + G M F^T`` with no momentum or decay left to apply: ``W'(0)`` is what is left of
            the initial matrix, and the coefficients are those of time t.
        """
        shrink = jnp.ones(self.steps, self.coeff.dtype) if self.shrink is None else self.shrink
        share, kept = (table[t] for table in remembered(self.momentum, shrink))
        alive = jnp.arange(self.coeff.shape[-1]) // self.per_step < t
        coeff = jnp.where(alive, self.coeff * jnp.repeat(share, self.per_step), 0.0)
        return SpikeFields(
            C_left=_alive(self.C_left, alive),
            C_right=_alive(self.C_right, alive),
            A=kept * _alive(self.A, alive),
            B=kept * _alive(self.B, alive),
            coeff=coeff,
            aspect=self.aspect,
            sigma2=kept**2 * self.sigma2,
            per_step=self.per_step,
        )


def _alive(matrix: Float[Array, "k k"], alive: Bool[Array, " k"]) -> Float[Array, "k k"]:
    # A diverging run is not finite later on: `where`, not a product with zero.
    return jnp.where(alive[:, None] & alive, matrix, 0.0)
