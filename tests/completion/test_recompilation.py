"""New numbers compile nothing: a sweep costs one compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.completion import choose_lam, complete_tensor
from jaxspec.completion.tensor import duality_gap, lambda_max
from jaxspec.solvers import (
    DataTerm,
    Displacement,
    Gap,
    RelativeResidual,
    Residual,
    accelerated_proximal_gradient,
    consensus_admm,
)

SHAPE = (3, 3, 3)


def data(seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(SHAPE).astype(np.float32), rng.random(SHAPE) < 0.8


def complete(seed, **options):
    return complete_tensor(*data(seed), max_iter=5, **{"svt": "gram", **options})


CHANGES = {
    "data": ({}, {}),
    "noisy": (
        {"lam": 0.1, "over_relaxation": 1.2, "tol": 1e-3, "weights": [1, 2, 3], "obs_weights": np.ones(SHAPE)},
        {"lam": 1, "over_relaxation": 1, "tol": 1e-2, "weights": [0.5, 0.1, 0.2], "obs_weights": np.full(SHAPE, 2.0)},
    ),
    "exact": (
        {"rho": 0.1, "stop": Gap(1e-3), "penalty": RelativeResidual(mu=3.0), "lower": 0.0, "upper": 1.0},
        {"rho": 2, "stop": Gap(1e-2), "penalty": RelativeResidual(mu=4.0, factor=1.5), "lower": -1, "upper": 2.0},
    ),
    "start": (
        {"init": np.ones(SHAPE), "rho_scale": 0.1, "truth": np.ones(SHAPE), "penalty": Displacement(exponent=0.5)},
        {
            "init": np.zeros(SHAPE),
            "rho_scale": 3,
            "truth": np.zeros(SHAPE),
            "penalty": Displacement(exponent=0.8, bound=3.0),
        },
    ),
    "weights in an array": ({"weights": jnp.array([1.0, 2, 3])}, {"weights": jnp.array([3.0, 2, 3])}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_second_completion_with_new_numbers_compiles_nothing(compilations, name):
    first, second = CHANGES[name]
    complete(0, **first)
    assert compilations(lambda: complete(1, **second).tensor) == []


def test_the_count_sees_a_compilation(compilations):
    complete(0)
    assert len(compilations(lambda: complete(0, history=False).tensor)) >= 1


def test_second_resume_compiles_nothing(compilations):
    complete(1, init=complete(1))
    assert compilations(lambda: complete(0, init=complete(0)).tensor) == []


def test_second_certificate_and_bound_compile_nothing(compilations):
    for seed in (0, 1):
        result = complete(seed, lam=0.1)

        def look(seed=seed, result=result):
            return duality_gap(result, *data(seed), lam=0.1 + seed), lambda_max(*data(seed))

        compiled = compilations(look)
    assert compiled == []


def test_second_choice_by_hold_out_compiles_nothing(compilations):
    def choose(seed, tol):
        options = {"lams": np.array([0.1, 0.2 + seed]), "splits": 2, "max_iter": 5, "tol": tol}
        return choose_lam(*data(seed), key=jax.random.key(seed), **options)

    choose(0, 1e-3)
    assert compilations(lambda: choose(1, 1e-2)) == []
    with pytest.raises(ValueError, match=r"tol is .*; expected"):
        choose(0, -1.0)


def test_second_run_of_the_engine_compiles_nothing(compilations, cases):
    block = cases["B"].blocks("gram")[0]

    def run(seed, factor, ridge, kappa, tol):
        target = jnp.asarray(np.random.default_rng(seed).standard_normal((4, 4, 4)), jnp.float32)
        data_term = DataTerm.quadratic(target, jnp.ones_like(target), ridge, lower=-tol)
        options = {"rho": factor, "over_relaxation": kappa, "stop": Residual(tol), "max_iter": 5}
        return consensus_admm([block.scaled(factor)], data_term, target, **options)[0].x

    run(0, 0.1, 0.2, 1.5, 1e-3)
    assert compilations(lambda: run(1, 0.3, 0.4, 1.2, 1e-2)) == []


def half_square(x):
    return 0.5 * jnp.sum((x - 3.0) ** 2), x - 3.0


def soft(v, step):
    return jnp.sign(v) * jnp.maximum(jnp.abs(v) - step, 0)


def test_second_proximal_gradient_run_compiles_nothing(compilations):
    def run(start, step, tol):
        return accelerated_proximal_gradient(half_square, soft, jnp.full(3, start), step=step, tol=tol, max_iter=10).x

    run(0.0, 0.5, 1e-3)
    assert compilations(lambda: run(1.0, 0.7, 1e-5)) == []
