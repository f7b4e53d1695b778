"""What the baselines share: the data in units of their size, the checks of arguments, and the result they return."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxspec.completion.metrics import TruthError
from jaxspec.completion.result import TensorCompletion
from jaxspec.completion.scaled import data_scale
from jaxspec.solvers import ADMMInfo, Block
from jaxspec.solvers.loop import CONVERGED, EMPTY, RUNNING, History, empty_history

Number = float | int | Float[Array, ""]


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
        """The tensor x with the observed entries put back."""
        return jnp.where(self.mask, self.target, x)

    def record(self, x: Float[Array, "..."], values: dict[str, Array]) -> dict[str, Array]:
        """``values``, and the NMSE of the iterate x where the truth is known."""
        return values if self.truth is None else values | TruthError(self.truth)(x)

    def blank_history(self, length: int, penalties: int) -> History:
        """Empty history of what every baseline records, with that many penalties."""
        scalar = jnp.zeros((), self.target.dtype)
        names = ("primal", "dual", "objective") if self.truth is None else ("primal", "dual", "objective", "nmse")
        rho = jnp.zeros(penalties, self.target.dtype)
        return empty_history(length, {"rho": rho, **dict.fromkeys(names, scalar)})


def observed(
    tensor: Float[Array, "..."],
    mask: Bool[Array, "..."],
    init: Float[Array, "..."] | None,
    truth: Float[Array, "..."] | None,
) -> Observed:
    """Data in units of their size.

    Args:
        tensor: data, 0 where not observed.
        mask: True where observed.
        init: initial tensor; None: 0.
        truth: true tensor, or None.

    Returns:
        The scaled data; where all of them are 0, so is the start.
    """
    scale = data_scale(tensor, mask)
    target = jnp.where(mask, tensor, 0) / scale
    fill = jnp.zeros_like(target) if init is None else jnp.where(jnp.any(target != 0), init / scale, 0)
    return Observed(target, mask, jnp.where(mask, target, fill), None if truth is None else truth / scale, scale)


def broadcast(name: str, value: Any, shape: tuple[int, ...], dtype: Any) -> Array | None:
    """An argument as an array of a given shape.

    Args:
        name: of the argument, for the message.
        value: None, or what broadcasts to the shape.
        shape: wanted.
        dtype: wanted.

    Returns:
        The array, or None.

    Raises:
        ValueError: for a shape that does not broadcast.
    """
    if value is None:
        return None
    value = jnp.asarray(value, dtype)
    try:
        return jnp.broadcast_to(value, shape)
    except ValueError:
        raise ValueError(f"{name} has shape {value.shape}; expected one that broadcasts to {shape}") from None


def completion(
    data: Observed,
    x: Float[Array, "..."],
    info: ADMMInfo,
    history: History | None,
    *,
    dtype: Any,
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
        dtype: of the tensor to return.
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
    x = (x * data.scale).astype(dtype)
    return TensorCompletion(x, duals, info.rho, info, history, data.scale, None, blocks)
