"""The penalty ``sum_g lambda_g ||S_g M||_*`` of overlapping row groups as blocks of the consensus ADMM, in two forms.

Buckets: every group keeps its own copy of its rows. Copies: groups without a common row, such as the levels of one
attribute, share a copy of the table, whose exact prox thresholds each group by itself; Q attributes need Q copies of
the table however many levels they have. With one penalty rho for all blocks both give the same iterates.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxspec.completion.blocks import NuclearProx, nuclear_gauge, nuclear_value, row_block
from jaxspec.completion.group_layout import Layout, take_rows
from jaxspec.linalg import ordered
from jaxspec.solvers import Block

# (thresholds, slots) of each bucket.
Parts = tuple[tuple[Float[Array, " _"], Int[Array, "_ _"]], ...]


def group_blocks(where: Layout, lam: Float[Array, " G"], method: str = "auto") -> tuple[Block, ...]:
    """Blocks of ``sum_g lam_g ||S_g M||_*``.

    Args:
        where: layout of the groups.
        lam: >= 0, one per group; a group of weight 0 is left out, also where its weight is traced.
        method: engine of the thresholding, see `jaxspec.prox.svt`.

    Returns:
        One block (copies) or one per bucket; empty without a non-empty group.
    """
    if not where.slots:
        return tuple(
            row_block(where.n, _active(index, lam[ids], where.n), lam[ids], method)
            for index, ids in zip(where.index, where.ids, strict=True)
        )
    inside = (jnp.append(lam, 0) > 0)[where.owner].astype(lam.dtype)
    parts = tuple(
        (lam[ids], _active(slots, lam[ids], where.owner.size))
        for slots, ids in zip(where.slots, where.ids, strict=True)
    )
    count = jnp.sum(inside, axis=0)[:, None]
    return (Block(_to_copies, _from_copies, _CopiesProx(method), _value, _gauge, count, (inside[..., None], parts)),)


def _active(index: Int[Array, "groups rows"], lam: Float[Array, " groups"], sentinel: int) -> Array:
    """Rows of the groups of positive weight. A_g = 0 for the others: their duals are exactly 0, as the gap needs."""
    return jnp.where(lam[:, None] > 0, index, sentinel)


Data = tuple[Float[Array, "Q n 1"], Parts]


def _to_copies(data: Data, x: Float[Array, "n d"]) -> Float[Array, "Q n d"]:
    return data[0].astype(x.dtype) * x


def _from_copies(data: Data, y: Float[Array, "Q n d"]) -> Float[Array, "n d"]:
    return jnp.sum(data[0].astype(y.dtype) * y, axis=0)


def _stacks(data: Data, y: Float[Array, "Q n d"]) -> tuple[Float[Array, "rows d"], list[tuple[PyTree, Array]]]:
    flat = y.reshape(-1, y.shape[-1])
    return flat, [(part, take_rows(flat, part[1])) for part in data[1]]


@dataclass(frozen=True)
class _CopiesProx:
    method: str

    def __call__(self, data: Data, v: Float[Array, "Q n d"], step: Array) -> tuple[Array, Array]:
        flat, stacks = _stacks(data, v)
        result, total, after = jnp.zeros_like(flat), jnp.zeros((), v.dtype), None
        for part, stack in stacks:
            # One LAPACK-backed factorisation at a time: two independent ones in a loop can stall the CPU backend.
            after, value = NuclearProx(self.method)(part, ordered(stack, after), step)
            result, total = result.at[part[1]].set(after, mode="drop"), total + value
        return result.reshape(v.shape), total


def _value(data: Data, y: Float[Array, "Q n d"]) -> Array:
    total, after = jnp.zeros((), y.dtype), None
    for part, stack in _stacks(data, y)[1]:
        after = nuclear_value(part, ordered(stack, after))
        total = total + after
    return total


def _gauge(data: Data, w: Float[Array, "Q n d"]) -> Array:
    largest, after = jnp.zeros((), w.dtype), None
    for part, stack in _stacks(data, w)[1]:
        after = nuclear_gauge(part, ordered(stack, after))
        largest = jnp.maximum(largest, after)
    return largest
