"""Checks of the public boundary: what the arguments of a completion must look like."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxspec.checks import warn_caller
from jaxspec.linalg.concrete import is_concrete
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
        raise TypeError(f"{name} must be real, got dtype {tensor.dtype}")
    if tensor.ndim < 2:
        raise ValueError(f"{name} must have at least two modes, got shape {tensor.shape}")
    if jax.typeof(tensor).sharding.mesh.explicit_axes:
        raise ValueError(
            f"{name} must be sharded over mesh axes of type jax.sharding.AxisType.Auto, got explicit ones: the layout "
            "of its rearrangements is the compiler's"
        )
    if 0 in tensor.shape:
        raise ValueError(f"{name} must not be empty, got shape {tensor.shape}")
    floating = jnp.issubdtype(tensor.dtype, jnp.floating)
    dtype = tensor.dtype if floating else jnp.dtype(jnp.float32)
    tensor = tensor.astype(jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype)
    mask = jnp.isfinite(tensor) if mask is None else _boolean_mask(mask, tensor.shape, validate)
    if validate and is_concrete(tensor, mask):
        _check_observed(np.asarray(tensor), np.asarray(mask), zero_slices, name, parts)
    return jnp.where(mask, tensor, 0), mask, dtype


def _boolean_mask(mask: Any, shape: tuple[int, ...], validate: bool) -> Array:
    if jnp.shape(mask) != shape:
        raise ValueError(f"mask must have the shape {shape} of tensor, got {jnp.shape(mask)}")
    mask = jnp.asarray(mask)
    if mask.dtype == bool:
        return mask
    if not jnp.issubdtype(mask.dtype, jnp.number) or jnp.iscomplexobj(mask):
        raise TypeError(f"mask must be boolean or hold 0 and 1, got dtype {mask.dtype}")
    if validate and is_concrete(mask):
        bad = np.asarray((mask != 0) & (mask != 1))
        if bad.any():
            raise ValueError(f"mask must be boolean or hold only 0 and 1, got {np.asarray(mask)[bad].flat[0]}")
    return mask != 0


def _check_observed(
    tensor: np.ndarray, mask: np.ndarray, zero_slices: bool, name: str, parts: tuple[str, ...] | None
) -> None:
    bad = mask & ~np.isfinite(tensor)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{name} must be finite where observed, got {int(bad.sum())} entries that are not, the first at {first}"
        )
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
        raise ValueError(f"obs_weights must have the shape {tensor.shape} of tensor, got {weights.shape}")
    if validate and is_concrete(weights):
        values = np.asarray(weights)
        if not (np.isfinite(values) & (values >= 0)).all():
            raise ValueError(f"obs_weights must be non-negative and finite, got a smallest value of {values.min()}")
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
        raise ValueError(f"{names[0]} must be a matrix, got shape {Y.shape}")
    if W is not None and jnp.shape(W) != Y.shape:
        raise ValueError(f"{names[1]} must have the shape {Y.shape} of {names[0]}, got {jnp.shape(W)}")
    if jnp.iscomplexobj(W):
        raise TypeError(f"{names[1]} must be real, got dtype {jnp.result_type(W)}")
    W = jnp.isfinite(Y) if W is None else jnp.asarray(W)
    if validate:
        text = f"{names[1]} must be non-negative and finite"
        W = checked(W, jnp.isfinite(W) & (W >= 0), text, lambda w: f"{text}, got {w.min()} to {w.max()}")
    raw = Y
    Y, seen, dtype = observations(raw, W > 0, validate and warn, name=names[0], parts=("rows", "columns"))
    if validate and not (warn and is_concrete(raw, W)):
        Y = checked(Y, jnp.isfinite(Y), f"{names[0]} must be finite where observed")
    return Y, jnp.where(seen, W, 0).astype(Y.dtype), dtype


def checked(value: Array, good: Array, expected: str, message: Any = None) -> Array:
    """The value; raises now where it is known, and when the program runs where it is traced.

    Args:
        value: an array.
        good: True where it is as expected.
        expected: the message for a traced value.
        message: value as a NumPy array -> the message for a known one.

    Returns:
        The value.

    Raises:
        ValueError: for a known value that is not good.
    """
    if is_concrete(value, good):
        if not np.asarray(good).all():
            raise ValueError(expected if message is None else message(np.asarray(value)))
        return value
    return eqx.error_if(value, ~good, expected)


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
        text = f"{name} must be non-negative and finite"
        message = lambda values, text=text: f"{text}, got {values.tolist()}"  # noqa: E731
        arrays.append(checked(array, jnp.isfinite(array) & (array >= 0), text, message))
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
        raise ValueError(f"lams must be a non-empty list of numbers, got shape {lams.shape}")
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
        raise ValueError(f"{name} must have the shape {Y.shape} of Y, got {array.shape}")
    return checked(array, jnp.isfinite(array), f"{name} must be finite")


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
            raise ValueError(f"weights must have one entry per unfolding ({count}), got shape {weights.shape}")
        return weights / jnp.sum(weights)
    values = np.asarray(weights, dtype=float)
    if values.shape != (count,):
        raise ValueError(f"weights must have one entry per unfolding ({count}), got shape {values.shape}")
    if not (np.isfinite(values) & (values >= 0)).all() or values.sum() == 0:
        raise ValueError(f"weights must be non-negative, finite and not all 0, got {values.tolist()}")
    return [float(value) for value in values / values.sum()]


def positive(**values: Any) -> None:
    """Raises `ValueError` for a number (or an entry of an array) that is not positive and finite.

    Args:
        **values: by the name of the argument; None and traced values pass.
    """
    for name, value in values.items():
        if value is None or not is_concrete(value):
            continue
        array = np.asarray(value, dtype=float)
        if not (np.isfinite(array) & (array > 0)).all():
            raise ValueError(f"{name} must be positive and finite, got {value}")


def box(lower: Any, upper: Any) -> None:
    """Raises `ValueError` for bounds that are NaN or leave nothing between them.

    Args:
        lower: least value, or None.
        upper: largest value, or None.
    """
    for name, value in {"lower": lower, "upper": upper}.items():
        if value is not None and is_concrete(value) and np.isnan(np.asarray(value, dtype=float)).any():
            raise ValueError(f"{name} must not be NaN, got {value}")
    known = lower is not None and upper is not None and is_concrete(lower, upper)
    if known and not np.all(np.asarray(lower) <= np.asarray(upper)):
        raise ValueError(f"lower must not exceed upper, got {lower} and {upper}")


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
        raise ValueError(f"{name} must broadcast to the shape {tensor.shape} of tensor, got shape {array.shape}")
    array = jnp.broadcast_to(array, tensor.shape)
    where = jnp.asarray(True if where is None else where)
    if is_concrete(array, where):
        bad = int(jnp.sum(where & ~jnp.isfinite(array)))
        if bad:
            raise ValueError(f"{name} must be finite, got {bad} entries that are not")
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
        raise ValueError(f"init must be a result for {tensor.dtype}{tensor.shape} data, got one for {x.dtype}{x.shape}")
    layouts = [[(block.gather, block.count.shape) for block in terms] for terms in (blocks, init.blocks)]
    if layouts[0] != layouts[1]:
        raise ValueError("init must be a result for the same regularizer, got one with other blocks")


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
        raise ValueError(f"lam must be positive and finite (or None or 0: exact), got {lam}")
    if obs_weights is not None and exact:
        raise ValueError("obs_weights need lam > 0: the exact problem keeps observed entries whatever their weight")
    if is_concrete(over_relaxation) and not 0 < float(over_relaxation) < 2:
        raise ValueError(f"over_relaxation must be in (0, 2), got {over_relaxation}")
    if tol is not None and stop is not None:
        raise ValueError("tol belongs to the default stopping rule: give it to the rule in stop instead")
    if tol is not None and is_concrete(tol) and not float(tol) >= 0:
        raise ValueError(f"tol must be non-negative, got {tol}")


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
