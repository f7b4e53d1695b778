"""One optax transformation for every optimiser that maps the singular values of the momentum.

``mu <- beta mu + (1 - beta) g``, ``Y = F(mu_hat)`` for every matrix of every parameter, then ``Y`` is rescaled and
multiplied by a factor of its shape. Muon, Freon and Kaon differ in ``F`` only, which is a function argument.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Int, PyTree, UInt32

from jaxspec.checks import check_key, is_concrete
from jaxspec.linalg import ordered
from jaxspec.linalg.scaling import compute_dtype
from jaxspec.optim.layout import DimsTree, LeafLayout, buckets, check_dtypes, stack, tree_layouts
from jaxspec.optim.normalization import Normalizer, ShapeScale, normalizer, shape_factor
from jaxspec.optim.placement import placed_as_given

MapFn = Callable[..., Array]
Schedule = ArrayLike | Callable[[Array], ArrayLike]
BucketFn = Callable[..., list[Array]]
Normalize = Literal["rms", "dual", "spectral", "none"] | Normalizer
ShapeScaleName = Literal["keller", "rms", "mup", "none"] | ShapeScale


class SpectralState(NamedTuple):
    """State of `scale_by_spectral`.

    Attributes:
        count: number of updates so far.
        mu: momentum, like the parameters, in ``mu_dtype``.
        key: words of the random key (`jax.random.key_data`), which any checkpoint format stores; constant, since the
            stream is derived from it and ``count``. None for a map without randomness.
    """

    count: Int[Array, ""]
    mu: PyTree
    key: UInt32[Array, " words"] | None


def scale_by_spectral(
    map_fn: MapFn,
    *,
    beta: Schedule = 0.95,
    gain: Schedule | None = None,
    nesterov: bool = True,
    bias_correction: bool = True,
    normalize: Normalize = "rms",
    shape_scale: ShapeScaleName = "rms",
    dimension_numbers: DimsTree = None,
    mu_dtype: DTypeLike | None = None,
    key: Array | None = None,
    mesh: Mesh | None = None,
    axis: str | None = None,
) -> optax.GradientTransformation:
    r"""Momentum, then a function of the singular values of every matrix, ``U S V^T -> U f(S) V^T``.

    With ``t = count + 1``: ``mu <- beta mu + (1 - beta) g``; ``mu_hat = beta mu / (1 - beta^(t+1)) + (1 - beta) g /
    (1 - beta^t)`` with Nesterov, else ``mu / (1 - beta^t)``; ``update = factor * normalised F(mu_hat)``. Arithmetic is
    in float32 for bfloat16 and float16 gradients; updates have the gradient's dtype. Matrices of equal shape and dtype
    are mapped in one batched call. A non-finite gradient spoils its own matrices only.

    Args:
        map_fn: the map ``F``: matrices ``(batch, m, n)``, ``m <= n``, to the same shape; with ``key``,
            ``map_fn(x, keys)`` with one key per matrix. Any function, `jaxspec.linalg.spectral_map` at heart or not.
        beta: decay of the momentum, in [0, 1). May be traced, or a function of ``count``; then without bias correction,
            whose denominator needs all earlier values.
        gain: factor of the gradient in the momentum, a number or a function of ``count``; default ``1 - beta``. With
            another gain no bias correction.
        nesterov: look one step ahead.
        bias_correction: divide by ``1 - beta^t`` as optax does. With Nesterov this changes the direction of the first
            steps, not only their size.
        normalize: ``rms`` makes every image as large as a polar factor, ``sqrt(min(m, n))``, also of a rank-deficient
            matrix; ``spectral`` makes its largest singular value 1 (8 power steps); ``none`` leaves it; or a function
            of (matrices, images), for example `jaxspec.optim.normalization.Dual`.
        shape_scale: ``keller`` sqrt(max(1, fan_out/fan_in)); ``rms`` 0.2 sqrt(max(fan_in, fan_out)), the size of an
            Adam update; ``mup`` sqrt(fan_out/fan_in), by which learning rates carry over between widths; ``none``; or a
            function of (fan_in, fan_out).
        dimension_numbers: matrix axes of parameters with more than two axes, or other than (input, output): a tree (or
            prefix) of `MatrixDims` or `optax.contrib.MuonDimensionNumbers`, or a function from parameters to one.
        mu_dtype: dtype in which the momentum of real parameters is stored; default the parameter's.
        key: typed key for a random map. Matrix i of leaf l at count k draws from part i of
            ``fold_in(fold_in(key, k), l)``, leaves numbered in flattened order.
        mesh: devices over which every stack of matrices is divided, each device mapping its share without any
            communication. Parameters whose number of matrices is a multiple of the axis stay divided; the others are
            stacked, padded with zeros, and their images gathered.
        axis: the mesh axis. Give the jitted step ``out_shardings`` to say where the updates must lie afterwards.

    Returns:
        The transformation. It needs no parameters in ``update``.

    Raises:
        ValueError: beta outside [0, 1); an unknown name; mesh without axis; and at ``init`` or ``update`` a parameter
            that is not a matrix, or axes that do not fit, by the path of the leaf.
        TypeError: a leaf that is not floating point; a ``key`` that is not a typed key.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from jaxspec.linalg import spectral_map
        >>> tx = scale_by_spectral(lambda x: spectral_map(x, jnp.ones_like), shape_scale="none")
        >>> params = {"w": jnp.eye(2)}
        >>> updates, state = tx.update({"w": jnp.diag(jnp.array([3.0, -1e-3]))}, tx.init(params))
        >>> updates["w"]
        Array([[ 1.,  0.],
               [ 0., -1.]], dtype=float32)
    """
    if is_concrete(beta) and not callable(beta) and not 0 <= float(beta) < 1:
        raise ValueError(f"beta is {beta}; expected 0 <= beta < 1")
    if bias_correction and (callable(beta) or gain is not None):
        raise ValueError("bias_correction is True; expected False with a schedule for beta or a gain")
    impl = None if key is None else _key_impl(key)
    apply_map = matrix_function(map_fn, normalizer(normalize), mesh, axis)
    factor = shape_factor(shape_scale)

    def init(params):
        check_dtypes(params)
        tree_layouts(params, dimension_numbers)
        mu = jax.tree.map(lambda p: jnp.zeros_like(p, dtype=_storage_dtype(p, mu_dtype)), params)
        return SpectralState(jnp.zeros([], jnp.int32), mu, None if key is None else jax.random.key_data(key))

    def update(updates, state, params=None):
        del params
        check_dtypes(updates)
        layouts = tree_layouts(updates, dimension_numbers)
        gradients, treedef = jax.tree.flatten(updates)
        old = treedef.flatten_up_to(state.mu)
        step = optax.safe_increment(state.count)
        decay = beta(state.count) if callable(beta) else beta
        factors = decay, _gain(gain, decay, state.count)
        moments = [_moment(g, m, *factors) for g, m in zip(gradients, old, strict=True)]
        hats = [
            _look_ahead(g, m, factors, step, nesterov, bias_correction) for g, m in zip(gradients, moments, strict=True)
        ]
        keys = None
        if key is not None:
            step_key = jax.random.fold_in(jax.random.wrap_key_data(state.key, impl=impl), state.count)
            keys = [_leaf_keys(step_key, number, layout) for number, layout in enumerate(layouts)]
        mapped = map_leaves(apply_map, hats, layouts, factor=factor, keys=keys)
        mapped = [y.astype(g.dtype) for y, g in zip(mapped, gradients, strict=True)]
        moments = [m.astype(previous.dtype) for m, previous in zip(moments, old, strict=True)]
        return treedef.unflatten(mapped), SpectralState(step, treedef.unflatten(moments), state.key)

    return optax.GradientTransformation(init, update)


def map_leaves(
    function: BucketFn,
    leaves: Sequence[Array],
    layouts: Sequence[LeafLayout],
    *,
    factor: ShapeScale | None = None,
    keys: Sequence[Sequence[Array]] | None = None,
) -> list[Array]:
    """Map every matrix of every leaf, all matrices of one shape and dtype in one call.

    Args:
        function: list of stacks ``(batch, m, n)`` of one shape, and list of their keys if given, to their images; see
            `matrix_function`.
        leaves: the parameters.
        layouts: where their matrices are.
        factor: multiplier of the image as a function of (fan_in, fan_out).
        keys: for every leaf, one batch of keys per piece of its layout.

    Returns:
        The mapped leaves; empty ones unchanged.
    """
    return placed_as_given(lambda xs: _map_buckets(function, xs, layouts, factor, keys), leaves)


def _map_buckets(function, leaves, layouts, factor, keys):
    matrices = [layout.split(x) for layout, x in zip(layouts, leaves, strict=True)]
    images = []
    for members in buckets(matrices):
        stacks = [matrices[leaf][piece] for leaf, piece in members]
        if jax.default_backend() == "cpu" and jax.device_count() == 1:
            # The map may factorise, and on the CPU two factorisations at once can wait for each other for ever. Among
            # several devices an order would be communication, which matrix products do not need. Stacks are joined
            # before they are mapped, and one call gave all images: one of each is enough.
            stacks = [ordered(stacks[0], images[:1]), *stacks[1:]]
        arguments = [stacks]
        if keys is not None:
            arguments.append([keys[leaf][piece] for leaf, piece in members])
        images = _call(function, arguments, [layouts[leaf].path for leaf, _ in members])
        for (leaf, number), image in zip(members, images, strict=True):
            piece = layouts[leaf].pieces[number]
            matrices[leaf][number] = image if factor is None else image * factor(piece.fan_in, piece.fan_out)
    return [layout.join(y, jnp.shape(x)) for layout, y, x in zip(layouts, matrices, leaves, strict=True)]


def matrix_function(
    map_fn: MapFn, normalize: Normalizer, mesh: Mesh | None = None, axis: str | None = None
) -> BucketFn:
    """``map_fn`` followed by ``normalize``, in one call for a list of stacks, divided over a mesh axis if one is given.

    Args:
        map_fn: as in `scale_by_spectral`.
        normalize: function of (matrices, images).
        mesh: devices.
        axis: the mesh axis.

    Returns:
        Function of a list of stacks (and a list of their keys) to the list of their images.

    Raises:
        ValueError: only one of ``mesh`` and ``axis``, or an axis that the mesh does not have; when called, a map that
            changes the shape.
    """
    if (mesh is None) != (axis is None):
        raise ValueError(f"mesh is {mesh} and axis is {axis!r}; expected both or neither")
    if axis is not None and axis not in mesh.axis_names:
        raise ValueError(f"axis is {axis!r}; expected one of the mesh's, {mesh.axis_names}")

    def apply(stacks, *keys):
        x = stack(stacks)
        y = map_fn(x, *map(stack, keys))
        if y.shape != x.shape:
            raise ValueError(f"map_fn turned shape {x.shape} into {y.shape}; expected the same shape")
        stops = itertools.accumulate(len(part) for part in stacks[:-1])
        return jnp.split(normalize(x, y), list(stops)) if len(stacks) > 1 else [normalize(x, y)]

    return apply if mesh is None else jax.jit(_divided(apply, mesh, axis))


def _divided(apply, mesh, axis):
    """Stacks that divide evenly stay apart and are joined on each device; the others are joined, padded and gathered.

    Joining evenly divided stacks outside would move matrices between devices; cutting an uneven one would, too, so one
    gather of its images is cheaper.
    """
    mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))
    size = mesh.shape[axis]
    # Free to choose, the compiler cuts replicated matrices into rows and exchanges them. A second axis may hold rows.
    free = None if len(mesh.axis_names) == 1 else PartitionSpec.UNCONSTRAINED
    gathered = NamedSharding(mesh, PartitionSpec(None, free, free))
    # Loops inside map_fn start from constants, which the check of varying axes would refuse.
    run = jax.shard_map(
        apply,
        mesh=mesh,
        in_specs=PartitionSpec(axis),
        out_specs=PartitionSpec(axis),
        axis_names={axis},
        check_vma=False,
    )

    def divided(stacks, *keys):
        uneven = [i for i, x in enumerate(stacks) if len(x) % size]
        even = [i for i, x in enumerate(stacks) if len(x) % size == 0]
        if not uneven:
            return run(stacks, *keys)
        joined = jax.lax.with_sharding_constraint(stack([stacks[i] for i in uneven]), gathered)
        batch = len(joined)
        padding = -batch % size
        joined = jnp.pad(joined, ((0, padding), (0, 0), (0, 0)))
        wrapped = [stack([k[i] for i in uneven])[jnp.arange(batch + padding) % batch] for k in keys]
        *images, rest = run(
            [*(stacks[i] for i in even), joined],
            *([*(k[i] for i in even), w] for k, w in zip(keys, wrapped, strict=True)),
        )
        rest = jax.lax.with_sharding_constraint(rest, gathered)
        stops = itertools.accumulate(len(stacks[i]) for i in uneven)
        images = dict(zip([*even, *uneven], [*images, *jnp.split(rest, list(stops))[:-1]], strict=True))
        return [images[i] for i in range(len(stacks))]

    return divided


def _gain(gain, beta, count):
    if gain is None:
        return 1 - beta
    return gain(count) if callable(gain) else gain


@partial(jax.jit, inline=True)
def _moment(gradient, moment, beta, gain):
    dtype = compute_dtype(gradient, allow_complex=True)
    real = jnp.finfo(dtype).dtype
    return jnp.asarray(beta, real) * moment.astype(dtype) + jnp.asarray(gain, real) * gradient.astype(dtype)


@partial(jax.jit, static_argnums=(4, 5), inline=True)
def _look_ahead(gradient, moment, factors, step, nesterov, bias_correction):
    real = jnp.finfo(moment.dtype).dtype
    decay, gain = (jnp.asarray(factor, real) for factor in factors)

    def corrected(x, t):
        return x / (1 - decay ** t.astype(real)) if bias_correction else x

    if not nesterov:
        return corrected(moment, step)
    gradient = gradient.astype(moment.dtype)
    return decay * corrected(moment, step + 1) + gain * corrected(gradient, step)


def _call(function, arguments, paths):
    try:
        return function(*arguments)
    except (TypeError, ValueError) as error:
        error.add_note(f"while mapping the matrices of {', '.join(paths)}")
        raise


def _leaf_keys(step_key, number, layout):
    keys = jax.random.split(jax.random.fold_in(step_key, number), sum(piece.batch for piece in layout.pieces))
    stops = list(itertools.accumulate(piece.batch for piece in layout.pieces))
    return [keys[stop - piece.batch : stop] for piece, stop in zip(layout.pieces, stops, strict=True)]


def _storage_dtype(x, mu_dtype):
    # A real momentum dtype would drop the imaginary part.
    return x.dtype if mu_dtype is None or jnp.iscomplexobj(x) else mu_dtype


def _key_impl(key):
    check_key(key)
    return jax.random.key_impl(key)
