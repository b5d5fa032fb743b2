"""Qwen2's biases on q, k and v: an adapter that comes and goes leaves them where they were."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
import toy
from command_line import in_process
from safetensors.torch import save_file
from torch import Tensor

from minihmx import lora
from minihmx.config import LORA_TARGETS
from minihmx.engine import open as opening
from minihmx.errors import UserError
from minihmx.instruments.estimate import parameter_counts
from minihmx.models import adapters, products, weights
from minihmx.models.configs import ModelConfig
from minihmx.models.decoder import Decoder

IDS = torch.randint(6, 262, (2, 20), generator=torch.Generator().manual_seed(0))
QWEN2 = toy.CONFIG | {"model_type": "qwen2"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint whose biases are as large as what they are added to."""
    path = toy.model(tmp_path_factory.mktemp("qwen2") / "toy", model_type="qwen2")
    tensors = weights.read_tensors(path / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    biases = [name for name in tensors if name.endswith("bias")]
    assert len(biases) == 2 * 3  # q, k and v of both layers, and none on o
    tensors |= {n: torch.randn(tensors[n].shape, generator=generator) for n in biases}
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    return path


def loaded(folder: Path, dtype: torch.dtype = torch.float32) -> Decoder:
    return weights.load(folder, dtype, "cpu")


def logits(decoder: Decoder) -> Tensor:
    with torch.no_grad():
        return decoder.logits(decoder(IDS))


def adapted(decoder: Decoder) -> Decoder:
    """With an adapter that says something."""
    lora.attach(decoder, 4, 8.0, seed=5)
    generator = torch.Generator().manual_seed(5)
    for parameter in lora.parameters(decoder).values():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return decoder


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_on_off_merged_and_taken_off(folder: Path, dtype: torch.dtype) -> None:
    decoder = loaded(folder, dtype)
    base, names = logits(decoder), list(decoder.state_dict())
    apart = logits(adapted(decoder))
    assert not torch.allclose(apart, base, atol=1e-2)
    with lora.adapter_off(decoder):
        assert torch.equal(logits(decoder), base)
    with lora.merged(decoder):
        torch.testing.assert_close(logits(decoder), apart, atol=1e-4, rtol=0)
        with lora.adapter_off(decoder):
            assert torch.equal(logits(decoder), base)
    lora.detach(decoder)
    assert list(decoder.state_dict()) == names
    assert torch.equal(logits(decoder), base)


def test_no_bias_is_trained(folder: Path) -> None:
    decoder = adapted(loaded(folder))
    trained = {name for name, p in decoder.named_parameters() if p.requires_grad}
    assert trained == {name.removeprefix(lora.PREFIX) for name in lora.parameters(decoder)}


def test_a_bias_shows_in_the_logits(folder: Path) -> None:
    decoder = loaded(folder)
    base = logits(decoder)
    for projection in ("q_proj", "k_proj", "v_proj"):
        bias = decoder.model.layers[1].self_attn.get_submodule(projection).bias
        before = bias.clone()
        bias.zero_()
        assert not torch.allclose(logits(decoder), base, atol=1e-3), projection
        bias.copy_(before)


def test_base_beside_adapters_is_base_alone(folder: Path, tmp_path: Path) -> None:
    """Item by item and to the last digit, also where the adapter was on before."""
    flags = toy.flags(tmp_path, model=str(folder), epochs=1)
    words = [w for n, v in flags.items() for w in (f"--{n.replace('_', '-')}", v) if n != "model"]
    assert in_process("train", folder, *words).returncode == toy.ENDED
    (run,) = (tmp_path / "runs").glob("*/forward/seed-1")
    toy.stir(run, "epoch-01", seed=3)
    tasks = ["--tasks", "truthfulqa_mc2,sycophancy_answer", "--data", "sample", "--limit", "4"]
    found = []
    for out, who in (("alone", ["base"]), ("beside", [run, "base"]), ("beside", ["base", run])):
        which = [word for name in who for word in ("--adapter", name)]
        again = in_process("eval", folder, *which, *tasks, "--out", tmp_path / out)
        assert again.returncode == 0, again.stderr
        samples = sorted((tmp_path / out).rglob("samples.jsonl"))
        assert len(samples) == 2
        found.append([path.read_text() for path in samples])
        if out == "beside":
            (tmp_path / out).rename(tmp_path / f"{who[0] == 'base'}")
    assert found[0] == found[1] == found[2]
    adapter = sorted(run.rglob("samples.jsonl"))
    assert adapter and adapter[0].read_text() not in found[0]


def test_a_base_that_does_not_come_back_is_noticed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = adapted(loaded(folder))
    tensors = {name: p.detach().clone() for name, p in lora.parameters(decoder).items()}
    lora.detach(decoder)
    own = adapters.Adapter(tmp_path, "toy", 4, 8.0, list(LORA_TARGETS))
    opened = opening.OpenAdapter(own, tensors, [])
    with opening.with_adapter(decoder, opened):
        pass
    whole = lora.detach

    def forgetful(model: Decoder) -> None:
        whole(model)
        model.model.layers[0].self_attn.q_proj.bias = None

    monkeypatch.setattr(lora, "detach", forgetful)
    lost = pytest.raises(RuntimeError, match="did not give the base back")
    with lost, opening.with_adapter(decoder, opened):
        pass


def test_estimate_counts_them(folder: Path) -> None:
    decoder = loaded(folder)
    assert sum(parameter_counts(decoder.config)) == sum(p.numel() for p in decoder.parameters())


@pytest.mark.slow
def test_peft_and_transformers_read_adapter_and_export(folder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    decoder = adapted(loaded(folder))
    ours, place = logits(decoder), tmp_path / "adapter"
    place.mkdir()
    save_file(lora.parameters(decoder), place / "adapter_model.safetensors", {"format": "pt"})
    config = lora.peft_config(str(folder), 4, 8.0, LORA_TARGETS)
    (place / "adapter_config.json").write_text(json.dumps(config))
    base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with warnings.catch_warnings(), torch.no_grad():  # PEFT only warns of missing keys
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        theirs = peft.PeftModel.from_pretrained(base, place).eval()(IDS).logits
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=0)
    out = tmp_path / "merged"
    done = in_process("export", place, "--merge", "--out", out)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(logits(loaded(out)), ours, atol=1e-4, rtol=0)
    merged = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(merged(IDS).logits, ours, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("field", "value"), [("use_sliding_window", True), ("hidden_act", "gelu"), ("mlp_bias", True)]
)
def test_what_no_qwen2_model_has_is_refused(field: str, value: object) -> None:
    with pytest.raises(UserError, match=field):
        ModelConfig.from_hf(QWEN2 | {field: value})
    assert ModelConfig.from_hf(QWEN2 | {"use_sliding_window": False}).qkv_bias


def test_a_run_in_bfloat16_on_a_cpu_that_has_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "cpu_has_bfloat16", lambda: True)
    flags = toy.flags(tmp_path, model=str(folder), epochs=1, dtype="bfloat16")
    words = [w for n, v in flags.items() for w in (f"--{n.replace('_', '-')}", v) if n != "model"]
    done = in_process("train", folder, *words)
    assert done.returncode == toy.ENDED, done.stderr
    (run,) = (tmp_path / "runs").glob("*/forward/seed-1")
    assert json.loads((run / "config.json").read_text())["science"]["dtype"] == "bfloat16"
    assert in_process("audit", run).returncode == 0
    seen = in_process("doctor", folder, "--dtype", "bfloat16")
    found = "with" if products.cpu_has_bfloat16() else "without"
    assert seen.returncode == 0 and f"{found} bfloat16 products" in seen.stdout


def test_bfloat16_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for amx, avx in ((False, False), (True, False), (False, True)):
        for name, has in (("_is_amx_tile_supported", amx), ("_is_avx512_bf16_supported", avx)):
            monkeypatch.setattr(torch.cpu, name, lambda has=has: has)
        if amx or avx:
            assert opening.pick_dtype("bfloat16", cpu) == torch.bfloat16
        else:
            with pytest.raises(UserError, match="neither AMX nor AVX-512 BF16"):
                opening.pick_dtype("bfloat16", cpu)
        with pytest.raises(UserError, match="float16 on a CPU"):
            opening.pick_dtype("float16", cpu)
        assert opening.pick_dtype("auto", cpu) == torch.float32
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):  # as in an older torch
        monkeypatch.delattr(torch.cpu, name)
    assert not opening.cpu_has_bfloat16()
