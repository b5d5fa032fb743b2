"""LoRA by hand: reference logits, loss and gradients; off is the base; PEFT reads and writes it."""

from __future__ import annotations

import json
import re
import time
import warnings
from pathlib import Path

import golden
import pytest
import torch
from safetensors.torch import load_file, save_file

from minihmx import grpo, lora
from minihmx.config import LORA_TARGETS
from minihmx.errors import UserError
from minihmx.models.decoder import Decoder
from minihmx.models.targets import written_out


def adapted(family: str, dtype: torch.dtype = torch.float32) -> tuple[Decoder, dict]:  # type: ignore[type-arg]
    decoder, expected = golden.load(family, dtype)
    lora.attach(decoder, 4, 8, seed=1)
    lora.load_adapter(decoder, golden.adapter(family))
    return decoder, expected


@pytest.mark.parametrize("family", golden.FAMILIES)
def test_adapter_logits_loss_and_gradients(family: str) -> None:
    """The loss comes through the chunked log-probs, so their backward is under test too."""
    decoder, expected = adapted(family)
    ids = expected["input_ids"]
    logits = decoder.logits(decoder(ids))
    torch.testing.assert_close(logits, expected["adapter.logits"], atol=1e-4, rtol=0)
    for chunk in (64, 100, 8192):
        decoder.zero_grad()
        hidden = decoder(ids)[:, :-1].flatten(0, 1)
        logprobs, _ = grpo.token_logprobs(
            hidden,
            decoder.lm_head.weight,
            ids[:, 1:].flatten(),
            temperature=1.0,
            softcap=decoder.config.final_softcap,
            chunk=chunk,
        )
        loss = -logprobs.mean()
        loss.backward()
        assert loss.item() == pytest.approx(expected["adapter.loss"].item(), abs=1e-5)
        gradients = {k: v for k, v in expected.items() if k.startswith("grad.")}
        assert len(gradients) == 28
        parameters = lora.parameters(decoder)
        for name, want in gradients.items():
            own = parameters[_peft_name(name)].grad
            assert own is not None and (own - want).norm() <= 1e-5 * want.norm(), name


def _peft_name(golden_name: str) -> str:
    path = golden_name.removeprefix("grad.").removeprefix(lora.PREFIX).replace(".default", "")
    return lora.PREFIX + path


@pytest.mark.parametrize("family", golden.FAMILIES)
@torch.no_grad()
def test_off_is_exactly_the_base(family: str) -> None:
    base, expected = golden.load(family)
    decoder, _ = adapted(family)
    ids = expected["input_ids"]
    with lora.adapter_off(decoder):
        assert torch.equal(decoder.logits(decoder(ids)), base.logits(base(ids)))
    assert not torch.equal(decoder.logits(decoder(ids)), base.logits(base(ids)))


@pytest.mark.parametrize("family", golden.FAMILIES)
@torch.no_grad()
def test_merged_copies_change_rounding_only(family: str) -> None:
    decoder, expected = adapted(family)
    ids = expected["input_ids"]
    base = decoder.model.layers[0].mlp.up_proj.weight
    before, apart = base.clone(), decoder.logits(decoder(ids))
    with lora.merged(decoder):
        together = decoder.logits(decoder(ids))
        with lora.adapter_off(decoder):
            off = decoder.logits(decoder(ids))
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=0)
    assert torch.equal(base, before) and torch.equal(decoder.logits(decoder(ids)), apart)
    with lora.adapter_off(decoder):
        assert torch.equal(decoder.logits(decoder(ids)), off)


def test_nothing_is_merged_in_sixteen_bit() -> None:
    decoder, _ = adapted("llama", torch.float16)
    with lora.merged(decoder):
        assert all(layer.merged is None for _, layer in lora.layers(decoder))


def test_off_ends_also_by_an_exception() -> None:
    decoder, _ = adapted("llama")
    with pytest.raises(RuntimeError), lora.adapter_off(decoder), lora.adapter_off(decoder):
        raise RuntimeError
    assert all(layer.enabled for _, layer in lora.layers(decoder))


@torch.no_grad()
def test_fresh_adapter_changes_nothing_and_is_named_by_the_seed() -> None:
    base, expected = golden.load("qwen3")
    ids = expected["input_ids"]
    adapters = []
    for seed in (1, 1, 2):
        decoder, _ = golden.load("qwen3")
        lora.attach(decoder, 4, 8, seed)
        assert torch.equal(decoder.logits(decoder(ids)), base.logits(base(ids)))
        adapters.append(lora.parameters(decoder))
    one, same, other = adapters
    assert all(torch.equal(one[name], same[name]) for name in one)
    drawn = [name for name in one if "lora_A" in name]
    assert not any(torch.equal(one[name], other[name]) for name in drawn)
    for name in drawn:
        bound = one[name].shape[1] ** -0.5
        assert 0.9 * bound < one[name].abs().max() <= bound
    assert len({one[name].flatten()[0].item() for name in drawn}) == len(drawn)


def test_initial_adapter_depends_on_names_not_on_which_others_there_are() -> None:
    all_targets, _ = golden.load("llama")
    lora.attach(all_targets, 4, 8, seed=3)
    few, _ = golden.load("llama")
    lora.attach(few, 4, 8, seed=3, targets=["v_proj"])
    assert len(list(lora.layers(few))) == 4 and len(list(lora.layers(all_targets))) == 28
    for name, parameter in lora.parameters(few).items():
        assert torch.equal(parameter, lora.parameters(all_targets)[name])


def test_masters_are_fp32_over_a_half_base() -> None:
    decoder, expected = adapted("llama", torch.float16)
    decoder.logits(decoder(expected["input_ids"])).logsumexp(-1).mean().backward()
    for name, parameter in lora.parameters(decoder).items():
        assert parameter.dtype == torch.float32, name
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32
        assert parameter.grad.abs().sum() > 0
    frozen = [p for p in decoder.parameters() if not p.requires_grad]
    assert all(p.dtype == torch.float16 and p.grad is None for p in frozen)


def test_nothing_trainable_is_refused() -> None:
    decoder, _ = golden.load("llama")
    with pytest.raises(UserError, match="nothing would train"):
        lora.attach(decoder, 4, 8, seed=1, targets=["query"])


def test_a_foreign_adapter_is_refused() -> None:
    decoder, _ = adapted("llama")
    good = golden.adapter("llama")
    name = next(iter(good))
    without = {k: v for k, v in good.items() if k != name}
    for tensors, message in (
        (without, "lacks"),
        (good | {"base_model.model.x.lora_A.weight": good[name]}, "unknown"),
        (good | {name: good[name][:2]}, r"is \[2,"),
    ):
        before = {k: v.clone() for k, v in lora.parameters(decoder).items()}
        with pytest.raises(UserError, match=message):
            lora.load_adapter(decoder, tensors)
        assert all(torch.equal(before[k], v) for k, v in lora.parameters(decoder).items())


@pytest.mark.slow
@pytest.mark.parametrize("family", golden.FAMILIES)
@torch.no_grad()
def test_peft_reads_ours_and_we_read_its(family: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    folder = golden.shared(f"golden_models/{family}")
    decoder, expected = golden.load(family)
    ids = expected["input_ids"]
    lora.attach(decoder, 4, 8, seed=5)
    generator = torch.Generator().manual_seed(5)
    for parameter in lora.parameters(decoder).values():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    ours = decoder.logits(decoder(ids))
    save_file(lora.parameters(decoder), tmp_path / "adapter_model.safetensors", {"format": "pt"})
    config = lora.peft_config(str(folder), 4, 8, LORA_TARGETS)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    base = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with warnings.catch_warnings():  # PEFT only warns of missing keys and runs with B = 0
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        model = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    torch.testing.assert_close(ours, model(ids).logits, atol=1e-4, rtol=0)

    model.save_pretrained(tmp_path / "theirs")
    again, _ = golden.load(family)
    lora.attach(again, 4, 8, seed=6)
    lora.load_adapter(again, load_file(tmp_path / "theirs" / "adapter_model.safetensors"))
    assert torch.equal(again.logits(again(ids)), ours)


# --- target_modules as one pattern ----------------------------------------------------------------

NAMES = ["lm_head", *(
    f"model.layers.{layer}.{linear}" for layer in range(23)
    for linear in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                   "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
)]  # fmt: skip
# Names that no model has, but that tell a pattern from a nearly equal one.
NAMES += [
    "q_proj",
    "model.q_proj",
    "xmodel.layers.1.self_attn.q_proj",
    "model.layers.1.mlp.up_projx",
]
NAMES += ["model.language_model.layers.1.mlp.up_proj", "model.layers.1.mlp.experts.1.up_proj"]
PARTS = "self_attn|attention|attn|mlp|feed_forward|ffn|dense"
PATTERNS = {
    r".*\.(q_proj|v_proj)$": 48,
    r".*\.(?:q_proj|v_proj)": 48,
    r".*(q_proj|v_proj)": 49,
    r".*q_proj": 26,
    r".*[qkvo]_proj": 95,
    r".+\.q_proj": 25,
    r".*self_attn.*": 93,
    r"model\.layers\.\d+\.self_attn\.(q_proj|k_proj)": 46,
    r"model\.layers\.[0-9]+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj": 161,
    "model.layers.[\\d]+.(mlp|cross_attn|self_attn).(up|down|gate|q|k|v|o)_proj": 161,
    r"model\.layers\.(0|1|2)\..*": 23,
    r".*\.layers\.([0-9]|1[0-9])\..*": 144,
    r"layers\.([0-9]|1[0-9])\.": 0,
    r".*\.(1|2)\..*(gate_proj|down_proj)": 4,
    r"model\.layers\.[0-3]\.(self_attn|mlp)\.(q_proj|up_proj)": 8,
    r"^model\.layers\.\d+\.(self_attn\.(q_proj|k_proj)|mlp\.(up_proj))$": 69,
    r"^(model(?=\.).*\.(k_proj|up_proj|q_proj))$": 72,  # swift
    rf"(?:.*?(?:language|text).*?(?:{PARTS}).*?(?:q_proj|up_proj).*?)|"  # Unsloth
    rf"(?:\bmodel\.layers\.[\d]{{1,}}\.(?:{PARTS})\.(?:(?:q_proj|up_proj)))": 47,
    rf"(?:.*?(?:language|text).*?(?:{PARTS}).*?\.(?:q_proj|up_proj))|"  # Unsloth, later
    rf"(?:\bmodel\.layers\.[\d]{{1,}}(?!.*\.experts\.\d)\..*?(?:{PARTS}).*?\."
    r"(?:(?:q_proj|up_proj)))": 47,
    "q_proj": 1,
    "model.layers.7.self_attn.q_proj": 1,
    "": 0,
}  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_recipe_s_pattern_means_what_pythons_re_says(pattern: str) -> None:
    found = written_out(pattern, NAMES)
    assert found == [name for name in NAMES if re.fullmatch(pattern, name)]
    assert len(found) == PATTERNS[pattern]


ENDLESS = [".*" * 20 + "z", "(?:.|.)?" * 25 + "z", r"[\w.]*" * 15 + "!", "(.*)*!", "(?:.+)+!"]
ENDLESS += ["(.|.)*!", "(.*){9,}!", "(.*.*)*z", "(.+)?" * 30 + "z", r"(\w+\.?)+!", "(a|a)+" * 9]
UNREAD = [
    *("(q_proj", "q_proj)", "*", "a{99999999999}", "(" * 9999, ".q" * 1025, "(((((((((q)))))))))"),
    *(r"q\$", r"\w+", "q$|k", "(?i)q", r"(a)\1", "(?!lm_head).*", "[^q]", "[]", "qé", "q_proj\n"),
    *("[z-a]", "[qz-a]_proj", r"model\.layers\.[9-0]\..*", ".*[p-ok]_proj"),
]


@pytest.mark.parametrize("pattern", [*ENDLESS, *UNREAD])
def test_any_other_pattern_is_refused_at_once(pattern: str) -> None:
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"is not read|group|no character is from"):
        written_out(pattern, NAMES)
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize(
    "pattern", ["(" + "|".join([".*"] * 680) + ")z", "." * 2048, ".*a" * 680, "(.*|.)" * 340 + "z"]
)
def test_the_worst_pattern_that_is_read_takes_no_time_to_speak_of(pattern: str) -> None:
    start = time.perf_counter()
    assert written_out(pattern, NAMES) == []
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("targets", [["q_proj"], "all-linear"])
def test_a_list_stays_as_it_is(targets: list[str] | str) -> None:
    found = written_out(targets, NAMES)
    assert list(found) == (list(LORA_TARGETS) if targets == "all-linear" else targets)
