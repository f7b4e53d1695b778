r"""Updates that leave what parameters do along given directions as it is.

With orthonormal ``U`` (d, k) and ``P = I - U U^T``: an update of a matrix whose rows write into the space of the
directions becomes ``P D``, one whose columns read from it ``D P``, so that ``U^T W_t = U^T W_0`` and ``W_t U = W_0 U``.
An optimiser with a diagonal preconditioner does not commute with ``P``: the projection belongs last in a chain. No
``(d, d)`` projector is formed: a leaf of (d, n) costs ``4 d n k`` operations.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from jaxspec.linalg.orthonormal import checked_basis
from jaxspec.linalg.scaling import compute_dtype
from jaxspec.optim.placement import placed_as_given

# For every role, whether the second to last and whether the last axis is projected.
SIDES = {"writes": (True, False), "reads": (False, True), "both": (True, True), "none": (False, False)}
Roles = PyTree | Callable[[str], str | None]
Retract = bool | Literal["auto"]


class Anchor(NamedTuple):
    """What a parameter did along the directions when the state was made; None for a side that is not projected.

    Attributes:
        left: ``U^T W_0``, (*batch, k, n).
        right: ``W_0 U``, (*batch, m, k).
    """

    left: Float[Array, "*batch k n"] | None
    right: Float[Array, "*batch m k"] | None


class ProjectionState(NamedTuple):
    """State of `project_updates`. All of it is arrays, so that any checkpoint format stores it.

    Attributes:
        directions: orthonormal, as given to `project_updates`: one array (d, k) or a tree of them. Replace them by
            others of the same shapes to go on with those; with ``retract``, by the whole ``init(params)`` of a
            transformation that has them.
        anchors: like the parameters, an `Anchor` for every leaf that is retracted and None for the others.
    """

    directions: PyTree
    anchors: PyTree


class LeafProjection(NamedTuple):
    """How one parameter is projected.

    Attributes:
        path: where it sits in its tree, ``"layers/0/b"``.
        basis: directions, (*batch, d, k), or None.
        left: whether the second to last axis is projected.
        right: whether the last axis is.
    """

    path: str
    basis: Float[Array, "*batch d k"] | None
    left: bool
    right: bool


def project_updates(
    directions: PyTree, roles: Roles, *, retract: Retract = False
) -> optax.GradientTransformationExtraArgs:
    r"""Project every update away from the directions; belongs last in a chain.

    ``D <- (I - U U^T) D`` for ``writes``, ``D (I - U U^T)`` for ``reads``, both for ``both``. With ``retract``, ``D <-
    R(W + D) - W``, where ``R(W)`` is the matrix closest to ``W`` that does along ``U`` what the initial parameter did:
    rounding errors are corrected instead of adding up, at the cost of ``U^T W_0`` in the state (zero for an adapter's
    ``b``).

    Args:
        directions: columns, (d, k), or one direction (d,); or a prefix of the tree of parameters with one such array
            per leaf, for instance with the gains of a normalisation folded in, leading axes of which follow leading
            axes of the leaf (stacked layers). None where nothing is projected. Columns that are not orthonormal are
            made so; k = 0 changes nothing. May be traced.
        roles: prefix of the tree of parameters with leaves ``"writes"`` (axis -2 has length d), ``"reads"`` (axis -1),
            ``"both"`` or ``"none"``; or a function from a leaf's path, such as ``"layers/0/mlp/b"``, to one of these.
            Where it returns None the leaf must have no side of length d. A leaf of one axis is projected on that axis.
        retract: True, False, or ``"auto"``: for parameters below float32.

    Returns:
        The transformation. ``update`` needs the parameters if anything is retracted.

    Raises:
        ValueError: directions that are not finite, k > d, no leaf to project, and by its path a leaf that has another
            length, an unknown role or none though it has a side of length d; in ``update``, no parameters.
        TypeError: directions that are not floating point, or a projected leaf that is not real floating point.

    Warns:
        UserWarning: directions that depend on each other; those that add nothing are dropped (outside jit).

    Example:
        >>> import jax.numpy as jnp, optax
        >>> tx = optax.chain(optax.sgd(1.0), project_updates(jnp.array([[3.0], [4.0]]), {"b": "writes", "a": "none"}))
        >>> params = {"b": jnp.zeros((2, 1)), "a": jnp.ones((1, 2))}
        >>> updates, _ = tx.update({"b": jnp.array([[-1.0], [0.0]]), "a": params["a"]}, tx.init(params))
        >>> jnp.round(updates["b"], 3)
        Array([[ 0.64],
               [-0.48]], dtype=float32)
    """
    if retract not in (True, False, "auto"):
        raise ValueError(f"retract is {retract!r}; expected True, False or 'auto'")
    bases = prepared_directions(directions)

    def init(params):
        plan = leaf_projections(params, bases, roles)
        if not any(leaf.left or leaf.right for leaf in plan):
            raise ValueError("roles select no parameter; expected one that is not 'none'")
        leaves, treedef = jax.tree.flatten(params)
        anchors = [_anchor(x, leaf, retract) for x, leaf in zip(leaves, plan, strict=True)]
        # Copies: a caller who donates the state keeps the directions.
        copies = jax.tree.map(lambda u: jnp.array(u, copy=True), bases)
        return ProjectionState(copies, treedef.unflatten(anchors))

    def update(updates, state, params=None, **extra_args):
        del extra_args
        plan = leaf_projections(updates, state.directions, roles)
        return project(updates, plan, state.anchors, params), state

    return optax.GradientTransformationExtraArgs(init, update)


def project(updates: PyTree, plan: list[LeafProjection], anchors: PyTree = None, params: PyTree = None) -> PyTree:
    """The projected updates.

    Args:
        updates: a tree of arrays.
        plan: its `leaf_projections`.
        anchors: those of `ProjectionState`; None to retract nothing.
        params: parameters; needed where there are anchors.

    Returns:
        Updates of the same shapes and dtypes.

    Raises:
        ValueError: anchors without parameters.
        TypeError: a projected leaf that is not real floating point.
    """
    leaves, treedef = jax.tree.flatten(updates)
    held = [None] * len(leaves) if anchors is None else treedef.flatten_up_to(anchors)
    retracted = any(anchor is not None for anchor in held)
    if retracted and params is None:
        raise ValueError("params is None; expected the parameters, since updates are retracted")
    chosen = [i for i, leaf in enumerate(plan) if _acts(leaf)]
    points = treedef.flatten_up_to(params) if retracted else held

    def run(xs, bases, held, points):
        items = zip(xs, chosen, bases, held, points, strict=True)
        return [_projected(x, plan[i]._replace(basis=u), anchor, point) for x, i, u, anchor, point in items]

    others = ([plan[i].basis for i in chosen], [held[i] for i in chosen], [points[i] for i in chosen])
    for i, image in zip(chosen, placed_as_given(run, [leaves[i] for i in chosen], *others), strict=True):
        leaves[i] = image
    return treedef.unflatten(leaves)


def prepared_directions(directions: PyTree) -> PyTree:
    """Orthonormal directions: those given where they are already, else a basis of their span.

    Args:
        directions: as in `project_updates`.

    Returns:
        The same tree, in float32 or wider.

    Raises:
        ValueError: not finite, no axis, or k > d.
        TypeError: not real floating point.
    """

    def prepare(path, u):
        u = jnp.reshape(u, (-1, 1)) if jnp.ndim(u) == 1 else u
        return checked_basis(u, "directions" + jax.tree_util.keystr(path))

    return jax.tree_util.tree_map_with_path(prepare, directions)


def leaf_projections(tree: PyTree, directions: PyTree, roles: Roles) -> list[LeafProjection]:
    """How every leaf is projected, in the order of `jax.tree.leaves`.

    Args:
        tree: parameters or updates; ``None`` and `optax.MaskedNode` hold no leaves.
        directions: as in `project_updates`, orthonormal.
        roles: as in `project_updates`.

    Returns:
        One entry per leaf.

    Raises:
        ValueError: see `project_updates`.
    """
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in found]
    bases = _leaf_by_leaf("directions", directions, tree)
    named = [roles(path) for path in paths] if callable(roles) else _leaf_by_leaf("roles", roles, tree)
    items = list(zip(paths, [jnp.shape(x) for _, x in found], bases, named, strict=True))
    missing = [path for path, shape, u, role in items if role is None and u is not None and u.shape[-2] in shape]
    if missing:
        raise ValueError(
            f"roles gives None for {missing}, which have a side as long as the directions; name their roles"
        )
    return [_leaf_projection(path, shape, u, "none" if role is None else role) for path, shape, u, role in items]


def _leaf_projection(path, shape, u, role):
    if role not in SIDES:
        raise ValueError(f"the role of {path} is {role!r}; expected one of {sorted(SIDES)}")
    left, right = SIDES[role]
    if not (left or right):
        return LeafProjection(path, None, False, False)
    if u is None:
        raise ValueError(f"the role of {path} is {role!r} and its directions are None; expected an array")
    if len(shape) == 1:
        left, right = False, True
    axes = [axis for axis, used in ((-2, left), (-1, right)) if used]
    batch = u.shape[:-2]
    wrong = not shape or any(shape[axis] != u.shape[-2] for axis in axes)
    if wrong or (batch and shape[: len(batch)] != batch) or len(shape) < len(batch) + 2 - (not batch):
        raise ValueError(
            f"{path} has shape {shape} and role {role!r}, the directions have shape {u.shape}; expected axis "
            f"{' and '.join(map(str, axes))} of the leaf to have the directions' length {u.shape[-2]}"
            + (f" and its leading axes to be {batch}" if batch else "")
        )
    # Leading axes of the directions line up with the first of the leaf's; others of the leaf lie between.
    between = (1,) * (len(shape) - 2 - len(batch)) if batch else ()
    return LeafProjection(path, u.reshape(*batch, *between, *u.shape[-2:]), left, right)


def _leaf_by_leaf(name, prefix, tree):
    """The value of a prefix for every leaf; None in the prefix stands for all leaves below."""
    values = []

    def spread(value, subtree):
        values.extend([value] * len(jax.tree.leaves(subtree)))

    try:
        jax.tree.map(spread, prefix, tree, is_leaf=lambda node: node is None)
    except ValueError as error:
        raise ValueError(f"{name} is not a prefix of the tree of parameters: {error}") from error
    return values


def _acts(leaf):
    return (leaf.left or leaf.right) and leaf.basis.shape[-1] > 0


def _anchor(x, leaf, retract):
    wide = jnp.issubdtype(jnp.result_type(x), jnp.floating) and jnp.finfo(jnp.result_type(x)).bits >= 32
    if not _acts(leaf) or retract is False or (retract == "auto" and wide):
        return None
    w = _matrix(_promoted(x, leaf))
    left = jnp.matmul(leaf.basis.mT, w, precision="highest") if leaf.left else None
    return Anchor(left, jnp.matmul(w, leaf.basis, precision="highest") if leaf.right else None)


def _projected(x, leaf, anchor, point):
    """The update of one leaf; arithmetic in float32 or wider."""
    y = _matrix(_promoted(x, leaf))
    if anchor is None:
        return _without(y, leaf, Anchor(None, None)).reshape(x.shape).astype(x.dtype)
    old = _matrix(_promoted(point, leaf))
    # Rounded as the parameter is stored, so that adding the update gives just this value.
    new = _without(old + y, leaf, anchor).astype(point.dtype).astype(old.dtype)
    return (new - old).reshape(x.shape).astype(x.dtype)


def _without(y, leaf, anchor):
    u = leaf.basis
    if leaf.left:
        excess = jnp.matmul(u.mT, y, precision="highest")
        excess = excess if anchor.left is None else excess - anchor.left
        y = y - jnp.matmul(u, excess, precision="highest")
    if leaf.right:
        excess = jnp.matmul(y, u, precision="highest")
        excess = excess if anchor.right is None else excess - anchor.right
        y = y - jnp.matmul(excess, u.mT, precision="highest")
    return y


def _promoted(x, leaf):
    return jnp.asarray(x).astype(jnp.promote_types(compute_dtype(x, leaf.path), leaf.basis.dtype))


def _matrix(x):
    return x[None] if x.ndim == 1 else x
