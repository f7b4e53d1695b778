"""Low-rank adapters: made, read, applied, and kept from relying on given directions of the residual stream."""

from jaxspec.lora.adapters import AdaptedMatrix, apply, delta, init, merge, unmerge
from jaxspec.lora.baselines import image_directions, project_delta, scale_delta, truncate_delta
from jaxspec.lora.config import LoraConfig
from jaxspec.lora.conversions import from_nnx_lora, join_layers, split_layers
from jaxspec.lora.diagnostics import Reliance, Tradeoff, reliance, tradeoff
from jaxspec.lora.directions import orthonormal_directions
from jaxspec.lora.evidence import Evidence, PreExistence, pre_existence
from jaxspec.lora.hooks import ablate, block_cotangent, block_hook, caft_hook, preventative_hook, steer
from jaxspec.lora.identify import FactorReport, identify_factors
from jaxspec.lora.layouts import base_weights, kernel_layout, module_path
from jaxspec.lora.peft_files import PeftAdapter, load_peft, save_peft
from jaxspec.lora.penalty import stream_penalty
from jaxspec.lora.roles import DEFAULT_ROLES, factor_roles, fold_norm, resolve_roles, roles_from_path, weight_roles

__all__ = [
    "DEFAULT_ROLES",
    "AdaptedMatrix",
    "Evidence",
    "FactorReport",
    "LoraConfig",
    "PeftAdapter",
    "PreExistence",
    "Reliance",
    "Tradeoff",
    "ablate",
    "apply",
    "base_weights",
    "block_cotangent",
    "block_hook",
    "caft_hook",
    "delta",
    "factor_roles",
    "fold_norm",
    "from_nnx_lora",
    "identify_factors",
    "image_directions",
    "init",
    "join_layers",
    "kernel_layout",
    "load_peft",
    "merge",
    "module_path",
    "orthonormal_directions",
    "pre_existence",
    "preventative_hook",
    "project_delta",
    "reliance",
    "resolve_roles",
    "roles_from_path",
    "save_peft",
    "scale_delta",
    "split_layers",
    "steer",
    "stream_penalty",
    "tradeoff",
    "truncate_delta",
    "unmerge",
    "weight_roles",
]
