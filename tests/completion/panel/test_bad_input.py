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
        ({"Y": Y[0]}, "Y must be a matrix"),
        ({"Y": Y[:0]}, "Y must not be empty"),
        ({"D": D[:5]}, r"D must have the shape \(6, 8\)"),
        ({"D": D * 2}, "D must be boolean or hold only 0 and 1, got 2"),
        ({"D": np.where(D, np.nan, 0)}, "D must be boolean or hold only 0 and 1, got nan"),
        ({"observed": D[:5]}, "observed must have the shape"),
        ({"observed": D + 0.5}, "observed must be boolean"),
        ({"Y": np.where(D, np.nan, Y)}, r"Y must be finite where observed, got nan at \(0, 0\) \(16 such cells\)"),
        ({"Y": np.where(D, np.inf, Y)}, "Y must be finite"),
        ({"rank": 7}, "rank must be between 0 and 6"),
        ({"rank": -1}, "rank must be between 0 and 6"),
        ({"rank": (1, 9)}, "rank must be between 0 and 6"),
        ({"rank": "cv"}, "rank must be 'flip', 'gap'"),
        ({"rank": True}, "rank must be 'flip', 'gap'"),
        ({"rank": "gap"}, "gap_threshold must be given"),
        ({"gap_threshold": -1.0}, "gap_threshold must be non-negative"),
        ({"clip": 0.0}, r"clip must be in \(0, 1\]"),
        ({"clip": 1.5}, r"clip must be in \(0, 1\]"),
        ({"propensity": "column"}, "propensity must be 'row'"),
        ({"propensity": Y[:5]}, "propensity must have the shape"),
        ({"propensity": Y}, "propensity must be probabilities"),
        ({"propensity": "low_rank", "propensity_rank": 7}, "propensity_rank must be at most 6"),
        ({"propensity_rank": 0}, "propensity_rank must be an integer >= 1"),
        ({"center": "column"}, "center must be None"),
        ({"refine": -1}, "refine must be an integer >= 0"),
        ({"tol": -1.0}, "tol must be non-negative"),
        ({"max_refine": 0}, "max_refine must be an integer >= 1"),
        ({"rank_max": -1}, "rank_max must be an integer >= 0"),
        ({"sign_block": 0}, "sign_block must be an integer >= 1"),
        ({"start": "random"}, "start must be 'one_step'"),
    ],
)
def test_the_fit_refuses(changes, message):
    arguments = {"Y": Y, "D": D} | changes
    with pytest.raises(ValueError, match=message):
        row_scaled_spectral(arguments.pop("Y"), arguments.pop("D"), **arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"se": "robust"}, "se must be"),
        ({"cov": "ar"}, "cov must be"),
        ({"block": 3}, "block is for cov='block'"),
        ({"cov": "block", "block": 9}, "block must be an integer from 1 to 8"),
        ({"level": 1.0}, r"level must be in \(0, 1\)"),
        ({"groups": np.zeros(5, int)}, "groups must have one entry"),
        ({"groups": np.full(6, -2)}, "groups must be integers from 0"),
        ({"groups": np.full(6, 0.5)}, "groups must be integers from 0"),
        ({"weights": np.ones(5)}, "weights must have one entry"),
        ({"weights": -np.ones(6)}, "weights must be non-negative"),
        ({"anticipation": -1}, "anticipation must be an integer"),
        ({"periods": "post"}, "periods must be"),
    ],
)
def test_the_effects_refuse(changes, message):
    with pytest.raises(ValueError, match=message):
        panel_effects(Y, D, rank=1, **changes)


def test_complex_outcomes_are_refused():
    with pytest.raises(TypeError, match="Y must be real"):
        row_scaled_spectral(Y + 0j, D)
    with pytest.raises(TypeError, match="D must be boolean"):
        row_scaled_spectral(Y, D + 0j)


@pytest.mark.parametrize(("name", "value"), [("Y must be finite", np.nan), ("D must be boolean", 2.0)])
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
        (lambda: placebo_in_space(Y, block, 1), "unit must be a treated row"),
        (lambda: placebo_in_space(Y, block, 9), "unit must be a row from 0 to 5"),
        (lambda: placebo_in_space(Y, block, 0, [0, 1]), "controls must never be treated"),
        (lambda: placebo_in_space(Y, block, 0, [1, 1]), "controls must be different rows"),
        (lambda: placebo_in_space(Y, block, 0, [1]), "controls must be at least two rows"),
        (lambda: placebo_in_space(Y, block, 0, propensity=Y / 99), "propensity must be 'row'"),
        (lambda: placebo_in_time(Y, block, 8), "periods must be an integer from 1 to 7"),
        (lambda: placebo_in_time(Y, ~block & False, 2), "D must have a treated unit"),
        (lambda: rowwise_bound(Y, Y[:5], 1), "A and E must be matrices of one shape"),
        (lambda: rowwise_bound(Y, Y, 7), "rank must be an integer from 0 to 6"),
        (lambda: rowwise_error_estimate(fit, Y[:5], D[:5]), "Y must have the shape"),
        (lambda: rowwise_error_estimate(fit, Y, D, center="column"), "center must be"),
        (lambda: permutation_intervals(fit, Y[:5], D[:5]), "Y must have the shape"),
        (lambda: permutation_intervals(fit, Y, D, level=0.0), "level must be in"),
        (lambda: permutation_intervals(fit, Y, D, candidates=2), "candidates must be an integer"),
        (lambda: unit_tests(effects, method="holm"), "method must be"),
        (lambda: unit_tests(effects, level=2.0), "level must be in"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
