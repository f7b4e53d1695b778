"""How the cost of the main operations grows with their size: seconds at several sizes, and the exponent fitted to them.

Sizes are those at which arithmetic outweighs the call. The exponent is the slope of log time over log size.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.frame import Contestant, Row
from experiments.muon_flow._problems import particles, tanh_problem
from experiments.panel_effects._panels import Design, draw
from experiments.tensor_completion._problems import tucker
from jaxspec.completion import complete_tensor, row_scaled_spectral, soft_impute
from jaxspec.dmft import LinearConfig, solve_linear
from jaxspec.flow import hamiltonian_flow, integrate
from jaxspec.linalg import polar
from jaxspec.lora import identify_factors
from jaxspec.peeled import geometric_kernel, solve_cyclic

ITERATIONS = 20  # of solvers, so that every size does as many
STEPS = 50  # of the flow


def growth_row(measured: str, settings: str, sizes: Sequence[int], calls: Sequence[Callable[[], Any]]) -> Row:
    """One operation at several sizes.

    Args:
        measured: the task, in a sentence.
        settings: as of `Contestant`.
        sizes: what grows.
        calls: the operation at each of them; called once before anything is timed.

    Returns:
        The row; its quality holds the seconds at every size and the fitted exponent.
    """
    for call in calls:
        jax.block_until_ready(call())

    def each() -> list[float]:
        return [_seconds(call) for call in calls]

    def quality(seconds: list[float]) -> dict[str, float]:
        times = {f"s at {size}": taken for size, taken in zip(sizes, seconds, strict=True)}
        return times | {"exponent": float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])}

    return Row(measured, Contestant(each, settings, quality=quality), {}, "sweep")


def _seconds(call):
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def _operation(
    measured: str, settings: str, sizes: Sequence[int], make: Callable[[int], Callable[[], Any]], double: bool = False
) -> Callable[[], Row]:
    """A row that is built when it is measured; ``make`` gives the operation at a size."""

    def call_at(size: int) -> Callable[[], Any]:
        with jax.enable_x64(double):
            made = make(size)

        def call() -> Any:
            with jax.enable_x64(double):
                return made()

        return call

    def row() -> Row:
        return growth_row(measured, settings, sizes, [call_at(size) for size in sizes])

    return row


def _normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def _matrix(size: int) -> Callable[[], Any]:
    return partial(jax.jit(polar), _normal(size, size))


def _tensor(side: int) -> Callable[[], Any]:
    problem = tucker(jax.random.key(0), (side, side, side), (5, 5, 5), 0.3)
    data = jnp.where(problem.mask, problem.truth, 0)
    return partial(complete_tensor, data, problem.mask, tol=0.0, max_iter=ITERATIONS)


def _table(side: int) -> Callable[[], Any]:
    table, mask = _normal(side, side), _normal(side, side) > 0
    return partial(soft_impute, table, mask, side**0.5, tol=0.0, max_iter=ITERATIONS, validate=False)


def _panel(units: int) -> Callable[[], Any]:
    panel = draw(jax.random.key(0), Design((units, 200), 2, low=0.15, high=0.85))
    return partial(row_scaled_spectral, panel.Y, panel.D, rank=2, refine=2)


def _cycle(length: int) -> Callable[[], Any]:
    return partial(solve_cyclic, geometric_kernel(length, 1.0), 1.0)


def _theory(steps: int) -> Callable[[], Any]:
    return partial(solve_linear, LinearConfig(1, 2.0, 3.0, 4.0, 0.1, 0.5), steps)


def _particles(count: int) -> Callable[[], Any]:
    flow = hamiltonian_flow(tanh_problem(3, 4, 16), eps=0.1)
    state = flow.init(jnp.asarray(particles(count, 3, 4)))
    return partial(integrate, flow, state, dt=0.05, num_steps=STEPS)


def _adapter(matrices: int) -> Callable[[], Any]:
    adapter = {
        f"layers.{i}.mlp.down_proj": {"a": _normal(16, 1024), "b": _normal(1024, 16) + i} for i in range(matrices)
    }
    return lambda: identify_factors(adapter).directions


ROWS: dict[str, Callable[[], Row]] = {
    "polar": _operation("Polar factor of n×n, float32", "polar, defaults", (128, 256, 512, 1024), _matrix),
    "tensor": _operation(
        "Completion of n×n×n, float32", f"complete_tensor, {ITERATIONS} iterations", (25, 50, 100), _tensor
    ),
    "table": _operation("Completion of n×n, float32", f"soft_impute, {ITERATIONS} iterations", (100, 200, 400), _table),
    "panel": _operation(
        "Panel of n units in 200 periods, float32", "row_scaled_spectral", (2000, 4000, 8000, 16000), _panel
    ),
    "cycle": _operation("Cycle of n tokens, float64", "solve_cyclic, defaults", (64, 256, 1024), _cycle, double=True),
    "theory": _operation("n updates of a linear network, float64", "solve_linear", (32, 64, 128), _theory, double=True),
    "flow": _operation(
        "Flow of n particles, float64", f"integrate, {STEPS} steps", (256, 1024, 4096), _particles, double=True
    ),
    "adapter": _operation("Adapter of n matrices, rank 16", "identify_factors", (32, 64, 128), _adapter),
}
