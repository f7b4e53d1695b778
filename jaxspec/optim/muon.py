"""Muon, ``F(X) = U V^T`` or its regularised form ``U S (S^2 + eps^2)^(-1/2) V^T``, to an accuracy that is chosen."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import optax
from jax.sharding import Mesh
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import PyTree

from jaxspec.checks import check_choice
from jaxspec.linalg import polar
from jaxspec.linalg.dispatch import ENGINES
from jaxspec.optim.checks import checked_number
from jaxspec.optim.layout import DimsTree
from jaxspec.optim.normalization import Dual
from jaxspec.optim.partition import Partition, with_adam
from jaxspec.optim.spectral import Normalize, ShapeScaleName, SpectralState, scale_by_spectral

Schedule = str | Sequence[tuple[float, float, float]] | None


def scale_by_muon(  # noqa: D417 - the shared keywords are documented in scale_by_spectral
    *,
    regularization: ArrayLike = 0.0,
    tol: float = 1e-2,
    engine: str = "auto",
    schedule: Schedule = None,
    beta: ArrayLike = 0.95,
    nesterov: bool = True,
    bias_correction: bool = True,
    normalize: Normalize = "none",
    shape_scale: ShapeScaleName = "keller",
    dimension_numbers: DimsTree = None,
    mu_dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
    axis: str | None = None,
) -> optax.GradientTransformation:
    r"""Momentum, then the polar factor of every matrix, ``U S V^T -> U V^T``.

    The defaults do what `optax.contrib.scale_by_muon` and its shape factor do, with singular values within ``tol`` of 1
    instead of in about [0.7, 1.2]. ``engine="newton_schulz", schedule="jordan"`` reproduces optax's five steps.

    Args:
        regularization: ``eps`` of ``s / sqrt(s^2 + (eps sigma)^2)``, relative to the scale sigma of the matrix. May be
            traced, except with engine recombine.
        tol: worst relative error of the singular values (see `jaxspec.linalg.polar`).
        engine: how the polar factor is computed (see `jaxspec.linalg.polar`).
        schedule: Newton-Schulz coefficients, a name or a sequence of triples (see `jaxspec.linalg.polar`).
        beta: as in `scale_by_spectral`, like all that follow, listed or not.
        normalize: ``dual`` equals ``none`` here up to rounding; for optax's ``adaptive`` pass
            `jaxspec.optim.normalization.adaptive`.

    Returns:
        The transformation.

    Raises:
        ValueError: negative or non-finite ``regularization``, or ``tol`` <= 0.

    Reference:
        Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = scale_by_muon()
        >>> params = {"w": jnp.zeros((2, 2))}
        >>> updates, _ = tx.update({"w": jnp.diag(jnp.array([3.0, -1.0]))}, tx.init(params))
        >>> [round(float(s), 1) for s in jnp.diag(updates["w"])]
        [1.0, -1.0]
    """
    check_choice("engine", engine, ENGINES)
    eps = checked_number("regularization", regularization, low=0.0)
    tol = checked_number("tol", tol, low=0.0, open_low=True)
    return scale_by_spectral(
        partial(polar, engine=engine, tol=tol, eps=eps, schedule=schedule),
        beta=beta,
        nesterov=nesterov,
        bias_correction=bias_correction,
        normalize=Dual(1.0) if normalize == "dual" else normalize,
        shape_scale=shape_scale,
        dimension_numbers=dimension_numbers,
        mu_dtype=mu_dtype,
        mesh=mesh,
        axis=axis,
    )


def muon(  # noqa: D417 - the shared keywords are documented in scale_by_muon and with_adam
    learning_rate: optax.ScalarOrSchedule,
    *,
    regularization: ArrayLike = 0.0,
    tol: float = 1e-2,
    engine: str = "auto",
    schedule: Schedule = None,
    beta: ArrayLike = 0.95,
    nesterov: bool = True,
    bias_correction: bool = True,
    normalize: Normalize = "none",
    shape_scale: ShapeScaleName = "keller",
    dimension_numbers: DimsTree = None,
    mu_dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
    axis: str | None = None,
    weight_decay: ArrayLike = 0.0,
    weight_decay_mask: PyTree | Callable[[PyTree], PyTree] | None = None,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
    adam_b1: ArrayLike = 0.9,
    adam_b2: ArrayLike = 0.95,
    adam_eps: ArrayLike = 1e-8,
    adam_weight_decay: ArrayLike = 0.0,
    adam_nesterov: bool = False,
    partition: Partition | None = None,
) -> optax.GradientTransformation:
    """Muon for matrices, AdamW for everything else: `scale_by_muon` inside `with_adam`.

    Under `optax.inject_hyperparams` name ``static_args=("tol",)``: it chooses the program.

    Args:
        learning_rate: number or schedule.
        regularization: as in `scale_by_muon`, like all up to ``axis``, listed or not.
        dimension_numbers: here None in the tree sends a parameter to AdamW.
        mu_dtype: also of AdamW's first moment.
        weight_decay: as in `with_adam`, like all that follow, listed or not.
        adam_b2: optax's muon has 0.999.

    Returns:
        The optimiser.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"w": jnp.ones((4, 4)), "b": jnp.ones(4)}
        >>> tx = muon(0.02, weight_decay=0.1)
        >>> updates, state = tx.update(params, tx.init(params), params)
    """
    matrices = partial(scale_by_muon, regularization=regularization, tol=tol, engine=engine, schedule=schedule)
    return with_adam(
        matrices(
            beta=beta,
            nesterov=nesterov,
            bias_correction=bias_correction,
            normalize=normalize,
            shape_scale=shape_scale,
            dimension_numbers=dimension_numbers,
            mu_dtype=mu_dtype,
            mesh=mesh,
            axis=axis,
        ),
        learning_rate,
        weight_decay=weight_decay,
        weight_decay_mask=weight_decay_mask,
        adam_learning_rate=adam_learning_rate,
        adam_b1=adam_b1,
        adam_b2=adam_b2,
        adam_eps=adam_eps,
        adam_weight_decay=adam_weight_decay,
        adam_nesterov=adam_nesterov,
        mu_dtype=mu_dtype,
        dimension_numbers=dimension_numbers,
        partition=partition,
    )


def from_optax_muon_state(optax_state: Any, state: Any) -> Any:
    """Carry a checkpoint of `optax.contrib.muon` (or ``scale_by_muon``) over into the state of `muon`, `freon`, ....

    Momentum and count go into the `SpectralState`; Adam's moments and the counts of schedules go along. Both optimisers
    must treat the same parameters as matrices; for optax's rule (all parameters with two axes) build ours with
    ``partition=functools.partial(matrix_partition, exclude=())``.

    Args:
        optax_state: state of the optax optimiser.
        state: freshly initialised state of the optimiser that continues.

    Returns:
        ``state`` with optax's values.

    Raises:
        ValueError: no or several Muon states in ``optax_state``; parameters divided differently.
    """
    muon_state = _only(optax_state, lambda node: hasattr(node, "ns_coeffs"), "optax_state", "optax Muon state")
    ours = _only(state, _is_spectral, "state", "SpectralState")
    _check_same_leaves(muon_state.mu, ours.mu)
    adams = [node for node in jax.tree.leaves(optax_state, is_leaf=_is_adam) if _is_adam(node)]

    def carry(node):
        if _is_spectral(node):
            mu = jax.tree.map(lambda new, old: new.astype(old.dtype), muon_state.mu, node.mu)
            return node._replace(count=muon_state.count, mu=mu)
        if isinstance(node, optax.ScaleByScheduleState):
            return node._replace(count=muon_state.count)
        return adams[0] if _is_adam(node) and adams else node

    return jax.tree.map(carry, state, is_leaf=lambda node: isinstance(node, _CARRIED))


_CARRIED = (SpectralState, optax.ScaleByScheduleState, optax.ScaleByAdamState)


def _is_spectral(node):
    return isinstance(node, SpectralState)


def _is_adam(node):
    return isinstance(node, optax.ScaleByAdamState)


def _only(tree, is_wanted, name, kind):
    found = [node for node in jax.tree.leaves(tree, is_leaf=is_wanted) if is_wanted(node)]
    if len(found) != 1:
        raise ValueError(f"{name} holds {len(found)} of: {kind}; expected exactly one")
    return found[0]


def _check_same_leaves(theirs, ours):
    shapes = [
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
        for tree in (theirs, ours)
    ]
    differing = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))
    if differing:
        raise ValueError(
            f"the optimisers differ on which parameters are matrices: {differing}. For optax's rule pass "
            "partition=functools.partial(matrix_partition, exclude=())"
        )
