import jax
import jax.numpy as jnp
import numpy as np

from jaxspec.optim import MatrixDims, qkv_dims
from jaxspec.optim.spectra import effective_rank, leaf_spectra, stable_rank


def test_ranks_of_known_spectra():
    s = jnp.array([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [2.0, 1.0, 1.0, 0.0]])
    np.testing.assert_allclose(effective_rank(s), [4, 1, 0, 2 * np.sqrt(2)], rtol=1e-6)
    np.testing.assert_allclose(stable_rank(s), [4, 1, 0, 1.5], rtol=1e-6)


def test_every_matrix_of_every_leaf_is_found_by_path(random_tree):
    tree = random_tree({"stack": (3, 4, 6), "qkv": (8, 16), "w": (6, 4), "b": (5,)}) | {"none": None}
    tree["empty"] = jnp.zeros((0, 3))
    dims = {"stack": MatrixDims(-2, -1), "qkv": qkv_dims(4, 2), "w": None, "b": None, "none": None, "empty": None}
    found = jax.jit(lambda t: leaf_spectra(t, dimension_numbers=dims))(tree)
    assert set(found) == {"['stack']", "['qkv']", "['w']"}
    assert [piece.values.shape for piece in found["['qkv']"]] == [(1, 8), (1, 4), (1, 4)]
    expected = np.linalg.svd(tree["stack"], compute_uv=False)
    np.testing.assert_allclose(found["['stack']"][0].values, expected, rtol=1e-5)
    np.testing.assert_allclose(found["['stack']"][0].stable_rank, (expected**2).sum(1) / expected[:, 0] ** 2, rtol=1e-5)
    np.testing.assert_allclose(found["['w']"][0].values[0], np.linalg.svd(tree["w"], compute_uv=False), rtol=1e-5)
    middle = np.linalg.svd(tree["qkv"][:, 8:12], compute_uv=False)
    np.testing.assert_allclose(found["['qkv']"][1].values[0], middle, rtol=1e-5)
