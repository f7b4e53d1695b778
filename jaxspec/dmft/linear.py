r"""Deep linear networks in the proportional limit: losses, fields and the leading mode of the tangent kernel.

D inputs, ``P = alpha D`` samples, width ``N = nu D``, L hidden layers, all large together:

    ``f(x) = w^T W_L ... W_2 W_1 x / (gamma sqrt N)``,  entries of variance ``s2`` (``W_l`` with its forward
    normalisation), data ``x ~ N(0, I)``, ``y = beta . x / sqrt D + noise``, loss ``(1/2P) sum (y - f)^2``,

gradient descent with rate ``eta gamma^2 D`` on every raw parameter; ``gamma = gamma0 sqrt(nu)`` in the muP
(mean-field) parameterisation, ``gamma0`` in the NTK one. Every field is Gaussian, so the algebra of
`jaxspec.dmft.algebra` is the whole computation: exact at every step size, no fixed point, no sampling. Run it in
float64 (``with jax.enable_x64(True):``) when spectra follow.

Reference: Bordelon & Pehlevan, arXiv:2502.02531; reconstruction of arXiv:2605.07870.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxspec.checks import check_integers
from jaxspec.dmft.fields import SpikeFields
from jaxspec.dmft.linear_config import LinearConfig
from jaxspec.dmft.linear_network import history, initial, sides, take_step, update_rates
from jaxspec.dmft.linear_ntk import leading_mode


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

    train: Float[Array, " times"] | None
    test: Float[Array, " times"]
    layers: tuple[SpikeFields, ...]
    ntk_top: Float[Array, " ntk"]
    ntk_residual: Float[Array, " ntk"]


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
        ValueError: ``steps < 1``, ``lanczos < 1``, times outside 0..steps, or ``eta`` or
            ``weight_decay`` of another length than ``steps``.

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
    cfg.check_schedules(steps)
    return _solve(cfg.as_mup(), int(steps), tuple(int(time) for time in ntk_times), int(lanczos))


@eqx.filter_jit
def _solve(cfg, steps, ntk_times, lanczos):
    channels, times = cfg.outputs, steps + 1
    extra = channels * lanczos if ntk_times else 0
    network = initial(cfg, channels * times, extra)
    past = history(cfg, steps)

    def step(network, now):
        network, fields = take_step(cfg, network, *now)
        return network, _losses(cfg, network, fields)

    network, (train, test) = jax.lax.scan(step, network, (jnp.arange(times), past))
    layers = tuple(_spikes(cfg, network, layer, steps) for layer in range(1, cfg.depth + 1))
    top = residual = jnp.zeros(0)
    if ntk_times:
        wanted = jnp.array(ntk_times)
        modes = jax.vmap(lambda t, past: leading_mode(cfg, network, t, past, lanczos))
        top, residual = modes(wanted, jax.tree.map(lambda table: table[wanted], past))
    has_data = cfg.alpha is not None or cfg.batch_ratio is not None
    return LinearSolution(train if has_data else None, test, layers, top, residual)


def _losses(cfg, network, fields):
    def half_square(space, x):
        return jnp.trace(network.spaces[space].inner(x, x)) / 2

    test = half_square("D", fields.q) + cfg.outputs * cfg.noise**2 / 2
    return (test if fields.delta is None else half_square("P", fields.delta)), test


def _spikes(cfg, network, layer, steps):
    count = cfg.outputs * steps
    names, matrix = sides(layer), network.matrices[f"W{layer}"]
    g, phi = matrix.left_fields[:count], matrix.right_fields[:count]
    a, b = (response[:count, :count] for response in matrix.responses())
    root = jnp.sqrt(matrix.aspect)
    return SpikeFields(
        C_left=network.spaces[names[0]].inner(g, g),
        C_right=network.spaces[names[1]].inner(phi, phi),
        A=a * root,
        B=b / root,
        coeff=jnp.repeat(update_rates(cfg, steps), cfg.outputs) * root,
        aspect=matrix.aspect,
        sigma2=matrix.sigma2,
        momentum=cfg.momentum,
        shrink=cfg.shrink(steps),
        per_step=cfg.outputs,
    )
