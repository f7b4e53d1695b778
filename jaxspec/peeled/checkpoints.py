"""The output embedding in a checkpoint of a language model.

Reference: names of the common families; the files are read by `jaxspec.tensor_files`.
"""

from typing import NamedTuple

from jaxspec.tensor_files import Pathish, TensorInfo, list_tensors

# Output embeddings before input embeddings: the latter stand for tied weights.
_UNTIED = ("lm_head.weight", "embed_out.weight", "output.weight")
_TIED = ("model.embed_tokens.weight", "transformer.wte.weight", "wte.weight", "gpt_neox.embed_in.weight")


class Unembedding(NamedTuple):
    """The matrix whose rows are the tokens of the output.

    Attributes:
        tensor: where it lies.
        tied: whether it is the input embedding, for want of one of the output.
    """

    tensor: TensorInfo
    tied: bool


def find_unembedding(path: Pathish) -> Unembedding:
    """The output embedding of a language model, by the names of the common families.

    In this order: ``lm_head.weight``, ``embed_out.weight``, ``output.weight``; then, as tied weights,
    ``model.embed_tokens.weight``, ``transformer.wte.weight``, ``wte.weight``, ``gpt_neox.embed_in.weight``.

    Args:
        path: as in `list_tensors`.

    Returns:
        Where it lies, and whether it is the input embedding.

    Raises:
        FileNotFoundError: as in `list_tensors`.
        KeyError: none of these names is there; the matrices of the checkpoint are listed.
        ValueError: as in `list_tensors`, or a tensor of that name that is no matrix.
    """
    tensors = list_tensors(path)
    for name in (*_UNTIED, *_TIED):
        if name in tensors:
            if len(tensors[name].shape) != 2:
                raise ValueError(f"{name} of {path} has shape {tensors[name].shape}; expected a matrix")
            return Unembedding(tensors[name], name in _TIED)
    matrices = [f"{t.name} {t.shape}" for t in tensors.values() if len(t.shape) == 2]
    shown = ", ".join(matrices[:20]) + (", ..." if len(matrices) > 20 else "")
    raise KeyError(f"{path} has no output embedding of a known name; name one of its matrices: {shown or 'none'}")
