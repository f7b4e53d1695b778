"""Choices by held-out entries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.completion import Game, SoftImpute, choose_groups, cv_lambda, make_groups, noise_estimate, soft_impute_path
from jaxspec.completion.cross_validation import held_out

RNG = np.random.default_rng(0)
N, D = 48, 16
ODD = np.arange(N) % 2
LOADINGS = RNG.standard_normal((2, 2, D))
TRUTH = np.einsum("ik,ikd->id", RNG.standard_normal((N, 2)), LOADINGS[ODD])
Y = (TRUTH + 0.3 * RNG.standard_normal((N, D))).astype(np.float32)
W = RNG.random((N, D)) < 0.6
KEY = jax.random.key(0)
LAMS = [20.0, 5.0, 2.0, 0.5]


def test_chosen_lambda_is_the_minimum_of_a_curve_that_does_not_depend_on_the_batching():
    one, result = (cv_lambda(SoftImpute(tol=1e-5), Y, W, LAMS[::-1], KEY, folds=3, side_by_side=b) for b in (1, 3))
    np.testing.assert_allclose(one.errors, result.errors, rtol=1e-3)
    assert result.lams.tolist() == LAMS
    assert float(result.errors.min()) < 0.8 * float(result.errors[0])
    assert float(result.lam) == LAMS[int(np.argmin(result.errors))]
    assert bool(jnp.isfinite(result.standard_errors).all())
    assert 0.3 < float(result.noise_level) < float(np.std(Y))


def test_second_choice_with_new_numbers_compiles_nothing(compilations):
    new = np.array(LAMS) / 2
    first = lambda scale, lams, tol: cv_lambda(SoftImpute(0.1, tol), scale * Y, W, lams, KEY, folds=3, side_by_side=1)  # noqa: E731
    first(1, LAMS, 1e-3)
    assert compilations(lambda: first(2, new, 1e-2).errors) == []


def test_folds_hide_every_observed_entry_once():
    hidden = held_out(jnp.asarray(W, jnp.float32), KEY, 0.15, 5, 1)
    np.testing.assert_array_equal(hidden.sum(0), W)
    sizes = hidden.sum((1, 2))
    assert int(sizes.max() - sizes.min()) <= 1
    once = held_out(jnp.asarray(W, jnp.float32), KEY, 0.15, None, 2)
    np.testing.assert_allclose(once.sum((1, 2)), 0.15 * W.sum(), atol=1)
    assert not bool((once & ~W).any())


def test_noise_is_estimated_from_the_residuals_and_the_divergence_of_the_fit():
    full = np.ones((N, D))
    estimate = noise_estimate(SoftImpute(tol=1e-5), Y, full, 1e-9, KEY)  # interpolation leaves no degree of freedom
    assert float(estimate.dof) == pytest.approx(N * D - 1, abs=1)
    estimate = noise_estimate(SoftImpute(tol=1e-6), Y, full, 3.0, KEY)
    assert 0.2 < float(estimate.sigma) < 0.4
    assert 0 < float(estimate.dof) < N * D


BAD = {
    "frac": (lambda: cv_lambda(SoftImpute(), Y, W, LAMS, KEY, 1.0), r"frac must be in \(0, 1\), got 1.0"),
    "folds": (lambda: cv_lambda(SoftImpute(), Y, W, LAMS, KEY, folds=1), "folds must be at least 2, got 1"),
    "splits": (lambda: cv_lambda(SoftImpute(), Y, W, LAMS, KEY, splits=0), "splits must be at least 1, got 0"),
    "lams": (lambda: cv_lambda(SoftImpute(), Y, W, [-1.0], KEY), "lams must be non-negative"),
    "no lams": (lambda: cv_lambda(soft_impute_path, Y, W, None, KEY), "lams must be given for a solver without"),
    "side": (lambda: cv_lambda(SoftImpute(), Y, W, LAMS, KEY, side_by_side=0), "side_by_side must be at least 1"),
    "few": (
        lambda: cv_lambda(SoftImpute(), [[1.0]], None, LAMS, KEY),
        "W must hold at least 2 observed entries, got 1",
    ),
    "subsets": (
        lambda: choose_groups(Y, W, make_groups([range(N)], N), LAMS, KEY, subsets=[["b"]]),
        "subsets must name attributes",
    ),
    "everyone": (
        lambda: choose_groups(Y, W, make_groups([range(N)], N), LAMS, KEY, everyone=[-1.0]),
        "everyone must hold non-negative",
    ),
    "none": (
        lambda: choose_groups(Y, W, make_groups([range(N)], N), LAMS, KEY, subsets=[[]], everyone=[0.0]),
        "subsets and everyone must leave",
    ),
    "step": (lambda: noise_estimate(SoftImpute(), Y, W, 1.0, KEY, step=0.0), "step must be positive"),
    "rows": (lambda: cv_lambda(Game(make_groups([[0]], 3)), Y, W, LAMS, KEY), "Y must have one row per row of groups"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_argument_is_named_with_its_value(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()
