"""Words to rows: every spelling of the common tokenizers, and clear words where there is none."""

import json
import sys

import pytest

from jaxspec.peeled import load_vocab, token_rows
from jaxspec.peeled.vocabulary import Vocabulary


def saved(folder, vocab, added=(), kind="BPE"):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({"model": {"type": kind, "vocab": vocab}, "added_tokens": list(added)}))
    return path


def test_tables_lists_and_plain_files_are_read(tmp_path):
    assert load_vocab(saved(tmp_path, {"a": 0, "b": 1})).ids == {"a": 0, "b": 1}
    added = [{"id": 2, "content": "<s>"}]
    assert load_vocab(saved(tmp_path, [["▁a", -1.0], ["b", -2.5]], added)).ids == {"▁a": 0, "b": 1, "<s>": 2}
    (tmp_path / "tokens.txt").write_text("x\ny\n", encoding="utf-8")
    assert load_vocab(tmp_path / "tokens.txt").ids == {"x": 0, "y": 1}


@pytest.mark.parametrize(
    ("token", "word", "variant"),
    [
        ("ĠMonday", "Monday", "byte-level, after a blank"),
        ("▁Monday", "Monday", "sentencepiece, after a blank"),
        (" Monday", "Monday", "after a blank"),
        ("Monday", "Monday", "as it is"),
        ("ĠfÃ©vrier", "février", "byte-level, after a blank"),
        ("fÃ©vrier", "février", "byte-level"),
        ("Ġæľ±", "朱", "byte-level, after a blank"),
    ],
)
def test_each_spelling_is_found_and_named(token, word, variant):
    found = token_rows(Vocabulary({"the": 0, token: 1}), [word])
    assert found.rows == ((1,),)
    assert found.tokens == ((token,),)
    assert found.variants == (variant,)


def test_the_spelling_inside_a_sentence_comes_first():
    vocab = Vocabulary({"May": 0, " May": 1, "▁May": 2, "ĠMay": 3})
    assert token_rows(vocab, ["May"]).rows == ((3,),)


def test_rows_may_be_given_themselves():
    found = token_rows(Vocabulary({"a": 0, "b": 5}), [5, "a"])
    assert found.rows == ((5,), (0,))
    assert found.tokens == (("b",), ("a",))


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["a", "Monday", "Sunday"], KeyError, "words has Monday, Sunday"),
        (["a", "a"], ValueError, "distinct"),
        ([], ValueError, "at least one"),
        ([7], ValueError, "words has 7"),
        (["a", 0], ValueError, "expected one of its own"),
    ],
)
def test_words_without_a_row_are_named(words, error, message):
    with pytest.raises(error, match=message):
        token_rows(Vocabulary({"a": 0}), words)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "JSON"),
        ("[" * 100_000, "JSON"),
        ("[]", "model.vocab"),
        ('{"model": {"vocab": 3}}', "model.vocab"),
        ('{"model": {"vocab": [3]}}', "Unigram"),
        ('{"model": {"vocab": {"a": "0"}}}', "expected tokens with rows >= 0"),
        ('{"model": {"vocab": {"a": -1}}}', "expected tokens with rows >= 0"),
        ('{"model": {"vocab": {}}}', "no token"),
        ('{"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1}]}', "added_tokens"),
    ],
)
def test_a_tokenizer_that_holds_no_vocabulary_is_refused(tmp_path, content, message):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_vocab(path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        load_vocab(tmp_path / "absent.json")
    (tmp_path / "tokenizer.model").write_bytes(b"\x80\x81\xff")
    with pytest.raises(ValueError, match="a token a line"):
        load_vocab(tmp_path / "tokenizer.model")


def test_words_of_several_tokens_are_averaged_on_demand(tmp_path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(
        models.BPE(
            {"Ġ": 0, "M": 1, "o": 2, "n": 3, "Mo": 4, "ĠMo": 5, "ĠMon": 6},
            [
                ("M", "o"),
                ("Ġ", "Mo"),
                ("ĠMo", "n"),
            ],
        )
    )
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    vocab = load_vocab(tmp_path / "tokenizer.json")
    found = token_rows(vocab, ["Mon", "Moon"], multi_token="mean")
    assert found.rows == ((6,), (5, 2, 3))
    assert found.variants == ("byte-level, after a blank", "mean of tokens")
    with pytest.raises(KeyError, match="Moon"):
        token_rows(vocab, ["Mon", "Moon"])
    with pytest.raises(ValueError, match=r"expected a tokenizer\.json"):
        token_rows(vocab._replace(path=None), ["Moon"], multi_token="mean")
    with pytest.raises(ValueError, match="multi_token is 'sum'; expected one of"):
        token_rows(vocab, ["Mon"], multi_token="sum")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    vocab = load_vocab(saved(tmp_path, {"a": 0}))
    with pytest.raises(ImportError, match=r"tokenizers: pip install 'jaxspec-lab\[checkpoints\]'"):
        token_rows(vocab, ["Moon"], multi_token="mean")
