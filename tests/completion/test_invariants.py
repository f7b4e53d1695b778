"""What holds after every iteration, for any relaxation and any penalty policy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.solvers import DataTerm, Gap, consensus_admm

LENGTH = 60
# One draw of the numbers per policy: kappa and the first penalty relative to 1.
RUNS = [
    ("displacement", 1.6, 0.1),
    ("displacement", 1.0, 10.0),
    ("displacement_per_block", 1.9, 0.3),
    ("relative_residual", 1.3, 0.01),
    ("relative_residual_per_block", 0.5, 1.0),
    ("norm_ratio", 1.6, 3.0),
    ("spectral", 1.8, 0.5),
    ("fixed", 1.0, 0.2),
]


@pytest.fixture(scope="module", params=["C", "E", "F", "B"])
def trace(request, cases, chosen_policy, recorder):
    """Every step of every run on a case, and the gap after it; one compilation per case."""
    case = cases[request.param]
    with jax.enable_x64(True):
        blocks = case.blocks("svd")  # the Gram engine is less accurate near the threshold
        lam = 1.0 if case.lam is None else case.lam
        if case.lam is None:
            data_term = DataTerm.exact(jnp.asarray(case.tensor), jnp.asarray(case.mask))
        else:
            data_term = DataTerm.quadratic(jnp.asarray(case.tensor), jnp.asarray(case.mask, float))
        runs = {}
        for policy, kappa, rho in RUNS:
            state, _ = consensus_admm(
                [block.scaled(jnp.asarray(lam)) for block in blocks],
                data_term,
                jnp.asarray(np.where(case.mask, case.tensor, 0)),
                rho=rho,
                over_relaxation=kappa,
                penalty=recorder(chosen_policy(policy), LENGTH),
                stop=Gap(-1.0, patience=None),
                max_iter=LENGTH,
            )
            runs[policy, kappa] = jax.tree.map(np.asarray, (state.memory[1], state.history["gap"]))
        scatter = lambda duals: sum(b.scatter(b.data, w) for b, w in zip(blocks, duals, strict=True))  # noqa: E731
        totals = {key: np.asarray(jax.vmap(scatter)(steps.duals)) for key, (steps, _) in runs.items()}
        iterates = {key: np.asarray(jax.vmap(scatter)(steps.ax)) for key, (steps, _) in runs.items()}
    return case, lam, blocks, runs, totals, iterates


def test_sum_of_the_duals_is_minus_the_gradient_of_the_data_term(trace):
    case, _, blocks, runs, totals, iterates = trace
    count = sum(float(block.count) for block in blocks)
    for key, (steps, _) in runs.items():
        x = iterates[key] / count
        expected = np.where(case.mask, case.tensor - x, 0)
        size = max(np.abs(w).max() for w in steps.duals) + (steps.rho.max() * np.abs(x).max())
        error = np.abs(np.where(case.mask & (case.lam is None), 0, totals[key] - expected)).max()
        assert error <= 100 * np.finfo(float).eps * size, key


def test_observed_entries_of_the_exact_problem_stay_put(trace):
    case, _, blocks, runs, _, iterates = trace
    count = sum(float(block.count) for block in blocks)
    for key in runs:
        kept = iterates[key] / count - case.tensor
        if case.lam is None:
            assert np.abs(np.where(case.mask, kept, 0)).max() <= 4e-16 * np.abs(case.tensor).max(), key


def test_subgradient_at_the_proximal_point_is_within_its_ball(trace):
    _, lam, blocks, runs, _, _ = trace
    eps = np.finfo(float).eps
    for key, (steps, _) in runs.items():
        for i, block in enumerate(blocks):
            rho = steps.rho[:, i, None, None, None]
            subgradient = rho * (steps.ax_old[i] - steps.y[i]) + steps.duals_old[i]
            # The subgradient is a difference of numbers of this size.
            size = np.linalg.norm(rho * steps.ax_old[i], axis=(-2, -1)) + np.linalg.norm(
                steps.duals_old[i], axis=(-2, -1)
            )
            bound = lam * np.asarray(block.data)
            excess = np.linalg.norm(subgradient, 2, axis=(-2, -1)) - bound
            assert (excess <= 40 * eps * (bound + size)).all(), (key, excess.max())


def test_subgradient_at_the_proximal_point_is_one(trace):
    _, lam, blocks, runs, _, _ = trace
    for key, (steps, _) in runs.items():
        for i, block in enumerate(blocks):
            rho = steps.rho[:, i, None, None, None]
            subgradient = rho * (steps.ax_old[i] - steps.y[i]) + steps.duals_old[i]
            norms = np.linalg.norm(steps.y[i], "nuc", axis=(-2, -1)) * lam * np.asarray(block.data)
            pairing = np.sum(subgradient * steps.y[i], axis=(-2, -1))
            np.testing.assert_allclose(pairing, norms, rtol=1e-9, atol=1e-9, err_msg=str(key))


def test_gap_is_never_negative_and_falls(trace):
    _, _, _, runs, _, _ = trace
    for key, (_, gap) in runs.items():
        assert np.isfinite(gap).all()
        assert (gap >= -100 * np.finfo(float).eps).all(), (key, gap.min())
        assert gap[-1] < gap[0], key


def test_gap_falls_to_rounding_with_the_default_policy(trace):
    case, _, _, runs, _, _ = trace
    slow = case.modes == ((0,), (0, 1), (0, 1, 2))  # case F needs 700 iterations
    _, gap = runs["displacement", 1.6]
    assert gap[-1] <= (1e-2 if slow else 1e-6)


def test_penalties_stay_within_a_factor_of_a_million_of_the_first(trace):
    _, _, _, runs, _, _ = trace
    for key, (steps, _) in runs.items():
        assert (steps.rho <= 1e6 * steps.rho[0]).all(), key
        assert (steps.rho >= 1e-6 * steps.rho[0]).all(), key
