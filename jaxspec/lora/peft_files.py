"""Adapters in the files of PEFT, read and written without torch.

A folder holds ``adapter_model.safetensors`` and ``adapter_config.json``. Keys are
``base_model.model.<module>.lora_A.weight`` (r, in), ``.lora_B.weight`` (out, r); for tables of embeddings
``.lora_embedding_A`` (r, V), ``.lora_embedding_B`` (d, r), which are the factors of the transposed table. The scale of
a module is ``alpha / r`` or, with ``use_rslora``, ``alpha / sqrt(r)``, r being that of its factors. ``fan_in_fan_out``
says how the base model stores its weight and changes neither factor. Files are untrusted: nothing is executed, shapes
and sizes must agree, and a pattern that could take for ever is refused.
"""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import dtypes
from jaxtyping import Array

from jaxspec.lora.adapters import Adapter, Scale, checked_factors, scale_of
from jaxspec.lora.config import LoraConfig
from jaxspec.lora.layouts import is_embedding
from jaxspec.tensor_files import Pathish, TensorInfo, list_tensors, read_json, replacing, rows_of, write_tensors

_TENSORS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_MAX_HEADER = 16_000_000  # bytes; about 100 000 tensors
_MOST_CONFIG = 4_000_000  # bytes
_MOST_MATCHES = 10_000_000  # of a module with a pattern; about a microsecond each
_KEY = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\."
    r"(?P<kind>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(?:\.default)?(?:\.weight)?"
)
_PARTS = {"lora_A": "a", "lora_embedding_A": "a", "lora_B": "b", "lora_embedding_B": "b"}
# Fields of LoraConfig here; the others travel in `PeftAdapter.settings`.
_OURS = ("peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out")
# What changes the formula W + s B A in another way than DoRA.
_REFUSED = ("lora_bias", "use_qalora", "use_bdlora", "kasa_config", "arrow_config", "monteclora_config")
# Initialisations after which the base weights are not the published ones.
_RESIDUAL = ("pissa", "olora", "corda", "loftq", "lora_ga")


class PeftAdapter(NamedTuple):
    """An adapter as PEFT stores it.

    Attributes:
        factors: ``{module: {"a": (r, in), "b": (out, r)}}`` in the dtypes of the file; a DoRA adapter has a
            ``"magnitude"`` (out,) beside them, and can be inspected but neither merged nor cut.
        scales: module to ``s``.
        config: rank, alpha and patterns.
        settings: the other fields of ``adapter_config.json``.
        embeddings: modules whose factors are of a transposed table of embeddings.
        notes: what a reader of the numbers should know, in words.
    """

    factors: dict[str, dict[str, Array]]
    scales: dict[str, float]
    config: LoraConfig
    settings: dict[str, Any]
    embeddings: frozenset[str]
    notes: tuple[str, ...]


def load_peft(path: Pathish) -> PeftAdapter:
    """An adapter from a folder that PEFT wrote.

    Args:
        path: of the folder with ``adapter_model.safetensors`` and ``adapter_config.json``.

    Returns:
        Its factors, in the dtypes of the file (float64 as float32 unless JAX computes in double precision), and scales.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: another method than LoRA, a variant whose weight is not ``W + s B A`` (DoRA is read, and refused
            when merged), headers that cannot be true, truncated files, dtypes that are no floating point, a factor
            without its partner, ranks that differ between the two factors or from the configuration, entries that are
            not finite, or a configuration that does not say what it must.

    Example:
        >>> import tempfile, jax.numpy as jnp
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     adapter = {"layers.0.mlp.down_proj": {"a": jnp.ones((2, 6)), "b": jnp.ones((4, 2))}}
        ...     save_peft(folder, adapter, LoraConfig(rank=2, alpha=8.0))
        ...     load_peft(folder).scales
        {'layers.0.mlp.down_proj': 4.0}
    """
    folder = Path(path)
    for name in (_CONFIG, _TENSORS):
        if not (folder / name).is_file():
            inside = sorted(entry.name for entry in folder.iterdir())[:20] if folder.is_dir() else []
            pickle = "adapter_model.bin" in inside
            reason = "; adapter_model.bin is a PyTorch pickle, which can run code: convert it first" if pickle else ""
            raise FileNotFoundError(f"{folder} has no {name}, found {', '.join(inside) or 'nothing'}{reason}")
    fields = read_json(folder / _CONFIG, most=_MOST_CONFIG)
    found, others = _grouped(list_tensors(folder / _TENSORS, max_header=_MAX_HEADER))
    config, notes = _config(fields, folder / _CONFIG, len(found))
    if not found:
        raise ValueError(
            f"{folder / _TENSORS} holds no factors of LoRA; it has {', '.join(others[:5]) or 'no tensors'}"
        )
    if others:
        notes.append(f"{len(others)} tensors that are no factors were left: {', '.join(others[:5])}")
    factors = {module: _leaf(module, parts, config) for module, parts in found.items()}
    return PeftAdapter(
        factors,
        {module: config.scaling_of(module, leaf["a"].shape[-2]) for module, leaf in factors.items()},
        config,
        {name: value for name, value in fields.items() if name not in _OURS},
        frozenset(module for module, parts in found.items() if "lora_embedding_A" in parts),
        tuple(notes),
    )


def save_peft(
    path: Pathish,
    adapter: Adapter,
    config: LoraConfig,
    *,
    scale: Scale | None = None,
    settings: Mapping[str, Any] | None = None,
    embeddings: Collection[str] | None = None,
) -> None:
    """Write an adapter as PEFT does, so that it loads there.

    Each file is replaced whole or not at all. Ranks and scales that the patterns of ``config`` do not give are written
    as patterns for single modules. Stacked layers are to be taken apart first by `split_layers`.

    Args:
        path: of the folder, which is made if it is missing.
        adapter: ``{module: {"a": (r, in), "b": (out, r)}}``.
        config: rank and alpha; its ``dtype`` and ``targets`` are not used, the factors say both.
        scale: a number or a mapping from modules to numbers; None: what ``config`` says.
        settings: other fields of ``adapter_config.json``, such as ``base_model_name_or_path``, ``task_type``, or those
            of a `PeftAdapter`.
        embeddings: modules that are tables of embeddings; None: by their names.

    Raises:
        ValueError: no module, factors that do not fit or are not finite, or stacked layers.
        TypeError: a dtype that the format lacks.
        OSError: the folder cannot be written.
    """
    folder = Path(path)
    if not adapter:
        raise ValueError("adapter is empty; expected a mapping from modules to factors")
    tables = frozenset(filter(is_embedding, adapter)) if embeddings is None else frozenset(embeddings)
    tensors, ranks, alphas = {}, {}, {}
    for module, leaf in adapter.items():
        a, b = checked_factors(module, leaf, dora=True)
        if a.ndim != 2:
            raise ValueError(f"{module} has a of shape {a.shape}; PEFT stores one module per layer: split_layers")
        prefix = f"base_model.model.{module}.lora_"
        names = ("embedding_A", "embedding_B") if module in tables else ("A.weight", "B.weight")
        tensors |= {prefix + names[0]: a, prefix + names[1]: b}
        if "magnitude" in leaf:
            tensors[prefix + "magnitude_vector"] = leaf["magnitude"]
        rank = a.shape[0]
        if rank != config.rank_of(module):
            ranks[f"^{re.escape(module)}"] = rank
        wanted = config.scaling_of(module, rank) if scale is None else float(scale_of(scale, module))
        if wanted != config.scaling_of(module, rank):
            alphas[f"^{re.escape(module)}"] = wanted * (rank**0.5 if config.rslora else rank)
    fields = {
        **_DEFAULTS,
        **(settings or {}),
        "peft_type": "LORA",
        "r": config.rank,
        "lora_alpha": config.alpha,
        "use_rslora": config.rslora,
        "use_dora": any("magnitude" in leaf for leaf in adapter.values()),
        "fan_in_fan_out": config.fan_in_fan_out,
        "target_modules": sorted(adapter),
        # The first pattern that matches decides: those of single modules go before.
        "rank_pattern": ranks | dict(config.rank_pattern),
        "alpha_pattern": alphas | dict(config.alpha_pattern),
    }
    text = json.dumps(fields, indent=2, sort_keys=True).encode()
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / _TENSORS, tensors, {"format": "pt"})
    with replacing(folder / _CONFIG) as file:
        file.write(text)


_DEFAULTS = {
    "base_model_name_or_path": None,
    "bias": "none",
    "inference_mode": True,
    "lora_dropout": 0.0,
    "modules_to_save": None,
    "task_type": None,
}


def _config(fields, path, modules):
    """`LoraConfig` and notes from the fields of an untrusted file, beside tensors of so many modules."""
    if not isinstance(fields, dict):
        raise ValueError(f"{path} holds a {type(fields).__name__}; expected a table of settings")
    method = fields.get("peft_type")
    if method != "LORA":
        raise ValueError(f"{path} has peft_type {str(method)[:100]!r}; only 'LORA' is read")
    for name in _REFUSED:
        if fields.get(name):
            raise ValueError(f"{path} has {name} set, whose weight is not W + s B A; it is not read")
    if fields.get("target_parameters"):
        raise ValueError(f"{path} has target_parameters, factors of whole parameters; only those of modules are read")
    ranks = _patterns(fields, "rank_pattern", path, int)
    alphas = _patterns(fields, "alpha_pattern", path, (int, float))
    patterns = len(ranks) + len(alphas)
    if patterns * modules > _MOST_MATCHES:  # before any is compiled
        raise ValueError(f"{path} has {patterns} patterns for {modules} modules, too many to be matched")
    config = LoraConfig(
        rank=_number(fields, "r", path, int),
        alpha=float(_number(fields, "lora_alpha", path, (int, float))),
        rslora=bool(fields.get("use_rslora", False)),
        targets=_targets(fields.get("target_modules")),
        rank_pattern=ranks,
        alpha_pattern=alphas,
        fan_in_fan_out=bool(fields.get("fan_in_fan_out", False)),
    )
    notes = []
    if fields.get("use_dora"):
        notes.append("use_dora: the factors are those of a DoRA adapter, whose weight is not W + s B A")
    start = str(fields.get("init_lora_weights", "")).lower()
    if start.startswith(_RESIDUAL):
        notes.append(
            f"init_lora_weights is {start[:50]!r}: the base weights it belongs to may not be the published ones"
        )
    for name in ("layer_replication", "alora_invocation_tokens", "trainable_token_indices", "modules_to_save"):
        if fields.get(name):
            notes.append(f"{name} is set: the adapter changes more than its factors say")
    if fields.get("bias", "none") != "none":
        notes.append("bias is not 'none': the adapter changes biases too")
    return config, notes


def _number(fields, name, path, kinds):
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise ValueError(f"{path} has {str(value)[:100]!r} as {name}; expected a number")
    return value


def _patterns(fields, name, path, kinds):
    patterns = fields.get(name) or {}
    if not isinstance(patterns, dict):
        raise ValueError(f"{path} has {str(patterns)[:100]!r} as {name}; expected a table")
    return {_tame(pattern, name, path): _number(patterns, pattern, path, kinds) for pattern in patterns}


def _tame(pattern, name, path):
    """A pattern of an untrusted file whose search takes a time that is polynomial of a low degree."""
    bare = re.sub(r"\\.", "", pattern)
    repeats = len(re.findall(r"[*+]|\{\d*,", bare))
    if len(pattern) > 500 or repeats > 3 or re.search(r"\)[*+{]|\(\?[^:]", bare):
        raise ValueError(f"{path} has a pattern in {name} that is too involved to be matched safely: {pattern[:100]!r}")
    return pattern


def _targets(modules):
    """Names, exact or last parts, as one expression; a text is used for nothing but a look-up by the user."""
    if isinstance(modules, list) and all(isinstance(module, str) for module in modules):
        return "|".join(map(re.escape, modules))
    return re.escape(modules) if isinstance(modules, str) else ""


def _grouped(tensors):
    found: dict[str, dict[str, TensorInfo]] = {}
    others = []
    for name, tensor in tensors.items():
        match = _KEY.fullmatch(name)
        if match is None or len(name) > 1000:
            others.append(name)
            continue
        parts = found.setdefault(match["module"], {})
        if match["kind"] in parts:
            raise ValueError(f"{match['module']} has {match['kind']} twice: {parts[match['kind']].name} and {name}")
        parts[match["kind"]] = tensor
    return found, others


def _leaf(module, parts, config):
    for first, second in (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B")):
        if (first in parts) != (second in parts):
            there, missing = (first, second) if first in parts else (second, first)
            raise ValueError(f"{module} has {there} and no {missing}")
    kinds = [kind for kind in parts if kind in _PARTS]
    if len(kinds) != 2:
        raise ValueError(f"{module} has {', '.join(parts)}; expected one pair of factors")
    shapes = {_PARTS[kind]: parts[kind].shape for kind in kinds}
    if any(len(shape) != 2 for shape in shapes.values()):
        raise ValueError(f"{module} has factors of shapes {shapes['a']} and {shapes['b']}; only matrices are read")
    rank = shapes["a"][0]
    if rank != shapes["b"][1] or rank == 0:
        raise ValueError(
            f"{module} has a of shape {shapes['a']} and b of shape {shapes['b']}; their ranks differ or are 0"
        )
    if rank != config.rank_of(module):
        raise ValueError(f"{module} has rank {rank}; the configuration says {config.rank_of(module)}")
    leaf = {_PARTS[kind]: _array(parts[kind], module) for kind in sorted(kinds)}
    if "lora_magnitude_vector" in parts:
        leaf["magnitude"] = _array(parts["lora_magnitude_vector"], module)
    return leaf


def _array(tensor, module):
    values = rows_of(tensor)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(f"{tensor.name} has dtype {tensor.dtype}; expected floating point")
    if not np.isfinite(values).all():
        raise ValueError(f"{module} has entries in {tensor.name} that are not finite; expected finite ones")
    return jnp.asarray(values.astype(dtypes.canonicalize_dtype(values.dtype), copy=False))
