"""A deep linear network in the Gaussian-vector algebra: its fields, and products with its matrices of now."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxspec.dmft.algebra import GaussianMatrix, Link, Space, connect
from jaxspec.dmft.fields import remembered
from jaxspec.dmft.linear_config import LinearConfig
from jaxspec.linalg.normalisation import matmul


class Past(NamedTuple):
    """What the weights at one time are made of; with a leading axis, at all times.

    Attributes:
        weights: of every stored pair of fields, in normalised units; 0 for pairs of later updates, (count,).
        kept: of the initial weights, a factor.
    """

    weights: Float[Array, "*times count"]
    kept: Float[Array, "*times"]


class Network(NamedTuple):
    """Everything that training has produced so far.

    Attributes:
        spaces: ``D``, ``N1``, ..., and ``P`` if there are data.
        matrices: ``W1``, ..., and ``X`` if there are data.
        readout: fields h_L of all updates, (products, K).
        start: the vector from which Lanczos starts: errors at t = 0 (population: of the weights), (C, K).
    """

    spaces: dict[str, Space]
    matrices: dict[str, GaussianMatrix]
    readout: Float[Array, "products K"]
    start: Float[Array, "C K_start"]


class Fields(NamedTuple):
    """Fields of one step.

    Attributes:
        g: of layers 1..L, each (C, K).
        h: of layers 0..L.
        q: error of the weights.
        delta: error on the samples, or None.
    """

    g: tuple[Array, ...]
    h: tuple[Array, ...]
    q: Array
    delta: Array | None


def history(cfg: LinearConfig, steps: int) -> Past:
    """The weights at t = 0, ..., steps: ``kept W(0)`` and the pairs of all updates before t.

    Args:
        cfg: the network.
        steps: number of updates.

    Returns:
        `Past` of every time, for ``(steps + 1) outputs`` pairs: those of the last time are in no update.
    """
    share, kept = remembered(cfg.momentum, cfg.shrink(steps))
    weights = jnp.pad(share * update_rates(cfg, steps), ((0, 0), (0, 1)))
    return Past(jnp.repeat(weights, cfg.outputs, axis=1), kept)


def update_rates(cfg: LinearConfig, steps: int) -> Float[Array, " steps"]:
    """``eta gamma / sqrt(nu)`` of every update, its scale in normalised units.

    Args:
        cfg: the network.
        steps: number of updates.
    """
    return jnp.broadcast_to(cfg.eta, (steps,)) * cfg.gamma / jnp.sqrt(cfg.nu)


def multiply(
    network: Network, layer: int, x: Float[Array, "C K"], past: Past
) -> tuple[Network, Float[Array, "C K_left"]]:
    """``W_l(t) x``: what is left of the initial matrix, and the updates so far.

    Args:
        network: of now.
        layer: l, from 1.
        x: fields of the layer below.
        past: of time t.

    Returns:
        The network that remembers the product, and the product.
    """
    names = sides(layer)
    matrix, spaces = network.matrices[f"W{layer}"], network.spaces
    count = len(past.weights)
    matrix, left, h = matrix.fwd(x, spaces[names[0]], spaces[names[1]])
    overlaps = spaces[names[1]].inner(x, matrix.right_fields[:count])
    h = past.kept * h + matmul(overlaps * past.weights, matrix.left_fields[:count])
    return _with(network, f"W{layer}", matrix, names[0], left), h


def multiply_transposed(
    cfg: LinearConfig, network: Network, layer: int, y: Float[Array, "C K"], past: Past
) -> tuple[Network, Float[Array, "C K_right"]]:
    """``W_l(t)^T y``.

    Args:
        cfg: the network.
        network: of now.
        layer: l, from 1.
        y: fields of the layer.
        past: of time t.

    Returns:
        As `multiply`.
    """
    names = sides(layer)
    matrix, spaces = network.matrices[f"W{layer}"], network.spaces
    count = len(past.weights)
    matrix, right, z = matrix.bwd(y, spaces[names[0]], spaces[names[1]])
    overlaps = spaces[names[0]].inner(y, matrix.left_fields[:count])
    scale = cfg.nu if layer == 1 else 1.0
    z = past.kept * z + scale * matmul(overlaps * past.weights, matrix.right_fields[:count])
    return _with(network, f"W{layer}", matrix, names[1], right), z


def sides(layer: int) -> tuple[str, str]:
    """Names of the spaces that a matrix maps into and from.

    Args:
        layer: l, from 1.
    """
    return f"N{layer}", f"N{layer - 1}" if layer > 1 else "D"


def _with(network, name, matrix, space_name, space):
    return network._replace(matrices=network.matrices | {name: matrix}, spaces=network.spaces | {space_name: space})


def initial(cfg: LinearConfig, count: int, extra: int) -> Network:
    """The network before its first step.

    Args:
        cfg: what it is.
        count: products with every matrix in training.
        extra: products after it.
    """
    channels, products = cfg.outputs, count + extra
    eye = jnp.eye(channels)
    spaces = {f"N{layer}": None for layer in range(1, cfg.depth)}
    spaces |= {f"N{cfg.depth}": cfg.sigma2 * eye, "D": eye if cfg.target_gram is None else cfg.target_gram}
    links = {
        f"W{layer}": Link(*sides(layer), products, cfg.nu if layer == 1 else 1.0, cfg.sigma2)
        for layer in range(1, cfg.depth + 1)
    }
    ratio = cfg.alpha if cfg.batch_ratio is None else cfg.batch_ratio
    if ratio is not None:
        spaces["P"] = eye
        links["X"] = Link("P", "D", products, ratio)
    made, matrices = connect(spaces, links)
    # The tangent kernel acts on samples; without a training set on the weights.
    first = "D" if cfg.alpha is None else "P"
    start = jnp.zeros((channels, made[first].size))
    return Network(made, matrices, jnp.zeros((count, made[f"N{cfg.depth}"].size)), start)


def take_step(cfg: LinearConfig, network: Network, t: Array, past: Past) -> tuple[Network, Fields]:
    """All products of one step, backward pass before forward pass; the errors in between.

    Args:
        cfg: the network.
        network: before the step.
        t: time, from 0.
        past: of time t.
    """
    channels = cfg.outputs
    own = jnp.arange(channels)
    start = past.kept * network.spaces[f"N{cfg.depth}"].source(own)
    top = start + _by_channel(past.weights, network.readout, channels)
    g = [top]
    for layer in range(cfg.depth, 1, -1):
        network, below = multiply_transposed(cfg, network, layer, g[0], past)
        g.insert(0, below)
    network, v = multiply_transposed(cfg, network, 1, g[0], past)
    q = network.spaces["D"].source(own) - v / (cfg.gamma * jnp.sqrt(cfg.nu))
    network, b, delta = _input_field(cfg, network, q)
    h = [b]
    for layer in range(1, cfg.depth + 1):
        network, above = multiply(network, layer, h[-1], past)
        h.append(above)
    readout = jax.lax.dynamic_update_slice(network.readout, h[-1], (t * channels, 0))
    start = jnp.where(t == 0, q if cfg.alpha is None else delta, network.start)
    return network._replace(readout=readout, start=start), Fields(tuple(g), tuple(h), q, delta)


def _by_channel(weights, fields, channels):
    """Sum over updates of the weighted fields, each channel for itself."""
    return jnp.sum((weights[:, None] * fields).reshape(-1, channels, fields.shape[-1]), axis=0)


def _input_field(cfg, network, q):
    """``b = X^T Delta / alpha``, the error as the first layer's gradient sees it."""
    if "X" not in network.matrices:
        return network, q, None
    data, spaces = network.matrices["X"], network.spaces
    if cfg.batch_ratio is not None:
        data = data.fresh()
    data, samples, delta = data.fwd(q, spaces["P"], spaces["D"])
    delta = delta + cfg.noise * samples.source(jnp.arange(cfg.outputs))
    data, inputs, b = data.bwd(delta, samples, spaces["D"])
    network = network._replace(matrices=network.matrices | {"X": data}, spaces=spaces | {"P": samples, "D": inputs})
    return network, b / data.aspect, delta
