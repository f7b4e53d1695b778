r"""The direction along which an adapter pushes the residual stream in every layer, found from its weights alone.

The layers share the stream, so a direction that all of them write adds up in ``C = sum_l Delta W_l Delta W_l^T`` while
what each layer writes for itself does not: a shared direction of strength s in L layers has eigenvalue ``L s^2``. Its
dominance says nothing about what it means: a clean fine-tune has a dominant shared direction as well. What the
pretrained model does with the direction, and whether adapters of control data have it, are evidence of another kind.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Key

from jaxspec.checks import is_concrete
from jaxspec.linalg.scaling import safe_divide
from jaxspec.lora.adapters import Adapter, Scale
from jaxspec.lora.evidence import Evidence, pre_existence
from jaxspec.lora.references import against_references
from jaxspec.lora.roles import DEFAULT_ROLES, Roles
from jaxspec.lora.selection import Side, Stack, by_path, per_matrix, stacked
from jaxspec.lora.spectra import alignments, leading, one_below_the_other, own_directions, shares, thin_factor, weighted

# Up to this many columns (or rows) all of the spectrum is cheap.
_LARGEST_GRAM = 512
Weight = Literal["none", "unit"] | Mapping[str, ArrayLike]


class FactorReport(eqx.Module):
    """What `identify_factors` found. The first ``n_factors`` directions are dominant and shared beyond chance.

    Attributes:
        directions: orthonormal columns, the largest entry of each positive, (d, k); zero beyond the adapter's rank.
        strengths: ``sqrt(u^T C u)``, the singular values of ``[Delta W_1 | ... | Delta W_L]`` (weighted), (k,).
        spectrum: its singular values as far as they were computed, descending, (m,); with ``reference``, of what is
            left without the directions that were removed.
        share: ``lambda_j / tr C``, (k,).
        gap: ``sqrt(lambda_j / lambda_(j+1))``, (k,); infinite at the end of the spectrum.
        alignment: largest eigenvalue of the mean of ``u_l u_l^T`` over the leading directions ``u_l`` of the matrices,
            after removing the first j - 1 directions, (k,).
        pvalues: of the alignment among independent isotropic directions, (k,).
        n_factors: number of directions before the first that fails a test, ().
        per_leaf_alignment: ``||u_j^T Delta W_l|| / ||Delta W_l||_F`` by path, (*batch, k).
        content_w: with ``base``, ``u^T C_0 u / (tr C_0 / d)`` over the base model's writers, among random directions.
        content_r: the same over its readers.
        act: with ``activations``, ``u^T Cov(h) u / (tr Cov(h) / d)``, the largest over depths.
        pooled: with both, the sum of ``content_w`` and ``act`` as standardised logarithms.
        reference: with control adapters, how many times the share of the strongest control the adapter holds along a
            direction, ``u^T C u / max_i u^T C_i u`` with traces 1. Every half of the matrices is measured along what
            the other half shows, since a direction fits the noise that it was found in: chance alone gives about 1.
            Its p-value is of the share of what is left, among the controls.
        layer_directions: with ``per_layer``, leading directions of every matrix by itself, by path, (*batch, d, k).
        layer_strengths: their singular values, (*batch, k).
        residual: ``max_j ||C u_j - lambda_j u_j|| / lambda_j`` of subspace iteration, whose aim is 1e-5; 0 for the Gram
            matrix. Directions inside a bulk of equal strengths do not settle, nor do they mean anything.
        alpha: level of the tests.
        notes: what the reader must know besides.
    """

    directions: Float[Array, "d k"]
    strengths: Float[Array, " k"]
    spectrum: Float[Array, " m"]
    share: Float[Array, " k"]
    gap: Float[Array, " k"]
    alignment: Float[Array, " k"]
    pvalues: Float[Array, " k"]
    n_factors: Int[Array, ""]
    per_leaf_alignment: dict[str, Float[Array, "..."]]
    content_w: Evidence | None
    content_r: Evidence | None
    act: Evidence | None
    pooled: Evidence | None
    reference: Evidence | None
    layer_directions: dict[str, Float[Array, "..."]] | None
    layer_strengths: dict[str, Float[Array, "..."]] | None
    residual: Float[Array, ""]
    alpha: Float[Array, ""]
    notes: tuple[str, ...] = eqx.field(static=True)

    @property
    def factors(self) -> Float[Array, "d n"]:
        """The first ``n_factors`` directions (outside jit: their number is a shape)."""
        return self.directions[:, : int(self.n_factors)]

    @property
    def pre_existing(self) -> Bool[Array, " k"] | None:
        """Whether the base model uses a direction more than chance has it, by ``pooled`` or else ``content_w``.

        None without base weights. Evidence, not a verdict.
        """
        evidence = self.content_w if self.pooled is None else self.pooled
        return None if evidence is None else evidence.p_value <= self.alpha


def identify_factors(
    adapter: Adapter,
    *,
    scale: Scale = 1.0,
    roles: Roles = DEFAULT_ROLES,
    default_role: str | None = None,
    width: int | None = None,
    side: Side = "writes",
    max_factors: int = 4,
    alpha: float = 0.01,
    reference: Adapter | Sequence[Adapter] | None = None,
    ratio: float = 2.0,
    weight: Weight = "none",
    per_layer: bool = False,
    base: Mapping[str, Any] | None = None,
    activations: Any = None,
    key: Key[Array, ""] | None = None,
    engine: Literal["auto", "gram", "subspace"] = "auto",
    num_samples: int = 199,
) -> FactorReport:
    r"""Dominant shared directions of an adapter: leading eigenvectors of ``C = sum_l Delta W_l Delta W_l^T``.

    ``Delta W_l = s b a`` is never formed: with ``a^T = Q R`` and ``F_l = s b R^T`` the directions are the leading left
    singular vectors of ``[F_1 | F_2 | ...]`` (d, R), in ``O(d R^2)`` by the small Gram matrix or ``O(d R k)`` a sweep
    by subspace iteration. Directions are counted one after the other until one is not aligned over the matrices beyond
    chance, or not ``ratio`` times as strong as in every control adapter. The count says "dominant and shared": clean
    fine-tunes score the same, and only the evidence fields tell more.

    Args:
        adapter: ``{path: {"a": (*batch, r, in), "b": (*batch, out, r)}}``; batch axes are stacked layers or experts,
            whose matrices count one by one.
        scale: factor of ``b a``, one for all or one a path.
        roles: what a path does to the stream, ``"writes"``, ``"reads"``, ``"both"``, ``"none"`` or None: a mapping, a
            function, or a table as `DEFAULT_ROLES`.
        default_role: for paths that ``roles`` does not know.
        width: d, where matrices of several widths have the role.
        side: ``"reads"`` for ``C = sum_l Delta W_l^T Delta W_l`` over readers instead of writers (static). Readers show
            the factor less: their directions are inputs that predict it.
        max_factors: k, below d (static).
        alpha: level of the tests.
        reference: one or more adapters trained on control data, such as clean rows or shuffled labels. Directions that
            they share beyond chance, and of which the adapter has less than ``ratio`` times as much, are removed before
            its own are looked for. Controls that share nothing change no direction.
        ratio: how many times the strength, in shares of the whole, a direction must have of that in any control.
        weight: factor of every matrix in ``C``: ``"none"``, ``"unit"`` (Frobenius norm 1 each), or numbers by path.
        per_layer: also find the leading directions of every matrix by itself (static).
        base: base weights by path, (*batch, out, in) with ``y = W h``, for the evidence that the model uses the
            direction already: `base_weights` makes them of a model's parameters. Needs concrete arrays, as
            ``activations`` does.
        activations: states of the stream (*samples, d) on prompts without labels, at the tokens after which an answer
            follows; or a sequence of such arrays, one for every depth. See `pre_existence`.
        key: randomness of the nulls; default ``jax.random.key(0)``.
        engine: ``"gram"``, ``"subspace"``, or the first up to 512 columns and the second beyond (static).
        num_samples: draws of the alignment's null (static); p-values are never below
            ``1 / (1 + num_samples)``.

    Returns:
        `FactorReport`, for a zero adapter with ``n_factors = 0`` and zeros.

    Raises:
        ValueError: bad factors or entries that are not finite, by the path of the leaf; a matrix that may be on the
            stream without a role, several widths and none given, no matrix selected; ``max_factors`` not in [1, d);
            a bad weight, level or ratio; a ``base`` that is nested, or without a matrix on the stream.
        TypeError: an adapter that is no mapping (of `load_peft` pass ``.factors``, and ``scale=.scales``), or a leaf
            that is not real floating point.

    Reference:
        A reconstruction of the identification in Gilligan-Lee, Egan, Zhu & O'Riordan (arXiv:2605.27676), of which only
        the abstract was available. Alignment and evidence tests are this library's.

    Example:
        >>> import jax
        >>> normal = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)
        >>> u = normal(0, 64, 1) / 8
        >>> adapter = {f"layers.{i}.mlp.down_proj": {"a": normal(i, 2, 32), "b": normal(-i, 64, 2) * 0.1 + u}
        ...            for i in range(8)}
        >>> report = identify_factors(adapter)
        >>> int(report.n_factors), round(float(abs(report.factors[:, 0] @ u)[0] / jax.numpy.linalg.norm(u)), 2)
        (1, 0.9)
    """
    _check_numbers(alpha, ratio, num_samples)
    key = jax.random.key(0) if key is None else key
    stacks, d = stacked(adapter, scale, roles, side=side, width=width, default_role=default_role)
    if not 1 <= max_factors < d:
        raise ValueError(f"max_factors is {max_factors}; expected 1 <= max_factors < {d}, the width")
    controls = [
        stacked(each, scale, roles, side=side, width=d, default_role=default_role)[0] for each in _as_list(reference)
    ]
    keys = dict(zip(("start", "null", "evidence"), jax.random.split(key, 3), strict=True))
    numbers = jnp.asarray(alpha), jnp.asarray(ratio)
    options = weight if isinstance(weight, str) else "given", engine, max_factors, num_samples, per_layer
    given = None if isinstance(weight, str) else [per_matrix("weight", weight, stack) for stack in stacks]
    weights = (given, [None if given is None else _weights_of(weight, stacks) for stacks in controls])
    found = _analysed(_bare(stacks), [_bare(each) for each in controls], weights, numbers, keys, options)
    found |= {name: by_path(found[name], stacks) for name in _BY_PATH if found[name] is not None}
    concrete = is_concrete(found["strengths"])
    overflow = ~jnp.all(jnp.isfinite(found["spectrum"]))
    if not concrete:
        found = eqx.error_if(found, overflow, "adapter holds entries that are not finite; expected finite ones")
    elif overflow:
        raise ValueError("adapter overflows: b a has entries that are not finite; expected finite ones")
    evidence = pre_existence(
        found["directions"],
        base=base,
        activations=activations,
        roles=roles,
        default_role=default_role,
        key=keys["evidence"],
        alpha=alpha,
    )
    notes = _notes(adapter, stacks, found["strengths"] if concrete else None, controls, alpha)
    if base is not None and evidence.content_w is None:
        notes += (f"base has no matrix that writes with width {d}: there is no content_w",)
    return FactorReport(**found, **evidence._asdict(), notes=notes)


_BY_PATH = ("per_leaf_alignment", "layer_directions", "layer_strengths")


@eqx.filter_jit
def _analysed(stacks, controls, weights, numbers, keys, options) -> dict[str, Any]:
    weight, engine, k, num_samples, per_layer = options
    alpha, ratio = numbers
    factors = _factors(stacks, weights[0], weight)
    own = one_below_the_other(factors)
    engine = ("gram" if min(own.shape) <= _LARGEST_GRAM else "subspace") if engine == "auto" else engine
    removed = evidence = None
    if controls:
        theirs = [_factors(each, given, weight) for each, given in zip(controls, weights[1], strict=True)]
        both = keys["start"], keys["null"]
        found, removed, evidence = against_references(
            factors, theirs, k, both, alpha=alpha, ratio=ratio, engine=engine, num_samples=num_samples
        )
    else:
        found = leading(own, k, engine=engine, key=keys["start"])
    aligned = alignments(factors, found.directions, keys["null"], num_samples, removed)
    passed = (aligned.p_value <= alpha) & (found.strengths > 0)
    passed = passed if evidence is None else passed & (evidence.value >= ratio)
    following = jnp.pad(found.spectrum, (0, max(0, k + 1 - found.spectrum.size)))[1 : k + 1]
    present = found.spectrum[:1] > 0
    top = jnp.pad(found.spectrum, (0, max(0, k - found.spectrum.size)))[:k]
    layers = own_directions(factors, k) if per_layer else None
    return {
        "directions": found.directions,
        "strengths": found.strengths,
        "spectrum": found.spectrum,
        "share": jnp.square(found.strengths / jnp.where(found.total > 0, found.total, 1)),
        "gap": jnp.where(present, safe_divide(top, following, jnp.inf), 1),
        "alignment": aligned.alignment,
        "pvalues": aligned.p_value,
        "n_factors": jnp.sum(jnp.cumprod(passed)),
        "per_leaf_alignment": shares(factors, found.directions),
        "reference": evidence,
        "layer_directions": None if layers is None else [u for u, _ in layers],
        "layer_strengths": None if layers is None else [s for _, s in layers],
        "residual": found.residual,
        "alpha": alpha,
    }


def _factors(stacks, given, weight):
    factors = []
    for side, a, b, scale in stacks:
        stack = Stack(a, b, scale, side, ())
        factors.append(thin_factor(stack, after=factors[-1:]))
    return weighted(factors, given, weight == "unit")


def _bare(stacks):
    """Without paths, so that adapters of equal shapes share one compiled program."""
    return [(stack.side, stack.a, stack.b, stack.scale) for stack in stacks]


def _weights_of(weight, stacks):
    return [per_matrix("weight", weight, stack) for stack in stacks]


def _as_list(reference):
    if reference is None:
        return []
    return list(reference) if isinstance(reference, list | tuple) and not hasattr(reference, "factors") else [reference]


def _check_numbers(alpha, ratio, num_samples):
    if not 0 < alpha < 1 or not ratio > 0 or num_samples < 1:
        raise ValueError(
            f"alpha is {alpha}, ratio {ratio} and num_samples {num_samples}; "
            "expected 0 < alpha < 1, ratio > 0 and num_samples >= 1"
        )


def _notes(adapter, stacks, strengths, controls, alpha):
    notes = []
    if strengths is not None and not float(strengths[0]) > 0:
        notes.append("the adapter is zero: nothing to find")
    if sum(stack.a.shape[0] for stack in stacks) == 1:
        notes.append("one matrix only: there is nothing to be aligned with, so no direction is tested")
    if any("magnitude" in leaf for leaf in adapter.values()):
        notes.append("DoRA: the directions are those of b a, the magnitudes are not counted")
    if controls and 1 / (1 + len(controls)) > alpha:
        notes.append(
            f"{len(controls)} controls: the p-value of the reference cannot be below {1 / (1 + len(controls)):.2g}"
        )
    return tuple(notes)
