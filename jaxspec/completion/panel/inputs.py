"""Checks of the panel functions' arguments, and the two bundles they become: what is compiled in, and the numbers."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxspec.checks import check_choice, check_integers, check_numbers
from jaxspec.completion import entries, validation

Number = float | int | Float[Array, ""]
Rank = str | int | tuple[int, int]
CENTERS = (None, "row", "two_way")


class Panel(NamedTuple):
    """Checked data.

    Attributes:
        Y: outcomes in the computing dtype, 0 where not observed, (n, m).
        D: treatment, (n, m).
        observed: (n, m).
    """

    Y: Float[Array, "n m"]
    D: Bool[Array, "n m"]
    observed: Bool[Array, "n m"]

    def arms(self) -> Bool[Array, "2 n m"]:
        """Cells of the untreated and of the treated arm."""
        return _arms(self.observed, self.D)


# Compiled: outside of a program every operation is a program of its own.


@partial(jax.jit, inline=True)
def _arms(observed, D):
    return jnp.stack([observed & ~D, observed & D])


class Static(NamedTuple):
    """What is compiled in.

    Attributes:
        choice: ``"flip"``, ``"gap"`` or ``"given"``.
        width: largest rank that the program can hold.
        rank_max: as given.
        sweeps: of refinement; None: until settled.
        max_refine: sweeps at most until then.
        propensity: ``"row"``, ``"low_rank"`` or ``"known"``.
        propensity_rank: of the low-rank propensity.
        center: None, ``"row"`` or ``"two_way"``.
        sign_block: consecutive periods that share a sign in the sign flips.
        start: of the refinement: ``"one_step"``, ``"path"`` or ``"auto"``.
    """

    choice: str
    width: int
    rank_max: int
    sweeps: int | None
    max_refine: int
    propensity: str
    propensity_rank: int
    center: str | None
    sign_block: int
    start: str


class Numbers(NamedTuple):
    """What is traced.

    Attributes:
        ranks: of both arms; not used by the data-dependent choices.
        tol: of the refinement.
        clip: smallest probability.
        gap_threshold: in the units of the data.
        known: given probabilities of treatment, (n, m), or None.
        key: randomness of the sign flips.
    """

    ranks: Int[Array, "2"]
    tol: Array | None
    clip: Array
    gap_threshold: Array | None
    known: Array | None
    key: PRNGKeyArray


def panel(Y: Any, D: Any, observed: Any = None, *, validate: bool = True) -> Panel:
    """Outcomes, treatment and mask, checked.

    Args:
        Y: outcomes, (n, m); anything where not observed.
        D: treatment, boolean or 0 and 1, (n, m).
        observed: boolean or 0 and 1, (n, m); None: all.
        validate: whether to look at values.

    Returns:
        The panel. float16 and bfloat16 outcomes become float32, integers float32.

    Raises:
        ValueError: for other shapes, a treatment that is not binary, or an observed outcome that is not finite.
        TypeError: for complex outcomes.
    """
    Y = jnp.asarray(Y)
    if jnp.iscomplexobj(Y):
        raise TypeError(f"Y has dtype {Y.dtype}; expected real numbers")
    if Y.ndim != 2:
        raise ValueError(f"Y has shape {Y.shape}; expected a matrix of units by periods")
    if 0 in Y.shape:
        raise ValueError(f"Y has shape {Y.shape}; expected at least one unit and period")
    D = _binary("D", D, Y.shape, validate)
    observed = jnp.ones(Y.shape, bool) if observed is None else _binary("observed", observed, Y.shape, validate)
    floating = jnp.issubdtype(Y.dtype, jnp.floating)
    Y = Y.astype(Y.dtype if floating and jnp.finfo(Y.dtype).bits >= 32 else jnp.float32)
    if validate:
        expected = "finite numbers where observed: mark missing outcomes in observed"
        Y = entries.checked(Y, entries.finite_where, "Y", expected, observed)
    return Panel(jnp.where(observed, Y, 0), D, observed)


def _binary(name: str, value: Any, shape: tuple[int, ...], validate: bool) -> Bool[Array, "n m"]:
    array = jnp.asarray(value)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; expected that of Y, {shape}")
    if array.dtype == bool:
        return array
    if jnp.iscomplexobj(array):
        raise TypeError(f"{name} has dtype {array.dtype}; expected booleans, or 0 and 1")
    if not validate:
        return array != 0
    return entries.checked(array, entries.zero_or_one, name, "booleans, or 0 and 1") != 0


def options(
    data: Panel,
    *,
    rank: Any,
    propensity: Any,
    propensity_rank: int,
    center: str | None,
    refine: int | None,
    tol: Number | None,
    max_refine: int,
    clip: Number,
    rank_max: int,
    gap_threshold: Number | None,
    key: Any,
    sign_block: int,
    start: str,
) -> tuple[Static, Numbers]:
    """The two bundles of arguments, checked; see `row_scaled_spectral` for their meaning.

    Args:
        data: the panel.
        rank: see there.
        propensity: see there.
        propensity_rank: see there.
        center: see there.
        refine: see there.
        tol: see there.
        max_refine: see there.
        clip: see there.
        rank_max: see there.
        gap_threshold: see there.
        key: see there.
        sign_block: see there.
        start: see there.

    Returns:
        What is compiled in, and the numbers.

    Raises:
        ValueError: for a value out of range, naming the argument.
    """
    shape, dtype = data.Y.shape, data.Y.dtype
    check_integers(0, refine=refine, rank_max=rank_max)
    check_integers(1, max_refine=max_refine, propensity_rank=propensity_rank, sign_block=sign_block)
    check_numbers(0, 1, ends="(]", clip=clip)
    check_choice("center", center, CENTERS)
    check_choice("start", start, ("one_step", "path", "auto"))
    if tol is not None:
        (tol,) = validation.numbers(dtype, tol=tol)
    choice, ranks, width = _ranks(rank, rank_max, min(shape))
    kind, known = _propensity(propensity, shape, dtype)
    if propensity_rank > min(shape) and kind == "low_rank":
        raise ValueError(f"propensity_rank is {propensity_rank}; expected at most {min(shape)}, the short side of Y")
    if gap_threshold is not None:
        (gap_threshold,) = validation.numbers(dtype, gap_threshold=gap_threshold)
    elif choice == "gap":
        raise ValueError("gap_threshold is None; expected a number for rank='gap'")
    sweeps = None if tol is not None else refine  # None, too: until settled
    static = Static(choice, width, rank_max, sweeps, max_refine, kind, propensity_rank, center, sign_block, start)
    key = jax.random.key(0) if key is None else key
    return static, Numbers(ranks, tol, jnp.asarray(clip, dtype), gap_threshold, known, key)


def _ranks(rank: Any, rank_max: int, short: int) -> tuple[str, Array, int]:
    if isinstance(rank, str):
        if rank not in ("flip", "gap"):
            raise ValueError(f"rank is {rank!r}; expected 'flip', 'gap', an integer or a pair of integers")
        return rank, jnp.zeros(2, jnp.int32), min(rank_max, short)
    pair = tuple(rank) if isinstance(rank, tuple | list) else (rank, rank)
    integers = all(isinstance(r, int | np.integer) and not isinstance(r, bool) for r in pair)
    if len(pair) != 2 or not integers:
        raise ValueError(f"rank is {rank!r}; expected 'flip', 'gap', an integer or a pair of integers")
    if not all(0 <= r <= short for r in pair):
        raise ValueError(f"rank is {rank}; expected 0 to {short}, the short side of Y")
    return "given", jnp.asarray(pair, jnp.int32), int(max(pair))


def _propensity(propensity: Any, shape: tuple[int, ...], dtype: Any) -> tuple[str, Array | None]:
    if isinstance(propensity, str):
        if propensity not in ("row", "low_rank"):
            raise ValueError(f"propensity is {propensity!r}; expected 'row', 'low_rank' or an array")
        return propensity, None
    known = jnp.asarray(propensity, dtype)
    if known.shape != shape:
        raise ValueError(f"propensity has shape {known.shape}; expected that of Y, {shape}")
    return "known", entries.checked(known, entries.probability, "propensity", "probabilities")
