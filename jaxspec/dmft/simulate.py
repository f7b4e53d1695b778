"""Finite networks matched to the theory, trained by gradient descent on their raw parameters, vmapped over keys."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxspec.checks import check_integers, check_numbers
from jaxspec.dmft.bulk import Number
from jaxspec.dmft.checks import check_decay, check_schedule
from jaxspec.dmft.linear_config import LinearConfig
from jaxspec.linalg import operator_top_svd
from jaxspec.linalg.normalisation import matmul

_MODE_SWEEPS = 12


class Simulation(NamedTuple):
    """One finite run.

    Attributes:
        train: loss on the training set (one-pass SGD: on the fresh batch), (steps + 1,); population: equal to ``test``.
        test: population loss of a linear network, (steps + 1,); of a nonlinear one the training loss.
        singular_values: of the hidden matrices with their forward normalisation, at the recorded times, (recorded,
            matrices, top).
        ntk_top: largest eigenvalue of the tangent kernel over P, at the recorded times, (recorded,).
        f: outputs of a nonlinear network on its points, (steps + 1, P); None for a linear one.
    """

    train: Float[Array, " times"]
    test: Float[Array, " times"]
    singular_values: Float[Array, "recorded matrices top"]
    ntk_top: Float[Array, " recorded"]
    f: Float[Array, "times P"] | None = None


class _Plan(NamedTuple):
    """What is static in a run; fields as the arguments of the simulators."""

    steps: int
    record: tuple[int, ...]
    top: int
    sweeps: int
    ntk: bool = True


def simulate_linear(
    key: Key[Array, ""],
    cfg: LinearConfig,
    dimension: int,
    steps: int,
    record: tuple[int, ...] = (),
    *,
    top: int = 2,
    ntk: bool = False,
    sweeps: int = 20,
) -> Simulation:
    """Train a linear network of ``dimension`` inputs, width ``nu * dimension``, on ``alpha * dimension`` samples.

    Args:
        key: of weights, data and noise; vmap over it.
        cfg: the network, with known numbers.
        dimension: static; D.
        steps: static; number of updates.
        record: static; increasing numbers of updates after which spectra are taken.
        top: static; singular values of each matrix.
        ntk: static; whether the leading mode of the tangent kernel is computed too (else NaN).
        sweeps: static; of the subspace iteration. Values inside the bulk are lower bounds.

    Returns:
        `Simulation`.

    Raises:
        ValueError: arguments out of range, or several outputs with ``target_gram``.
    """
    check_integers(1, dimension=dimension, steps=steps, top=top, sweeps=sweeps)
    _check_record(record, steps)
    if cfg.target_gram is not None:
        raise ValueError("target_gram is given; expected orthonormal targets, None")
    width = round(float(cfg.nu) * dimension)
    ratio = cfg.alpha if cfg.batch_ratio is None else cfg.batch_ratio
    samples = None if ratio is None else round(float(ratio) * dimension)
    cfg.check_schedules(steps)
    plan = _Plan(int(steps), tuple(record), int(top), int(sweeps), bool(ntk))
    return _linear(key, cfg.as_mup(), (dimension, width, samples), plan)


class _LinearTask(eqx.Module):
    """What a linear network is trained on.

    Attributes:
        cfg: of the network.
        key: of the rows.
        beta: targets, orthonormal rows, (outputs, D).
        samples: rows of a batch; None: the population (static).
    """

    cfg: LinearConfig
    key: Array
    beta: Array
    samples: int | None = eqx.field(static=True)

    def predictor(self, params: list[Array]) -> Array:
        """The network's own targets, (outputs, D)."""
        row = params[-1]
        for w in params[-2::-1]:
            row = row @ (w / jnp.sqrt(w.shape[1]))
        return row / (self.cfg.gamma * jnp.sqrt(params[-1].shape[1]))

    def batch(self, t: Array | int) -> tuple[Array, Array]:
        """Rows of update t and their noisy values; the same ones for every t unless they are fresh."""
        dimension = self.beta.shape[1]
        own = jax.random.fold_in(self.key, 0 if self.cfg.batch_ratio is None else t)
        x, noise = jax.random.split(own)
        x = jax.random.normal(x, (self.samples, dimension)) / jnp.sqrt(dimension)
        noise = jax.random.normal(noise, (self.samples, self.cfg.outputs))
        return x, x @ self.beta.T * jnp.sqrt(dimension) + self.cfg.noise * noise

    def test(self, params: list[Array]) -> Array:
        """Loss on the population."""
        return jnp.sum((self.beta - self.predictor(params)) ** 2) / 2 + self.cfg.outputs * self.cfg.noise**2 / 2

    def train(self, params: list[Array], rows: tuple[Array, Array] | None) -> Array:
        """Loss on rows and their values; None: on the population."""
        if rows is None:
            return self.test(params)
        x, y = rows
        found = x @ self.predictor(params).T * jnp.sqrt(self.beta.shape[1])
        return jnp.sum((y - found) ** 2) / (2 * self.samples)


@eqx.filter_jit
def _linear(key, cfg, sizes, plan):
    dimension, width, samples = sizes
    weights, targets, data = jax.random.split(key, 3)
    shapes = [(width, dimension), *[(width, width)] * (cfg.depth - 1), (cfg.outputs, width)]
    keys = jax.random.split(weights, len(shapes))
    params = [jnp.sqrt(cfg.sigma2) * jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]
    task = _LinearTask(cfg, data, _orthonormal(jax.random.normal(targets, (cfg.outputs, dimension))), samples)
    fresh = cfg.batch_ratio is not None
    fixed = None if samples is None or fresh else task.batch(0)
    rates = jnp.broadcast_to(cfg.eta, (plan.steps,)) * cfg.gamma**2 * dimension
    shrink = cfg.shrink(plan.steps)

    def train(params, t):
        return task.train(params, task.batch(t) if fresh else fixed)

    def outputs(params):
        v = task.predictor(params)
        return v if fixed is None else fixed[0] @ v.T * jnp.sqrt(dimension)

    def update(state, t):
        params, velocity = state
        loss, grads = jax.value_and_grad(train)(params, t)
        losses = loss, task.test(params)
        velocity = jax.tree.map(lambda u, g: cfg.momentum * u - rates[t] * g, velocity, grads)
        return (jax.tree.map(lambda p, u: shrink[t] * p + u, params, velocity), velocity), losses

    def spectra(params):
        mode = _kernel_mode(outputs, params, 1 if fixed is None else samples) * cfg.gamma**2 * dimension
        matrices = [w / jnp.sqrt(w.shape[1]) for w in params[:-1]]
        return _top(matrices, plan), mode if plan.ntk else jnp.nan

    start = params, jax.tree.map(jnp.zeros_like, params)
    (params, _), losses, values, modes = _record(update, start, spectra, plan)
    last = train(params, plan.steps), task.test(params)
    losses = [jnp.append(a, b) for a, b in zip(losses, last, strict=True)]
    return Simulation(*losses, values, modes)


def simulate_mlp(
    key: Key[Array, ""],
    x: Float[Array, "P D"],
    y: Float[Array, " n"],
    *,
    width: int,
    depth: int,
    eta: Number | Float[Array, " steps"],
    gamma0: Number,
    steps: int,
    activation: Callable[[Array], Array] = jnp.tanh,
    sigma_w: Number = 1.0,
    weight_decay: Number | Float[Array, " steps"] = 0.0,
    record: tuple[int, ...] = (),
    top: int = 2,
    sweeps: int = 20,
) -> Simulation:
    """Train a network of finite width in the muP scaling of `jaxspec.dmft.solve_nonlinear` on P points.

    Args:
        key: of the weights; vmap over it.
        x: points; the theory sees them through ``x x^T / D`` alone.
        y: targets.
        width: static; N.
        depth: static; hidden layers.
        eta: learning rate, or one for each update, (steps,).
        gamma0: feature-learning strength.
        steps: static; number of updates.
        activation: static; elementwise.
        sigma_w: standard deviation of the raw weights.
        weight_decay: as in `jaxspec.dmft.solve_nonlinear`.
        record: static; increasing numbers of updates after which spectra are taken.
        top: static; singular values of each hidden matrix.
        sweeps: static; of the subspace iteration.

    Returns:
        `Simulation`.

    Raises:
        ValueError: arguments out of range or shapes that do not fit.
    """
    check_integers(1, width=width, depth=depth, steps=steps, top=top, sweeps=sweeps)
    check_numbers(0, ends="()", eta=eta, gamma0=gamma0, sigma_w=sigma_w)
    check_decay(eta, weight_decay)
    for name, value in {"eta": eta, "weight_decay": weight_decay}.items():
        check_schedule(name, value, steps)
    if len(x) != len(y):
        raise ValueError(f"x has shape {x.shape} and y {y.shape}; expected (P, D) and (P,)")
    _check_record(record, steps)
    numbers = [jnp.asarray(a, float) for a in (x, y, eta, weight_decay, gamma0, sigma_w)]
    return _mlp(
        key, numbers, (int(width), int(depth)), activation, _Plan(int(steps), tuple(record), int(top), int(sweeps))
    )


@eqx.filter_jit
def _mlp(key, numbers, sizes, activation, plan):
    x, y, eta, weight_decay, gamma0, sigma_w = numbers
    points, dimension = x.shape
    width, depth = sizes
    shapes = [(width, dimension), *[(width, width)] * (depth - 1), (width,)]
    keys = jax.random.split(key, len(shapes))
    params = [sigma_w * jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]

    def outputs(params):
        signal = x.T
        for w in params[:-1]:
            signal = activation(w @ signal / jnp.sqrt(w.shape[1]))
        return params[-1] @ signal / (gamma0 * width)

    def loss(params):
        f = outputs(params)
        return jnp.sum((y - f) ** 2) / (2 * points), f

    rates = jnp.broadcast_to(eta, (plan.steps,))
    shrink = 1 - rates * weight_decay

    def update(params, t):
        (value, f), grads = jax.value_and_grad(loss, has_aux=True)(params)
        rate = rates[t] * gamma0**2 * width
        return jax.tree.map(lambda p, g: shrink[t] * p - rate * g, params, grads), (value, f)

    def spectra(params):
        mode = _kernel_mode(outputs, params, points) * gamma0**2 * width
        return _top([w / jnp.sqrt(width) for w in params[1:-1]], plan), mode

    params, (values, f), tops, modes = _record(update, params, spectra, plan)
    value, last = loss(params)
    values = jnp.append(values, value)
    return Simulation(values, values, tops, modes, jnp.concatenate([f, last[None]]))


def _record(update: Callable, state: Any, spectra: Callable, plan: _Plan):
    """Updates with spectra after the recorded numbers of them; one compiled loop."""
    steps, record = plan.steps, plan.record
    wanted = jnp.zeros(steps + 1, bool).at[jnp.array(record, int)].set(True) if record else jnp.zeros(steps + 1, bool)

    def params_of(state):  # with or without a velocity beside them
        return state[0] if isinstance(state, tuple) else state

    blank = jax.tree.map(lambda a: jnp.full(a.shape, jnp.nan, a.dtype), jax.eval_shape(spectra, params_of(state)))

    def measure(state, t):
        # A batch of keys still takes one branch: t is the same for all.
        return jax.lax.cond(wanted[t], spectra, lambda _: blank, params_of(state)) if record else blank

    def step(state, t):
        seen = measure(state, t)
        state, losses = update(state, t)
        return state, (losses, seen)

    state, (losses, seen) = jax.lax.scan(step, state, jnp.arange(steps))
    seen = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), seen, measure(state, steps))
    values, modes = jax.tree.map(lambda a: a[jnp.array(record, int)], seen)
    return state, losses, values, modes


def _orthonormal(rows):
    """Orthonormal rows with the law of the Haar measure, by the Gram matrix's inverse triangle."""
    root = jnp.linalg.cholesky(matmul(rows, rows.T))
    return jax.scipy.linalg.solve_triangular(root, rows, lower=True)


def _top(matrices, plan):
    """Leading singular values, one matrix after the other."""
    values, top = [], plan.top
    for w in matrices:
        rank = min(top, *w.shape)
        products = (lambda v, w=w: matmul(w, v)), (lambda q, w=w: matmul(w.T, q))
        s = operator_top_svd(*products, w.shape, rank, sweeps=plan.sweeps, dtype=w.dtype).s
        values.append(jnp.pad(s, (0, top - rank), constant_values=jnp.nan))
    return jnp.stack(values) if values else jnp.zeros((0, top))


def _kernel_mode(outputs, params, samples):
    """Largest eigenvalue of ``J J^T / samples`` by power iteration with products of the Jacobian."""
    f, pull = jax.vjp(outputs, params)

    def multiply(_, state):
        vector, _ = state
        image = jax.jvp(outputs, (params,), pull(vector))[1] / samples
        norm = jnp.sqrt(jnp.sum(image**2))
        return image / jnp.where(norm > 0, norm, 1.0), norm

    start = jax.random.normal(jax.random.key(0), f.shape)
    start = start / jnp.sqrt(jnp.sum(start**2))
    return jax.lax.fori_loop(0, _MODE_SWEEPS * 4, multiply, (start, jnp.zeros(())))[1]


def _check_record(record, steps):
    for time in record:
        check_integers(0, record=time)
    if any(b <= a for a, b in pairwise(record)) or (record and record[-1] > steps):
        raise ValueError(f"record is {record}; expected increasing numbers of updates, at most steps = {steps}")
