"""What a flow refuses, by name, value and expectation."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.flow import (
    MeanFieldObjective,
    certified_discrete_rate,
    certified_rate,
    coupling_error,
    field_path,
    fit_exponential_rate,
    flow_to_muon,
    gauss_hermite_particles,
    hamiltonian_flow,
    integrate,
    max_stable_lr,
    muon_to_flow,
)
from jaxspec.optim import regularized_muon, scale_by_spectral
from tests.flow.problems import QUADRATIC, identity, squares

X = jnp.ones((4, 2, 3))
GOOD = hamiltonian_flow(QUADRATIC)
WEIGHTED = hamiltonian_flow(QUADRATIC, weights=jnp.full(3, 1 / 3))


def flow(**options):
    return lambda: hamiltonian_flow(QUADRATIC, **options)


def start(position, **options):
    return lambda: GOOD.init(position, **options)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (flow(eps=0.0), ValueError, "eps is 0.0; expected a finite number > 0: the hard polar is jaxspec.linalg.polar"),
        (flow(eps={"a": 0.1, "b": -1.0}), ValueError, r"eps\['b'\] is -1.0"),
        (flow(eps="relative"), ValueError, "not a gradient map"),
        (flow(gamma=-0.1), ValueError, "gamma is -0.1"),
        (flow(method="euler"), ValueError, "method is 'euler'"),
        (flow(polar_engine="cubic"), ValueError, "polar_engine is 'cubic'"),
        (flow(chunk_size=0), ValueError, "chunk_size is 0"),
        (flow(block_weights=0.0), ValueError, "block_weights is 0.0; expected a finite number > 0"),
        (flow(weights=jnp.array([0.5, 0.6])), ValueError, "sum 1.1"),
        (flow(weights=jnp.array([1.5, -0.5])), ValueError, "least -0.5"),
        (lambda: WEIGHTED.init(X), ValueError, "weights have length 3; expected 4"),
        (start({"a": X, "b": jnp.ones((4, 0, 3))}), ValueError, r"position\['b'\] has shape \(4, 0, 3\)"),
        (start(jnp.ones((0, 2, 3))), ValueError, "empty axis"),
        (start({"a": X, "b": X[0]}), ValueError, r"position\['b'\] has shape \(2, 3\)"),
        (start({"a": X, "b": X[:3]}), ValueError, r"position\['b'\] has 3 particles"),
        (start({}), ValueError, "no leaves"),
        (start(X.astype(int)), TypeError, "int"),
        (start(X.astype(complex)), TypeError, "complex"),
        (start(X, momentum=X[:3]), ValueError, "momentum is"),
        (lambda: hamiltonian_flow(QUADRATIC, eps={"a": 0.1}).init(X), ValueError, "no pytree prefix"),
        (lambda: GOOD.step(GOOD.init(X), 0.0), ValueError, "h is 0.0"),
        (lambda: integrate(GOOD, GOOD.init(X), dt=-0.1, num_steps=2), ValueError, "dt is -0.1"),
        (lambda: integrate(GOOD, GOOD.init(X), num_steps=5, save_every=2), ValueError, "save_every is 2"),
        (lambda: field_path(GOOD, GOOD.init(X), dt=0.1, num_steps=0), ValueError, "num_steps is 0"),
        (lambda: coupling_error(GOOD, X, jnp.ones((3, 2, 3)), dt=0.1, num_steps=3), ValueError, "num_steps . 1 = 4"),
        (lambda: coupling_error(WEIGHTED, X, X, dt=0.1, num_steps=3), ValueError, "equal weights"),
        (lambda: gauss_hermite_particles((2, 2), order=0), ValueError, "order is 0"),
        (lambda: gauss_hermite_particles((4, 4), order=10), ValueError, "at most"),
        (lambda: flow_to_muon(0.1, 0.0, 0.1), ValueError, "gamma is 0.0"),
        (lambda: flow_to_muon(0.1, 1.0, 0.1, "nesterov"), ValueError, "form is 'nesterov'"),
        (lambda: muon_to_flow(0.1, 1.0, 0.1), ValueError, "beta is 1.0"),
        (lambda: max_stable_lr(0.1, 0.0), ValueError, "lipschitz is 0.0"),
        (lambda: certified_rate(1.0, 1.0, 0.1, 1.0, -1.0), ValueError, "momentum_bound is -1.0"),
        (lambda: certified_discrete_rate(1.0, 1.0, 0.1, 0.1, 1.0, 1.0), ValueError, "beta is 1.0"),
        (lambda: fit_exponential_rate(np.ones(3), np.ones(4)), ValueError, "equal length"),
        (lambda: regularized_muon(0.1, 0.0, beta=0.9), ValueError, "eps is 0.0"),
        (lambda: regularized_muon(0.1, 0.1), ValueError, "exactly one"),
        (lambda: regularized_muon(0.1, 0.1, beta=0.9, gamma=1.0), ValueError, "exactly one"),
        (lambda: regularized_muon(0.1, 0.1, beta=1.0), ValueError, "beta is 1.0"),
        (lambda: regularized_muon(0.1, 0.1, gamma=-1.0), ValueError, "gamma is -1.0"),
        (lambda: regularized_muon(0.1, 0.1, gamma=0.0), ValueError, "heavy_ball"),
        (lambda: regularized_muon(lambda t: 0.1, 0.1, gamma=1.0, bias_correction=True), ValueError, "bias_correction"),
        (lambda: regularized_muon(0.1, 0.1, beta=0.5, eps_mode="auto"), (ValueError, TypeError), "eps_mode"),
        (lambda: regularized_muon(0.1, 0.1, beta=0.5, form="none"), (ValueError, TypeError), "form"),
        (lambda: scale_by_spectral(identity).init({"b": jnp.ones(3)}), ValueError, r"\['b'\] has shape \(3,\)"),
    ],
)
def test_bad_input_is_named(call, error, match):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize(
    "objective",
    [
        MeanFieldObjective(identity, lambda z: jnp.sum(z["field"])),
        MeanFieldObjective(identity, lambda z: z),
        MeanFieldObjective(lambda x: x @ x, squares),
        MeanFieldObjective(identity, lambda z: z.shape[0]),
    ],
)
def test_features_that_do_not_fit_the_risk_are_found_at_the_start(objective):
    with pytest.raises(ValueError, match=r"objective does not compose|expected one real number"):
        hamiltonian_flow(objective).init(X)


def test_a_missing_solver_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffrax", None)
    with pytest.raises(ImportError, match=r"jaxspec-lab\[flow\]"):
        GOOD.as_ode_terms()
