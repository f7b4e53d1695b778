"""Groups of rows and their layout in arrays: buckets of similar size, padded with zeros, and copies of the table.

One batched factorisation serves a bucket. Padding and bucketing never change a result.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Real

from jaxspec.linalg import ordered


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of the rows of a table, equal by value: hashable, static under `jax.jit`. Build one with `make_groups`.

    Attributes:
        n: number of rows of the table.
        rows: row indices of each group, without repetition inside a group.
        names: of the groups.
        attributes: of each group, the attribute (column of labels) that it is a level of.
        factors: >= 0, one per group, multiply its `game_weights`; 0 leaves the group out.
        pad_ratio: largest ratio of padded to true size of a group in a bucket.
    """

    n: int
    rows: tuple[np.ndarray, ...]
    names: tuple[str, ...]
    attributes: tuple[str, ...]
    factors: tuple[float, ...]
    pad_ratio: float = 1.5

    @cached_property
    def _key(self) -> tuple:
        rows = tuple(group.tobytes() for group in self.rows)
        return (self.n, rows, self.names, self.attributes, self.factors, self.pad_ratio)

    @cached_property
    def _hash(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Groups) and (self is other or self._key == other._key)

    def __hash__(self) -> int:
        return self._hash

    def __len__(self) -> int:
        return len(self.rows)

    def with_factors(self, factors: Sequence[float] | Float[Array, " G"] | Float[np.ndarray, " G"]) -> "Groups":
        """The same groups with other factors of their weights.

        Args:
            factors: >= 0 and finite, one per group.

        Returns:
            The groups.

        Raises:
            ValueError: for a wrong number of factors, or one out of range.
        """
        values = tuple(float(factor) for factor in factors)
        if len(values) != len(self) or not all(0 <= value < float("inf") for value in values):
            raise ValueError(f"factors is {values}; expected {len(self)} finite numbers >= 0")
        return dataclasses.replace(self, factors=values)


def check_groups(groups: Any) -> None:
    """Raise `TypeError` unless ``groups`` came from `make_groups`.

    Args:
        groups: what the caller gave.

    Raises:
        TypeError: for anything else, such as a list of rows, a frame of labels, or the layout of groups.

    Example:
        >>> check_groups([[0, 1], [2]])
        Traceback (most recent call last):
        TypeError: groups is a list; expected Groups, which make_groups(groups, n) builds from rows or labels
    """
    if not isinstance(groups, Groups):
        given = "None" if groups is None else f"a {type(groups).__name__}"
        raise TypeError(f"groups is {given}; expected Groups, which make_groups(groups, n) builds from rows or labels")


def checked_rows(index: int, group: Any, n: int) -> np.ndarray:
    """Rows of a group as integers.

    Args:
        index: of the group, for the message.
        group: row indices.
        n: number of rows of the table.

    Returns:
        The rows.

    Raises:
        ValueError: for a row out of range or repeated.
        TypeError: for rows that are not integers.
    """
    rows = np.asarray(group).ravel()
    if rows.size == 0:
        return np.zeros(0, np.int64)
    if not np.issubdtype(rows.dtype, np.integer):
        labels = "; labels belong into a pandas DataFrame or Series" if rows.dtype.kind in "OSUT" else ""
        raise TypeError(f"groups[{index}] has dtype {rows.dtype}; expected indices of rows{labels}")
    bad = (rows < 0) | (rows >= n)
    if bad.any():
        raise ValueError(f"groups[{index}] has the row {rows[bad][0]}; expected 0 to {n - 1}")
    if np.unique(rows).size != rows.size:
        raise ValueError(f"groups[{index}] repeats a row; expected each once")
    return rows.astype(np.int64)


def buckets(sizes: Sequence[int], pad_ratio: float) -> list[list[int]]:
    """Numbers of the non-empty groups, by increasing size, cut so that padding stays within ``pad_ratio``.

    Args:
        sizes: number of rows of each group.
        pad_ratio: largest ratio of the largest to the smallest size in a bucket.

    Returns:
        The buckets.
    """
    result: list[list[int]] = []
    for g in sorted((g for g, size in enumerate(sizes) if size), key=sizes.__getitem__):
        if not result or sizes[g] > pad_ratio * sizes[result[-1][0]]:
            result.append([])
        result[-1].append(g)
    return result


def padded(rows: Sequence[np.ndarray], sentinel: int) -> np.ndarray:
    """Index arrays stacked to the longest of them; ``sentinel`` marks the rows of zeros that pad them.

    Args:
        rows: index arrays.
        sentinel: what to fill up with.

    Returns:
        Array of shape (groups, longest).
    """
    width = max(group.size for group in rows)
    return np.stack([np.concatenate([group, np.full(width - group.size, sentinel)]) for group in rows]).astype(np.int32)


class Layout(eqx.Module):
    """Groups as arrays: the same compiled code serves all groups with the same bucket shapes.

    Attributes:
        index: rows of the table, one array (groups, rows) per bucket; n pads.
        ids: number of each group, one array per bucket.
        slots: the same rows in the stack of copies of the table (row i of copy q is q n + i; Q n pads); empty if each
            group keeps its own copy of its rows.
        owner: group of each row in each copy, shape (Q, n), or (0, n); G where it has none.
        factors: of the weights, shape (G,).
    """

    index: tuple[Int[Array, "_ _"], ...]
    ids: tuple[Int[Array, " _"], ...]
    slots: tuple[Int[Array, "_ _"], ...]
    owner: Int[Array, "Q n"]
    factors: Float[Array, " G"]

    @property
    def n(self) -> int:
        """Number of rows of the table."""
        return self.owner.shape[1]


def layout(groups: Groups, form: str = "auto") -> Layout:
    """Arrays of the groups.

    Args:
        groups: of the rows.
        form: ``"copies"``: groups without a common row, such as the levels of an attribute, share a copy of the table;
            ``"buckets"``: every group has a copy of its rows; ``"auto"``: whichever holds fewer rows. They give the
            same iterates.

    Returns:
        The layout.
    """
    host = _host_layout(groups, form)
    factors = jnp.asarray(groups.factors, jnp.result_type(float))
    return Layout(*jax.device_put(host), factors)


@lru_cache(maxsize=128)
def _host_layout(groups: Groups, form: str) -> tuple:
    sizes = [group.size for group in groups.rows]
    members = buckets(sizes, groups.pad_ratio)
    index = tuple(padded([groups.rows[g] for g in bucket], groups.n) for bucket in members)
    ids = tuple(np.asarray(bucket, np.int32) for bucket in members)
    copy_of, count = _pack(groups)
    if form == "buckets" or (form == "auto" and count * groups.n > sum(array.size for array in index)):
        return index, ids, (), np.zeros((0, groups.n), np.int32)
    owner = np.full((count, groups.n), len(groups.rows), np.int32)
    for g, rows in enumerate(groups.rows):
        owner[copy_of[g], rows] = g
    shifted = [[groups.rows[g] + copy_of[g] * groups.n for g in bucket] for bucket in members]
    slots = tuple(padded(rows, count * groups.n) for rows in shifted)
    return index, ids, slots, owner


def _pack(groups: Groups) -> tuple[list[int], int]:
    """Number of the copy of the table that each group lives in, such that the groups of a copy are disjoint."""
    taken: list[np.ndarray] = []
    copy_of = []
    for rows in groups.rows:
        free = next((q for q, used in enumerate(taken) if not used[rows].any()), len(taken))
        if free == len(taken):
            taken.append(np.zeros(groups.n, bool))
        taken[free][rows] = True
        copy_of.append(free)
    return copy_of, len(taken)


def take_rows(x: Real[Array, "n d"], index: Int[Array, "groups rows"]) -> Real[Array, "groups rows d"]:
    """Rows of a table; the index n is a row of zeros.

    Args:
        x: table.
        index: rows.

    Returns:
        The rows.
    """
    return jnp.concatenate([x, jnp.zeros((1, x.shape[1]), x.dtype)])[index]


def by_group(
    x: Real[Array, "n d"], where: Layout, function: Callable[[Array], Float[Array, " _"]]
) -> Float[Array, " G"]:
    """``function(S_g x)`` for every group, 0 for the empty ones; one factorisation after the other.

    Args:
        x: table.
        where: layout of the groups.
        function: (groups, rows, d) -> (groups,); rows of zeros must not change it.

    Returns:
        One number per group.
    """
    result, after = jnp.zeros(where.factors.shape, x.dtype), None
    for index, ids in zip(where.index, where.ids, strict=True):
        after = function(ordered(take_rows(x, index), after))
        result = result.at[ids].set(after.astype(x.dtype))
    return result


def memberships(where: Layout, active: Float[Array, " G"]) -> Float[Array, " n"]:
    """Number of active groups that contain each row.

    Args:
        where: layout of the groups.
        active: 1 or 0 per group.

    Returns:
        The counts c_i.
    """
    count = jnp.zeros(where.n + 1, active.dtype)
    for index, ids in zip(where.index, where.ids, strict=True):
        count = count.at[index].add(active[ids][:, None])
    return count[:-1]
