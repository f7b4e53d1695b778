"""What a completion records, in the units of the data."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.completion import complete_tensor
from jaxspec.completion.metrics import nmse, psnr

SHAPE = (5, 5, 5)
RNG = np.random.default_rng(0)
TRUTH = 1000 * np.einsum("i,j,k->ijk", *RNG.uniform(0.5, 1.5, (3, 5)))
MASK = RNG.random(SHAPE) < 0.7


@pytest.fixture
def complete(x64):
    """The completion of the shared problem with a known truth; one compilation per kind of problem."""

    def run(**options):
        options = {"truth": TRUTH, "svt": "gram", "max_iter": 400, **options}
        return complete_tensor(TRUTH, MASK, **options)

    return run


@pytest.mark.parametrize("lam", [None, 20.0])
def test_recorded_errors_and_objective_are_those_of_the_result(complete, lam):
    result = complete(lam=lam)
    n, history = int(result.info.iterations), result.history.trim()
    assert {"primal", "dual", "rho", "objective", "nmse"} == set(history)
    assert all(len(values) == n for values in history.values())
    assert all(np.isnan(np.asarray(result.history[name])[n:]).all() for name in history)
    assert history["nmse"][-1] == pytest.approx(float(nmse(result.tensor, jnp.asarray(TRUTH))), rel=1e-6)
    assert history["objective"][-1] == pytest.approx(float(result.info.objective), rel=1e-12)
    assert history["primal"][-1] == float(result.info.primal_residual)
    assert history["dual"][-1] == float(result.info.dual_residual)
    x = np.asarray(result.tensor)
    value = sum(np.linalg.norm(np.moveaxis(x, m, 0).reshape(5, -1), "nuc") for m in range(3)) / 3
    value = value if lam is None else lam * value + 0.5 * np.sum((x - TRUTH)[MASK] ** 2)
    assert history["objective"][-1] == pytest.approx(value, rel=1e-4)


def test_penalties_are_recorded_in_the_units_in_which_they_are_given(complete):
    first = complete(rho=1e-4, tol=1e3).history.trim()["rho"]
    np.testing.assert_allclose(first[:1], 1e-4, rtol=1e-12)
    last = complete()
    again = complete(rho=float(last.rho[0]), tol=1e3)
    np.testing.assert_allclose(again.rho, last.rho, rtol=1e-12)


def test_exact_completion_of_a_rank_one_tensor_recovers_it(complete):
    assert complete(tol=1e-8).history.trim()["nmse"][-1] <= 1e-12


def test_history_is_left_out_on_request(complete):
    result = complete(history=False)
    assert result.history is None
    np.testing.assert_array_equal(result.tensor, complete().tensor)


def test_nmse_is_that_of_its_definition_at_any_scale(x64):
    rng = np.random.default_rng(1)
    x, truth, where = rng.standard_normal((4, 5)), rng.standard_normal((4, 5)), rng.random((4, 5)) < 0.5
    whole = np.sum((x - truth) ** 2) / np.sum(truth**2)
    held_out = np.sum((x - truth)[where] ** 2) / np.sum(truth[where] ** 2)
    for scale in (1.0, 1e-200, 1e200):
        a, b = jnp.asarray(scale * x), jnp.asarray(scale * truth)
        assert float(nmse(a, b)) == pytest.approx(whole, rel=1e-12)
        assert float(nmse(a, b, jnp.asarray(where))) == pytest.approx(held_out, rel=1e-12)
    dirty = jnp.where(jnp.asarray(where), jnp.asarray(truth), jnp.nan)
    assert float(nmse(jnp.asarray(x), dirty, jnp.asarray(where))) == pytest.approx(held_out, rel=1e-12)


def test_nmse_and_psnr_of_perfect_and_zero_tensors():
    zeros, ones = jnp.zeros((2, 3)), jnp.ones((2, 3))
    assert float(nmse(ones, ones)) == 0
    assert float(nmse(zeros, zeros)) == 0
    assert float(nmse(zeros, ones)) == 1
    assert float(psnr(ones, ones)) == np.inf
    assert float(psnr(0 * ones, ones, where=ones == 0)) == np.inf
    assert float(psnr(0.9e-25 * ones, 1e-25 * ones, 1e-25)) == pytest.approx(20, rel=1e-5)
    assert float(psnr(0.9 * ones, ones)) == pytest.approx(20, rel=1e-5)
    assert float(psnr(230 * ones, 255 * ones, 255.0)) == pytest.approx(20 * np.log10(255 / 25), rel=1e-5)
