"""Loading: every good spelling loads, every bad checkpoint is one sentence that names the place."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import shared
from safetensors.torch import load_file, save_file

from minihmx.errors import UserError
from minihmx.models.decoder import Decoder
from minihmx.models.folder import INDEX, folder_digest, read_config, weight_files
from minihmx.models.weights import load

FAMILIES = ("llama", "qwen3", "gemma2")
SMALL: dict[str, Any] = dict(
    model_type="llama",
    vocab_size=11,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=4,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    max_position_embeddings=64,
    tie_word_embeddings=True,
    eos_token_id=2,
    torch_dtype="float32",
)

GEMMA: dict[str, Any] = dict(model_type="gemma2", hidden_activation="gelu_pytorch_tanh")


def tensors(*, head: bool = False) -> dict[str, torch.Tensor]:
    """Random weights for SMALL; `head` adds an lm_head of its own."""
    shapes = {"model.embed_tokens.weight": (11, 8), "model.norm.weight": (8,)}
    for layer in range(2):
        inner = {
            "self_attn.q_proj": (8, 8),
            "self_attn.k_proj": (4, 8),
            "self_attn.v_proj": (4, 8),
            "self_attn.o_proj": (8, 8),
            "mlp.gate_proj": (12, 8),
            "mlp.up_proj": (12, 8),
            "mlp.down_proj": (8, 12),
            "input_layernorm": (8,),
            "post_attention_layernorm": (8,),
        }
        shapes |= {f"model.layers.{layer}.{name}.weight": size for name, size in inner.items()}
    if head:
        shapes["lm_head.weight"] = (11, 8)
    stream = torch.Generator().manual_seed(1)
    return {name: torch.randn(size, generator=stream) for name, size in shapes.items()}


def write(
    folder: Path, weights: dict[str, torch.Tensor] | None = None, shards: int = 1, **changes: Any
) -> Path:
    """A checkpoint of SMALL with some config keys changed (None removes one)."""
    weights = tensors() if weights is None else weights
    config = {key: value for key, value in {**SMALL, **changes}.items() if value is not None}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    where = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(weights.items())[shard::shards])
        save_file(part, folder / name, metadata={"format": "pt"})
        where |= dict.fromkeys(part, name)
    (folder / INDEX).write_text(json.dumps({"weight_map": where}))
    return folder


def logits(folder: Path) -> torch.Tensor:
    decoder = load(folder, torch.float32, "cpu")
    with torch.no_grad():
        return decoder.logits(decoder(torch.tensor([[1, 5, 3, 7]])))


def refused(folder: Path, *words: str, dtype: torch.dtype = torch.float32) -> str:
    """The one sentence with which loading is refused; it holds all the words."""
    with pytest.raises(UserError) as caught:
        load(folder, dtype, "cpu")
    message = str(caught.value)
    for word in words:
        assert word in message, message
    assert "\n" not in message
    return message


def test_single_and_sharded_files_give_the_same_model(tmp_path: Path) -> None:
    single, sharded = write(tmp_path / "a"), write(tmp_path / "b", shards=3)
    assert torch.equal(logits(single), logits(sharded))
    assert len(weight_files(sharded)) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_golden_checkpoints_load_whole(family: str) -> None:
    folder = shared(f"golden_models/{family}")
    decoder = load(folder, torch.float32, "cpu")
    stored = {}
    for path in weight_files(folder):
        stored |= load_file(path)
    state = decoder.state_dict()
    if family != "qwen3":  # the tied ones
        assert decoder.lm_head.weight is decoder.model.embed_tokens.weight
        del state["lm_head.weight"]
    assert state.keys() == stored.keys()
    assert all(torch.equal(state[name], stored[name]) for name in stored)


def test_stories260k_is_one_file() -> None:
    folder = shared("weights/stories260K/hf")
    assert sum(p.numel() for p in load(folder, torch.float32, "cpu").parameters()) == 260032


def test_a_loaded_model_is_frozen_in_eval_mode_and_owns_its_memory(tmp_path: Path) -> None:
    folder = write(tmp_path)
    decoder = load(folder, torch.float32, torch.device("cpu"))
    assert not decoder.training
    assert all(not p.requires_grad and not p.is_meta for p in decoder.parameters())
    before = decoder.model.norm.weight.clone()
    path = folder / "model.safetensors"
    with path.open("r+b") as file:  # in place, as a mapped file would show it
        file.seek(8 + struct.unpack("<Q", file.read(8))[0])
        file.write(b"\0" * (path.stat().st_size - file.tell()))
    assert torch.equal(decoder.model.norm.weight, before)


PEAKS = """
import re, sys, torch
from pathlib import Path
from minihmx.models.weights import load
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
load(Path(sys.argv[1]), torch.float32, "cpu")  # what the libraries take
before = peak()
load(Path(sys.argv[2]), torch.float32, "cpu")
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_a_model_is_never_in_memory_twice(tmp_path: Path) -> None:
    """What the library has mapped of the file counts as well, until it is closed."""
    for name, layers in {"few": 2, "many": 64}.items():
        (tmp_path / name).mkdir()
        larger = dict(num_hidden_layers=layers, hidden_size=256, intermediate_size=1024)
        (tmp_path / name / "config.json").write_text(json.dumps(SMALL | larger))
        with torch.device("meta"):
            shapes = Decoder(read_config(tmp_path / name)).state_dict()
        del shapes["lm_head.weight"]
        zeros = {key: torch.zeros(tensor.shape) for key, tensor in shapes.items()}
        save_file(zeros, tmp_path / name / "model.safetensors")
    command = [sys.executable, "-c", PEAKS, str(tmp_path / "few"), str(tmp_path / "many")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    size = (tmp_path / "many" / "model.safetensors").stat().st_size
    assert size > 150e6
    assert int(done.stdout) < 1.25 * size


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_are_cast(tmp_path: Path, dtype: torch.dtype) -> None:
    decoder = load(write(tmp_path), dtype, "cpu")
    assert {p.dtype for p in decoder.parameters()} == {dtype}
    assert torch.equal(decoder.model.norm.weight, tensors()["model.norm.weight"].to(dtype))


def test_a_tied_checkpoint_may_hold_a_copy_of_the_head(tmp_path: Path) -> None:
    plain, with_head = write(tmp_path / "a"), write(tmp_path / "b", tensors(head=True))
    decoder = load(with_head, torch.float32, "cpu")
    assert decoder.lm_head.weight is decoder.model.embed_tokens.weight
    assert torch.equal(logits(plain), logits(with_head))


def test_an_untied_checkpoint_has_its_own_head(tmp_path: Path) -> None:
    weights = tensors(head=True)
    decoder = load(write(tmp_path, weights, tie_word_embeddings=False), torch.float32, "cpu")
    assert torch.equal(decoder.lm_head.weight, weights["lm_head.weight"])
    assert not torch.equal(decoder.lm_head.weight, decoder.model.embed_tokens.weight)


def test_an_untied_checkpoint_without_a_head_is_refused(tmp_path: Path) -> None:
    refused(write(tmp_path, tie_word_embeddings=False), "lm_head.weight", "lacks")


def test_both_spellings_of_rope_and_dtype_mean_the_same(tmp_path: Path) -> None:
    llama3 = dict(
        factor=32.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=16,
    )
    old = write(tmp_path / "old", rope_theta=5e5, rope_scaling=dict(rope_type="llama3", **llama3))
    new = write(
        tmp_path / "new",
        rope_theta=None,
        torch_dtype=None,
        dtype="float32",
        rope_parameters=dict(rope_type="llama3", rope_theta=5e5, **llama3),
    )
    plain = write(tmp_path / "plain", rope_theta=5e5)
    assert read_config(old) == read_config(new)
    assert torch.equal(logits(old), logits(new))
    assert not torch.equal(logits(old), logits(plain))


def test_generation_config_goes_first_for_the_stop_ids(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 3]}')
    assert read_config(folder).eos_ids == (2, 3)


# What is refused


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    weights = tensors()
    del weights["model.layers.1.mlp.up_proj.weight"]
    message = refused(write(tmp_path, weights), "model.layers.1.mlp.up_proj.weight")
    assert "more" not in message


def test_an_unexpected_tensor_is_named(tmp_path: Path) -> None:
    weights = {**tensors(), "model.layers.0.self_attn.q_norm.weight": torch.ones(4)}
    refused(write(tmp_path, weights), "model.safetensors", "self_attn.q_norm.weight")


def test_more_layers_than_the_config_says_are_unexpected(tmp_path: Path) -> None:
    refused(write(tmp_path, num_hidden_layers=1), "model.layers.1.", "does not have")


def test_a_wrong_shape_says_expected_and_found(tmp_path: Path) -> None:
    weights = {**tensors(), "model.layers.0.self_attn.k_proj.weight": torch.ones(8, 8)}
    refused(write(tmp_path, weights), "k_proj.weight", "[8, 8]", "[4, 8]", "model.safetensors")


def test_a_key_in_two_shards_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, shards=2)
    first, second = weight_files(folder)
    twice = load_file(second) | {"model.embed_tokens.weight": torch.zeros(11, 8)}
    save_file(twice, second)
    refused(folder, "model.embed_tokens.weight", first.name, second.name)


def test_a_shard_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, shards=2)
    weight_files(folder)[1].unlink()
    refused(folder, INDEX, "model-00002-of-00002.safetensors")


@pytest.mark.parametrize(
    "name",
    [
        "../other.safetensors",
        "/etc/x.safetensors",
        "sub/x.safetensors",
        "..\\x.safetensors",
        "C:x.safetensors",
        "..",
        "",
        ".hidden.safetensors",
        "pytorch_model.bin",
        "nul\0.safetensors",
        7,
        None,
        ["model.safetensors"],
    ],
)
def test_an_index_names_only_files_of_its_folder(tmp_path: Path, name: Any) -> None:
    save_file(tensors(), tmp_path / "other.safetensors")
    folder = write(tmp_path / "model", shards=2)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = name
    (folder / INDEX).write_text(json.dumps(index))
    refused(folder, INDEX)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    file = folder / "model.safetensors"
    file.rename(tmp_path / "elsewhere.safetensors")
    file.symlink_to(tmp_path / "elsewhere.safetensors")
    refused(folder, str(file), "link")


def test_the_links_of_the_hub_cache_are_followed(tmp_path: Path) -> None:
    folder = write(tmp_path / "models--a--b" / "snapshots" / "c0ffee")
    blob = tmp_path / "models--a--b" / "blobs" / "1234"
    blob.parent.mkdir()
    (folder / "model.safetensors").rename(blob)
    (folder / "model.safetensors").symlink_to(blob)
    assert torch.isfinite(logits(folder)).all()


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "{,"])
def test_a_broken_index_is_refused(tmp_path: Path, index: str) -> None:
    folder = write(tmp_path, shards=2)
    (folder / INDEX).write_text(index)
    refused(folder, INDEX)


def header(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


OUT_OF_BOUNDS = b'{"model.norm.weight":{"dtype":"F32","shape":[8],"data_offsets":[0,9999]}}'
DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 7,
        b"not a safetensors file at all",
        header(b"{}", 2**62),
        header(b"\xff\xfe{}"),
        header(b"[1, 2]"),
        header(OUT_OF_BOUNDS),
        header(DEEP),
    ],
    ids=["empty", "short", "text", "oversized", "not utf-8", "list", "bounds", "deep"],
)
def test_a_corrupt_file_is_named(tmp_path: Path, content: bytes) -> None:
    folder = write(tmp_path)
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, "model.safetensors", "corrupt")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path: Path, share: float) -> None:
    folder = write(tmp_path)
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    refused(folder, "model.safetensors", "corrupt or cut short")


def test_a_flipped_header_byte_never_escapes(tmp_path: Path) -> None:
    folder = write(tmp_path)
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    refusals = 0
    for position in range(0, 400, 3):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x15]) + whole[position + 1 :])
        try:
            load(folder, torch.float32, "cpu")
        except UserError:
            refusals += 1
    assert refusals > 100


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model-Q4_K_M.gguf"])
def test_other_formats_are_refused_with_the_way_out(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path)
    (folder / "model.safetensors").rename(folder / name)
    refused(folder, name, "only safetensors are read", "save_pretrained")


def test_a_folder_without_weights_or_config(tmp_path: Path) -> None:
    refused(tmp_path, "config.json", str(tmp_path))
    (write(tmp_path) / "model.safetensors").unlink()
    refused(tmp_path, "model.safetensors", INDEX)


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    refused(tmp_path, "LoRA adapter")


def test_quantised_checkpoints_are_refused(tmp_path: Path) -> None:
    refused(write(tmp_path / "a", quantization_config={"bits": 4}), "config.json", "quantised")
    weights = tensors()
    weights["model.norm.weight"] = torch.ones(8, dtype=torch.int8)
    refused(write(tmp_path / "b", weights), "model.norm.weight", "I8")


def test_float16_overflow_counts_and_names_the_tensor(tmp_path: Path) -> None:
    weights = tensors()
    weights["model.layers.0.mlp.down_proj.weight"][:, :2] = torch.tensor([65505.0, -1e6])
    folder = write(tmp_path, weights)
    refused(folder, "16 values", "layers.0.mlp.down_proj.weight", "65504", dtype=torch.float16)
    load(folder, torch.bfloat16, "cpu")
    weights["model.layers.0.mlp.down_proj.weight"][:, :2] = torch.tensor([65504.0, -65504.0])
    decoder = load(write(tmp_path, weights), torch.float16, "cpu")
    assert all(torch.isfinite(p).all() for p in decoder.parameters())


def test_a_model_larger_than_memory_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    folder = write(tmp_path)
    monkeypatch.setattr(torch.Tensor, "aminmax", full)  # the first step on the device
    refused(folder, "does not fit", "cpu", dtype=torch.float16)


LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
LLAMA3 |= dict(original_max_position_embeddings=64)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        (dict(model_type="mistral"), "llama, qwen2, qwen3, gemma2"),
        (dict(model_type=None), "model_type"),
        (dict(model_type=["llama"]), "model_type ['llama'] is not supported"),
        (dict(rope_scaling={"rope_type": "yarn", "factor": 4.0}), "yarn"),
        (dict(rope_scaling={"rope_type": "llama3"}), "factor"),
        (dict(rope_scaling="llama3"), "rope_scaling is 'llama3'"),
        (dict(hidden_size=None), "hidden_size"),
        (dict(hidden_size="8"), "hidden_size is '8'"),
        (dict(hidden_size=-8), "hidden_size"),
        (dict(hidden_size=10**15), "hidden_size"),
        (dict(num_hidden_layers=10**9), "num_hidden_layers"),
        (dict(num_attention_heads=0), "num_attention_heads is 0"),
        (dict(num_attention_heads=3, num_key_value_heads=2), "num_key_value_heads"),
        (dict(head_dim=3), "head_dim"),
        (dict(vocab_size=True), "vocab_size"),
        (dict(rms_norm_eps=-1e-5), "rms_norm_eps"),
        (dict(rms_norm_eps="1e-5"), "rms_norm_eps is '1e-5'"),
        (dict(rope_theta=0), "rope_theta"),
        (dict(rope_theta=1e-300), "rope_theta"),
        (dict(rope_theta=0.5), "rope_theta"),
        (dict(rms_norm_eps=1e-300), "rms_norm_eps"),
        (dict(rope_scaling=dict(LLAMA3, factor=1e-300)), "factor"),
        (dict(rope_scaling=dict(LLAMA3, original_max_position_embeddings=0.1)), "original"),
        (dict(rope_scaling=[]), "rope_scaling is []"),
        (dict(rope_parameters=0), "rope_parameters is 0"),
        *((dict(head_dim=odd), "head_dim") for odd in (0, [], {}, "", False)),
        *((dict(num_key_value_heads=odd), "num_key_value_heads") for odd in (0, [], {}, "", False)),
        *((dict(attention_bias=odd), "attention_bias") for odd in ([], {}, "")),
        (dict(quantization_config={}), "quantised"),
        (dict(GEMMA, query_pre_attn_scalar=0), "query_pre_attn_scalar is 0"),
        (dict(GEMMA, query_pre_attn_scalar=[]), "query_pre_attn_scalar is []"),
        (dict(GEMMA, query_pre_attn_scalar=1e300), "query_pre_attn_scalar is 1e+300"),
        (dict(GEMMA, layer_types=[]), "layer_types"),
        (dict(eos_token_id="</s>"), "eos_token_id"),
        (dict(hidden_act="relu"), "relu"),
        (dict(tie_word_embeddings="false"), "tie_word_embeddings"),
        (dict(num_attention_heads=2**20, head_dim=2**20, hidden_size=2**20), "shape"),
        (dict(GEMMA, query_pre_attn_scalar=-4), "query_pre_attn_scalar is -4"),
        (dict(GEMMA, sliding_window="4096"), "sliding_window"),
        (dict(GEMMA, layer_types=["full_attention"]), "layer_types"),
        (dict(GEMMA, final_logit_softcapping=0), "final_logit_softcapping is 0"),
    ],
)
def test_configs_that_cannot_work(tmp_path: Path, changes: dict[str, Any], word: str) -> None:
    refused(write(tmp_path, **changes), word, "config.json")


ODD = [None, True, False, 0, -1, 3, 2**63 - 1, 0.5, 1e308, "", "8", [], [[]], [None], {}, {"a": []}]
FIELDS = {
    **{name: {} for name in (*SMALL, "rope_scaling", "rope_parameters", "hidden_act")},
    **dict.fromkeys(("query_pre_attn_scalar", "sliding_window", "layer_types"), GEMMA),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping"), GEMMA),
    **dict.fromkeys(("hidden_activation",), GEMMA),
}
PYTHON = (
    r"object|NoneType|operand|attribute|iterable|hashable|division|instances|argument|float\(\)"
)


@pytest.mark.parametrize("name", [*FIELDS, *(f"rope_scaling/{name}" for name in LLAMA3)])
def test_a_field_of_a_wrong_type_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    """And in the words of a person, not in those of Python."""
    outer, _, inner = name.partition("/")
    read = 0
    for odd in ODD:
        changes = {outer: {**LLAMA3, inner: odd}} if inner else {**FIELDS[outer], outer: odd}
        folder = write(tmp_path)
        (folder / "config.json").write_text(json.dumps(SMALL | changes))
        try:
            read_config(folder)
            read += 1
        except UserError as refusal:
            said = str(refusal)
            assert not re.search(PYTHON, said) and said.endswith("."), said
            assert (inner or outer).replace("rope_type", "rope type") in said, said
    assert read < len(ODD) or name in ("eos_token_id", "torch_dtype")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"1" * 10_000])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_broken_json_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    folder = write(tmp_path)
    (folder / name).write_bytes(content)
    refused(folder, name, "JSON")


# The digest of a local folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "minihmx" / "digests.json"


def test_the_digest_is_of_contents_not_of_places(tmp_path: Path, cache: Path) -> None:
    folder = write(tmp_path / "a", shards=2)
    shutil.copytree(folder, tmp_path / "b")
    (tmp_path / "b" / "README.md").write_text("not read, so not hashed")
    first = folder_digest(folder)
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert folder_digest(tmp_path / "b") == first
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        (tmp_path / "b" / name).write_text('{"changed": 1}')
        changed = folder_digest(tmp_path / "b")
        assert changed != first
        first = changed


def test_the_digest_is_remembered_by_size_and_time(tmp_path: Path, cache: Path) -> None:
    folder = write(tmp_path / "a")
    first, file = folder_digest(folder), folder / "model.safetensors"
    known = json.loads(cache.read_text())
    known[str(file)][2] = "0" * 64
    cache.write_text(json.dumps(known))
    assert folder_digest(folder) != first  # it was believed
    file.touch()
    assert folder_digest(folder) == first  # another time, so hashed again


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff{", b'{"x": 3}'])
def test_a_broken_digest_cache_is_only_slow(tmp_path: Path, cache: Path, content: bytes) -> None:
    folder = write(tmp_path / "a")
    first = folder_digest(folder)
    cache.write_bytes(content)
    assert folder_digest(folder) == first
    known = {str(folder / "model.safetensors"): ["not", "an", "entry"]}
    cache.write_text(json.dumps(known))
    assert folder_digest(folder) == first


def test_a_digest_cache_that_cannot_be_written_is_only_slow(tmp_path: Path, cache: Path) -> None:
    folder = write(tmp_path / "a")
    first = folder_digest(folder)
    shutil.rmtree(cache.parent)
    cache.parent.write_text("a file where the folder should be")
    assert folder_digest(folder) == first
