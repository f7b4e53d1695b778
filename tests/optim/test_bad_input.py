import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.optim import MatrixDims, scale_by_freon, scale_by_kaon, scale_by_muon, scale_by_spectral
from jaxspec.optim.checks import checked_number
from jaxspec.optim.kaon import _chaotic
from jaxspec.optim.normalization import Dual


def same(x):
    return x


@pytest.mark.parametrize(
    ("leaf", "error", "message"),
    [
        (jnp.zeros(3), ValueError, r"\['layer'\]\['w'\]"),
        (jnp.zeros((2, 3, 4)), ValueError, "MatrixDims"),
        (jnp.zeros((2, 2), jnp.int32), TypeError, r"\['layer'\]\['w'\]"),
    ],
)
@pytest.mark.parametrize("build", [scale_by_muon, scale_by_freon, scale_by_kaon])
def test_leaves_that_are_no_matrices_are_named_at_init(build, leaf, error, message):
    with pytest.raises(error, match=message):
        build().init({"layer": {"w": leaf}})


@pytest.mark.parametrize("dims", [MatrixDims(0, 0), MatrixDims(0, 5)])
def test_bad_axes_are_refused_at_init(dims):
    with pytest.raises(ValueError, match=r"\['w'\]"):
        scale_by_muon(dimension_numbers={"w": dims}).init({"w": jnp.zeros((2, 2))})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: scale_by_freon(np.nan), "c is nan"),
        (lambda: scale_by_freon(np.inf), "c is inf"),
        (lambda: scale_by_freon(eps=-1e-3), "eps is"),
        (lambda: scale_by_freon(tol=0.0), "tol is"),
        (lambda: scale_by_freon(1.0, normalize="dual"), "q is"),
        (lambda: scale_by_freon(lambda count: 0.5), "schedule or traced"),
        (lambda: scale_by_muon(regularization=-1.0), "regularization is"),
        (lambda: scale_by_muon(tol=-1.0), "tol is"),
        (lambda: scale_by_kaon(steps=0), "steps is"),
        (lambda: _chaotic(2.7, 4.1, 1.25), "steps is 2.7; expected an integer"),
        (lambda: scale_by_kaon(lam=4.3), "lam is"),
        (lambda: scale_by_kaon(lam=0.0), "lam is"),
        (lambda: scale_by_kaon(in_scale=0.9), "in_scale is"),
        (lambda: scale_by_kaon(method="iid"), "needs a typed key"),
        (lambda: scale_by_kaon(normalize="dual"), "exponent of the map"),
        (lambda: scale_by_spectral(same, normalize="dual"), "exponent of the map"),
        (lambda: scale_by_spectral(same, beta=1.0), "beta is"),
        (lambda: scale_by_spectral(same, axis="data"), "both or neither"),
        (lambda: Dual(0.0), "q is"),
    ],
)
def test_hyper_parameters_are_checked_when_the_optimiser_is_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_unknown_names_are_refused_without_type_checks(run_python):
    snippet = """
from jaxspec.optim import scale_by_kaon, scale_by_spectral
for build in (lambda: scale_by_spectral(abs, normalize="big"), lambda: scale_by_spectral(abs, shape_scale="big"),
              lambda: scale_by_kaon(method="big")):
    try:
        build()
    except ValueError as error:
        print("big" in str(error))
for key in (0, __import__("numpy").zeros(2)):
    try:
        scale_by_spectral(abs, key=key)
    except TypeError as error:
        print("typed key" in str(error))
"""
    assert run_python(snippet).stdout.split() == ["True"] * 5


def test_old_style_key_is_refused():
    with pytest.raises(TypeError, match="typed key"):
        scale_by_kaon(jax.random.PRNGKey(0), method="iid")


def test_mesh_without_that_axis_is_refused():
    mesh = jax.make_mesh((1,), ("data",))
    with pytest.raises(ValueError, match="model"):
        scale_by_spectral(same, mesh=mesh, axis="model")


def test_a_map_that_changes_the_shape_is_refused():
    tx = scale_by_spectral(lambda x: x[:, :1], normalize="none")
    with pytest.raises(ValueError, match="expected the same shape"):
        tx.update({"w": jnp.ones((2, 3))}, tx.init({"w": jnp.ones((2, 3))}))


def test_errors_of_the_map_name_the_leaves():
    def refuse(x):
        raise ValueError("no")

    tx = scale_by_spectral(refuse)
    with pytest.raises(ValueError, match="no") as caught:
        tx.update({"w": jnp.ones((2, 3))}, tx.init({"w": jnp.ones((2, 3))}))
    assert "['w']" in caught.value.__notes__[0]


@pytest.mark.parametrize("shape", [(1, 5), (5, 1)])
def test_one_row_is_normalised_by_muon_and_freon_and_refused_by_chaotic_kaon(shape):
    g = {"w": jnp.arange(1.0, 6.0).reshape(shape)}
    for tx in (scale_by_muon(shape_scale="none"), scale_by_freon(shape_scale="none")):
        updates, _ = tx.update(g, tx.init(g))
        np.testing.assert_allclose(updates["w"], g["w"] / jnp.linalg.norm(g["w"]), rtol=2e-2)
    with pytest.raises(ValueError, match="one row or column"):
        scale_by_kaon().update(g, scale_by_kaon().init(g))


def test_inverted_spectrum_without_a_floor_warns():
    g = {"w": jnp.diag(jnp.array([4.0, 1.0]))}
    tx = scale_by_freon(0.75, eps=0.0, engine="svd")
    with pytest.warns(UserWarning, match="floor"):
        tx.update(g, tx.init(g))


def test_traced_numbers_are_handed_on():
    assert jax.jit(lambda x: checked_number("c", x))(0.5) == 0.5


@pytest.mark.parametrize("build", [scale_by_freon, scale_by_muon])
def test_an_unknown_engine_is_refused_when_the_optimiser_is_built(build):
    with pytest.raises(ValueError, match="engine is 'newton'; expected one of"):
        build(engine="newton")
