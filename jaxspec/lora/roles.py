r"""What a module does to the residual stream: it writes into it, reads from it, both, or neither.

With ``W`` (out, in), ``y = W h``: a module that *writes* has the stream's width as ``out``, one that *reads* has it as
``in``. The role is read off the module's name, never off the shape: attention projections are often square. A table of
embeddings (V, d) is the transpose of a writer, whose factor ``b`` (d, r) writes like any other.
"""

import re
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from jaxspec.lora.directions import orthonormal_directions
from jaxspec.lora.layouts import Layout, find_modules, kernel_layout, module_path

ROLES = ("writes", "reads", "both", "none")
# What a role means for the two factors of delta W = b a.
_FACTORS = {
    "writes": {"a": "none", "b": "writes"},
    "reads": {"a": "reads", "b": "none"},
    "both": {"a": "reads", "b": "writes"},
    "none": {"a": "none", "b": "none"},
}
_TRANSPOSED = {"writes": "reads", "reads": "writes", "both": "both", "none": "none"}
Roles = Mapping[str, str] | Callable[[str], str | None] | Sequence[tuple[str, str]]


def _last(*names):
    """A pattern for modules whose last parts are one of these, and for their weights."""
    return rf"(^|\.)({'|'.join(names)})(\.(weight|kernel|embedding))?$"


_ATTENTION = r"(self_attention|self_attn|attention|attn|SelfAttention)"
_MLP = r"(\w*mlp\w*|\w*Mlp\w*|MLP\w*|ffn|feed_forward|FeedForward\w*)"

# The first pattern that is found in the path decides. Names of llama, qwen, mistral, mixtral, gemma, phi, gpt2, gpt-j,
# gpt-neox, falcon, bloom, opt, bart, bert, t5, deepseek, mpt, the original llama, gemma in flax; flax, equinox layers.
DEFAULT_ROLES = (
    (_last(r"q_b_proj", r"kv_b_proj", r"\w*[nN]orm\w*", r"ln(_\w+)?"), "none"),
    (_last(rf"{_ATTENTION}\.dense", r"output\.dense", rf"{_MLP}\.Dense_1"), "writes"),
    (_last(r"intermediate\.dense", r"pooler\.dense", rf"{_MLP}\.Dense_0"), "reads"),
    (_last(r"(q|k|v|qkv|query|key|value)(_proj|_lin)?", r"query_key_value", r"c_attn", r"q_attn", r"Wqkv"), "reads"),
    (_last(r"w[qkv]", r"q_a_proj", r"kv_a_proj_with_mqa", r"in_proj", r"(q|kv|qkv|gating)_einsum"), "reads"),
    (_last(r"(gate|up|gate_up)(_proj)?", r"w1", r"w3", r"wi(_\d+)?", r"Wi", r"c_fc", r"fc1", r"fc_in"), "reads"),
    (_last(r"router", r"shared_expert_gate", r"score", r"classifier"), "reads"),
    (_last(r"dense_h_to_4h", r"lin1", r"linear1", r"linear_in", r"lm_head", r"embed_out", r"unembed"), "reads"),
    (_last(r"(o|out|output)(_proj|_lin)?", r"wo", r"Wo", r"attn_vec_einsum", r"c_proj"), "writes"),
    (_last(r"down(_proj)?", r"w2", r"fc2", r"fc_out", r"dense_4h_to_h", r"lin2", r"linear2", r"linear_out"), "writes"),
    (_last(r"wte", r"wpe", r"shared", r"embed", r"embed_in", r"embed_tokens", r"embed_positions"), "writes"),
    (_last(r"embeddings?", r"\w+_embeddings?", r"Embed_\d+"), "writes"),
)


def roles_from_path(path: str, table: Sequence[tuple[str, str]] = DEFAULT_ROLES) -> str | None:
    """Role of a module by its name.

    Args:
        path: of the module or of its parameter, parts joined by ``.`` or ``/``.
        table: pairs of a regular expression and a role; the first expression that is found in the path, its parts
            joined by dots, decides.

    Returns:
        ``"writes"``, ``"reads"``, ``"both"``, ``"none"``, or None where no expression is found.

    Example:
        >>> roles_from_path("model.layers.3.mlp.down_proj"), roles_from_path("h/0/attn/c_attn/kernel")
        ('writes', 'reads')
        >>> roles_from_path("my.own.layer") is None
        True
    """
    dotted = path.replace("/", ".")
    return next((role for pattern, role in table if re.search(pattern, dotted)), None)


def role_of(roles: Roles, path: str, default_role: str | None = None) -> str | None:
    """The role of a path, else ``default_role``; None if unknown.

    Args:
        roles: a mapping, a function of the path, or a table as `DEFAULT_ROLES`.
        path: of a matrix.
        default_role: where ``roles`` has none.

    Returns:
        The role.

    Raises:
        ValueError: another name than writes, reads, both, none.
    """
    if callable(roles):
        role = roles(path)
    else:
        role = roles.get(path) if isinstance(roles, Mapping) else roles_from_path(path, roles)
    role = default_role if role is None else role
    if role is not None and role not in ROLES:
        raise ValueError(f"the role of {path} is {role!r}; expected one of {ROLES}")
    return role


def resolve_roles(
    paths: Sequence[str], roles: Roles = DEFAULT_ROLES, *, default_role: str | None = None
) -> dict[str, str]:
    """The role of every path.

    Args:
        paths: of modules.
        roles: a mapping from paths to roles, a function of the path that may return None, or pairs as in
            `roles_from_path`.
        default_role: for paths without a role.

    Returns:
        Path to role.

    Raises:
        ValueError: no role for some paths (all of them are listed), or a role that does not exist.

    Example:
        >>> resolve_roles(["mlp.up", "mlp.down", "gadget"], default_role="none")
        {'mlp.up': 'reads', 'mlp.down': 'writes', 'gadget': 'none'}
    """
    found = {path: role_of(roles, path, default_role) for path in paths}
    missing = [path for path, role in found.items() if role is None]
    if missing:
        raise ValueError(f"roles has none for {', '.join(missing)}; name one of {ROLES} for each, or a default_role")
    return found


def factor_roles(
    adapter: Mapping[str, Mapping[str, ArrayLike]],
    roles: Roles = DEFAULT_ROLES,
    *,
    default_role: str | None = None,
) -> dict[str, dict[str, str]]:
    """Roles of the factors of an adapter, for `jaxspec.optim.grasp` and `jaxspec.optim.project_updates`.

    The update of a writer is projected through ``b``, that of a reader through ``a``.

    Args:
        adapter: ``{path: {"a": ..., "b": ...}}``.
        roles: of the modules, as in `resolve_roles`.
        default_role: for modules without a role.

    Returns:
        ``{path: {"a": "reads" or "none", "b": "writes" or "none"}}``.

    Raises:
        ValueError: as in `resolve_roles`.

    Example:
        >>> factor_roles({"mlp.down": {"a": 0, "b": 0}})
        {'mlp.down': {'a': 'none', 'b': 'writes'}}
    """
    found = resolve_roles(list(adapter), roles, default_role=default_role)
    return {path: {name: _FACTORS[found[path]].get(name, "none") for name in adapter[path]} for path in adapter}


def weight_roles(
    params: PyTree,
    roles: Roles = DEFAULT_ROLES,
    *,
    layout: Layout = kernel_layout,
    default_role: str | None = None,
) -> PyTree:
    """Which axis of every full parameter is the stream, for `jaxspec.optim.grasp` and `jaxspec.optim.project_updates`.

    There ``"writes"`` means axis -2 and ``"reads"`` axis -1, which is what the words say in ``out_in`` layout; kernels
    (in, out), embedding tables among them, get the other word. A writer's bias is projected on its last axis; other
    parameters with one axis are left alone.

    Args:
        params: full parameters.
        roles: of the modules, as in `resolve_roles`.
        layout: of all parameters, by module, or a function of path and shape like `kernel_layout`, which names them.
        default_role: for modules without a role.

    Returns:
        The tree of ``params`` with a role for every leaf.

    Raises:
        ValueError: as in `resolve_roles`, or a reader in layout ``in_heads``, whose stream is on axis -3.

    Example:
        >>> import jax.numpy as jnp
        >>> weight_roles({"down": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}})
        {'down': {'bias': 'reads', 'kernel': 'reads'}}
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
    modules = find_modules(params, layout)
    placed = {index: (module, chosen) for module, found in modules.items() for index, _, chosen in found}
    biases = {}
    for index, (path, _) in enumerate(leaves):
        module, _, last = module_path(path).rpartition(".")
        if last == "bias":
            biases[index] = module
    wanted = list(dict.fromkeys(module for module, _ in placed.values()))
    found = resolve_roles(wanted, roles, default_role=default_role)
    bias_roles = resolve_roles(list(biases.values()), roles, default_role=default_role or "none")
    chosen = ["none"] * len(leaves)
    for index, module in biases.items():
        chosen[index] = "reads" if bias_roles[module] in ("writes", "both") else "none"
    for index, (module, how) in placed.items():
        chosen[index] = _axis_role(module, found[module], how)
    return treedef.unflatten(chosen)


def fold_norm(
    directions: ArrayLike, gain: Float[Array, " width"] | None = None, *, centred: bool = False
) -> Float[Array, "d k"]:
    r"""Directions as a reader behind a normalisation sees them.

    Behind RMSNorm with gain ``g`` a reader sees ``g * h`` up to scale, so that it does not read ``U`` if its rows are
    orthogonal to ``span(diag(g) U)``; behind LayerNorm, which subtracts the mean first, to ``span(diag(g) (I - 11^T/d)
    U)``.

    Args:
        directions: columns (d, k), or one (d,).
        gain: of the normalisation (where a model stores ``gain - 1``, as gemma does, add the 1); None: all ones.
        centred: whether it subtracts the mean: LayerNorm.

    Returns:
        Orthonormal columns. What the normalisation removes altogether is dropped, with a warning.

    Raises:
        ValueError: shapes that do not fit, or numbers that are not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> fold_norm(jnp.array([0.6, 0.8]), jnp.array([4.0, 3.0]))
        Array([[0.7071],
               [0.7071]], dtype=float32)
    """
    u = orthonormal_directions(directions)
    if centred:
        u = u - jnp.mean(u, axis=0)
    if gain is not None:
        if gain.shape != u.shape[:1]:
            raise ValueError(f"gain has shape {gain.shape}; expected {u.shape[:1]}, the width of directions")
        u = gain.astype(jnp.promote_types(u.dtype, gain.dtype))[:, None] * u
    # A direction that the mean alone made is rounding, not a direction.
    small = jnp.linalg.norm(u, axis=0) <= 100 * jnp.finfo(u.dtype).eps * (1 if gain is None else jnp.max(jnp.abs(gain)))
    return orthonormal_directions(jnp.where(small, 0, u), name="folded directions")


def _axis_role(module, role, layout):
    if layout == "out_in" or role == "none":
        return role
    if "heads" in layout and (layout, role) != ("heads_out", "writes"):
        raise ValueError(f"{module} {role} in layout {layout!r}, not on one of the last two axes; reshape its kernel")
    return _TRANSPOSED[role]
