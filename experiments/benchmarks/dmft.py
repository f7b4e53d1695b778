"""Predicted spectra against training networks, and the causal sweep against iterating to a fixed point.

Everything of ours runs in double precision; networks are trained in single precision, by our own simulators.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.dmft_fixed_point import Training, fixed_point_solver
from experiments.benchmarks.frame import Aim, Contestant, Row, faster, in_double, time_at_most
from jaxspec.dmft import LinearConfig, outliers, simulate_linear, simulate_mlp, solve_linear, solve_nonlinear

WIDTHS = (1.0, 2.0, 4.0, 8.0, 32.0)
TANH = {"eta": 0.5, "gamma0": 2.0}
SIGMA_W = 0.8


def sweep_row(rates: int, steps: int) -> Row:
    """Learning rates times widths times parameterisations."""
    eta, nu = (a.ravel() for a in np.meshgrid(np.geomspace(0.02, 1.2, rates), WIDTHS, indexing="ij"))
    # An NTK-parameterised network is a muP one with a feature-learning strength that falls with width.
    gamma0 = np.concatenate([np.full(len(nu), 4.0), 4.0 / np.sqrt(nu)])
    eta, nu = np.tile(eta, 2), np.tile(nu, 2)

    def final(eta, nu, gamma0):
        return solve_linear(LinearConfig(1, nu, 6.0, gamma0, eta, 0.25), steps).train[-1]

    sweep = jax.jit(jax.vmap(final))

    def one_by_one():
        return jnp.stack([final(*numbers) for numbers in zip(eta, nu, gamma0, strict=True)])

    def quality(losses: Any) -> dict[str, float]:
        return {"best loss": float(np.nanmin(np.asarray(losses)))}

    return Row(
        f"Training loss after {steps} updates, one hidden layer, {len(eta)} configurations, float64",
        Contestant(in_double(lambda: sweep(eta, nu, gamma0)), "one vmap of solve_linear", quality=quality),
        {"one_by_one": Contestant(in_double(one_by_one), "solve_linear, one call each", quality=quality)},
        "sweep",
        (time_at_most(0.2),),
    )


def linear_curve_row(dimension: int, updates: int, networks: int, aims: tuple[Aim, ...] = ()) -> Row:
    """Losses and the largest singular value after every update: predicted, or read off trained networks."""
    cfg = LinearConfig(1, 2.0, 3.0, 4.0, 0.1, 0.5, 0.2)
    times = tuple(range(1, updates + 1))

    @jax.jit
    def predict():
        solution = solve_linear(cfg, updates)
        tops = jax.vmap(lambda t: outliers(solution.layers[0], t, 1).values[0])(jnp.array(times))
        return solution.train, solution.test, tops

    def simulate(count):
        keys = jax.random.split(jax.random.key(0), count)
        found = [simulate_linear(key, cfg, dimension, updates, times, top=1) for key in keys]
        parts = ([np.asarray(getattr(one, name)) for one in found] for name in ("train", "test", "singular_values"))
        train, test, tops = (np.mean(part, axis=0) for part in parts)
        return train, test, tops[:, 0, 0]

    with jax.enable_x64(True):
        exact = np.asarray(predict()[2])

    def quality(found: Any) -> dict[str, float]:
        """Error of singular values that are outside the bulk."""
        return {"error": float(np.nanmax(np.abs(np.asarray(found[2]) / exact - 1)))}

    def contestant(count):
        settings = f"simulate_linear, {dimension} inputs, float32, mean of {count} networks, one after the other"
        return Contestant(partial(simulate, count), settings, quality=quality)

    return Row(
        f"Losses and largest singular value after each of {updates} updates, one hidden layer, N/D = 2, P/D = 3",
        Contestant(in_double(predict), "solve_linear and outliers at all times", quality=quality),
        {"simulations": contestant(networks), "one_simulation": contestant(1)},
        "curve",
        aims,
        most_rounds=5,
    )


def tanh_row(sites: int, times: int, width: int, references: int, aims: tuple[Aim, ...] = ()) -> Row:
    """A tanh network with two hidden layers on three points, by the causal sweep and by the fixed point."""
    x = np.random.default_rng(0).standard_normal((3, 8))
    y, key = np.array([1.0, -1.0, 1.0]), jax.random.key(0)
    kx = x @ x.T / 8
    steps = times - 1

    def solve(key, num_sites):
        options = {"depth": 2, "steps": steps, "sigma_w": SIGMA_W, "num_sites": num_sites} | TANH
        return solve_nonlinear(key, jnp.asarray(kx), jnp.asarray(y), **options)

    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(1), references)
        reference = np.mean([np.asarray(solve(own, sites).f) for own in keys], axis=0)

    training = Training(kx, y, TANH["eta"], TANH["gamma0"], SIGMA_W**2)
    iterate = partial(fixed_point_solver(training, times=times, sites=sites), key)

    def simulate():
        options = {"width": width, "depth": 2, "steps": steps, "sigma_w": SIGMA_W, "record": tuple(range(times))} | TANH
        return simulate_mlp(key, jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), top=1, **options)

    def quality(found: Any) -> dict[str, float]:
        error = float(np.max(np.abs(np.asarray(found.f).reshape(reference.shape) - reference)))
        return {"error of f": error} | ({"iterations": int(found.iterations)} if hasattr(found, "iterations") else {})

    return Row(
        f"tanh, two hidden layers, three points, {times} times, {sites} sites; error against {references} other keys",
        Contestant(in_double(partial(solve, key, sites)), "solve_nonlinear, tangent responses", quality=quality),
        {
            "fixed_point": Contestant(
                in_double(iterate),
                "the same equations iterated over all times, undamped, same number of sites, outputs to 1e-3",
                quality=quality,
            ),
            "simulation": Contestant(
                simulate, f"simulate_mlp, one network of width {width}, spectra at all times, float32", quality=quality
            ),
        },
        "curve",
        aims,
        most_rounds=5,
    )


ROWS: dict[str, Callable[[], Row]] = {
    "linear_sweep_130": partial(sweep_row, 13, 16),
    "linear_curve_600": partial(linear_curve_row, 600, 24, 10, (faster("simulations", 300),)),
    "tanh_14x4096": partial(tanh_row, 4096, 14, 800, 8, (time_at_most(1), faster("fixed_point", 5))),
}
