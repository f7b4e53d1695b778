"""The smoothed polar factor against batched SVD and bare products; the flow's steps against diffrax and plain SGD."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from experiments.benchmarks.frame import Contestant, Row, at_most, faster
from experiments.muon_flow._problems import experts, particles, tanh_problem
from jaxspec.flow import hamiltonian_flow, integrate
from jaxspec.linalg import smoothed_polar
from jaxspec.optim import regularized_muon

EPS, TIME, PARTICLES = 0.1, 4.0, 256


class _Stack:
    """Square matrices with largest singular value 1, and the error of a smoothed polar factor of them."""

    def __init__(self, count: int, side: int):
        x = np.random.default_rng(0).standard_normal((count, side, side))
        u, s, vt = np.linalg.svd(x)
        s = s / s[:, :1]
        self.x = jnp.asarray((u * s[:, None, :]) @ vt, jnp.float32)
        self.expected = (u * (s / np.hypot(s, EPS))[:, None, :]) @ vt
        self.least = float((EPS / np.hypot(np.sqrt(np.sum(s**2, axis=-1)), EPS)).min())

    def quality(self, output: Any) -> dict[str, float]:
        return {"error": float(np.abs(np.asarray(output, np.float64) - self.expected).max())}


def _svd_map(x: jax.Array) -> jax.Array:
    u, s, vt = jnp.linalg.svd(x, full_matrices=False)
    return jnp.matmul(u * (s / jnp.hypot(s, EPS))[..., None, :], vt, precision=lax.Precision.HIGHEST)


def polar_row(count: int, side: int) -> Row:
    """A stack of small matrices."""
    stack = _Stack(count, side)
    free = partial(smoothed_polar, stack.x, EPS, engine="gram_ns")
    promise = 1.01 / stack.least
    return Row(
        f"Smoothed polar factor, eps = 0.1 s_1, {count} matrices {side}×{side} float32",
        Contestant(partial(free, max_cond=promise), f"gram_ns, max_cond {promise:.0f}", quality=stack.quality),
        {
            "svd": Contestant(
                partial(jax.jit(_svd_map), stack.x),
                "jax.numpy.linalg.svd, batched, and a product",
                quality=stack.quality,
            ),
            "no_promise": Contestant(free, "gram_ns, steps counted when it runs", quality=stack.quality),
        },
        aims=(faster("svd", 5),),
    )


def products_row(count: int, side: int) -> Row:
    """Against the products that the iteration cannot do without."""
    stack = _Stack(count, side)
    low, steps = stack.least, 0
    for steps in itertools.count():  # noqa: B007 - the number of steps is what the loop is for
        if 1 - low < 1e-6:
            break
        a = (3 / (1 + low + low**2)) ** 0.5
        low = a * low * (3 - (a * low) ** 2) / 2
    number = 3 * steps + 2

    @jax.jit
    def products(x):
        return lax.fori_loop(0, number, lambda _, y: jnp.matmul(x, y, precision=lax.Precision.HIGHEST), x)

    return Row(
        f"Smoothed polar factor, eps = 0.1 s_1, {count} matrices {side}×{side} float32, against its own products",
        Contestant(
            partial(smoothed_polar, stack.x, EPS, engine="gram_ns"), f"gram_ns, {steps} steps", quality=stack.quality
        ),
        {"products": Contestant(partial(products, stack.x), f"{number} products in a row, nothing else")},
        aims=(at_most("products", 1 / 0.6),),
    )


def trajectory_row(method: str, steps: int, tolerances: dict[str, float]) -> Row:
    """One trajectory at about equal error."""
    with jax.enable_x64(True):
        flow = hamiltonian_flow(tanh_problem(3, 4, 16), eps=EPS, method=method)
        adaptive = hamiltonian_flow(tanh_problem(3, 4, 16), eps=EPS)
        start = jnp.asarray(particles(PARTICLES, 3, 4))
        state = flow.init(start)
        exact = _diffrax(adaptive, start, diffrax.Dopri8(), 1e-13)()

    def quality(output: Any) -> dict[str, float]:
        return {"error": float(np.sqrt(np.mean((np.asarray(output) - np.asarray(exact)) ** 2)))}

    def ours():
        with jax.enable_x64(True):
            return integrate(flow, state, dt=TIME / steps, num_steps=steps, save_every=steps)[0].position

    solvers = {"tsit5": diffrax.Tsit5(), "dopri8": diffrax.Dopri8()}
    peers = {
        name: Contestant(
            _diffrax(adaptive, start, solvers[name], tol), f"diffrax, rtol = atol = {tol:g}", quality=quality
        )
        for name, tol in tolerances.items()
    }
    measured = f"{PARTICLES} particles of 3×4, float64, time {TIME:g}, at about equal error"
    return Row(measured, Contestant(ours, f"{method}, {steps} steps, with the ledger", quality=quality), peers)


def _diffrax(flow: Any, start: jax.Array, solver: Any, tolerance: float) -> Callable[[], jax.Array]:
    terms, control = flow.as_ode_terms(), diffrax.PIDController(rtol=tolerance, atol=tolerance)

    @jax.jit
    def solve(start):
        y = (start, jnp.zeros_like(start))
        options = {"stepsize_controller": control, "max_steps": 100_000}
        return diffrax.diffeqsolve(terms, solver, 0.0, TIME, 0.01, y, **options).ys[0][-1]

    def call():
        with jax.enable_x64(True):
            return solve(start)

    return call


def experts_row(count: int, dim: int) -> Row:
    """One training step of a mixture of experts."""
    problem = experts(0, sequences=16, length=6, dim=dim, key_dim=dim // 2, hidden=dim, teachers=4, tau=2.0)
    start = problem.block.init(problem.key, count)

    def loss(x):
        field = jax.tree.map(lambda a: jnp.mean(a, axis=0), jax.vmap(problem.objective.feature)(x))
        return problem.objective.risk(field)

    def contestant(tx: optax.GradientTransformation, settings: str) -> Contestant:
        state = tx.init(start)

        @jax.jit
        def step(x, state):
            updates, state = tx.update(jax.grad(loss)(x), state, x)
            return optax.apply_updates(x, updates), state

        return Contestant(partial(step, start, state), settings)

    return Row(
        f"Training step of {count} experts of width {dim}, 96 tokens, float32",
        contestant(regularized_muon(0.02, 0.04, beta=0.95, particle_axis=0), "regularized_muon"),
        {"sgd": contestant(optax.sgd(0.02, momentum=0.95), "optax.sgd with momentum")},
        "step",
    )


ROWS: dict[str, Callable[[], Row]] = {
    "polar_1024x16x16": partial(polar_row, 1024, 16),
    "polar_256x32x32": partial(polar_row, 256, 32),
    "products_16x128x128": partial(products_row, 16, 128),
    "leapfrog_2e-4": partial(trajectory_row, "leapfrog", 40, {"tsit5": 6e-5, "dopri8": 1e-2}),
    "leapfrog_4e-5": partial(trajectory_row, "leapfrog", 90, {"tsit5": 1.5e-5, "dopri8": 3e-3}),
    "suzuki4_2e-6": partial(trajectory_row, "suzuki4", 24, {"tsit5": 1e-6, "dopri8": 1e-4}),
    "experts_64x16": partial(experts_row, 64, 16),
}
