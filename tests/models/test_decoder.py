"""The decoder against reference logits of three families, real weights, and transformers."""

from __future__ import annotations

import dataclasses
import json

import golden
import pytest
import torch
from conftest import shared

from minihmx.engine.sampling import generate
from minihmx.errors import UserError
from minihmx.models import weights
from minihmx.models.configs import ModelConfig
from minihmx.models.context import KVCache, inverse_frequencies
from minihmx.models.decoder import Decoder, RMSNorm

LLAMA_32_3B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}


@pytest.mark.parametrize("family", golden.FAMILIES)
@torch.no_grad()
def test_logits(family: str) -> None:
    decoder, expected = golden.load(family)
    logits = decoder.logits(decoder(expected["input_ids"]))
    torch.testing.assert_close(logits, expected["logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", golden.FAMILIES)
@torch.no_grad()
def test_padding_is_negative_positions(family: str) -> None:
    decoder, expected = golden.load(family)
    mask = expected["left.attention_mask"]
    positions = torch.arange(mask.shape[1])[None] - (mask == 0).sum(1, keepdim=True)
    logits = decoder.logits(decoder(expected["left.input_ids"], positions))
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits * mask[..., None], expected["left.logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", golden.FAMILIES)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float16, 3e-2), (torch.bfloat16, 2e-1)])
@torch.no_grad()
def test_sixteen_bit(family: str, dtype: torch.dtype, atol: float) -> None:
    decoder, expected = golden.load(family, dtype)
    logits = decoder.logits(decoder(expected["input_ids"]))
    assert logits.dtype == torch.float32
    got, want = (torch.log_softmax(x, -1) for x in (logits, expected["logits"]))
    torch.testing.assert_close(got, want, atol=atol, rtol=0)


@pytest.mark.parametrize("family", golden.FAMILIES)
@torch.no_grad()
def test_cache_equals_one_pass(family: str) -> None:
    """Rows of different progress, fed in uneven pieces, beyond Gemma's window of 8."""
    decoder, expected = golden.load(family)
    ids = expected["input_ids"][:2]
    whole = decoder(ids)
    cache = KVCache(decoder.config, 2, 40, torch.float32, torch.device("cpu"))
    pieces = [
        decoder(ids[:, a:b], torch.arange(a, b).expand(2, b - a), cache, b)
        for a, b in ((0, 7), (7, 8), (8, 20), (20, 21), (21, 40))
    ]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", golden.FAMILIES)
def test_checkpointing_changes_no_gradient(family: str) -> None:
    decoder, expected = golden.load(family)
    weight = decoder.model.layers[0].mlp.up_proj.weight.requires_grad_()
    gradients = []
    for decoder.checkpointing in (False, True):
        weight.grad = None
        decoder.logits(decoder(expected["input_ids"])).logsumexp(-1).sum().backward()
        gradients.append(weight.grad)
    assert torch.equal(*gradients)


@torch.no_grad()
def test_stories260k_greedy_and_losses() -> None:
    folder = shared("weights/stories260K")
    expected = json.loads((folder / "golden.json").read_text())
    decoder = weights.load(folder / "hf", torch.float32, "cpu")
    for case in (expected["greedy"], *expected["prompts"]):
        prompt = case.get("prompt_ids") or case["ids"]
        want = case.get("greedy_ids") or case["ids"]
        want = want[len(prompt) :] if want[: len(prompt)] == prompt else want
        (got,) = generate(decoder, str, [prompt], max_new_tokens=len(want), stop_ids=[])
        assert got.ids == want
    assert len(expected["greedy"]["ids"]) == 201
    for case in expected["losses"]:
        row = torch.tensor([case["ids"]])
        logits = decoder.logits(decoder(row))[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, row[0, 1:]).item()
        assert loss == pytest.approx(case["mean_nll"], abs=1e-4)


def test_llama3_rope_rescale() -> None:
    """Llama 3.2's divisors: dims 0..28 unchanged, 29..34 smoothed, the rest by 32."""
    config = ModelConfig.from_hf(LLAMA_32_3B)
    plain = inverse_frequencies(dataclasses.replace(config, rope_scaling=None))
    divisors = plain / inverse_frequencies(config)
    torch.testing.assert_close(divisors[:29], torch.ones(29))
    expected = torch.tensor([1.235, 1.651, 2.277, 3.292, 5.172, 9.667])
    torch.testing.assert_close(divisors[29:35], expected, atol=2e-3, rtol=0)
    torch.testing.assert_close(divisors[35:], torch.full((29,), 32.0))


def test_rope_factor_is_read_not_assumed() -> None:
    scaling = LLAMA_32_3B["rope_scaling"] | {"factor": 8.0}  # type: ignore[operator]
    config = ModelConfig.from_hf(LLAMA_32_3B | {"rope_scaling": scaling})
    assert config.rope_scaling is not None and config.rope_scaling.factor == 8.0


def test_angles_stay_fp32_in_a_half_model() -> None:
    decoder = golden.load("llama", torch.float16)[0].to(torch.float16)
    assert decoder.frequencies.dtype == torch.float32
    assert "frequencies" not in dict(decoder.named_buffers())


@torch.no_grad()
def test_norm_survives_what_overflows_fp16() -> None:
    norm = RMSNorm(4, 1e-6, 0.0).half()
    x = torch.tensor([[20000.0, -20000.0, 20000.0, 300.0]])  # x * x is infinite in fp16
    torch.testing.assert_close(norm(x.half()).float(), norm(x).float())
    assert norm(x.half()).abs().max() > 1


@torch.no_grad()
def test_gate_times_up_may_pass_the_fp16_range() -> None:
    """The product is fp32 inside; only what enters down_proj has to fit."""
    decoder, _ = golden.load("llama", torch.float16)
    mlp = decoder.model.layers[0].mlp
    for weight in (mlp.gate_proj.weight, mlp.up_proj.weight):
        weight.zero_()
        weight[0, 0] = 1.0
    x = torch.zeros(1, 1, 48, dtype=torch.float16)
    x[..., 0] = 250.0  # 250 * 250 = 62,500 fits, and 250 * 262 would not
    assert torch.isfinite(mlp(x)).all() and mlp(x).abs().max() > 0


def test_parameter_counts_of_the_five_models() -> None:
    """Built on the meta device from published shapes; counts from the published files."""
    base = {"max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1e6}
    qwen = base | {"model_type": "qwen3", "vocab_size": 151936, "head_dim": 128}

    def shape(d: int, ff: int, layers: int, heads: int, kv: int) -> dict[str, int]:
        return dict(
            hidden_size=d,
            intermediate_size=ff,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv,
        )

    gemma = {"model_type": "gemma2", "vocab_size": 256000, "head_dim": 256} | base
    cases = {
        596_049_920: qwen | shape(1024, 3072, 28, 16, 8) | {"tie_word_embeddings": True},
        4_022_468_096: qwen | shape(2560, 9728, 36, 32, 8) | {"tie_word_embeddings": True},
        8_190_735_360: qwen | shape(4096, 12288, 36, 32, 8) | {"tie_word_embeddings": False},
        2_614_341_888: gemma | shape(2304, 9216, 26, 8, 4) | {"query_pre_attn_scalar": 256},
        3_212_749_824: LLAMA_32_3B,
    }
    for count, config in cases.items():
        with torch.device("meta"):
            decoder = Decoder(ModelConfig.from_hf(config))
        assert sum(p.numel() for p in decoder.parameters()) == count


def test_both_spellings_of_the_rope_keys() -> None:
    new = {k: v for k, v in LLAMA_32_3B.items() if not k.startswith("rope")}
    new["rope_parameters"] = LLAMA_32_3B["rope_scaling"] | {"rope_theta": 500000.0}  # type: ignore[operator]
    assert ModelConfig.from_hf(new) == ModelConfig.from_hf(LLAMA_32_3B)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "mistral"}, "mistral"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "yarn"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"vocab_size": None}, "vocab_size"),
    ],
)
def test_unsupported_configs_are_refused(change: dict[str, object], named: str) -> None:
    config = {k: v for k, v in (LLAMA_32_3B | change).items() if v is not None}
    with pytest.raises(UserError, match=named):
        ModelConfig.from_hf(config)


def test_eos_is_a_set_and_generation_config_goes_first() -> None:
    config = LLAMA_32_3B | {"eos_token_id": 2}
    assert ModelConfig.from_hf(config).eos_ids == (2,)
    assert ModelConfig.from_hf(config, {"eos_token_id": [7, 9]}).eos_ids == (7, 9)


def test_gemma_2_without_its_attention_scale_has_that_of_its_family() -> None:
    """transformers' default is 256, whatever the size of a head; the other families have theirs."""
    small = LLAMA_32_3B | {"head_dim": 64}
    gemma = small | {"model_type": "gemma2", "hidden_activation": "gelu_pytorch_tanh"}
    assert ModelConfig.from_hf(gemma).attention_scale == 256**-0.5
    assert ModelConfig.from_hf(gemma | {"query_pre_attn_scalar": 64}).attention_scale == 64**-0.5
    assert ModelConfig.from_hf(small).attention_scale == 64**-0.5
