"""Every argument out of range is refused by name, traced values when the program runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.completion import (
    PanelEffects,
    panel_effects,
    permutation_intervals,
    placebo_in_space,
    placebo_in_time,
    row_scaled_spectral,
    rowwise_bound,
    rowwise_error_estimate,
    unit_tests,
)

Y = np.add.outer(np.arange(6.0), np.arange(8.0))
D = np.add.outer(np.arange(6), np.arange(8)) % 3 == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Y": Y[0]}, "Y has shape .*; expected a matrix"),
        ({"Y": Y[:0]}, "Y has shape .*; expected at least one"),
        ({"D": D[:5]}, r"D has shape .*; expected that of Y, \(6, 8\)"),
        ({"D": D * 2}, "D holds 2.* at .*; expected booleans, or 0 and 1"),
        ({"D": np.where(D, np.nan, 0)}, "D holds nan.* at .*; expected booleans, or 0 and 1"),
        ({"observed": D[:5]}, "observed has shape"),
        ({"observed": D + 0.5}, "observed .*; expected booleans"),
        (
            {"Y": np.where(D, np.nan, Y)},
            r"Y holds nan at \[0, 0\] \(16 such entries\); expected finite numbers where observed",
        ),
        ({"Y": np.where(D, np.inf, Y)}, "Y holds .*; expected finite numbers where observed"),
        ({"rank": 7}, "rank is .*; expected 0 to 6"),
        ({"rank": -1}, "rank is .*; expected 0 to 6"),
        ({"rank": (1, 9)}, "rank is .*; expected 0 to 6"),
        ({"rank": "cv"}, "rank is .*; expected 'flip', 'gap'"),
        ({"rank": True}, "rank is .*; expected 'flip', 'gap'"),
        ({"rank": "gap"}, "gap_threshold is None"),
        ({"gap_threshold": -1.0}, "gap_threshold is -1.0; expected a finite number >= 0"),
        ({"clip": 0.0}, r"clip is .*; expected a number in \(0, 1\]"),
        ({"clip": 1.5}, r"clip is .*; expected a number in \(0, 1\]"),
        ({"propensity": "column"}, "propensity is .*; expected 'row'"),
        ({"propensity": Y[:5]}, "propensity has shape"),
        ({"propensity": Y}, "propensity holds .*; expected probabilities"),
        ({"propensity": "low_rank", "propensity_rank": 7}, "propensity_rank is 7; expected at most 6"),
        ({"propensity_rank": 0}, "propensity_rank is .*; expected an integer >= 1"),
        ({"center": "column"}, "center is .*; expected one of"),
        ({"refine": -1}, "refine is .*; expected an integer >= 0"),
        ({"tol": -1.0}, "tol is -1.0; expected a finite number >= 0"),
        ({"max_refine": 0}, "max_refine is .*; expected an integer >= 1"),
        ({"rank_max": -1}, "rank_max is .*; expected an integer >= 0"),
        ({"sign_block": 0}, "sign_block is .*; expected an integer >= 1"),
        ({"start": "random"}, "start is .*; expected one of"),
    ],
)
def test_the_fit_refuses(changes, message):
    arguments = {"Y": Y, "D": D} | changes
    with pytest.raises(ValueError, match=message):
        row_scaled_spectral(arguments.pop("Y"), arguments.pop("D"), **arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"se": "robust"}, "se is .*; expected one of"),
        ({"cov": "ar"}, "cov is .*; expected one of"),
        ({"block": 3}, "block is 3 and cov 'independent'; expected None"),
        ({"cov": "block", "block": 9}, r"block is .*; expected an integer in \[1, 8\]"),
        ({"level": 1.0}, r"level is .*; expected a number in"),
        ({"groups": np.zeros(5, int)}, r"groups has shape .*; expected \(6,\), one entry"),
        ({"groups": np.full(6, -2)}, "groups has .*; expected integers >= 0"),
        ({"groups": np.full(6, 0.5)}, "groups has .*; expected integers >= 0"),
        ({"weights": np.ones(5)}, r"weights has shape .*; expected \(6,\), one entry"),
        ({"weights": -np.ones(6)}, "weights .*-1.0.*; expected finite numbers >= 0"),
        ({"anticipation": -1}, "anticipation is .*; expected an integer"),
        ({"periods": "post"}, "periods is .*; expected one of"),
    ],
)
def test_the_effects_refuse(changes, message):
    with pytest.raises(ValueError, match=message):
        panel_effects(Y, D, rank=1, **changes)


def test_complex_outcomes_are_refused():
    with pytest.raises(TypeError, match=r"Y has dtype .*; expected real"):
        row_scaled_spectral(Y + 0j, D)
    with pytest.raises(TypeError, match=r"D .*; expected booleans"):
        row_scaled_spectral(Y, D + 0j)


@pytest.mark.parametrize(
    ("name", "value"),
    [("Y holds .*; expected finite numbers where observed", np.nan), ("D .*; expected booleans", 2.0)],
)
def test_traced_values_are_checked_when_the_program_runs(name, value):
    run = jax.jit(lambda y, d: row_scaled_spectral(y, d, rank=1).tau)
    outcomes, treatment = jnp.asarray(Y, jnp.float32), jnp.asarray(D, jnp.float32)
    assert np.isfinite(run(outcomes, treatment)).all()
    bad = (
        (outcomes.at[0, 0].set(value), treatment) if name.startswith("Y") else (outcomes, treatment.at[0, 0].set(value))
    )
    with pytest.raises(Exception, match=name):
        jax.block_until_ready(run(*bad))


def test_the_neighbours_refuse():
    block = np.zeros((6, 8), bool)
    block[0, 5:] = True
    fit = row_scaled_spectral(Y, D, rank=1)
    effects = PanelEffects(fit, *[fit.tau] * 5, *[fit.sigma2[0]] * 4, *[fit.tau] * 3, *[fit.tau] * 2, fit.rank)
    for call, message in (
        (lambda: placebo_in_space(Y, block, 1), "unit is 1, a row that is never treated"),
        (lambda: placebo_in_space(Y, block, 9), "unit is 9; expected a row from 0 to 5"),
        (lambda: placebo_in_space(Y, block, 0, [0, 1]), "controls has the treated"),
        (lambda: placebo_in_space(Y, block, 0, [1, 1]), "controls is .*; expected different rows"),
        (lambda: placebo_in_space(Y, block, 0, [1]), "controls is .*; expected at least two rows"),
        (lambda: placebo_in_space(Y, block, 0, propensity=Y / 99), "propensity is .*; expected 'row'"),
        (lambda: placebo_in_time(Y, block, 8), r"periods is .*; expected an integer in \[1, 7\]"),
        (lambda: placebo_in_time(Y, ~block & False, 2), "D has no treated unit"),
        (lambda: rowwise_bound(Y, Y[:5], 1), "A and E have shapes .*; expected matrices of one shape"),
        (lambda: rowwise_bound(Y, Y, 7), r"rank is .*; expected an integer in \[0, 6\]"),
        (lambda: rowwise_error_estimate(fit, Y[:5], D[:5]), "Y has shape"),
        (lambda: rowwise_error_estimate(fit, Y, D, center="column"), "center is .*; expected one of"),
        (lambda: permutation_intervals(fit, Y[:5], D[:5]), "Y has shape"),
        (lambda: permutation_intervals(fit, Y, D, level=0.0), "level is .*; expected a number in"),
        (lambda: permutation_intervals(fit, Y, D, candidates=2), "candidates is .*; expected an integer"),
        (lambda: unit_tests(effects, method="holm"), "method is .*; expected one of"),
        (lambda: unit_tests(effects, level=2.0), "level is .*; expected a number in"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
