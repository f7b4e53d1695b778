r"""The linear map from a memory to its gaps, ``M[mu, nu] = S[mu, mu] - S[mu, nu]``, on chosen pairs (mu, nu).

Feasibility, margin and their scalable forms are convex programs in M: they need ``W -> M``, its adjoint ``G -> sum
G[mu, nu] (y_mu - c[mu, nu]) x_mu^T``, and which pairs count. Rows may be divided over devices: the adjoint's d x d sum
is then the one number block that devices exchange.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxspec.memory.associations import (
    Associations,
    competing,
    competitors_at,
    num_competitors,
    shares_competitors,
)

_HIGHEST = jax.lax.Precision.HIGHEST


class Pairs(eqx.Module):
    """Gaps of some pairs of each row, with the adjoint.

    Attributes:
        x: keys, (p, d).
        y: right answers, (p, d).
        others: competitors, shared, (q, d), or each row's own, (p, k, d).
        listed: which of the shared ones each row has, (p, k); None: all.
        mask: pairs that count, (p, k).
    """

    x: Float[Array, "p d"]
    y: Float[Array, "p d"]
    others: Float[Array, "q d"] | Float[Array, "p k d"]
    listed: Int[Array, "p k"] | None
    mask: Bool[Array, "p k"]

    def gaps(self, W: Float[Array, "d d"]) -> Float[Array, "p k"]:
        """``M``, also on pairs that do not count.

        Args:
            W: the memory.

        Returns:
            M.
        """
        images = jnp.matmul(self.x, W.T, precision=_HIGHEST)
        if self.listed is not None:
            scores = jnp.sum(images[:, None] * self.others[self.listed], -1)
        elif self.others.ndim == 3:
            scores = jnp.einsum("md,mkd->mk", images, self.others, precision=_HIGHEST)
        else:
            scores = jnp.matmul(images, self.others.T, precision=_HIGHEST)
        return jnp.sum(images * self.y, -1, keepdims=True) - scores

    def adjoint(self, G: Float[Array, "p k"]) -> Float[Array, "d d"]:
        """``sum G[mu, nu] (y_mu - c[mu, nu]) x_mu^T``.

        Args:
            G: weights, 0 on pairs that do not count.

        Returns:
            The sum.
        """
        if self.listed is not None:
            pulled = jnp.sum(G[..., None] * self.others[self.listed], 1)
        elif self.others.ndim == 3:
            pulled = jnp.einsum("mk,mkd->md", G, self.others, precision=_HIGHEST)
        else:
            pulled = jnp.matmul(G, self.others, precision=_HIGHEST)
        return jnp.matmul((G.sum(1, keepdims=True) * self.y - pulled).T, self.x, precision=_HIGHEST)

    def gram(self, active: Bool[Array, "p k"]) -> Float[Array, "d2 d2"]:
        """Matrix of ``V -> adjoint(active * gaps(V))`` on row-major d x d matrices; memory d^4.

        Args:
            active: pairs to sum over.

        Returns:
            The matrix.
        """
        p, d = self.x.shape
        weights = active.astype(self.x.dtype)
        # sum z z^T of each row, z = y - c, first: its Kronecker product with x x^T is the row's part.
        if self.listed is None and self.others.ndim == 2:
            squares = (self.others[:, :, None] * self.others[:, None]).reshape(-1, d * d)
            second = jnp.matmul(weights, squares, precision=_HIGHEST).reshape(p, d, d)
            cross = self.y[:, :, None] * jnp.matmul(weights, self.others, precision=_HIGHEST)[:, None]
            own = weights.sum(1)[:, None, None] * self.y[:, :, None] * self.y[:, None]
            inner = own - cross - cross.mT + second
        else:
            z = self.y[:, None] - (self.others if self.listed is None else self.others[self.listed])
            inner = jnp.einsum("mka,mkb->mab", weights[..., None] * z, z, precision=_HIGHEST)
        outer = (self.x[:, :, None] * self.x[:, None]).reshape(p, d * d)
        total = jnp.matmul(inner.reshape(p, d * d).T, outer, precision=_HIGHEST)
        return total.reshape(d, d, d, d).transpose(0, 2, 1, 3).reshape(d * d, d * d)

    def astype(self, dtype: Any) -> "Pairs":
        """The same pairs in another floating dtype.

        Args:
            dtype: of keys, values and competitors.

        Returns:
            The pairs.
        """
        return Pairs(*(v.astype(dtype) for v in (self.x, self.y, self.others)), self.listed, self.mask)


def all_pairs(a: Associations, n: Int[Array, ""]) -> Pairs:
    """Every pair of the n leading rows; memory p^2, and p^2 d for competitors of each row's own.

    Args:
        a: the associations, in one floating dtype.
        n: how many rows count.

    Returns:
        The pairs.
    """
    mu, nu = jnp.arange(len(a.x)), jnp.arange(num_competitors(a))
    if shares_competitors(a):
        others = competitors_at(a, mu[0], nu)
    else:
        others = jax.vmap(lambda row: competitors_at(a, row, nu))(mu)
    return Pairs(a.x, a.y, others, None, jax.vmap(lambda row: competing(a, row, nu, n))(mu))


def listed_pairs(a: Associations, n: Int[Array, ""], listed: Int[Array, "p k"]) -> Pairs:
    """Some pairs of each row; memory ``p k``, and ``p k d`` for competitors of each row's own.

    Args:
        a: the associations, in one floating dtype.
        n: how many rows count.
        listed: entries of each row; what does not compete does not count.

    Returns:
        The pairs.
    """
    mu = jnp.arange(len(a.x))
    mask = jax.vmap(lambda row, nu: competing(a, row, nu, n))(mu, listed)
    if shares_competitors(a):
        others = competitors_at(a, mu[0], jnp.arange(num_competitors(a)))
        return Pairs(a.x, a.y, others, listed, mask)
    return Pairs(a.x, a.y, jax.vmap(lambda row, nu: competitors_at(a, row, nu))(mu, listed), None, mask)


def smallest_gaps(
    a: Associations,
    n: Int[Array, ""],
    W: Float[Array, "d d"],
    k: int,
    block: int,
    kept: Int[Array, "p j"] | None = None,
) -> tuple[Float[Array, "p k"], Int[Array, "p k"]]:
    """The k smallest gaps of each row over all that competes, by a pass over blocks of columns.

    Columns rather than rows are taken in turn, so that rows can stay divided over devices.

    Args:
        a: the associations, in one floating dtype.
        n: how many rows count.
        W: the memory.
        k: how many (static).
        block: columns at a time (static); memory ``p (k + block)``, and ``p block d`` where rows have their own.
        kept: entries of each row that are among the k whatever their gap, j <= k; the number of competitors or more
            where there are fewer.

    Returns:
        ``(gaps, entries)``: kept ones first, then gaps ascending; infinity where fewer than k compete.
    """
    mu, q = jnp.arange(len(a.x)), num_competitors(a)
    images = jnp.matmul(a.x, W.T, precision=_HIGHEST)
    correct = jnp.sum(images * a.y, -1, keepdims=True)

    def chunk(best, start):
        nu = start + jnp.arange(block)
        if shares_competitors(a):
            scores = jnp.matmul(images, competitors_at(a, mu[0], nu).T, precision=_HIGHEST)
        else:
            own = jax.vmap(lambda row: competitors_at(a, row, nu))(mu)
            scores = jnp.einsum("md,mkd->mk", images, own, precision=_HIGHEST)
        mask = jax.vmap(lambda row: competing(a, row, nu, n))(mu)
        gaps = jnp.where(mask, correct - scores, jnp.inf)
        ranks = gaps
        if kept is not None:
            here = (kept >= start) & (kept < jnp.minimum(start + block, q))
            place = jnp.where(here, kept - start, block)
            ranks = gaps.at[mu[:, None], place].set(-jnp.inf, mode="drop")
        new = ranks, gaps, jnp.broadcast_to(nu, mask.shape)
        ranks, gaps, entries = (jnp.concatenate(both, 1) for both in zip(best, new, strict=True))
        least, place = jax.lax.top_k(-ranks, k)
        return (-least, jnp.take_along_axis(gaps, place, 1), jnp.take_along_axis(entries, place, 1)), None

    far = jnp.full((len(mu), k), jnp.inf, images.dtype)
    return jax.lax.scan(chunk, (far, far, jnp.full((len(mu), k), q)), jnp.arange(0, q, block))[0][1:]
