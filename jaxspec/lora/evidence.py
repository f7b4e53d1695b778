r"""Does the pretrained model use a direction already? Does an adapter trained on control data have it too?

Spectra of an adapter alone tell a dominant shared direction, never what it means: a clean fine-tune has one as well.
The two questions here need more than the adapter: the base weights, activations, or adapters of control data. Their
answers are evidence with a p-value, not a verdict.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxspec.chance import upper_p_value
from jaxspec.checks import finite
from jaxspec.linalg.scaling import compute_dtype, power_of_two_scale
from jaxspec.lora.roles import DEFAULT_ROLES, Roles
from jaxspec.lora.selection import stream_matrices


class Evidence(NamedTuple):
    """A statistic of every direction, among those of random directions or of control adapters.

    Attributes:
        value: (k,).
        p_value: ``(1 + #{null >= value}) / (1 + n)``, (k,).
        threshold: value above which p <= alpha, ().
    """

    value: Float[Array, " k"]
    p_value: Float[Array, " k"]
    threshold: Float[Array, ""]


class PreExistence(NamedTuple):
    """Whether the pretrained model uses the directions already; None where what it takes was not given.

    Attributes:
        content_w: ``u^T C_0 u / (tr C_0 / d)``, ``C_0 = sum W_0 W_0^T`` over the base model's writers.
        content_r: the same with ``W_0^T W_0`` over its readers.
        act: ``max_l u^T Cov(h_l) u / (tr Cov(h_l) / d)`` over depths.
        pooled: sum of ``content_w`` and ``act``, each as the logarithm standardised by its null.
    """

    content_w: Evidence | None
    content_r: Evidence | None
    act: Evidence | None
    pooled: Evidence | None


def pre_existence(
    directions: Float[Array, "d k"],
    *,
    base: Mapping[str, Any] | None = None,
    activations: Any = None,
    roles: Roles = DEFAULT_ROLES,
    default_role: str | None = None,
    key: Key[Array, ""] | None = None,
    alpha: float = 0.01,
    num_samples: int = 999,
) -> PreExistence:
    r"""What the base weights write and read along directions, how the stream varies there, and both pooled.

    A latent factor that the model uses is written by many of its matrices, and varies from prompt to prompt where the
    answer is decided. Take the states at the last token of every prompt: over all tokens the identity of the token
    drowns it. The null of every statistic are the same isotropic unit vectors, so that sums of them have one too.

    Measured on small decoders with a latent persona, shares with p <= 0.01 among adapters that are entangled with it |
    among clean ones with new answers. Eleven decoders that chose nothing, 62 adapters of each kind: ``content_w`` 0.42
    | 0, ``pooled`` 0.74 | 0.03. They differ much: of four trained longest, 24 adapters of each kind, ``content_w`` 0.25
    | 0, ``act`` 0.75 | 0.25, ``pooled`` 0.71 | 0.08, ``content_r`` 0.83 | 0.67. Evidence, not a verdict.

    Args:
        directions: unit columns.
        base: path to base weights, (*batch, out, in) with ``y = W h``, as `base_weights` makes them of a model's
            parameters; matrices that carry no adapter count too. A square matrix the other way round (a flax kernel, a
            plain array used as ``x @ w``) cannot be told from a right one, and measures the wrong side.
        activations: states of the stream on prompts without labels, (*samples, d), at least two; or a sequence of such
            arrays, one for every depth, such as after each block: a factor turns with depth, and may show early only.
            Then the largest value over depths counts, in the null as well.
        roles: as in `identify_factors`.
        default_role: as in `identify_factors`.
        key: random key of the null; default ``jax.random.key(0)``.
        alpha: level of the thresholds.
        num_samples: number of random directions (static).

    Returns:
        The evidence.

    Raises:
        ValueError: base weights or states that are not finite, weights of unknown role, entries of ``base`` that are no
            arrays (a nested tree), none of them on the stream; states of another width, fewer than two of them.
        TypeError: not real floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> u = jnp.eye(16)[:, :1]
        >>> found = pre_existence(u, base={"mlp.down_proj": jnp.eye(16).at[0, 0].set(5.0)})
        >>> round(float(found.content_w.value[0]), 1), float(found.content_w.p_value[0])
        (10.0, 0.001)
    """
    key = jax.random.key(0) if key is None else key
    k = directions.shape[1]
    probes = _with_random(directions, key, num_samples)
    raw = dict.fromkeys(PreExistence._fields)
    if base is not None:
        for name, side in (("content_w", "writes"), ("content_r", "reads")):
            raw[name] = _content(probes, base, roles, side, default_role)
        if raw["content_w"] is None and raw["content_r"] is None:
            raise ValueError(
                f"base has {_some(base)}, none of which writes into or reads from a stream of width "
                f"{directions.shape[0]}; expected matrices (*batch, out, in) by path, as from jaxspec.lora.base_weights"
            )
    if activations is not None:
        depths = activations if isinstance(activations, Sequence) else [activations]
        if not depths:
            raise ValueError("activations is empty; expected at least one depth")
        raw["act"] = jnp.max(jnp.stack([_variances(h, probes) for h in depths]), axis=0)
    if raw["content_w"] is not None and raw["act"] is not None:
        raw["pooled"] = _standardised(raw["content_w"], k) + _standardised(raw["act"], k)
    return PreExistence(**{name: None if x is None else _among(x, k, alpha) for name, x in raw.items()})


@eqx.filter_jit
def _forms(w: Array, probes: Array, scale: Array, rows: bool) -> tuple[Array, Array]:
    """Sum over the batch of the squares of ``W^T x`` (rows) or ``W x``, and of all entries."""
    w = w.reshape(-1, *w.shape[-2:]).astype(jnp.promote_types(w.dtype, probes.dtype))
    w = w / scale.astype(w.dtype)
    images = jnp.einsum("lmn,mp->lnp" if rows else "lmn,np->lmp", w, probes, precision="highest")
    return jnp.sum(images * images, axis=(0, 1)), jnp.sum(w * w)


def _content(probes, base, roles, side, default_role):
    """Quadratic form of every probe over its mean; None without a matrix of that side and width."""
    width = probes.shape[0]
    nested = [path for path, w in base.items() if not hasattr(w, "ndim")]
    if nested:
        raise ValueError(
            f"base holds {type(base[nested[0]]).__name__} at {nested[0]}; expected matrices (*batch, out, in) by path: "
            "pass jaxspec.lora.base_weights(params)"
        )
    shapes = {path: w.shape for path, w in base.items() if w.ndim >= 2}
    found = stream_matrices(shapes, roles, side=side, width=width, default_role=default_role, none_is_an_error=False)[0]
    if not found:
        return None
    forms, trace = jnp.zeros(probes.shape[1], probes.dtype), jnp.zeros((), probes.dtype)
    weights = {matrix.path: jnp.asarray(base[matrix.path]) for matrix in found}
    scale = _largest(weights)
    for w in weights.values():
        form, own = _forms(w, probes, scale, side == "writes")
        forms, trace = forms + form, trace + own
    return forms * width / jnp.where(trace == 0, 1, trace)


def _some(base):
    return ", ".join(list(map(str, base))[:5]) + (", ..." if len(base) > 5 else "") or "no entries"


def _largest(weights):
    """Largest magnitude of all matrices, 1 where all are zero; refuses entries that are not finite."""
    for path, w in weights.items():
        compute_dtype(w, f"base weight {path}")
    largest = jnp.stack([jnp.max(jnp.abs(w), initial=0) for w in weights.values()])
    bad = [path for path, finite in zip(weights, np.isfinite(largest), strict=True) if not finite]
    if bad:
        raise ValueError(f"base weight {bad[0]} holds entries that are not finite; expected finite ones")
    largest = jnp.max(largest)
    return jnp.where(largest == 0, 1, largest)


@partial(jax.jit, static_argnums=1, inline=True)
def _standardised(values, k):
    """Logarithms by the mean and the deviation of the null's; a value of zero is far below all."""
    logs = jnp.log(jnp.maximum(values, jnp.finfo(values.dtype).tiny))
    null = logs[k:]
    deviation = jnp.std(null)
    return (logs - jnp.mean(null)) / jnp.where(deviation == 0, 1, deviation)


def _variances(activations, probes):
    h = jnp.asarray(activations)
    h = h.astype(compute_dtype(h, "activations"))
    width = probes.shape[0]
    if h.ndim < 2 or h.shape[-1] != width or h.size < 2 * width:
        raise ValueError(f"activations has shape {h.shape}; expected (*batch, {width}), at least two states")
    h = h.reshape(-1, width)
    h = finite("activations", h)
    h = h / power_of_two_scale(h)
    form, trace = _forms(h - jnp.mean(h, axis=0), probes, jnp.ones((), h.dtype), False)
    return form * width / jnp.where(trace == 0, 1, trace)


@partial(jax.jit, static_argnums=2, inline=True)
def _with_random(directions, key, num_samples):
    random = jax.random.normal(key, (directions.shape[0], num_samples), directions.dtype)
    return jnp.concatenate([directions, random / jnp.linalg.norm(random, axis=0)], axis=1)


def _among(values, k, alpha):
    null = values[k:]
    p = upper_p_value(null[:, None], values[:k])
    return Evidence(values[:k], p.astype(values.dtype), jnp.quantile(null, 1 - alpha))
