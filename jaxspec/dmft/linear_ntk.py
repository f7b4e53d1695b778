r"""Leading mode of the tangent kernel of a deep linear network, by Lanczos inside the theory.

    ``K / P = (1/alpha) X [n_1 I + (1/nu) sum_{l=2}^{L} n_l C_{l-1} + (1/nu) C_L] X^T``,  ``n_l = <g_l, g_l>``,
    ``C_l = W_1^T ... W_l^T W_l ... W_1``  (at time t; without training set the bracket alone, on the weights).

Every product with K appends sources to a copy of the network at time t: the algebra answers for vectors that depend on
everything. The Ritz value is a lower bound, exact when the residual vanishes.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxspec.dmft.linear_config import LinearConfig
from jaxspec.dmft.linear_network import Network, Past, multiply, multiply_transposed
from jaxspec.linalg import eigh
from jaxspec.linalg.normalisation import matmul


def leading_mode(
    cfg: LinearConfig, network: Network, t: Array, past: Past, products: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Largest Ritz value of ``K/P`` at time t, from the errors at time 0, and its residual.

    Args:
        cfg: the network.
        network: after training, with room for the products.
        t: time, at most that of the network.
        past: of time t.
        products: number of Lanczos steps.

    Returns:
        ``(value, residual)``.
    """
    network = _at(network, t, cfg.outputs)
    norms = _gradient_norms(cfg, network, t)
    domain = "D" if cfg.alpha is None else "P"

    def inner(network, x, y):
        return jnp.trace(network.spaces[domain].inner(x, y))

    def step(state, index):
        network, basis, previous, beta = state
        vector = basis[index]
        network, image = _kernel(cfg, network, vector, past, norms)
        alpha = inner(network, vector, image)
        rest = image - alpha * vector - beta * previous
        for _ in range(2):  # full re-orthogonalisation, twice is enough
            space = network.spaces[domain]
            along = jnp.sum(jax.vmap(space.inner, (0, None))(basis, rest).diagonal(axis1=1, axis2=2), axis=1)
            rest = rest - jnp.tensordot(along, basis, 1, precision=jax.lax.Precision.HIGHEST)
        beta = jnp.sqrt(jnp.maximum(inner(network, rest, rest), 0.0))
        basis = basis.at[index + 1].set(rest / jnp.where(beta > 0, beta, 1.0))
        return (network, basis, vector, beta), (alpha, beta)

    start = network.start / jnp.sqrt(inner(network, network.start, network.start))
    basis = jnp.zeros((products + 1, *start.shape)).at[0].set(start)
    state = (network, basis, jnp.zeros_like(start), jnp.zeros(()))
    _, (alphas, betas) = jax.lax.scan(step, state, jnp.arange(products))
    ritz = jnp.diag(alphas) + jnp.diag(betas[:-1], 1) + jnp.diag(betas[:-1], -1)
    values, vectors = eigh(ritz)
    return values[-1], betas[-1] * jnp.abs(vectors[-1, -1])


def _kernel(cfg, network, vector, past, norms):
    """``K/P`` times one vector with C channels."""
    u = vector
    if cfg.alpha is not None:
        data, right, u = network.matrices["X"].bwd(vector, network.spaces["P"], network.spaces["D"])
        network = network._replace(matrices=network.matrices | {"X": data}, spaces=network.spaces | {"D": right})
    h = [u]
    for layer in range(1, cfg.depth + 1):
        network, above = multiply(network, layer, h[-1], past)
        h.append(above)
    r = h[-1]
    for layer in range(cfg.depth, 1, -1):
        network, below = multiply_transposed(cfg, network, layer, r, past)
        r = below + matmul(norms[layer - 1], h[layer - 1])
    network, below = multiply_transposed(cfg, network, 1, r, past)
    out = matmul(norms[0], u) + below / cfg.nu
    if cfg.alpha is not None:
        data, left, out = network.matrices["X"].fwd(out, network.spaces["P"], network.spaces["D"])
        network = network._replace(matrices=network.matrices | {"X": data}, spaces=network.spaces | {"P": left})
        out = out / cfg.alpha
    return network, out


def _gradient_norms(cfg, network, t):
    """``<g_l^c, g_l^c'>`` at time t, l = 1..L."""
    norms = []
    for layer in range(1, cfg.depth + 1):
        stored = network.matrices[f"W{layer}"].left_fields
        g = jax.lax.dynamic_slice_in_dim(stored, t * cfg.outputs, cfg.outputs)
        norms.append(network.spaces[f"N{layer}"].inner(g, g))
    return norms


def _at(network, t, channels):
    """The network as it was at time t, with the products of its later steps forgotten (they may not be finite)."""
    kept = (t + 1) * channels
    spaces = dict(network.spaces)
    matrices = {}
    for name, matrix in network.matrices.items():
        late = jnp.arange(len(matrix.right_fields)) >= kept
        rows = tuple(jnp.where(late[:, None], 0.0, f) for f in (matrix.right_fields, matrix.left_fields))
        matrices[name] = eqx.tree_at(lambda w: (w.right_fields, w.left_fields), matrix, rows)
        for side, slot in (_left_of(name, matrix), _right_of(name, matrix)):
            spaces[side] = _forget(spaces[side], slot, late)
    return network._replace(spaces=spaces, matrices=matrices)


def _left_of(name, matrix):
    return ("P" if name == "X" else f"N{name[1:]}"), matrix.left_slot


def _right_of(name, matrix):
    layer = 1 if name == "X" else int(name[1:])
    return ("D" if layer == 1 else f"N{layer - 1}"), matrix.right_slot


def _forget(space, slot, late):
    gone = jnp.zeros(space.size, bool).at[slot + jnp.arange(len(late))].set(late)
    return type(space)(jnp.where(gone[:, None] | gone, 0.0, space.covariance))
