"""Equal to the installed transformers, on random checkpoints that it saved in its own spelling.

The checkpoints are small but keep what the real ones have: several key heads, a head size that is
no quotient, norm weights and softcaps that matter, a rotary rescale that begins within the prompt.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from minihmx.engine.sampling import generate
from minihmx.models import weights
from minihmx.models.decoder import Decoder

FAMILIES = ("llama", "qwen2", "qwen3", "gemma2")
WINDOW = 8
SHAPE: dict[str, Any] = dict(
    vocab_size=160,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=128,
    eos_token_id=[158, 159],
)
ROPE = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
OWN: dict[str, dict[str, Any]] = {
    "llama": dict(
        rms_norm_eps=1e-5,
        rope_parameters=ROPE | dict(original_max_position_embeddings=32, rope_theta=5e4),
    ),
    "qwen2": dict(rope_parameters=dict(rope_type="default", rope_theta=1e6)),
    "qwen3": dict(rope_parameters=dict(rope_type="default", rope_theta=1e6)),
    "gemma2": dict(
        query_pre_attn_scalar=24,
        sliding_window=WINDOW,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=6.0,
    ),
}
Save = Callable[..., Path]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No call of these tests can reach the hub, whatever was imported before."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Writes a family's random checkpoint with save_pretrained, once for each form."""
    import transformers

    classes = {"llama": "LlamaConfig", "gemma2": "Gemma2Config"}
    classes |= {"qwen2": "Qwen2Config", "qwen3": "Qwen3Config"}

    @functools.cache
    def write(family: str, *, tied: bool = True, sharded: bool = False) -> Path:
        shape = SHAPE | OWN[family] | dict(tie_word_embeddings=tied)
        config = getattr(transformers, classes[family])(**shape)
        model = transformers.AutoModelForCausalLM.from_config(config)
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                if "norm" in name:  # Gemma's stand beside 0, the others' beside 1
                    parameter.copy_((family != "gemma2") + 0.3 * noise)
                elif "bias" in name:  # as large as what they are added to, as Qwen2's are
                    parameter.copy_(noise)
                else:  # about 1 / sqrt(hidden): each product keeps the size of what goes in
                    parameter.copy_(0.15 * noise)
        folder = tmp_path_factory.mktemp("checkpoint")
        model.save_pretrained(folder, max_shard_size="60KB" if sharded else "1GB")
        return folder

    return write


def reference(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """transformers' model. Its dtype comes at loading: `.to` would round the rotary angles."""
    import transformers

    config = json.loads((folder / "config.json").read_text())
    kernel = "eager" if config["model_type"] == "gemma2" else "sdpa"  # sdpa knows no softcap
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation=kernel
    ).eval()


def token_ids(rows: int = 3, length: int = 40) -> Tensor:
    """Longer than Gemma's window and than the context at which the rotary rescale begins."""
    return torch.randint(0, 157, (rows, length), generator=torch.Generator().manual_seed(3))


# of a family, tied in one file and untied in several are quick
@pytest.mark.parametrize(
    ("tied", "sharded"),
    [
        pytest.param(True, False, id="tied-one file"),
        pytest.param(True, True, id="tied-sharded", marks=pytest.mark.slow),
        pytest.param(False, False, id="untied-one file", marks=pytest.mark.slow),
        pytest.param(False, True, id="untied-sharded"),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_logits(save: Save, family: str, tied: bool, sharded: bool) -> None:
    folder = save(family, tied=tied, sharded=sharded)
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "float32" and "rope_type" in config["rope_parameters"]
    assert (len(list(folder.glob("*.safetensors"))) > 1) == sharded
    decoder = weights.load(folder, torch.float32, "cpu")
    assert (decoder.lm_head.weight is decoder.model.embed_tokens.weight) == tied
    want = reference(folder)(token_ids()).logits
    assert 1 < want.abs().max() < 100  # neither flat nor absurd, so the tolerance means something
    got = decoder.logits(decoder(token_ids()))
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)


def changed(decoder: Decoder, trait: str, value: Any) -> Decoder:
    """The same weights under a config that differs in one scalar; "norms" sets their weights."""
    if trait != "norms":
        config = dataclasses.replace(decoder.config, **{trait: value})
        other = Decoder(config).requires_grad_(False)
        other.load_state_dict(decoder.state_dict(), strict=trait not in ("qk_norm", "qkv_bias"))
        return other
    for name, parameter in decoder.named_parameters():
        if "norm" in name:
            parameter.fill_(value)
    return decoder


@pytest.mark.parametrize(
    ("family", "trait", "value"),
    [
        ("llama", "norms", 1.0),
        ("llama", "rope_scaling", None),
        ("llama", "rope_theta", 1e4),
        ("qwen2", "qkv_bias", False),
        ("qwen3", "norms", 1.0),
        ("qwen3", "qk_norm", False),
        ("gemma2", "norms", 0.0),
        ("gemma2", "norm_offset", 0.0),
        ("gemma2", "windows", ()),
        ("gemma2", "windows", (None, WINDOW, None)),
        ("gemma2", "windows", (WINDOW + 1, None, WINDOW + 1)),
        ("gemma2", "attention_scale", 16**-0.5),
        ("gemma2", "attention_softcap", None),
        ("gemma2", "final_softcap", None),
        ("gemma2", "embed_scale", 1.0),
        ("gemma2", "activation", "silu"),
    ],
)
@torch.no_grad()
def test_each_trait_shows_in_the_logits(save: Save, family: str, trait: str, value: Any) -> None:
    """What a family does differently cannot be lost without the test above failing."""
    decoder = weights.load(save(family), torch.float32, "cpu")
    right = decoder.logits(decoder(token_ids()))
    wrong = changed(decoder, trait, value)
    assert (wrong.logits(wrong(token_ids())) - right).abs().max() > 1e-2


@pytest.mark.parametrize(
    "tied",
    [pytest.param(True, id="tied"), pytest.param(False, id="untied", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_greedy_generation(save: Save, family: str, tied: bool) -> None:
    """One batch of ours, prompts of several lengths with a common start, against one at a time."""
    folder = save(family, tied=tied)
    decoder, model = weights.load(folder, torch.float32, "cpu"), reference(folder)
    rows = token_ids().tolist()
    prompts = [rows[0][:5], rows[0][:3] + rows[1][:9], rows[0], rows[0][:5]]

    def greedy(prompt: list[int], stop: list[int]) -> list[int]:
        ids = torch.tensor([prompt])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=24,
            eos_token_id=stop,
            pad_token_id=0,
        )
        return list(out[0, len(prompt) :].tolist())

    unstopped = greedy(prompts[1], [159])
    stop = [159, unstopped[10]]  # so that one row at least stops in the middle
    want = [greedy(prompt, stop) for prompt in prompts]
    got = generate(decoder, lambda ids: "", prompts, max_new_tokens=24, stop_ids=stop)
    assert [completion.ids for completion in got] == want
    assert got[1].finish_reason == "stop" and len(got[1].ids) <= 11
    logits = decoder.logits(decoder(torch.tensor([prompts[2] + got[2].ids])))[0]
    logprobs = torch.log_softmax(logits, -1)[len(prompts[2]) - 1 : -1]
    chosen = logprobs.gather(-1, torch.tensor(got[2].ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(got[2].logprobs), chosen, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float16, 3e-2), (torch.bfloat16, 2e-1)], ids=["fp16", "bf16"]
)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_log_probs_in_sixteen_bit(save: Save, family: str, dtype: torch.dtype, atol: float) -> None:
    folder = save(family)
    decoder, model = weights.load(folder, dtype, "cpu"), reference(folder, dtype)
    assert decoder.model.layers[0].mlp.up_proj.weight.dtype == model.dtype == dtype
    got = torch.log_softmax(decoder.logits(decoder(token_ids())), -1)
    want = torch.log_softmax(model(token_ids()).logits.float(), -1)
    torch.testing.assert_close(got, want, atol=atol, rtol=0)


@torch.no_grad()
def test_gemma_beyond_its_window(save: Save) -> None:
    """Cached decoding too: tokens that left the window must leave the answer."""
    folder = save("gemma2")
    decoder, model = weights.load(folder, torch.float32, "cpu"), reference(folder)
    assert decoder.config.windows == (WINDOW, None, WINDOW)
    ids = token_ids(rows=2, length=60)
    for length in (WINDOW, WINDOW + 1, 60):
        got = decoder.logits(decoder(ids[:, :length]))
        want = model(ids[:, :length]).logits
        torch.testing.assert_close(got, want, atol=1e-4, rtol=0)
