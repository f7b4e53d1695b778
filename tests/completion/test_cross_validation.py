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
LAMS = [20.0, 5.0, 2.0, 0.5, 0.125]


def test_chosen_lambda_is_the_minimum_of_a_curve_that_does_not_depend_on_the_batching():
    one, result = (cv_lambda(SoftImpute(tol=1e-5), Y, W, LAMS[::-1], KEY, folds=3, side_by_side=b) for b in (1, 3))
    np.testing.assert_allclose(one.errors, result.errors, rtol=1e-3)
    assert result.lams.tolist() == LAMS
    assert float(result.errors.min()) < 0.8 * float(result.errors[0])
    assert float(result.lam) == LAMS[int(np.argmin(result.errors))]
    assert bool(jnp.isfinite(result.standard_errors).all())
    assert 0.3 < float(result.hold_out_error) < float(np.std(Y))


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
    "frac": (lambda: cv_lambda(SoftImpute(), Y, W, LAMS, KEY, 1.0), r"frac is 1.0; expected a number in \(0, 1\)"),
    "folds": (lambda: cv_lambda(SoftImpute(), Y, W, LAMS, KEY, folds=1), "folds is 1; expected an integer >= 2"),
    "splits": (lambda: cv_lambda(SoftImpute(), Y, W, LAMS, KEY, splits=0), "splits is 0; expected an integer >= 1"),
    "lams": (
        lambda: cv_lambda(SoftImpute(), Y, W, [-1.0], KEY),
        r"lams holds -\d.0 at .*; expected finite numbers >= 0",
    ),
    "no lams": (
        lambda: cv_lambda(soft_impute_path, Y, W, None, KEY),
        "lams is None; expected candidates for a solver without",
    ),
    "side": (
        lambda: cv_lambda(SoftImpute(), Y, W, LAMS, KEY, side_by_side=0),
        "side_by_side is 0; expected an integer >= 1",
    ),
    "few": (
        lambda: cv_lambda(SoftImpute(), [[1.0]], None, LAMS, KEY),
        "W has 1 observed entries; expected at least 2",
    ),
    "subsets": (
        lambda: choose_groups(Y, W, make_groups([range(N)], N), LAMS, KEY, subsets=[["b"]]),
        "subsets has 'b'; expected attributes",
    ),
    "everyone": (
        lambda: choose_groups(Y, W, make_groups([range(N)], N), LAMS, KEY, everyone=[-1.0]),
        r"everyone is \[-1.0\]; expected finite numbers >= 0",
    ),
    "none": (
        lambda: choose_groups(Y, W, make_groups([range(N)], N), LAMS, KEY, subsets=[[]], everyone=[0.0]),
        "subsets and everyone leave no candidate",
    ),
    "step": (
        lambda: noise_estimate(SoftImpute(), Y, W, 1.0, KEY, step=0.0),
        "step is 0.0; expected a finite number > 0",
    ),
    "rows": (
        lambda: cv_lambda(Game(make_groups([[0]], 3)), Y, W, LAMS, KEY),
        "Y has shape .*; expected 3 rows, as groups",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_argument_is_named_with_its_value(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


LEVEL = (20 + TRUTH / 4 + 0.05 * RNG.standard_normal((N, D))).astype(np.float32)


def test_default_grid_goes_on_downwards_while_its_end_predicts_best(compilations):
    solver = SoftImpute()
    names = []
    names += compilations(lambda: names.append(cv_lambda(solver, Y, W, None, KEY)))  # the program of nine candidates
    result = None

    def choose():
        nonlocal result
        result = cv_lambda(solver, LEVEL, W, key=KEY)

    assert not [name for name in compilations(choose) if "errors" in str(name)]
    assert len(result.lams) in (18, 27)
    assert not bool(result.at_edge)
    assert float(result.lam) < float(result.lams[8])
    np.testing.assert_allclose(result.lams[1:] / result.lams[:-1], 10 ** (-2 / 8), rtol=1e-4)
    with pytest.warns(UserWarning, match=r"the smallest of 9 candidates for lam, .*, predicts best: a smaller one may"):
        given = cv_lambda(solver, LEVEL, W, result.lams[:9], KEY)
    assert len(given.lams) == 9
    assert bool(given.at_edge)
    np.testing.assert_array_equal(given.errors, result.errors[:9])
    assert float(result.hold_out_error) < 0.8 * float(given.hold_out_error)


def test_a_choice_at_the_upper_end_of_a_given_list_is_reported_and_a_traced_grid_is_never_continued():
    with pytest.warns(UserWarning, match="the largest of 3 candidates for lam, 0.1, predicts best: a larger one may"):
        assert bool(cv_lambda(SoftImpute(), Y, W, [1e-3, 1e-2, 0.1], KEY).at_edge)
    traced = jax.jit(lambda y: cv_lambda(SoftImpute(), y, W, None, KEY))(LEVEL)
    assert len(traced.lams) == 9
    assert bool(traced.at_edge)


def test_a_default_grid_is_continued_twice_at_most_and_its_end_is_reported():
    simple = np.outer(np.arange(1.0, 13.0), [1.0, -1.0, 2.0, 1.0])
    with pytest.warns(UserWarning, match="the smallest of 27 candidates for lam"):
        result = cv_lambda(SoftImpute(tol=1e-4), simple, key=KEY)
    assert bool(result.at_edge)
    assert float(result.lams[-1]) > np.finfo(np.float32).eps * float(result.lams[0])
    nothing = cv_lambda(SoftImpute(), 0 * simple, key=KEY)
    assert len(nothing.lams) == 9
    assert not bool(nothing.at_edge)


def test_choice_of_groups_continues_its_grid_too():
    options = {"everyone": [1.0], "subsets": [["0"], []], "splits": 1, "tol": 1e-3}
    groups = make_groups([range(N // 2), range(N // 2, N)], N)
    result = choose_groups(LEVEL, W, groups, None, KEY, **options)
    assert len(result.lams) > 9
    assert not bool(result.at_edge)
    with pytest.warns(UserWarning, match="the smallest of 4 candidates"):
        given = choose_groups(LEVEL, W, groups, result.lams[:4], KEY, **options)
    assert bool(given.at_edge)
    assert given.errors.shape == (2, 4)
