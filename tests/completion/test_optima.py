"""Optima known from two conic solvers, an independent NumPy solver, and certificates."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.completion import blocks, complete_tensor
from jaxspec.completion.tensor import duality_gap
from jaxspec.solvers import Residual

NAMES = list("ABCDEFG")
# Set-ups that must all end at the same tensor. `geometric` is exempt: it stalls by design.
POLICIES = (
    "displacement",
    "displacement_per_block",
    "relative_residual",
    "relative_residual_per_block",
    "residual",
    "norm_ratio",
    "spectral",
    "fixed",
)


@pytest.fixture
def solve(x64, cases, chosen_policy):
    """``solve("A", rho_scale=10.0)``; one compilation per case, whatever the policy and the numbers."""

    def run(name, policy="displacement", rho_scale=1.0, over_relaxation=1.6, tol=1e-11, patience=None):
        case = cases[name]
        return complete_tensor(
            case.tensor,
            case.mask,
            lam=case.lam,
            regularizer=case.blocks("gram"),
            penalty=chosen_policy(policy),
            rho_scale=rho_scale,
            over_relaxation=over_relaxation,
            stop=Residual(tol, patience=patience),
            max_iter=10_000,
            certificate=True,
            history=False,
        )

    return run


@pytest.fixture(autouse=True)
def _quiet(recwarn):
    """Case A has a slice without an observed entry, which is warned of elsewhere."""
    import warnings

    warnings.filterwarnings("ignore", message="mode .* has slices without an observed entry")


def objective(case, x):
    """The objective in NumPy, from the definition."""
    order = [g + tuple(m for m in range(x.ndim) if m not in g) for g in case.modes]
    rows = [int(np.prod([x.shape[m] for m in g])) for g in case.modes]
    norms = [np.linalg.norm(x.transpose(o).reshape(r, -1), "nuc") for o, r in zip(order, rows, strict=True)]
    value = sum(weight * norm for weight, norm in zip(case.weights, norms, strict=True))
    return value if case.lam is None else case.lam * value + 0.5 * np.sum((x - case.tensor)[case.mask] ** 2)


@pytest.mark.parametrize("name", NAMES)
def test_optimum_is_the_conic_solvers_and_is_certified(solve, cases, name):
    case, result = cases[name], solve(name)
    x = np.asarray(result.tensor)
    assert bool(result.info.converged)
    assert abs(objective(case, x) - case.optimum) <= 1e-8
    assert -1e-14 <= float(result.info.gap) <= 1e-9
    if case.norm is not None:
        assert abs(np.linalg.norm(x) / case.norm - 1) <= 1e-7
    if case.lam is None:
        np.testing.assert_array_equal(x[case.mask], case.tensor[case.mask])


@pytest.mark.parametrize("name", ["A", "G"])
def test_duality_gap_of_a_result_certifies_it(solve, cases, name):
    case, result = cases[name], solve(name)
    gap = duality_gap(result, case.tensor, case.mask, lam=case.lam, regularizer=case.blocks())
    assert float(gap.primal) == pytest.approx(objective(case, np.asarray(result.tensor)), rel=1e-12)
    assert float(gap.dual) <= case.optimum + 1e-8
    assert -1e-14 <= float(gap.relative) <= 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_solution_does_not_depend_on_policy_or_first_penalty(solve, name):
    best = np.asarray(solve(name, tol=1e-12).tensor)
    far = {}
    for policy, rho_scale in itertools.product(POLICIES, (0.1, 1.0, 10.0, 100.0)):
        if (name, policy, rho_scale) != ("F", "fixed", 0.1):  # needs 87 000 iterations
            result = solve(name, policy, rho_scale, tol=1e-8)
            distance = np.linalg.norm(np.asarray(result.tensor) - best) / np.linalg.norm(best)
            if not bool(result.info.converged) or distance > 1e-5:
                far[policy, rho_scale] = (int(result.info.status), int(result.info.iterations), float(distance))
    assert far == {}


@pytest.mark.parametrize("rho_scale", [0.1, 1.0, 10.0, 100.0])
def test_a_run_that_would_converge_is_not_given_up_as_stalled(solve, rho_scale):
    result = solve("F", rho_scale=rho_scale, tol=1e-8, patience=100)
    assert int(result.info.status) == 1


@pytest.mark.parametrize("name", ["A", "C", "F"])
def test_solution_does_not_depend_on_over_relaxation(solve, name):
    best = np.asarray(solve(name, tol=1e-12).tensor)
    for over_relaxation in (1.0, 1.3, 1.9):
        result = solve(name, over_relaxation=over_relaxation, tol=1e-9)
        assert bool(result.info.converged), over_relaxation
        assert np.linalg.norm(np.asarray(result.tensor) - best) <= 1e-5 * np.linalg.norm(best), over_relaxation


def numpy_admm(tensor, mask, weights, lam, rho, iterations):
    """Unrelaxed fixed-penalty ADMM on mode unfoldings with dense SVDs; returns x and the multipliers, tensor-shaped."""

    def shrink(x, mode, threshold):
        moved = np.moveaxis(x, mode, 0)
        u, s, vt = np.linalg.svd(moved.reshape(moved.shape[0], -1), full_matrices=False)
        low = (u * np.maximum(s - threshold, 0)) @ vt
        return np.moveaxis(low.reshape(moved.shape), 0, mode)

    x = np.where(mask, tensor, 0)
    multipliers = [np.zeros_like(x) for _ in weights]
    for _ in range(iterations):
        parts = [
            shrink(x + w / rho, mode, lam * weights[mode] / rho)
            for mode, w in zip(range(x.ndim), multipliers, strict=True)
        ]
        total = sum(rho * part - w for part, w in zip(parts, multipliers, strict=True))
        x = np.where(mask, tensor + total, total) / np.where(mask, 1 + rho * len(weights), rho * len(weights))
        multipliers = [w + rho * (x - part) for w, part in zip(multipliers, parts, strict=True)]
    return x, multipliers


def test_fresh_noisy_problem_agrees_with_a_numpy_solver_and_its_dual_bound(x64):
    rng = np.random.default_rng(20260)
    tensor, mask = rng.standard_normal((3, 5, 4)), rng.random((3, 5, 4)) < 0.7
    weights, lam = (0.2, 0.5, 0.3), 0.4
    x, multipliers = numpy_admm(tensor, mask, weights, lam, 0.3, 1500)
    norms = [np.linalg.norm(np.moveaxis(w, m, 0).reshape(w.shape[m], -1), 2) for m, w in enumerate(multipliers)]
    theta = min(1.0, *(lam * a / n for a, n in zip(weights, norms, strict=True)))
    dual = theta * np.where(mask, sum(multipliers), 0)
    bound = np.sum(dual * tensor) - 0.5 * np.sum(dual**2)

    result = complete_tensor(tensor, mask, weights=weights, lam=lam, tol=1e-11, max_iter=3000)
    found = np.asarray(result.tensor)
    nuclear = [np.linalg.norm(np.moveaxis(found, m, 0).reshape(found.shape[m], -1), "nuc") for m in range(3)]
    value = 0.5 * np.sum((found - tensor)[mask] ** 2) + lam * np.dot(weights, nuclear)
    assert bool(result.info.converged)
    np.testing.assert_allclose(found, x, atol=1e-8)
    assert bound <= value + 1e-12
    assert value - bound <= 1e-9 * value


GROUPS = (range(5), range(3, 7), (0, 2, 4, 6, 7))


def test_row_groups_reach_their_known_optimum_and_leave_the_row_of_no_group_alone(x64, make_waves):
    tensor, _ = make_waves((9, 6), 5, 3)
    i, j = np.indices(tensor.shape)
    mask = (3 * i + 5 * j + i * j) % 4 < 2
    groups = blocks.row_groups(tensor.shape, GROUPS, (0.5, 0.4, 0.3), method="gram")
    fill = np.full(tensor.shape, 0.25)
    result = complete_tensor(
        tensor, mask, lam=1.0, regularizer=groups, init=fill, tol=1e-11, max_iter=3000, certificate=True
    )
    x = np.asarray(result.tensor)
    value = 0.5 * np.sum((x - tensor)[mask] ** 2)
    value += sum(w * np.linalg.norm(x[list(g)], "nuc") for g, w in zip(GROUPS, (0.5, 0.4, 0.3), strict=True))
    assert abs(value - 4.99025480) <= 1e-8
    assert -1e-14 <= float(result.info.gap) <= 1e-9
    np.testing.assert_array_equal(x[8][mask[8]], tensor[8][mask[8]])
    np.testing.assert_array_equal(x[8][~mask[8]], 0.25)


def test_blocks_padded_to_one_size_and_unpadded_ones_give_the_same_solution(x64):
    rng = np.random.default_rng(3)
    tensor, mask = rng.standard_normal((9, 4)), rng.random((9, 4)) < 0.6
    solutions = []
    for pad_ratio in (1.0, 3.0):
        groups = blocks.row_groups(
            tensor.shape, (range(3), range(2, 9), range(4, 8)), pad_ratio=pad_ratio, method="gram"
        )
        result = complete_tensor(tensor, mask, lam=0.3, regularizer=groups, tol=1e-10, max_iter=3000)
        assert bool(result.info.converged)
        solutions.append(np.asarray(result.tensor))
    assert len(blocks.row_groups(tensor.shape, (range(3), range(2, 9), range(4, 8)), pad_ratio=1.0)) == 3
    np.testing.assert_allclose(solutions[0], solutions[1], atol=1e-7)


def test_weights_per_entry_weigh_the_squares(x64):
    rng = np.random.default_rng(4)
    tensor, obs_weights = rng.standard_normal((4, 4)), rng.uniform(0.5, 2, (4, 4))
    obs_weights[0, 1] = 0
    result = complete_tensor(
        tensor, lam=0.2, obs_weights=obs_weights, svt="gram", tol=1e-11, max_iter=3000, certificate=True
    )
    x, w = np.asarray(result.tensor), obs_weights * (tensor - np.asarray(result.tensor))
    # Optimal: w (T - X) is 0.2 times a subgradient of the nuclear norm at X.
    u, s, vt = np.linalg.svd(x)
    rank = int(np.sum(s > 1e-8))
    outside = u[:, rank:].T @ w @ vt[rank:].T
    np.testing.assert_allclose(u[:, :rank].T @ w @ vt[:rank].T, 0.2 * np.eye(rank), atol=1e-8)
    assert np.linalg.norm(outside, 2) <= 0.2 + 1e-8
    assert w[0, 1] == 0
    assert float(result.info.gap) <= 1e-9


def test_memory_of_the_policy_does_not_grow_with_the_number_of_iterations(solve):
    sizes = [sum(leaf.nbytes for leaf in jax.tree.leaves(solve("B", tol=tol).state)) for tol in (1e-2, 1e-8)]
    assert sizes[0] == sizes[1]
    assert jnp.result_type(solve("B", tol=1e-2).tensor) == jnp.float64
