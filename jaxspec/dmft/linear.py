r"""Deep linear networks in the proportional limit: losses, fields and the leading mode of the tangent kernel.

D inputs, ``P = alpha D`` samples, width ``N = nu D``, L hidden layers, all large together:

    ``f(x) = w^T W_L ... W_2 W_1 x / (gamma sqrt N)``,  entries of variance ``s2`` (``W_l`` with its forward
    normalisation), data ``x ~ N(0, I)``, ``y = beta . x / sqrt D + noise``, loss ``(1/2P) sum (y - f)^2``,

gradient descent with rate ``eta gamma^2 D`` on every raw parameter; ``gamma = gamma0 sqrt(nu)`` in the muP
(mean-field) parameterisation, ``gamma0`` in the NTK one. Every field is Gaussian, so the algebra of
`jaxspec.dmft.algebra` is the whole computation: exact at every step size, no fixed point, no sampling. Run it in
float64 (``with jax.enable_x64(True):``) when spectra follow. Adam and Muon are out of its reach: their updates are no
products with the matrices.

Reference: Bordelon & Pehlevan, arXiv:2502.02531; reconstruction of arXiv:2605.07870.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxspec.dmft.algebra import GaussianMatrix, Link, Space, connect
from jaxspec.dmft.bulk import Number
from jaxspec.dmft.checks import check_choice, check_integers, check_numbers, traced
from jaxspec.dmft.fields import SpikeFields

_HIGHEST = jax.lax.Precision.HIGHEST


class LinearConfig(eqx.Module):
    """A deep linear network and how it is trained. Numbers may be traced: a sweep is a `jax.vmap`.

    Attributes:
        depth: static; hidden layers L, >= 1.
        nu: width over input dimension, N / D.
        alpha: samples over input dimension, P / D; None trains on the population.
        gamma0: feature-learning strength.
        eta: learning rate, or one for each update, (steps,).
        sigma2: variance of the raw weights at the start.
        noise: standard deviation of the label noise.
        param: static; ``"mup"`` or ``"ntk"``.
        batch_ratio: batch size over D for one-pass SGD on fresh samples; needs ``alpha=None``. None: full batch.
        outputs: static; number of outputs C, which stays finite.
        momentum: mu in [0, 1): parameters move by ``u <- mu u + gradient step``.
        target_gram: inner products of the target vectors, (C, C); None: orthonormal ones.

    Raises:
        ValueError: numbers out of range.
        TypeError: a static integer that is no integer.
    """

    depth: int = eqx.field(static=True)
    nu: Number
    alpha: Number | None
    gamma0: Number
    eta: Number | Float[Array, "steps"]
    sigma2: Number = 1.0
    noise: Number = 0.0
    param: str = eqx.field(static=True, default="mup")
    batch_ratio: Number | None = None
    outputs: int = eqx.field(static=True, default=1)
    momentum: Number = 0.0
    target_gram: Float[Array, "C C"] | None = None

    def __check_init__(self):
        """Refuse what is known to be out of range."""
        check_integers(1, depth=self.depth, outputs=self.outputs)
        check_choice("param", self.param, ("mup", "ntk"))
        optional = {"alpha": self.alpha, "batch_ratio": self.batch_ratio}
        given = {name: value for name, value in optional.items() if value is not None}
        positive = {"nu": self.nu, "gamma0": self.gamma0, "eta": self.eta, "sigma2": self.sigma2}
        check_numbers(0, closed=False, **positive, **given)
        check_numbers(0, closed=True, noise=self.noise, momentum=self.momentum)
        if not traced(self.momentum) and np.any(np.asarray(self.momentum) >= 1):
            raise ValueError(f"momentum is {self.momentum}; expected 0 <= momentum < 1")
        if len(given) == 2:
            raise ValueError("alpha and batch_ratio are both given; expected alpha=None for one-pass SGD")
        if self.target_gram is not None and jnp.shape(self.target_gram) != (self.outputs, self.outputs):
            shape = jnp.shape(self.target_gram)
            raise ValueError(f"target_gram has shape {shape}; expected ({self.outputs}, {self.outputs})")

    @property
    def gamma(self) -> Float[Array, ""]:
        """Output scale: ``gamma0 sqrt(nu)`` or ``gamma0``."""
        return self.gamma0 * jnp.sqrt(self.nu) if self.param == "mup" else jnp.asarray(self.gamma0, float)

    def as_mup(self) -> "LinearConfig":
        """The same network written in the muP parameterisation, its numbers as arrays: one program serves both."""
        cfg = jax.tree.map(lambda value: jnp.asarray(value, float), self)
        gamma0 = cfg.gamma / jnp.sqrt(cfg.nu)
        numbers = cfg.eta, cfg.sigma2, cfg.noise
        return LinearConfig(
            cfg.depth, cfg.nu, cfg.alpha, gamma0, *numbers, "mup", cfg.batch_ratio, cfg.outputs, cfg.momentum,
            cfg.target_gram,
        )  # fmt: skip


class LinearSolution(NamedTuple):
    """What training does, at t = 0, ..., steps.

    Attributes:
        train: loss on the training set (one-pass SGD: on the fresh batch before its update), (steps + 1,); None for the
            population.
        test: loss on fresh samples, label noise included, (steps + 1,).
        layers: fields of W_1, ..., W_L (with their forward normalisation) for `outliers`.
        ntk_top: at ``ntk_times``, the largest eigenvalue of the tangent kernel over P (of its population operator
            without training set), a lower bound; the step is stable up to ``2 / eta``. Orthonormal targets make it
            degenerate, once for every output: the largest of a finite network's split values lies above it.
        ntk_residual: its residual; large where the top of the kernel is the edge of a bulk.
    """

    train: Float[Array, "times"] | None
    test: Float[Array, "times"]
    layers: tuple[SpikeFields, ...]
    ntk_top: Float[Array, "ntk"]
    ntk_residual: Float[Array, "ntk"]


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


def solve_linear(
    cfg: LinearConfig, steps: int, *, ntk_times: tuple[int, ...] = (), lanczos: int = 12
) -> LinearSolution:
    """Train the network of ``cfg`` in the proportional limit.

    Args:
        cfg: the network; its numbers may be traced.
        steps: number of updates, >= 1.
        ntk_times: static; times in 0..steps at which the leading mode of the tangent kernel is computed.
        lanczos: static; products with the kernel for each of them.

    Returns:
        `LinearSolution`. A learning rate that diverges gives inf and NaN, and no exception.

    Raises:
        ValueError: ``steps < 1``, ``lanczos < 1``, times outside 0..steps, or ``eta`` of another length than ``steps``.

    Example:
        >>> cfg = LinearConfig(depth=1, nu=2.0, alpha=3.0, gamma0=4.0, eta=0.1, sigma2=0.5, noise=0.2)
        >>> solution = solve_linear(cfg, 5)
        >>> float(solution.test[0]), float(solution.test[5])
        (0.5239, 0.1094)
    """
    check_integers(1, steps=steps, lanczos=lanczos)
    for time in ntk_times:
        check_integers(0, ntk_times=time)
        if time > steps:
            raise ValueError(f"ntk_times holds {time}; expected times <= steps = {steps}")
    if jnp.shape(cfg.eta) not in ((), (steps,)):
        raise ValueError(f"eta has shape {jnp.shape(cfg.eta)}; expected a number or ({steps},), one for each update")
    return _solve(cfg.as_mup(), int(steps), tuple(int(time) for time in ntk_times), int(lanczos))


@eqx.filter_jit
def _solve(cfg, steps, ntk_times, lanczos):
    from jaxspec.dmft.linear_ntk import leading_mode

    channels, times = cfg.outputs, steps + 1
    extra = channels * lanczos if ntk_times else 0
    network = _initial(cfg, channels * times, extra)

    def step(network, t):
        network, fields = _products(cfg, network, t)
        return network, _losses(cfg, network, fields)

    network, (train, test) = jax.lax.scan(step, network, jnp.arange(times))
    layers = tuple(_spikes(cfg, network, layer, channels * steps) for layer in range(1, cfg.depth + 1))
    top = residual = jnp.zeros(0)
    if ntk_times:
        modes = jax.vmap(lambda t: leading_mode(cfg, network, t, lanczos))
        top, residual = modes(jnp.array(ntk_times))
    has_data = cfg.alpha is not None or cfg.batch_ratio is not None
    return LinearSolution(train if has_data else None, test, layers, top, residual)


def update_rates(cfg: LinearConfig, count: int) -> Float[Array, "count"]:
    """``eta gamma / sqrt(nu)`` of each stored pair of fields, the scale of all updates in normalised units.

    Args:
        cfg: the network.
        count: number of pairs.

    Returns:
        One rate per pair; of a schedule, zero beyond its end.
    """
    if cfg.eta.ndim:
        eta = jnp.repeat(cfg.eta, cfg.outputs)
        eta = jnp.pad(eta, (0, max(count - len(eta), 0)))[:count]
    else:
        eta = jnp.broadcast_to(cfg.eta, (count,))
    return eta * cfg.gamma / jnp.sqrt(cfg.nu)


def pair_weights(cfg: LinearConfig, t: Array, count: int) -> Float[Array, "count"]:
    """How much of every stored pair of fields is in the weights at time t, momentum included.

    Args:
        cfg: the network.
        t: updates applied.
        count: number of pairs.

    Returns:
        ``rate (1 - mu^(t-s)) / (1 - mu)`` for the pairs of updates s < t, else 0.
    """
    age = t - jnp.arange(count) // cfg.outputs
    grown = (1 - cfg.momentum ** jnp.maximum(age, 1)) / (1 - cfg.momentum)
    return jnp.where(age > 0, grown, 0.0) * update_rates(cfg, count)


def multiply(
    network: Network, layer: int, x: Float[Array, "C K"], weights: Float[Array, "count"]
) -> tuple[Network, Float[Array, "C K_left"]]:
    """``W_l(t) x``: the initial matrix and the updates so far.

    Args:
        network: of now.
        layer: l, from 1.
        x: fields of the layer below.
        weights: of the stored pairs.

    Returns:
        The network that remembers the product, and the product.
    """
    names = _sides(layer)
    matrix, spaces = network.matrices[f"W{layer}"], network.spaces
    count = len(weights)
    matrix, left, h = matrix.fwd(x, spaces[names[0]], spaces[names[1]])
    overlaps = spaces[names[1]].inner(x, matrix.right_fields[:count])
    h = h + _product(overlaps * weights, matrix.left_fields[:count])
    return _with(network, f"W{layer}", matrix, names[0], left), h


def multiply_transposed(
    cfg: LinearConfig, network: Network, layer: int, y: Float[Array, "C K"], weights: Float[Array, "count"]
) -> tuple[Network, Float[Array, "C K_right"]]:
    """``W_l(t)^T y``; arguments as in `multiply`."""
    names = _sides(layer)
    matrix, spaces = network.matrices[f"W{layer}"], network.spaces
    count = len(weights)
    matrix, right, z = matrix.bwd(y, spaces[names[0]], spaces[names[1]])
    overlaps = spaces[names[0]].inner(y, matrix.left_fields[:count])
    scale = cfg.nu if layer == 1 else 1.0
    z = z + scale * _product(overlaps * weights, matrix.right_fields[:count])
    return _with(network, f"W{layer}", matrix, names[1], right), z


def _sides(layer):
    return f"N{layer}", f"N{layer - 1}" if layer > 1 else "D"


def _product(a, b):
    return jnp.matmul(a, b, precision=_HIGHEST)


def _with(network, name, matrix, space_name, space):
    return network._replace(matrices=network.matrices | {name: matrix}, spaces=network.spaces | {space_name: space})


def _initial(cfg, count, extra):
    channels, products = cfg.outputs, count + extra
    eye = jnp.eye(channels)
    spaces = {f"N{layer}": None for layer in range(1, cfg.depth)}
    spaces |= {f"N{cfg.depth}": cfg.sigma2 * eye, "D": eye if cfg.target_gram is None else cfg.target_gram}
    links = {
        f"W{layer}": Link(*_sides(layer), products, cfg.nu if layer == 1 else 1.0, cfg.sigma2)
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


def _products(cfg, network, t):
    """All products of one step, backward pass before forward pass; the errors in between."""
    channels, count = cfg.outputs, len(network.readout)
    weights, own = pair_weights(cfg, t, count), jnp.arange(channels)
    top = network.spaces[f"N{cfg.depth}"].source(own) + _by_channel(weights, network.readout, channels)
    g = [top]
    for layer in range(cfg.depth, 1, -1):
        network, below = multiply_transposed(cfg, network, layer, g[0], weights)
        g.insert(0, below)
    network, v = multiply_transposed(cfg, network, 1, g[0], weights)
    q = network.spaces["D"].source(own) - v / (cfg.gamma * jnp.sqrt(cfg.nu))
    network, b, delta = _input_field(cfg, network, q)
    h = [b]
    for layer in range(1, cfg.depth + 1):
        network, above = multiply(network, layer, h[-1], weights)
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


def _losses(cfg, network, fields):
    def half_square(space, x):
        return jnp.trace(network.spaces[space].inner(x, x)) / 2

    test = half_square("D", fields.q) + cfg.outputs * cfg.noise**2 / 2
    return (test if fields.delta is None else half_square("P", fields.delta)), test


def _spikes(cfg, network, layer, count):
    names, matrix = _sides(layer), network.matrices[f"W{layer}"]
    g, phi = matrix.left_fields[:count], matrix.right_fields[:count]
    a, b = (response[:count, :count] for response in matrix.responses())
    root = jnp.sqrt(matrix.aspect)
    return SpikeFields(
        network.spaces[names[0]].inner(g, g),
        network.spaces[names[1]].inner(phi, phi),
        a * root,
        b / root,
        update_rates(cfg, count) * root,
        matrix.aspect,
        matrix.sigma2,
        cfg.momentum,
        cfg.outputs,
    )
