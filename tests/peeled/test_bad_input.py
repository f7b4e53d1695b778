"""Bad input: the argument, the value and what was expected are named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec import peeled
from jaxspec.peeled import LayerPeeledProblem, PermutationAction
from jaxspec.peeled.targets import _check_share

P = np.array([[0.5, 0.2], [0.3, 0.2], [0.2, 0.6]])
KERNEL = np.array([0.5, 0.3, 0.2])
COLUMN = KERNEL[:, None]
SYMMETRIC = PermutationAction.symmetric(3)
KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": np.array([[0.5, -0.1], [0.5, 1.1]])}, "targets: column 1 holds -0.1"),
        ({"targets": np.array([[0.5, 0.5], [0.5, 0.6]])}, "targets: column 1 sums to 1.1"),
        ({"targets": np.array([[0.5, np.nan], [0.5, 0.5]])}, "targets: column 1 holds nan"),
        ({"targets": np.array([[0.5, np.inf], [0.5, 0.5]])}, "targets: column 1 holds inf"),
        ({"targets": np.zeros((3, 0))}, "targets has shape"),
        ({"weights": [0.5, 0.6]}, "weights sums to 1.1"),
        ({"weights": [0.0, 0.0]}, "weights sums to 0"),
        ({"weights": [1.5, -0.5]}, "weights is .* expected finite numbers >= 0"),
        ({"weights": [0.5, 0.25, 0.25]}, r"weights has shape \(3,\); expected \(2,\)"),
        ({"budget_W": -1.0}, "budget_W is -1.0"),
        ({"budget_W": np.nan}, "budget_W is nan"),
        ({"budget_H": -2.0}, "budget_H is -2.0"),
        ({"norm": "spectral"}, "norm is 'spectral'"),
        ({"context_mass": [1.0, 0.0]}, "context_mass is 0 at column 1"),
        ({"context_mass": [0.5, 0.5], "norm": "per_vector"}, "context_mass is given"),
    ],
)
def test_problems(arguments, message):
    with pytest.raises(ValueError, match=message):
        LayerPeeledProblem(**{"targets": P, **arguments})


def test_complex_targets():
    with pytest.raises(TypeError, match="targets has dtype complex64"):
        LayerPeeledProblem(P * 1j)


def test_tolerances_of_sums_follow_the_precision():
    LayerPeeledProblem(np.float32(P) * np.float32(1 + 5e-5))
    with jax.enable_x64(True), pytest.raises(ValueError, match="sums to"):
        LayerPeeledProblem(P * (1 + 5e-5))


def problem(**arguments):
    return LayerPeeledProblem(P, **arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: peeled.solve_logits(problem(norm="per_vector")), "norm='per_vector'; expected 'frobenius'"),
        (lambda: peeled.solve_logits(problem(), tol=-1.0), "tol is -1.0"),
        (lambda: peeled.solve_logits(problem(), max_iter=-1), "max_iter is -1; expected an integer >= 0"),
        (lambda: peeled.solve_logits(problem(), init=np.zeros((2, 2))), "init has shape"),
        (lambda: peeled.solve_logits(problem(), init=np.full((3, 2), np.nan)), "init holds"),
        (lambda: peeled.solve_logits_path(problem(), [[1.0]]), "budgets has shape"),
        (lambda: peeled.solve_logits_path(problem(), [1.0, -1.0]), "budgets is"),
        (lambda: peeled.solve_logits_penalised(P, None, -0.1), "penalty is -0.1"),
        (lambda: peeled.optimal_value(P, None, -0.1), "radius is -0.1"),
        (lambda: peeled.optimal_value(2 * P, None, 1.0), "targets: column 0 sums to 2"),
        (lambda: peeled.duality_gap(jnp.zeros((3, 2)), problem(), row_weights=[1, 0, 0]), "row_weights and column"),
        (
            lambda: peeled.duality_gap(jnp.zeros((3, 2)), problem(norm="per_vector"), row_weights=[1.0, 1.0, 1.0]),
            "row_weights sums to 3",
        ),
        (lambda: peeled.kkt_residual(jnp.zeros((3, 2)), problem(norm="per_vector")), "expected 'frobenius'"),
        (lambda: peeled.factorize_logits(P, 0.0, 1.0), "budget_W is 0.0"),
        (lambda: peeled.factorize_logits(P, 1.0, 1.0, 0), "dim is 0"),
        (lambda: peeled.factorize_logits(P, 1.0, 1.0, 1), "dim is 1, below the rank 2"),
        (lambda: peeled.solve_cyclic([0.5, 0.6], 1.0), "kernel: column 0 sums to 1.1"),
        (lambda: peeled.solve_cyclic(np.zeros((2, 2)), 1.0), "kernel has shape"),
        (lambda: peeled.solve_cyclic(np.zeros(0), 1.0), "kernel has shape"),
        (lambda: peeled.solve_cyclic(KERNEL, -1.0), "budget is -1.0"),
        (lambda: peeled.solve_cyclic(KERNEL, 1.0, weights=[0.5, 0.5]), "weights has shape"),
        (lambda: peeled.solve_cyclic(KERNEL, 1.0, init=np.zeros(4)), "init has shape"),
        (lambda: peeled.solve_cyclic(KERNEL, 1.0, init=np.full(len(KERNEL), np.inf)), "init holds"),
        (
            lambda: peeled.solve_orbits(
                COLUMN, PermutationAction.cyclic(3), None, [3], 1.0, init=np.full((3, 1), np.nan)
            ),
            "init holds",
        ),
        (
            lambda: peeled.solve_orbits(COLUMN, PermutationAction.cyclic(3), None, [3], 1.0, init=np.zeros((3, 2))),
            "init has shape",
        ),
        (lambda: peeled.mode_onsets(KERNEL, [1.0]), "dtype float32; expected float64"),
        (lambda: peeled.active_modes(P), "z has shape"),
        (lambda: peeled.solve_orbits(COLUMN, PermutationAction.cyclic(4), None, [3], 1.0), "expected 4, the degree"),
        (lambda: peeled.solve_orbits(COLUMN, PermutationAction.cyclic(3), None, [2], 1.0), "more than 2 images"),
        (lambda: peeled.solve_orbits(COLUMN, PermutationAction.cyclic(3), None, [4], 1.0), "has 3 images"),
        (lambda: peeled.solve_orbits(COLUMN, PermutationAction.cyclic(3), None, [0], 1.0), "orbit_size is"),
        (lambda: peeled.solve_orbits(COLUMN, PermutationAction.cyclic(3), None, [3, 3], 1.0), "orbit_size has shape"),
        (lambda: peeled.solve_orbits(COLUMN, PermutationAction.cyclic(3), [0.5], [3], 1.0), "orbit_mass sums to 0.5"),
        (lambda: peeled.solve_orbits(KERNEL, PermutationAction.cyclic(3), None, [3], 1.0), "representatives has shape"),
        (lambda: peeled.solve_exchangeable(COLUMN, None, [6], 1.0), "action is None"),
        (
            lambda: peeled.solve_exchangeable(
                np.full((7, 1), 1 / 7), None, [7], 1.0, action=PermutationAction.dihedral(7)
            ),
            "3 orbits on unordered pairs",
        ),
        (lambda: peeled.solve_exchangeable(COLUMN, None, [5], 1.0, action=SYMMETRIC), "more than 5 images"),
        (
            lambda: peeled.solve_exchangeable(COLUMN, None, [6], 1.0, action=PermutationAction.symmetric(4)),
            "expected 4, the degree",
        ),
        (lambda: peeled.solve_factored(KEY, problem(), 0), "dim is 0"),
        (lambda: peeled.solve_factored(KEY, problem(), 2, method="adam"), "method is 'adam'"),
        (lambda: peeled.solve_factored(KEY, problem(), 2, init_scale=0.0), "init_scale is 0.0"),
        (lambda: peeled.solve_factored(KEY, problem(), 2, momentum=-1.0), "momentum is -1.0"),
        (lambda: peeled.project_to_ball(-1.0), "radius is -1.0"),
        (lambda: peeled.project_to_ball(1.0).update(jnp.ones(2), peeled.project_to_ball(1.0).init(None)), "params"),
    ],
)
def test_solvers(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PermutationAction([]), "generators is empty"),
        (lambda: PermutationAction([[0, 1, 1]]), "expected a permutation"),
        (lambda: PermutationAction([[0.5, 1.0]]), "expected a permutation"),
        (lambda: PermutationAction([[0, 1], [0, 1, 2]]), "generator 1 has shape"),
        (lambda: PermutationAction.affine(6), "p is 6; expected a prime"),
        (lambda: PermutationAction.affine(7, [7]), "multipliers holds 7"),
        (lambda: PermutationAction.psl2(9), "q is 9; expected a prime"),
        (lambda: peeled.orbit([1, 2], SYMMETRIC), "p has shape"),
        (lambda: peeled.orbit_representatives(P, SYMMETRIC), "group defect 0"),
        (lambda: peeled.orbit_representatives(P, PermutationAction.cyclic(4)), "targets has shape"),
        (
            lambda: peeled.orbit_representatives(np.eye(3), SYMMETRIC, [0.5, 0.25, 0.25]),
            "weights are not invariant",
        ),
        (
            lambda: peeled.orbit_representatives(np.eye(3)[:, [0, 0, 1, 2]], SYMMETRIC),
            "weights are not invariant",
        ),
        (lambda: peeled.orbit_representatives(np.eye(3), SYMMETRIC, [0.5, 0.5]), "weights has shape"),
        (lambda: peeled.reynolds(jnp.ones((2, 2)), np.zeros((3, 3), int), 1), "labels has shape"),
        (lambda: peeled.von_mises_kernel(0, 1.0), "n is 0"),
        (lambda: peeled.von_mises_kernel(3, np.nan), "kappa is nan"),
        (lambda: peeled.geometric_kernel(3, -1.0), "ell is -1.0"),
        (lambda: peeled.geometric_kernel(3, 0.0), "ell is 0.0"),
        (lambda: peeled.one_hot_kernel(3, 1.5), "eps is 1.5"),
        (lambda: _check_share(jnp.float32(1.5)), "eps is 1.5"),
        (lambda: peeled.k_hot_targets(3, 4, 0.0), "k is 4"),
        (lambda: peeled.k_hot_targets(40, 20, 0.0), "expected at most 100000"),
        (lambda: peeled.circulant(jnp.ones((2, 2))), "kernel has shape"),
        (lambda: peeled.circulant_defect(jnp.ones((2, 3))), "M has shape"),
        (lambda: peeled.simplex_etf_defect(jnp.ones((1, 3))), "at least two rows"),
        (lambda: peeled.equiangular_std(jnp.ones((1, 3))), "at least two rows"),
        (lambda: peeled.permutation_test(peeled.harmonic_score, jnp.ones((9, 9))), "key is None and n is 9"),
        (lambda: peeled.permutation_test(peeled.harmonic_score, jnp.ones((2, 3))), "G has shape"),
        (lambda: peeled.permutation_test(peeled.harmonic_score, jnp.full((3, 3), jnp.nan)), "not finite"),
        (lambda: peeled.permutation_test(peeled.harmonic_score, jnp.triu(jnp.ones((5, 5)))), "not symmetric"),
        (lambda: peeled.permutation_test(peeled.harmonic_score, jnp.ones((3, 3)), exact_limit=12), "exact_limit is 12"),
        (
            lambda: peeled.permutation_test(peeled.harmonic_score, jnp.ones((9, 9)), key=KEY, num_samples=0),
            "num_samples is 0",
        ),
        (lambda: peeled.gaussian_test(peeled.equinorm_cv, jnp.ones(3), key=KEY), "W has shape"),
        (lambda: peeled.gaussian_test(peeled.equinorm_cv, jnp.full((3, 3), jnp.inf), key=KEY), "not finite"),
        (lambda: peeled.token_set_test(peeled.equinorm_cv, jnp.ones((3, 3)), [0, 3], key=KEY), r"integers in \[0, 3\)"),
        (lambda: peeled.token_set_test(peeled.equinorm_cv, jnp.ones((3, 3)), [0, 0], key=KEY), "different integers"),
        (lambda: peeled.discover_cyclic_order(jnp.ones((3, 3)), key=KEY), "n >= 4"),
        (lambda: peeled.discover_cyclic_order(jnp.triu(jnp.ones((5, 5))), key=KEY), "not symmetric"),
        (lambda: peeled.discover_cyclic_order(jnp.full((5, 5), jnp.nan), key=KEY), "not finite"),
        (lambda: peeled.discover_cyclic_order(jnp.eye(5), key=KEY, num_samples=0), "num_samples is 0"),
    ],
)
def test_groups_targets_and_diagnostics(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_onset_grids():
    with jax.enable_x64(True):
        for grid in ([], [0.0, 1.0], [2.0, 1.0], [1.0, np.inf]):
            with pytest.raises(ValueError, match="budgets is"):
                peeled.mode_onsets(KERNEL, grid)
        with pytest.raises(ValueError, match="sums to"):
            peeled.mode_onsets(2 * KERNEL, [1.0])
