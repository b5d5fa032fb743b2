from __future__ import annotations

import gzip
import json
import random
import unicodedata
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from conftest import shared
from test_chat import golden, joined, render_case
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from minihmx.errors import UserError
from minihmx.models import chat
from minihmx.models.tokenizer import Tokenizer
from minihmx.records import Message, Segment

render = partial(chat.render, date="26 Jul 2024")

TINY_SPECIALS = ["<|pad|>", "<|bos|>", "<|user|>", "<|assistant|>", "<|end|>", "<|system|>"]


def toy_gemma() -> tokenizers.Tokenizer:
    """Gemma 2's layout in small: control tokens inside the vocabulary, ordinary text among the
    added tokens, byte fallback, and one merge that would spell a control token from text."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<unused{i}>" for i in range(102))]
    tokens += ["<start_of_turn>", "<end_of_turn>", "\n", "\n\n", "\n\n\n", "▁▁"]
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    letters = "abcdefghijklmnopqrstuvwxyzABCDHIYT0123456789<>_/|&.,!?+:▁"
    tokens += [*letters, "<b", "os", "os>", "us", "er", "user", "▁t", "\nu"]
    merges = [("<", "b"), ("o", "s"), ("os", ">"), ("<b", "os>"), ("u", "s"), ("e", "r")]
    merges += [("us", "er"), ("▁", "t"), ("\n", "u")]
    toy = tokenizers.Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    toy.normalizer = normalizers.Replace(" ", "▁")
    toy.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    toy.add_special_tokens([*tokens[:4], "<start_of_turn>", "<end_of_turn>"])
    ordinary = ["\n\n", "\n\n\n", "▁▁", "<table>"]  # the last one is beyond the vocabulary
    toy.add_tokens([tokenizers.AddedToken(text, normalized=False) for text in ordinary])
    assert toy.token_to_id("<end_of_turn>") == 107
    return toy


def toy_tiny() -> tokenizers.Tokenizer:
    toy = tokenizers.Tokenizer(models.BPE())
    toy.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    toy.decoder = decoders.ByteLevel()
    text = ["I want to keep the sea. Do you have feelings? <|end|><|user|> Score: 7 " * 20]
    toy.train_from_iterator(
        text,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=TINY_SPECIALS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return toy


def to_bytes(toy: tokenizers.Tokenizer) -> bytes:
    return toy.to_str().encode()


def real(name: str) -> bytes:
    return gzip.decompress(shared(f"tokenizers/{name}/tokenizer.json.gz").read_bytes())


SOURCES = {
    "qwen3": lambda: real("qwen3"),
    "llama3": lambda: real("llama3"),
    "gemma2": lambda: to_bytes(toy_gemma()),
    "tiny": lambda: to_bytes(toy_tiny()),
}


@pytest.fixture(scope="module", params=SOURCES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def raw(family: str) -> bytes:
    return SOURCES[family]()


@pytest.fixture(scope="module")
def full(raw: bytes) -> Any:
    """The library's own tokenizer, which parses control tokens in any text."""
    return tokenizers.Tokenizer.from_buffer(raw)


@pytest.fixture(scope="module")
def tokenizer(raw: bytes) -> Tokenizer:
    return Tokenizer.from_bytes(raw)


def golden_prompts(family: str) -> list[tuple[str, list[Segment]]]:
    if family == "tiny":  # the conversations are there, no template is published
        cases = golden("qwen3")
        return [
            (case["name"], render("tiny", [Message(**m) for m in case["messages"]]))
            for case in cases
        ]
    cases = [case for case in golden(family) if case["rendered"] is not None]
    return [(case["name"], render_case(family, case)) for case in cases]


def test_prompts_encode_as_the_real_tokenizer_encodes_them(
    family: str, full: Any, tokenizer: Tokenizer
) -> None:
    prompts = [p for name, p in golden_prompts(family) if name != "special_in_content"]
    assert len(prompts) >= 14
    for segments in prompts:
        expected = full.encode(joined(segments), add_special_tokens=False).ids
        assert tokenizer.encode(segments) == expected, joined(segments)


@pytest.mark.parametrize("family", ["qwen3", "llama3"], indirect=True)
def test_prompts_and_published_vectors_have_the_golden_ids(
    family: str, tokenizer: Tokenizer
) -> None:
    entries = json.loads(shared("tokenizers/golden_ids.json").read_text(encoding="utf-8"))
    entries = [entry for entry in entries if entry["tokenizer"] == family]
    vectors = [entry for entry in entries if entry["source"].startswith("llama.cpp")]
    assert len(vectors) == 47
    for entry in vectors:
        assert tokenizer.encode_text(entry["text"]) == entry["ids"], entry["text"]
        assert tokenizer.decode(entry["ids"]) == unicodedata.normalize("NFC", entry["text"])
    ids = {entry["text"]: entry["ids"] for entry in entries if entry not in vectors}
    ours = {
        joined(segments): tokenizer.encode(segments)
        for name, segments in golden_prompts(family)
        if name != "special_in_content"
    }
    assert len(ours) == len(ids) - (3 if family == "qwen3" else 2)
    assert ours.items() <= ids.items()


def test_control_tokens_in_content_stay_text(family: str, tokenizer: Tokenizer) -> None:
    control = {tokenizer.id(token) for token in tokenizer.special}
    draw = random.Random(1)
    pieces = [*sorted(tokenizer.special)[:40], "<|im_", "end|>", "<", "|", ">", "<b", "os>", "\n\n"]
    pieces += ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<think>", "Score: 10", " "]
    for _ in range(200):
        hostile = "".join(draw.choices(pieces, k=8))
        ids = tokenizer.encode_text(hostile)
        assert control.isdisjoint(ids), hostile
        assert tokenizer.decode(ids) == hostile
        # In its place the turn it tries to close stays one turn.
        quoted = tokenizer.encode(render(family, [Message("user", "A: " + hostile.strip())]))
        calm = tokenizer.encode(render(family, [Message("user", "A: x")]))
        assert [i for i in quoted if i in control] == [i for i in calm if i in control]


def test_only_markup_becomes_control_tokens(family: str, tokenizer: Tokenizer) -> None:
    for token in tokenizer.special:
        assert tokenizer.encode([Segment(token, True)]) == [tokenizer.id(token)]
        assert tokenizer.id(token) not in tokenizer.encode([Segment(token, False)])
    segments = render(family, [Message("user", "Hi")])
    assert tokenizer.decode(tokenizer.encode(segments)).count("Hi") == 1


def test_decode_leaves_out_control_tokens_and_ids_without_text(
    family: str, full: Any, tokenizer: Tokenizer
) -> None:
    hello = tokenizer.encode_text("Hello there")
    control = [tokenizer.id(token) for token in sorted(tokenizer.special)[:30]]
    untrained = [tokenizer.vocab_size, tokenizer.vocab_size + 266, 10**6]
    assert tokenizer.decode([*control, *hello, *untrained]) == "Hello there"
    assert tokenizer.decode([]) == ""
    assert tokenizer.vocab_size == full.get_vocab_size()
    assert tokenizer.family == family
    assert tokenizer.id("no such token") is None


def test_broken_utf8_becomes_replacement_characters(family: str, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_text("𒀱")
    assert tokenizer.decode(ids) == "𒀱"
    assert set(tokenizer.decode(ids[:-1])) == {"\ufffd"}


@pytest.mark.parametrize("family", ["qwen3"], indirect=True)
def test_qwen_markers_count_as_control_though_not_flagged(tokenizer: Tokenizer) -> None:
    markers = {"<think>", "</think>", "<tool_call>", "</tool_response>", "<|fim_middle|>"}
    assert markers <= tokenizer.special
    assert len(tokenizer.special) == 26
    assert tokenizer.vocab_size == 151669
    prompt = render("qwen3", [Message("user", "Hi")])
    assert tokenizer.encode(prompt)[-4:] == [151667, 271, 151668, 271]
    assert tokenizer.decode([151667, 271, 151668, 271, 9707]) == "\n\n\n\nHello"


@pytest.mark.parametrize("family", ["gemma2"], indirect=True)
def test_ordinary_added_tokens_stay_in_use(full: Any, tokenizer: Tokenizer) -> None:
    assert tokenizer.special == {
        "<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>",
    }  # fmt: skip
    for text in ("a\n\nb", "\n\n\n", "<table>x", "  t"):
        assert tokenizer.encode_text(text) == full.encode(text, add_special_tokens=False).ids
    assert tokenizer.id("<table>") == full.token_to_id("<table>")
    assert tokenizer.id("<table>") in tokenizer.encode_text("a <table>")
    bos = [tokenizer.id("<b"), tokenizer.id("os>")]
    assert tokenizer.encode_text("<bos>") == bos


def test_stories260k_reads_and_writes_the_golden_texts() -> None:
    folder = shared("weights/stories260K/hf")
    tokenizer = Tokenizer.load(folder)
    cases = json.loads(shared("weights/stories260K/golden.json").read_text(encoding="utf-8"))
    for case in [*cases["prompts"], *cases["losses"]]:
        segments = [Segment("<s>", True), Segment(case["text"], False)]
        assert tokenizer.encode(segments) == case["ids"]
        assert tokenizer.decode(case["ids"]) == case["text"]
    assert tokenizer.decode(cases["greedy"]["ids"]) == cases["greedy"]["text"]
    assert tokenizer.special == {"<unk>", "<s>", "</s>"}
    with pytest.raises(UserError, match="base model"):
        _ = tokenizer.family


def test_truncation_padding_and_post_processing_are_off() -> None:
    toy = toy_tiny()
    toy.enable_truncation(2)
    toy.enable_padding(length=50)
    toy.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", 1)]
    )
    text = "Do you have feelings?"
    ids = Tokenizer.from_bytes(to_bytes(toy)).encode_text(text)
    assert ids == Tokenizer.from_bytes(to_bytes(toy_tiny())).encode_text(text)
    assert len(ids) > 2


def test_a_tokenizer_without_added_tokens_is_plain_text_only() -> None:
    file = json.loads(to_bytes(toy_tiny()))
    file["added_tokens"] = []
    tokenizer = Tokenizer.from_bytes(json.dumps(file).encode())
    markup = [Segment("<|end|> Score", True)]
    assert tokenizer.decode(tokenizer.encode(markup)) == "<|end|> Score"
    assert tokenizer.special == frozenset()


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as refused:
        Tokenizer.load(folder)
    message = str(refused.value)
    assert "\n" not in message and str(folder) in message
    return message


def test_a_missing_or_damaged_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    assert "holds no tokenizer.json, " in refusal(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a")
    assert "no tokenizer.json (only tokenizer.model)" in refusal(tmp_path)
    whole = to_bytes(toy_tiny())
    damaged = [whole[: len(whole) // 2], b"", b"[]", b"{}", b"\xff\xfe", b'{"model": {}}']
    damaged.append(whole.replace(b'"ByteLevel"', b'"NoSuchLevel"'))
    for content in damaged:
        (tmp_path / "tokenizer.json").write_bytes(content)
        assert "download the file again" in refusal(tmp_path), content[:40]


def test_another_kind_of_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    other = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    (tmp_path / "tokenizer.json").write_bytes(to_bytes(other))
    assert "WordLevel" in refusal(tmp_path)
