"""The data term of matrix completion, ``1/2 sum W (Y - M)^2 + ridge/2 ||M||_F^2``, in units in which data are about 1.

With Y' = Y / scale and W' = W / unit: M' = M / scale, ridge' = ridge / unit, lam' = lam / (scale unit), and values
are in units of ``scale^2 unit``. Both divisors are powers of two, so no bit changes.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxspec.completion.result import CompletionResult, MatrixState
from jaxspec.completion.scaled import data_scale
from jaxspec.linalg.scaling import power_of_two_scale
from jaxspec.solvers import Block, DataTerm
from jaxspec.solvers.admm import certificate
from jaxspec.solvers.loop import CONVERGED, EMPTY
from jaxspec.solvers.stopping import safe_ratio


class TableProblem(eqx.Module):
    """Data of one matrix completion, scaled.

    Attributes:
        Y: data over scale, 0 where not observed.
        W: weights over unit.
        ridge: over unit.
        scale: of the data.
        unit: of the weights.
    """

    Y: Float[Array, "n d"]
    W: Float[Array, "n d"]
    ridge: Float[Array, ""]
    scale: Float[Array, ""]
    unit: Float[Array, ""]

    @property
    def data_term(self) -> DataTerm:
        """The data term of the engine."""
        return DataTerm.quadratic(self.Y, self.W, self.ridge)

    def relative_gap(self, primal: Float[Array, ""], dual: Float[Array, ""]) -> Float[Array, ""]:
        """``(primal - dual) / primal``; a fit that is exact up to rounding of ``1/2 sum W Y^2`` counts as optimal."""
        rounding = jnp.finfo(self.Y.dtype).eps * 0.5 * jnp.sum(self.W * self.Y**2)
        return safe_ratio(primal - dual, jnp.maximum(jnp.abs(primal), rounding))

    @property
    def observed(self) -> Bool[Array, ""]:
        """Whether anything is observed."""
        return jnp.any(self.W > 0)


def scaled_problem(Y: Float[Array, "n d"], W: Float[Array, "n d"], ridge: Float[Array, ""]) -> TableProblem:
    """The problem in units of its size.

    Args:
        Y: data, 0 where not observed.
        W: weights >= 0.
        ridge: >= 0.

    Returns:
        The scaled problem.
    """
    scale, unit = data_scale(Y, W > 0), power_of_two_scale(W, axis=None)
    return TableProblem(Y / scale, W / unit, ridge / unit, scale, unit)


def accurate_engine(dtype: Any, engine: str = "auto") -> str:
    """Engine of the thresholding whose error a certificate can bear.

    An error ``delta s_max`` of the thresholded matrix is an error ``delta s_max / threshold`` of its dual relative to
    its bound, hence of the relative gap. The Gram engine has delta = 3e-6 in float32 down to threshold / s_max = 1e-2,
    where ``auto`` uses it: a gap that stands still at 1e-3 (measured). QR has 1e-7, at the same cost to within a third.

    Args:
        dtype: of the computation.
        engine: what was asked for.

    Returns:
        ``"qr"`` for ``"auto"`` in single precision, else what was asked for.
    """
    return "qr" if engine == "auto" and jnp.finfo(dtype).bits <= 32 else engine


class Run(NamedTuple):
    """How a solver ended, in scaled units.

    Attributes:
        M: the solution.
        duals: W_i, one per block, for the certificate.
        iterations: done.
        status: of the loop.
    """

    M: Float[Array, "n d"]
    duals: tuple[Array, ...]
    iterations: Int[Array, ""]
    status: Int[Array, ""]


def finished(
    problem: TableProblem, blocks: tuple[Block, ...], run: Run, state: MatrixState, lam: Float[Array, "..."]
) -> CompletionResult:
    """The result in the units of the data, with its certificate.

    Args:
        problem: scaled.
        blocks: of the penalty, scaled.
        run: of the solver, scaled.
        state: in the units of the data.
        lam: in the units of the data.

    Returns:
        The result.
    """
    if blocks:
        primal, dual = certificate(blocks, problem.data_term, run.M, run.duals)
    else:  # no penalty: the closed form is the optimum
        primal = dual = problem.data_term.value(problem.data_term.data, run.M)
    in_data = lambda value: value * problem.unit * problem.scale * problem.scale  # noqa: E731
    status = jnp.where(problem.observed, run.status, EMPTY).astype(jnp.int32)
    return CompletionResult(
        M=state.M,
        objective=in_data(primal),
        gap=in_data(primal - dual),
        relative_gap=problem.relative_gap(primal, dual),
        iterations=run.iterations,
        converged=status == CONVERGED,
        status=status,
        rho=state.rho,
        lam=lam,
        state=state,
    )
