"""What the baselines share: the data in units of their size, the checks of numbers, and the result they return."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxspec.completion.metrics import TruthError
from jaxspec.completion.result import TensorCompletion
from jaxspec.completion.tensor import _data_scale, _Problem
from jaxspec.completion.validation import is_concrete
from jaxspec.solvers import ADMMInfo, Block
from jaxspec.solvers.loop import CONVERGED, EMPTY, RUNNING, History, empty_history

Number = float | int | Float[Array, "..."] | Float[np.ndarray, "..."]


class Observed(NamedTuple):
    """Partially observed tensor, divided by the power of two of its size.

    Attributes:
        target: observed entries, 0 elsewhere.
        mask: True where observed.
        start: initial tensor, the observed entries included.
        truth: true tensor, or None.
        scale: power of two, in the units of the data.
    """

    target: Float[Array, "..."]
    mask: Bool[Array, "..."]
    start: Float[Array, "..."]
    truth: Float[Array, "..."] | None
    scale: Float[Array, ""]

    @property
    def rms(self) -> Float[Array, ""]:
        """Root mean square of the observed entries in units of ``scale``, 1 if they are 0."""
        rms = jnp.sqrt(jnp.sum(self.target**2) / jnp.maximum(jnp.sum(self.mask), 1))
        return jnp.where(rms > 0, rms, 1)

    @property
    def status(self) -> Int[Array, ""]:
        """Before the first iteration: empty, converged (nothing is missing, or all data are 0), or running."""
        observed = jnp.sum(self.mask)
        solved = (observed == self.mask.size) | (jnp.max(jnp.abs(self.target), initial=0) == 0)
        return jnp.where(observed == 0, EMPTY, jnp.where(solved, CONVERGED, RUNNING)).astype(jnp.int32)

    def keep(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """X with the observed entries put back."""
        return jnp.where(self.mask, self.target, x)

    def metrics(self, x: Float[Array, "..."]) -> dict[str, Array]:
        """``{"nmse": ...}`` of an iterate where the truth is known, else nothing."""
        return {} if self.truth is None else TruthError(self.truth)(x)

    def blank_history(self, length: int, penalties: int) -> History:
        """Empty history of the quantities that every baseline records, with that many penalties."""
        scalar, dtype = (), self.target.dtype
        shapes = {"primal": scalar, "dual": scalar, "rho": (penalties,), "objective": scalar}
        if self.truth is not None:
            shapes["nmse"] = scalar
        return empty_history(length, {name: jnp.zeros(shape, dtype) for name, shape in shapes.items()})


def observed(tensor: Float[Array, "..."], mask: Bool[Array, "..."], init: Any, truth: Any) -> Observed:
    """Data in units of their size.

    Args:
        tensor: data, 0 where not observed.
        mask: True where observed.
        init: initial tensor, or None for 0.
        truth: true tensor, or None.

    Returns:
        The scaled data; where all of them are 0 the start is 0.
    """
    scale = _data_scale(_Problem(tensor, mask, None, None, (None, None), None))
    target = jnp.where(mask, tensor, 0) / scale
    start = jnp.zeros_like(target) if init is None else jnp.where(jnp.any(target != 0), init / scale, 0)
    return Observed(target, mask, jnp.where(mask, target, start), None if truth is None else truth / scale, scale)


def as_start(init: Any, tensor: Float[Array, "..."]) -> Float[Array, "..."] | None:
    """Initial tensor in the shape and dtype of the data.

    Args:
        init: None, or an array that broadcasts to the tensor.
        tensor: the data.

    Returns:
        The array, or None.

    Raises:
        ValueError: for a shape that does not broadcast.
    """
    if init is None:
        return None
    try:
        return jnp.broadcast_to(jnp.asarray(init, tensor.dtype), tensor.shape)
    except ValueError:
        raise ValueError(f"init must broadcast to the shape {tensor.shape} of tensor, got {jnp.shape(init)}") from None


def check_number(name: str, value: Any, *, least: float = 0.0, strict: bool = True) -> None:
    """Raises `ValueError` for a number out of range where its value is known.

    Args:
        name: of the argument, for the message.
        value: None, or a number or array.
        least: bound from below.
        strict: whether the bound itself is excluded.
    """
    if value is None or not is_concrete(value):
        return
    values = np.asarray(value)
    if not (values > least if strict else values >= least).all():
        raise ValueError(f"{name} must be {'>' if strict else '>='} {least:g}, got {value}")


def completion(
    data: Observed,
    x: Float[Array, "..."],
    info: ADMMInfo,
    history: History | None,
    *,
    units: tuple[Array, Array],
    duals: tuple[Array, ...] = (),
    blocks: tuple[Block, ...] = (),
) -> TensorCompletion:
    """Result in the units of the data.

    Args:
        data: the scaled data.
        x: completed tensor in units of ``data.scale``.
        info: in the same units.
        history: in the same units, or None.
        units: of the penalties and of the objective, in the units of the data.
        duals: W_i, free of units.
        blocks: the regularisers that they belong to.

    Returns:
        The result; it has no state to resume.
    """
    rho_unit, value_unit = units
    if history is not None:
        rescaled = {"objective": history["objective"] * value_unit, "rho": history["rho"] * rho_unit}
        history = History({**history.values, **rescaled}, history.count)
    info = info._replace(objective=info.objective * value_unit, rho=info.rho * rho_unit)
    return TensorCompletion(x * data.scale, duals, info.rho, info, history, data.scale, None, blocks)
