r"""Toy models with as many outputs as inputs: no separate outlier, the whole bulk moves.

Whitened inputs, C outputs, target B (C x D); ``Wt`` (N x D, variance ``s2/N``), ``Vt`` (C x N, variance ``s2v/N``),
output ``Vt Wt x / gamma0``, error ``E = gamma0 B - Vt Wt``. Either both layers are trained and N is much larger than C
and D (`extensive_modes`), or the readout is frozen at any ``nu = N/D`` (`extensive_frozen`). Reconstruction of
arXiv:2605.07870.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxspec.checks import check_integers, check_numbers
from jaxspec.dmft.bulk import Number, generalized_mp, marchenko_pastur_nodes


class ExtensiveModes(NamedTuple):
    """Both layers along every singular direction of the target, t = 0, ..., steps.

    Attributes:
        singular_values: of ``Wt(t)``, ``sqrt(p)``, (steps + 1, *b).
        aligned: ``q``, of ``Vt Wt``: what has been learnt of ``b``, (steps + 1, *b).
        readout: singular values of ``Vt(t)``, ``sqrt(r)``, (steps + 1, *b).
    """

    singular_values: Float[Array, " times *b"]
    aligned: Float[Array, " times *b"]
    readout: Float[Array, " times *b"]


def extensive_modes(
    b: Float[Array, "*b"], eta: Number, steps: int, sigma2: Number = 1.0, sigma2_v: Number = 1.0
) -> ExtensiveModes:
    r"""Both layers trained, very wide: the bulk is the push-forward of the target's spectrum.

    With ``e = eta (b - q)``, from ``(p, q, r) = (s2, 0, s2v)``:
    ``p' = p + 2 e q + e^2 r``, ``q' = q + e (p + r) + e^2 q``, ``r' = r + 2 e q + e^2 p``.

    Args:
        b: singular values of ``gamma0 B``, >= 0.
        eta: learning rate.
        steps: static; number of updates, >= 1.
        sigma2: variance ``s2`` of the first layer.
        sigma2_v: variance ``s2v`` of the readout.

    Returns:
        `ExtensiveModes`.

    Raises:
        ValueError: numbers out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> extensive_modes(jnp.array([0.0, 3.0]), 0.1, 30, 0.5, 0.5).singular_values[-1]
        Array([0.7..., 1.73...], dtype=float32)
    """
    check_integers(1, steps=steps)
    check_numbers(0, ends="()", eta=eta, sigma2=sigma2, sigma2_v=sigma2_v)
    check_numbers(0, b=b)

    def step(state, _):
        p, q, r = state
        e = eta * (b - q)
        moved = (p + 2 * e * q + e * e * r, q + e * (p + r) + e * e * q, r + 2 * e * q + e * e * p)
        return moved, state

    start = tuple(jnp.broadcast_to(jnp.asarray(x, b.dtype), b.shape) for x in (sigma2, 0.0, sigma2_v))
    last, path = jax.lax.scan(step, start, None, length=steps)
    p, q, r = (jnp.concatenate([a, z[None]]) for a, z in zip(path, last, strict=True))
    return ExtensiveModes(jnp.sqrt(p), q, jnp.sqrt(r))


class FrozenConfig(eqx.Module):
    """First layer trained under a frozen random readout; the target has independent entries of variance ``tau^2 / D``.

    Attributes:
        nu: width over inputs, N / D.
        outputs: outputs over inputs, C / D.
        gamma0: feature-learning strength.
        eta: learning rate.
        sigma2: variance ``s2`` of the first layer.
        sigma2_v: variance ``s2v`` of the readout.
        tau: scale of the target.

    Raises:
        ValueError: a number that is not positive.
    """

    nu: Number
    outputs: Number
    gamma0: Number
    eta: Number
    sigma2: Number = 1.0
    sigma2_v: Number = 1.0
    tau: Number = 1.0

    def __check_init__(self):
        """Refuse what is known to be out of range."""
        check_numbers(
            0,
            ends="()",
            nu=self.nu,
            outputs=self.outputs,
            gamma0=self.gamma0,
            eta=self.eta,
            sigma2=self.sigma2,
            sigma2_v=self.sigma2_v,
            tau=self.tau,
        )


class FrozenBulk(NamedTuple):
    """Spectrum of the trained first layer.

    Attributes:
        population: D times the eigenvalues of the covariance of its columns, (atoms,).
        weights: share of each, (atoms,).
        edge: largest singular value of the bulk.
    """

    population: Float[Array, " atoms"]
    weights: Float[Array, " atoms"]
    edge: Float[Array, ""]


def extensive_frozen(cfg: FrozenConfig, t: Int[Array, ""] | int, *, nodes: int = 200) -> FrozenBulk:
    r"""Bulk of ``Wt(t)`` after t updates, exact at any width: given the readout its columns are independent.

    ``T_t(kappa) = (s2/nu)(1 - eta kappa)^{2t} + gamma0^2 tau^2 kappa q_t^2``, ``q_t = (1 - (1 - eta kappa)^t)/kappa``,

    kappa in the spectrum of ``Vt^T Vt``, a Marchenko-Pastur law with an atom at 0 where C < N.

    Args:
        cfg: the model.
        t: updates, >= 0; may be traced.
        nodes: static; quadrature nodes of kappa.

    Returns:
        `FrozenBulk`, whose law is `generalized_mp(sv, population, weights, nu)`.

    Raises:
        ValueError: ``t < 0`` or ``nodes < 2``.

    Example:
        >>> cfg = FrozenConfig(nu=2.0, outputs=1.0, gamma0=1.5, eta=0.1, sigma2=0.5)
        >>> float(extensive_frozen(cfg, 30).edge)
        3.003
    """
    check_integers(2, nodes=nodes)
    check_numbers(0, t=t)
    ratio = jnp.asarray(cfg.outputs / cfg.nu, float)
    kappa, shares = marchenko_pastur_nodes(ratio, jnp.asarray(cfg.sigma2_v, float), nodes)
    share = jnp.minimum(ratio, 1.0)
    shrink = (1 - cfg.eta * kappa) ** t
    learnt = (1 - shrink) / kappa
    population = cfg.sigma2 / cfg.nu * shrink**2 + (cfg.gamma0 * cfg.tau * learnt) ** 2 * kappa
    population = jnp.concatenate([population, jnp.asarray(cfg.sigma2 / cfg.nu, float)[None]])
    weights = jnp.concatenate([shares * share, (1 - share)[None]])
    return FrozenBulk(population, weights, generalized_mp(jnp.ones(1), population, weights, cfg.nu)[1])
