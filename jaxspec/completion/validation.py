"""Checks of the public boundary: what the arguments of a completion must look like."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxspec.checks import check_numbers, interval, is_concrete, warn_caller
from jaxspec.completion.entries import checked, finite_where, non_negative, raise_unless, zero_or_one
from jaxspec.solvers import ADMMInfo
from jaxspec.solvers.loop import DIVERGED, EMPTY, MAX_ITER, STALLED


def observations(
    tensor: Any,
    mask: Any,
    validate: bool,
    *,
    zero_slices: bool = True,
    name: str = "tensor",
    parts: tuple[str, ...] | None = None,
) -> tuple[Array, Array, Any]:
    """Tensor in its computing dtype with zeros where it is not observed, boolean mask, and the dtype to return.

    Args:
        tensor: N >= 2 modes.
        mask: boolean or 0/1; None: observed where finite.
        validate: whether to look at values.
        zero_slices: whether a slice without an observed entry is completed by zeros (for the warning).
        name: of the first argument, for the messages.
        parts: what a slice of each mode is called, for the warning: rows and columns; None: slices of a mode.

    Returns:
        The triple (tensor, mask, dtype of the result).

    Raises:
        TypeError: for a complex tensor or a mask that is neither boolean nor numeric.
        ValueError: for a wrong shape, a mask with other values than 0 and 1, or an observed entry that is not finite.
    """
    tensor = jnp.asarray(tensor)
    if jnp.iscomplexobj(tensor):
        raise TypeError(f"{name} has dtype {tensor.dtype}; expected real numbers")
    if tensor.ndim < 2:
        raise ValueError(f"{name} has shape {tensor.shape}; expected at least two modes")
    if jax.typeof(tensor).sharding.mesh.explicit_axes:
        raise ValueError(
            f"{name} is sharded over explicit mesh axes; expected axes of type jax.sharding.AxisType.Auto: the layout "
            "of its rearrangements is the compiler's"
        )
    if 0 in tensor.shape:
        raise ValueError(f"{name} has shape {tensor.shape}; expected at least one entry")
    floating = jnp.issubdtype(tensor.dtype, jnp.floating)
    dtype = tensor.dtype if floating else jnp.dtype(jnp.float32)
    tensor = tensor.astype(jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype)
    mask = jnp.isfinite(tensor) if mask is None else _boolean_mask(mask, tensor.shape, validate)
    if validate and is_concrete(tensor, mask):
        _check_observed(np.asarray(tensor), np.asarray(mask), zero_slices, name, parts)
    return jnp.where(mask, tensor, 0), mask, dtype


def _boolean_mask(mask: Any, shape: tuple[int, ...], validate: bool) -> Array:
    if jnp.shape(mask) != shape:
        raise ValueError(f"mask has shape {jnp.shape(mask)}; expected that of tensor, {shape}")
    mask = jnp.asarray(mask)
    if mask.dtype == bool:
        return mask
    if not jnp.issubdtype(mask.dtype, jnp.number) or jnp.iscomplexobj(mask):
        raise TypeError(f"mask has dtype {mask.dtype}; expected booleans, or 0 and 1")
    if validate and is_concrete(mask):
        checked(mask, zero_or_one, "mask", "booleans, or 0 and 1")
    return mask != 0


def _check_observed(
    tensor: np.ndarray, mask: np.ndarray, zero_slices: bool, name: str, parts: tuple[str, ...] | None
) -> None:
    raise_unless(~mask | np.isfinite(tensor), tensor, name, "finite numbers where observed")
    if not mask.any():
        warn_caller("no entry is observed: the completion is zero")
        return
    for mode in range(mask.ndim):
        seen = mask.any(axis=tuple(other for other in range(mask.ndim) if other != mode))
        if not seen.all():
            missing = np.flatnonzero(~seen).tolist()
            what = f"mode {mode} has slices" if parts is None else f"{name} has {parts[mode]}"
            end = ": they are completed by zeros" if zero_slices else ""
            warn_caller(f"{what} without an observed entry, at {missing}{end}")


def observation_weights(weights: Any, tensor: Array, validate: bool) -> Array | None:
    """Weights per entry in the tensor's dtype.

    Args:
        weights: None, or non-negative and finite, of the tensor's shape.
        tensor: the data.
        validate: whether to look at values.

    Returns:
        The weights, or None.

    Raises:
        ValueError: for a wrong shape, or a negative or infinite weight.
    """
    if weights is None:
        return None
    weights = jnp.asarray(weights, tensor.dtype)
    if weights.shape != tensor.shape:
        raise ValueError(f"obs_weights has shape {weights.shape}; expected that of tensor, {tensor.shape}")
    if validate and is_concrete(weights):
        checked(weights, non_negative, "obs_weights", "finite numbers >= 0")
    return weights


def table(
    Y: Any, W: Any, *, validate: bool = True, warn: bool = True, names: tuple[str, str] = ("Y", "W")
) -> tuple[Array, Array, Any]:
    """A table in its computing dtype, 0 where nothing is observed, its weights, and the dtype to return.

    Args:
        Y: (n, d); anything where not observed.
        W: weights >= 0, 0 = missing; boolean or numbers; None: 1 where Y is finite.
        validate: whether to look at values; traced ones are looked at when the program runs.
        warn: whether to warn of rows and columns without an observed entry.
        names: of the two arguments, for the messages.

    Returns:
        The triple (Y, W, dtype of the result).

    Raises:
        ValueError: for a wrong shape, a negative weight or one that is not finite, or an observed entry that is not
            finite.
        TypeError: for complex input.
    """
    Y = jnp.asarray(Y)
    if Y.ndim != 2:
        raise ValueError(f"{names[0]} has shape {Y.shape}; expected a matrix")
    if W is not None and jnp.shape(W) != Y.shape:
        raise ValueError(f"{names[1]} has shape {jnp.shape(W)}; expected that of {names[0]}, {Y.shape}")
    if jnp.iscomplexobj(W):
        raise TypeError(f"{names[1]} has dtype {jnp.result_type(W)}; expected real numbers")
    W = jnp.isfinite(Y) if W is None else jnp.asarray(W)
    if validate:
        W = checked(W, non_negative, names[1], "finite numbers >= 0")
    raw = Y
    Y, seen, dtype = observations(raw, W > 0, validate and warn, name=names[0], parts=("rows", "columns"))
    if validate and not (warn and is_concrete(raw, W)):
        Y = checked(Y, jnp.isfinite, names[0], "finite numbers where observed")
    return Y, jnp.where(seen, W, 0).astype(Y.dtype), dtype


def numbers(dtype: Any, **options: Any) -> tuple[Array, ...]:
    """Non-negative finite numbers (or arrays of them) as arrays.

    Args:
        dtype: of the arrays.
        options: name -> value.

    Returns:
        The arrays, in the order given.

    Raises:
        ValueError: for a negative value, or one that is not finite.
    """
    arrays = []
    for name, value in options.items():
        not_a_choice(name, value)
        array = jnp.asarray(value, dtype)
        arrays.append(checked(array, non_negative, name, interval(0, many=array.ndim > 0)))
    return tuple(arrays)


def not_a_choice(name: str, value: Any) -> None:
    """Raises `TypeError` for the result of a choice of lam where a number belongs.

    Args:
        name: of the argument, for the message.
        value: what the caller gave.
    """
    if hasattr(value, "lam"):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a number: give its field lam")


def lambda_grid(lams: Any, dtype: Any) -> Array:
    """Candidates for lam as an array.

    Args:
        lams: >= 0 and finite, one axis, at least one.
        dtype: of the array.

    Returns:
        The candidates.

    Raises:
        ValueError: for another shape, or a value out of range.
    """
    (lams,) = numbers(dtype, lams=lams)
    if lams.ndim != 1 or not lams.size:
        raise ValueError(f"lams has shape {lams.shape}; expected one axis, at least one number")
    return lams


def start(name: str, value: Any, Y: Array) -> Array:
    """Where an iteration starts, in the dtype of the data.

    Args:
        name: of the argument, for the message.
        value: finite, of the shape of Y.
        Y: the data.

    Returns:
        The array.

    Raises:
        ValueError: for another shape, or values that are not finite.
    """
    array = jnp.asarray(value, Y.dtype)
    if array.shape != Y.shape:
        raise ValueError(f"{name} has shape {array.shape}; expected that of Y, {Y.shape}")
    return checked(array, jnp.isfinite, name, "finite numbers")


def normalised_weights(weights: Any, count: int) -> Any:
    """Regulariser weights divided by their sum.

    Args:
        weights: one per term; a sequence or an array.
        count: number of terms.

    Returns:
        The weights with sum 1: Python floats where their values are known, else an array.

    Raises:
        ValueError: for a wrong number of weights, a negative or infinite one, or all weights 0.
    """
    if not is_concrete(weights):
        if weights.shape != (count,):
            raise ValueError(f"weights has shape {weights.shape}; expected ({count},), one entry per unfolding")
        return weights / jnp.sum(weights)
    values = np.asarray(weights, dtype=float)
    if values.shape != (count,):
        raise ValueError(f"weights has shape {values.shape}; expected ({count},), one entry per unfolding")
    if not (np.isfinite(values) & (values >= 0)).all() or values.sum() == 0:
        raise ValueError(f"weights is {values.tolist()}; expected finite numbers >= 0, not all 0")
    return [float(value) for value in values / values.sum()]


def box(lower: Any, upper: Any) -> None:
    """Raises `ValueError` for bounds that are NaN or leave nothing between them.

    Args:
        lower: least value, or None.
        upper: largest value, or None.
    """
    for name, value in {"lower": lower, "upper": upper}.items():
        if value is not None and is_concrete(value) and np.isnan(np.asarray(value, dtype=float)).any():
            raise ValueError(f"{name} is {value}; expected numbers, infinite ones among them")
    known = lower is not None and upper is not None and is_concrete(lower, upper)
    if known and not np.all(np.asarray(lower) <= np.asarray(upper)):
        raise ValueError(f"lower is {lower} and upper {upper}; expected lower <= upper")


def like(name: str, value: Any, tensor: Array, *, where: Any = None) -> Array:
    """An argument broadcast to the tensor, in its dtype.

    Args:
        name: of the argument, for the message.
        value: array or number.
        tensor: the data.
        where: entries whose values must be finite; None: all.

    Returns:
        The array.

    Raises:
        ValueError: for a shape that does not broadcast, or a value that is not finite.
    """
    array = jnp.asarray(value, tensor.dtype)
    ends = zip(array.shape[::-1], tensor.shape[::-1], strict=False)
    if array.ndim > tensor.ndim or not all(side in (1, full) for side, full in ends):
        raise ValueError(f"{name} has shape {array.shape}; expected one that broadcasts to {tensor.shape}")
    array = jnp.broadcast_to(array, tensor.shape)
    where = np.bool_(True) if where is None else where
    if is_concrete(array, where):
        checked(array, finite_where, name, "finite numbers", where)
    return array


def resumable(init: Any, tensor: Array, blocks: Any) -> None:
    """Raises `ValueError` for a result that belongs to a problem of another shape, dtype or regulariser.

    Args:
        init: the result to resume.
        tensor: the data.
        blocks: the regularisers.
    """
    x = init.state.x
    if x.shape != tensor.shape or x.dtype != tensor.dtype:
        raise ValueError(f"init is a result for {x.dtype}{x.shape} data; expected one for {tensor.dtype}{tensor.shape}")
    layouts = [[(block.gather, block.count.shape) for block in terms] for terms in (blocks, init.blocks)]
    if layouts[0] != layouts[1]:
        raise ValueError("init is a result with other blocks; expected one for the same regularizer")


def options(lam: Any, obs_weights: Any, over_relaxation: Any, tol: Any, stop: Any) -> None:
    """Raises `ValueError` for scalar options out of range.

    Args:
        lam: None, or positive and finite.
        obs_weights: only with lam.
        over_relaxation: in (0, 2).
        tol: None or non-negative.
        stop: None unless tol is.
    """
    not_a_choice("lam", lam)
    exact = lam is None or (is_concrete(lam) and float(lam) == 0)
    if not exact and is_concrete(lam) and not 0 < float(lam) < float("inf"):
        raise ValueError(f"lam is {lam}; expected a finite number > 0 (or None or 0: exact)")
    if obs_weights is not None and exact:
        raise ValueError("obs_weights are given for the exact problem; expected lam > 0, where weights count")
    check_numbers(0, 2, ends="()", over_relaxation=over_relaxation)
    if tol is not None and stop is not None:
        raise ValueError("tol and stop are given; expected one of them: the rule in stop has a tol of its own")
    if tol is not None and is_concrete(tol) and not float(tol) >= 0:
        raise ValueError(f"tol is {tol}; expected a number >= 0")


def raise_unless_converged(info: ADMMInfo) -> None:
    """Raises `RuntimeError` if a (concrete) run did not converge.

    Args:
        info: of the run.
    """
    if not bool(jnp.all(info.converged)):
        names = {
            MAX_ITER: "used up its iterations",
            STALLED: "stalled",
            DIVERGED: "diverged",
            EMPTY: "had no observed entry",
        }
        status = int(jnp.max(jnp.where(info.converged, 0, info.status)))
        raise RuntimeError(
            f"the completion {names.get(status, 'did not converge')} after {int(jnp.max(info.iterations))} iterations, "
            f"relative residuals {jnp.max(info.primal_residual):.1e} and {jnp.max(info.dual_residual):.1e}"
        )
