"""Models that cannot be used here, as each verb says it: GGUF, odd biases, more than the memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import toy
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from minihmx.cli import main
from minihmx.engine import memory
from minihmx.engine.open import check_memory
from minihmx.errors import UserError
from minihmx.instruments.estimate import GIB
from minihmx.models import weights
from minihmx.models.folder import shipped_config

LOADING = {
    "train": [],
    "eval": ["--tasks", "truthfulqa_mc2", "--data", "sample"],
    "chat": ["--prompt", "hi"],
}
VERBS = LOADING | {"doctor": [], "doctor --judge": []}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with no network and an empty hub cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str], place: Path) -> Callable[[str, str], str]:
    """The one sentence with which a verb refuses a model; no run's folder is left."""

    def said(verb: str, model: str) -> str:
        code = main([*verb.split(), model, *VERBS[verb]])
        err = capsys.readouterr().err
        assert code == 2 and err.startswith("minihmx: ") and err.count("\n") == 1, err
        assert not (place / "runs").exists()
        return err

    return said


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """No weight is placed in memory."""

    def place_weights(*_: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(weights, "_place", place_weights)


@pytest.mark.parametrize("verb", VERBS)
def test_gguf_is_named_with_what_to_do(
    verb: str, place: Path, refusal: Callable[[str, str], str]
) -> None:
    own, alone = toy.model(place / "own"), place / "alone"
    (own / "model.safetensors").rename(own / "model-Q4_K_M.gguf")
    alone.mkdir()
    (alone / "b.GGUF").write_bytes(b"GGUF\3")
    (alone / "c.gguf").write_bytes(b"GGUF\3")
    (alone / "README.md").write_text("a model")
    blob = place / "sha256-0f0f"
    blob.write_bytes(b"GGUF\3\0\0\0")
    for model, file in {
        "own": own / "model-Q4_K_M.gguf",
        "alone": alone / "b.GGUF",
        "alone/c.gguf": alone / "c.gguf",
        str(blob): blob,
    }.items():
        said = refusal(verb, model)
        assert f"{file} is a GGUF file" in said and "name the model that it was made from" in said
        asked = f"from_pretrained('{file.parent}', gguf_file='{file.name}').save_pretrained"
        assert asked in said and "AutoTokenizer" in said


def test_safetensors_beside_gguf_are_read(place: Path) -> None:
    (toy.model(place / "both") / "model.gguf").write_bytes(b"GGUF\3")
    assert main(["chat", "both", "--prompt", "hi", "--max-completion-length", "2"]) == 0


FAMILIES = {
    "llama": ("q_proj", "o_proj"),
    "qwen2": ("o_proj",),
    "qwen3": ("k_proj",),
    "gemma2": ("v_proj",),
}


@pytest.mark.parametrize("verb", LOADING)
@pytest.mark.parametrize(("family", "linear"), [(f, p) for f, ps in FAMILIES.items() for p in ps])
def test_a_bias_where_the_family_has_none(
    verb: str,
    family: str,
    linear: str,
    place: Path,
    nothing_loads: None,
    refusal: Callable[[str, str], str],
) -> None:
    model = toy.model(place / "toy", model_type=family, head_dim=16)
    tensors = load_file(model / "model.safetensors")
    bias = f"model.layers.1.self_attn.{linear}.bias"
    tensors[bias] = torch.ones(len(tensors[bias.replace("bias", "weight")]))
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    said = refusal(verb, "toy")
    assert f"holds the bias {bias}" in said and "every answer would be wrong" in said


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("flag", ["attention_bias", "mlp_bias"])
def test_a_bias_that_the_config_asks_for(
    verb: str, flag: str, place: Path, refusal: Callable[[str, str], str]
) -> None:
    config = toy.model(place / "toy") / "config.json"
    config.write_text(json.dumps(toy.CONFIG | {flag: True}))
    said = refusal(verb, "toy")
    assert f"{flag} is set" in said and "every answer would be wrong" in said


@pytest.fixture
def available(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets what Linux says is available, in KiB."""
    monkeypatch.setattr(memory, "PROC", place / "proc")
    (place / "proc").mkdir()

    def say(kibibytes: int) -> None:
        text = f"MemTotal:  99999999 kB\nMemFree: 1 kB\nMemAvailable:  {kibibytes} kB\nCached: 2 kB"
        (place / "proc" / "meminfo").write_text(text)

    return say


@pytest.mark.parametrize("verb", VERBS)
def test_a_model_that_the_memory_cannot_hold(
    verb: str,
    nothing_loads: None,
    available: Callable[[int], None],
    refusal: Callable[[str, str], str],
) -> None:
    available(1_468_032 * 4 // 1024 - 1)
    said = refusal(verb, "tiny")
    assert "tiny does not fit: " in said and "5.6 MiB" in said
    if verb != "doctor":
        assert "its weights alone take 5.6 MiB in float32, and this machine has 5.6 MiB" in said
        assert "smaller model, --dtype bfloat16" in said


def test_what_just_fits_is_loaded_and_an_export_asks_for_no_room(
    place: Path, available: Callable[[int], None], pair: Path
) -> None:
    available(1_468_032 * 4 // 1024 + 1)
    assert main(["chat", "tiny", "--prompt", "hi", "--max-completion-length", "1"]) == 0
    available(1)
    run = str(pair / "tiny/forward/seed-1")
    assert main(["export", run, "--merge", "--out", str(place / "merged")]) == 0


@pytest.mark.parametrize("verb", LOADING)
def test_a_row_that_cannot_fit_is_refused_before_its_download(
    verb: str, available: Callable[[int], None], refusal: Callable[[str, str], str]
) -> None:
    available(4 * 1024**2)
    assert "qwen2.5-3b does not fit: its weights alone take 11.50 GiB" in refusal(
        verb, "qwen2.5-3b"
    )


def test_a_gpu_is_asked_for_its_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    shape, cuda = shipped_config("qwen3-8b"), torch.device("cuda")
    for name in ("memory_reserved", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda: 1.0, raising=False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (16 * GIB, 24 * GIB))
    check_memory("qwen3-8b", shape, torch.float16, cuda)
    with pytest.raises(UserError, match=r"30.51 GiB in float32, and the GPU has 16.00 GiB"):
        check_memory("qwen3-8b", shape, torch.float32, cuda)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (15 * GIB, 24 * GIB))
    with pytest.raises(UserError, match="smaller model, or another machine"):
        check_memory("qwen3-8b", shape, torch.float16, cuda)


def test_the_lowest_limit_counts(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of physical memory, what Linux says is available, and control groups of either version."""
    monkeypatch.setattr(memory, "PROC", place / "proc")
    monkeypatch.setattr(memory, "CGROUPS", place / "cgroup")
    monkeypatch.setattr(memory, "os", SimpleNamespace(sysconf=lambda _: 4000))
    cpu, physical = torch.device("cpu"), 4000**2
    assert memory.free_memory(cpu) == (physical, physical)  # not Linux
    (place / "proc/self").mkdir(parents=True)
    (place / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   9000 kB\nCached: 3 kB\n")
    assert memory.free_memory(cpu) == (9000 * 1024, physical)
    for line, limits, lowest in (
        ("0::/a/b", {"memory.max": 8000, "a/memory.max": 7000, "a/b/memory.max": "max"}, 7000),
        ("0::/a/b", {"memory.max": "max", "a/memory.max": "max"}, physical),
        ("4:memory:/job", {"memory/job/memory.limit_in_bytes": 6000}, 6000),
        ("4:memory:/elsewhere", {"memory/memory.limit_in_bytes": 5000}, 5000),
        ("4:memory:/", {"memory/memory.limit_in_bytes": 2**63 - 4096}, physical),
        ("1:name=systemd:/", {"memory.max": 3}, physical),
    ):
        (place / "proc/self/cgroup").write_text(f"9:cpu:/x\n{line}\n")
        for name, limit in limits.items():
            (place / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
            (place / "cgroup" / name).write_text(f"{limit}\n")
        assert memory.free_memory(cpu) == (min(lowest, 9000 * 1024), lowest), line
