"""From words to rows of an embedding: vocabularies of tokenizers, whose spellings of a word are tried in turn."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from jaxspec.checks import check_choice
from jaxspec.optional import require
from jaxspec.tensor_files import read_json

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
LISTS = {"weekdays": WEEKDAYS, "months": MONTHS}
_MOST_ID = 2**31


def _byte_letters() -> list[str]:
    """The letter that byte-level tokenizers write for each byte: itself where it prints, else one from 256 on."""
    prints = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    spare = iter(range(256, 512))
    return [chr(byte) if byte in prints else chr(next(spare)) for byte in range(256)]


_BYTES = _byte_letters()
# Spellings of a word inside a sentence, then at its start: byte-level, sentencepiece, a plain blank, none.
_VARIANTS = {
    "byte-level, after a blank": lambda word: _byte_level(" " + word),
    "sentencepiece, after a blank": lambda word: "▁" + word,
    "after a blank": lambda word: " " + word,
    "as it is": lambda word: word,
    "byte-level": lambda word: _byte_level(word),
}


class Vocabulary(NamedTuple):
    """Tokens and their rows.

    Attributes:
        ids: token to row.
        path: file it was read from; None for a list of the caller's.
    """

    ids: Mapping[str, int]
    path: Path | None = None


class TokenRows(NamedTuple):
    """Rows of words.

    Attributes:
        words: as asked for.
        rows: for each word the rows of its tokens: one, or several where their mean stands for the word.
        tokens: the tokens, in the vocabulary's spelling.
        variants: how each was spelt.
    """

    words: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]
    tokens: tuple[tuple[str, ...], ...]
    variants: tuple[str, ...]


def load_vocab(path: str | PathLike[str]) -> Vocabulary:
    r"""Vocabulary of a ``tokenizer.json`` (BPE, WordPiece, WordLevel, Unigram), or of a text file with a token a line.

    Args:
        path: of the file; ``.json`` for the former.

    Returns:
        Token to row; added tokens win over those of the model.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that holds no vocabulary.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "tokens.txt")
        ...     _ = path.write_text("the\nMonday\n")
        ...     load_vocab(path).ids["Monday"]
        1
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such vocabulary: {path}")
    if path.suffix != ".json":
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no text; expected a tokenizer.json, or a token a line: {error}") from error
        return _checked({token: row for row, token in enumerate(lines)}, path)
    content = read_json(path)
    model = content.get("model") if isinstance(content, dict) else None
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, list):  # Unigram: [piece, score] by row
        if not all(isinstance(entry, list) and entry for entry in vocab):
            raise ValueError(f"{path} has a Unigram vocabulary whose entries are no pairs")
        vocab = {entry[0]: row for row, entry in enumerate(vocab)}
    if not isinstance(vocab, dict):
        raise ValueError(f"{path} has no model.vocab; expected a table of tokens or a list of pieces with scores")
    added = content.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(t, dict) and {"content", "id"} <= t.keys() for t in added):
        raise ValueError(f"{path} has added_tokens that are no list of tokens with content and id")
    return _checked(vocab | {token["content"]: token["id"] for token in added}, path)


def token_rows(vocab: Vocabulary, words: Sequence[str | int], *, multi_token: str = "error") -> TokenRows:
    """Rows of words: each the first that the vocabulary has of ``Ġword``, ``▁word``, ``" word"``, ``word``.

    Byte-level spellings are formed from the UTF-8 bytes, so that words with accents are found, too.

    Args:
        vocab: from `load_vocab`.
        words: at least one, no word twice; an integer is a row itself.
        multi_token: what to do with a word that is no single token: ``"error"``, or ``"mean"``: its tokens by the
            tokenizers package stand for it, to be averaged.

    Returns:
        The rows, with the spelling of each.

    Raises:
        ImportError: ``"mean"`` without the tokenizers package.
        KeyError: words that are no single token, all of them listed.
        ValueError: a word given twice, two words of the same row, a row outside the vocabulary, another
            ``multi_token``, or ``"mean"`` for a vocabulary that is no ``tokenizer.json``.

    Example:
        >>> token_rows(Vocabulary({"the": 0, "▁Monday": 1}), ["Monday"]).rows
        ((1,),)
    """
    check_choice("multi_token", multi_token, ("error", "mean"))
    names = tuple(map(str, words))
    if not names or len(set(names)) < len(names):
        raise ValueError(f"words is {list(words)}; expected distinct ones, at least one")
    spelt = {str(word): _spelling(vocab, word) for word in words}
    missing = [word for word, found in spelt.items() if found is None]
    if missing and multi_token == "error":
        raise KeyError(f"words has {', '.join(missing)}; expected single tokens of the vocabulary")
    spelt |= {word: _pieces(vocab, word) for word in missing}
    rows = tuple(spelt[name][0] for name in names)
    if len(set(rows)) < len(rows):
        raise ValueError(f"words has the rows {dict(zip(names, rows, strict=True))}; expected one of its own for each")
    return TokenRows(names, rows, tuple(spelt[name][1] for name in names), tuple(spelt[name][2] for name in names))


def _checked(ids: dict[Any, Any], path: Path) -> Vocabulary:
    wrong = [(token, row) for token, row in ids.items() if type(token) is not str or type(row) is not int]
    outside = [(token, row) for token, row in ids.items() if type(row) is int and not 0 <= row < _MOST_ID]
    if wrong or outside or not ids:
        raise ValueError(f"{path} has {(wrong or outside)[:3] or 'no token'}; expected tokens with rows >= 0")
    return Vocabulary(ids, path)


def _byte_level(text: str) -> str:
    return "".join(_BYTES[byte] for byte in text.encode())


def _spelling(vocab: Vocabulary, word: str | int) -> tuple[tuple[int, ...], tuple[str, ...], str] | None:
    if isinstance(word, int):
        token = next((token for token, row in vocab.ids.items() if row == word), None)
        if token is None:
            raise ValueError(f"words has {word}; expected rows of the vocabulary where they are integers")
        return (word,), (token,), "row"
    for variant, spell in _VARIANTS.items():
        if spell(word) in vocab.ids:
            return (vocab.ids[spell(word)],), (spell(word),), variant
    return None


def _pieces(vocab: Vocabulary, word: str) -> tuple[tuple[int, ...], tuple[str, ...], str]:
    tokenizers = require("tokenizers", "token_rows(multi_token='mean')", "checkpoints")
    if vocab.path is None or vocab.path.suffix != ".json":
        raise ValueError(f"multi_token is 'mean', the vocabulary from {vocab.path}; expected a tokenizer.json")
    encoding = tokenizers.Tokenizer.from_file(str(vocab.path)).encode(" " + word, add_special_tokens=False)
    if not encoding.ids:
        raise KeyError(f"words has {word!r}, which has no tokens; expected words with some")
    return tuple(encoding.ids), tuple(encoding.tokens), "mean of tokens"
