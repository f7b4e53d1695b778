"""A deep linear network and how it is trained."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxspec.checks import check_choice, check_integers, check_numbers, is_concrete
from jaxspec.dmft.bulk import Number
from jaxspec.dmft.checks import check_decay, check_schedule


class LinearConfig(eqx.Module):
    """A deep linear network and how it is trained. Numbers may be traced: a sweep is a `jax.vmap`.

    ``f(x) = w^T W_L ... W_1 x / (gamma sqrt N)``, ``W_l`` a raw matrix with entries of variance ``sigma2`` over the
    square root of its columns, ``x ~ N(0, I)``,
    ``y = beta . x / sqrt D + noise``, loss ``(1/2P) sum (y - f)^2``; ``gamma = gamma0 sqrt(nu)`` in muP, ``gamma0`` in
    the NTK parameterisation. Every raw parameter moves with rate ``eta gamma^2 D``.

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
        weight_decay: every raw parameter is multiplied by ``1 - eta weight_decay`` before it moves (decoupled from the
            momentum); a number, or one for each update, (steps,).

    Raises:
        ValueError: numbers out of range.
        TypeError: a static integer that is no integer.
    """

    depth: int = eqx.field(static=True)
    nu: Number
    alpha: Number | None
    gamma0: Number
    eta: Number | Float[Array, " steps"]
    sigma2: Number = 1.0
    noise: Number = 0.0
    param: str = eqx.field(static=True, default="mup")
    batch_ratio: Number | None = None
    outputs: int = eqx.field(static=True, default=1)
    momentum: Number = 0.0
    target_gram: Float[Array, "C C"] | None = None
    weight_decay: Number | Float[Array, " steps"] = 0.0

    def __check_init__(self):
        """Refuse what is known to be out of range."""
        check_integers(1, depth=self.depth, outputs=self.outputs)
        check_choice("param", self.param, ("mup", "ntk"))
        optional = {"alpha": self.alpha, "batch_ratio": self.batch_ratio}
        given = {name: value for name, value in optional.items() if value is not None}
        positive = {"nu": self.nu, "gamma0": self.gamma0, "eta": self.eta, "sigma2": self.sigma2}
        check_numbers(0, ends="()", **positive, **given)
        check_numbers(0, noise=self.noise, momentum=self.momentum)
        check_decay(self.eta, self.weight_decay)
        if is_concrete(self.momentum) and np.any(np.asarray(self.momentum) >= 1):
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
            cfg.target_gram, cfg.weight_decay,
        )  # fmt: skip

    def check_schedules(self, steps: int) -> None:
        """Raise `ValueError` unless rates and decays are one number or one for each update.

        Args:
            steps: number of updates.
        """
        for name, value in {"eta": self.eta, "weight_decay": self.weight_decay}.items():
            check_schedule(name, value, steps)

    def shrink(self, steps: int) -> Float[Array, " steps"]:
        """Factor ``1 - eta weight_decay`` of the parameters in every update.

        Args:
            steps: number of updates.
        """
        return 1 - jnp.broadcast_to(self.eta * self.weight_decay, (steps,))
