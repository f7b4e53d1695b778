"""Errors per group, paired hold-out tests, intervals, adaptive weights and new rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from jaxspec.completion import (
    CompletionResult,
    Game,
    SoftImpute,
    adaptive_groups,
    completion_intervals,
    fold_in,
    game,
    group_errors,
    make_groups,
    paired_hold_out,
)

RNG = np.random.default_rng(0)
N, D, NEW = 60, 16, 12
LABEL = np.arange(N + NEW) % 2
LOADINGS = RNG.standard_normal((2, 2, D))
TRUTH = np.einsum("ik,ikd->id", RNG.standard_normal((N + NEW, 2)), LOADINGS[LABEL])
Y = (TRUTH + 0.3 * RNG.standard_normal((N + NEW, D))).astype(np.float32)
W = RNG.random((N + NEW, D)) < 0.6
FRAME = pd.DataFrame({"kind": LABEL[:N]})
GROUPS = make_groups(FRAME, N)
KEY = jax.random.key(0)


def test_group_errors_are_root_mean_squares_over_the_entries_that_count():
    estimate = TRUTH[:N] + 0.1
    groups = make_groups([range(10), [], range(5, N)], N)
    errors = group_errors(estimate, np.where(W[:N], TRUTH[:N], np.nan), groups)
    np.testing.assert_allclose(errors.rmse, [0.1, 0, 0.1], rtol=1e-4)
    np.testing.assert_allclose(errors.count, [W[:10].sum(), 0, W[5:N].sum()])
    size = np.sqrt(np.mean(TRUTH[:10][W[:10]] ** 2))
    assert float(errors.relative[0]) == pytest.approx(0.1 / size, rel=1e-4)


def test_paired_test_sees_that_groups_help_and_is_antisymmetric():
    with_groups, without = Game(GROUPS), SoftImpute()
    lams = (0.3, 2.0)
    result = paired_hold_out(with_groups, without, Y[:N], W[:N], lams, KEY, folds=3)
    assert float(result.first) < float(result.second)
    assert float(result.gain) == pytest.approx(float(result.second) ** 2 - float(result.first) ** 2, rel=1e-3)
    assert float(result.z) > 2
    back = paired_hold_out(without, with_groups, Y[:N], W[:N], lams[::-1], KEY, folds=3)
    assert float(back.gain) == pytest.approx(-float(result.gain), rel=1e-3)
    same = paired_hold_out(without, without, Y[:N], W[:N], (2.0, 2.0), KEY, folds=3)
    assert float(same.z) == 0


def test_intervals_cover_what_they_say():
    intervals = completion_intervals(SoftImpute(), Y, W, 2.0, KEY, level=0.8)
    inside = (np.asarray(intervals.low) <= Y) & (np.asarray(intervals.high) >= Y)
    assert 0.74 < inside[~W].mean() < 0.9
    np.testing.assert_allclose((intervals.high - intervals.low) / 2, intervals.radius, rtol=1e-4)
    assert bool(jnp.isinf(completion_intervals(SoftImpute(), Y, W, 2.0, KEY, level=0.9999).radius))


def test_adaptive_weights_spare_the_groups_of_high_rank():
    simple, rich = np.outer(np.arange(1.0, 7.0), np.ones(5)), RNG.standard_normal((6, 5))
    groups = make_groups([range(6), range(6, 12), []], 12)
    factors = adaptive_groups(np.vstack([100 * simple, rich]), groups).factors
    assert factors[0] > factors[1] > 0
    assert np.mean(factors[:2]) == pytest.approx(1)
    assert adaptive_groups(np.zeros((12, 5)), groups) == groups
    assert adaptive_groups(rich[np.r_[:6, :6]], groups, power=0.0).factors == (1.0, 1.0, 1.0)


def test_new_rows_are_completed_from_the_row_spaces_of_their_groups():
    new = pd.DataFrame({"kind": LABEL[N:].astype(float)})
    fit = game(Y[:N], W[:N], GROUPS, 0.2)
    rows = fold_in(fit, GROUPS, np.where(W[N:], Y[N:], np.nan), None, new)
    missing = ~W[N:]
    error, nothing = (np.linalg.norm((x - TRUTH[N:])[missing]) for x in (rows, 0 * TRUTH[N:]))
    assert error < 0.5 * nothing
    members = np.stack([LABEL[N:] == 0, LABEL[N:] == 1], axis=1)
    np.testing.assert_allclose(fold_in(fit, GROUPS, Y[N:], W[N:], members), rows, rtol=1e-4, atol=1e-5)
    alone = fold_in(fit, GROUPS, Y[N:], W[N:], np.zeros_like(members))
    np.testing.assert_allclose(alone, np.where(W[N:], Y[N:], 0), rtol=1e-5)


FIT = CompletionResult(
    jnp.zeros((N, D)),
    *[jnp.zeros(())] * 3,
    jnp.zeros((), int),
    jnp.zeros((), bool),
    jnp.zeros((), int),
    jnp.zeros(1),
    jnp.ones(2),
    None,
)
BAD = {
    "where": (lambda: group_errors(Y, Y, GROUPS), "Mhat and M have shapes .*; expected one, of 60 rows"),
    "lams": (
        lambda: paired_hold_out(SoftImpute(), SoftImpute(), Y, W, (1.0,), KEY),
        "lams has 1 numbers; expected two",
    ),
    "folds": (
        lambda: paired_hold_out(SoftImpute(), SoftImpute(), Y, W, (1.0, 1.0), KEY, folds=1),
        "folds is 1; expected an integer >= 2",
    ),
    "level": (
        lambda: completion_intervals(SoftImpute(), Y, W, 1.0, KEY, level=1.0),
        r"level is .*; expected a number in",
    ),
    "adaptive": (lambda: adaptive_groups(Y, GROUPS), r"M has shape \(72, 16\); expected 60 rows"),
    "power": (lambda: adaptive_groups(Y[:N], GROUPS, power=-1.0), "power is -1.0; expected a finite number >= 0"),
    "labels": (lambda: fold_in(FIT, GROUPS, Y[N:], None, np.ones((3, 2))), r"labels has shape .*; expected \(12, 2\)"),
    "frame": (lambda: fold_in(FIT, GROUPS, Y[N:], None, FRAME[:3]), "labels has 3 rows; expected 12, as Y"),
    "column": (
        lambda: fold_in(FIT, GROUPS, Y[N:], None, FRAME[:NEW].rename(columns={"kind": "k"})),
        "labels has the columns .*; expected 'kind' among them",
    ),
    "columns": (
        lambda: fold_in(FIT, GROUPS, Y[N:, :3], None, np.ones((NEW, 2))),
        r"result has shape .*; expected \(60, 3\)",
    ),
    "nan": (
        lambda: fold_in(FIT, GROUPS, Y[N:] * np.nan, W[N:], np.ones((NEW, 2))),
        "Y holds .*; expected finite numbers where observed",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_argument_is_named_with_its_value(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()
