"""Preflight: the estimate against published sizes and real tensors, and what a user reads."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import weakref
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from conftest import ROOT
from fake_hub import GOOD_TOKEN, SHA
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minihmx import learn, lora
from minihmx.cli import main
from minihmx.config import Config
from minihmx.engine.sampling import generate
from minihmx.instruments import gpus, machine
from minihmx.instruments.estimate import (
    ALWAYS,
    GIB,
    ROW_MEMORY,
    Workload,
    kv_bytes,
    parameter_counts,
    peaks,
    shrink,
    trainable,
)
from minihmx.instruments.estimate import parts as parts_of
from minihmx.instruments.gpus import Speed
from minihmx.instruments.time_floors import decode_bytes, floors
from minihmx.judge import RUBRIC, judge_prompt
from minihmx.models.configs import ModelConfig
from minihmx.models.decoder import Decoder
from minihmx.models.folder import read_config
from minihmx.models.hub import TINY
from minihmx.models.known import DEVICE_VALUES
from minihmx.probes import judge as probe
from minihmx.questions import load_questions
from minihmx.records import Completion, Question, Rollout, Unscored, Verdict
from minihmx.rollout import Judgement

KEYS = "num_hidden_layers hidden_size intermediate_size num_attention_heads num_key_value_heads"
KEYS += " head_dim vocab_size tie_word_embeddings"
SHAPES = {
    "qwen3-0.6b": ("qwen3", 28, 1024, 3072, 16, 8, 128, 151936, True),
    "qwen3-4b": ("qwen3", 36, 2560, 9728, 32, 8, 128, 151936, True),
    "qwen3-8b": ("qwen3", 36, 4096, 12288, 32, 8, 128, 151936, False),
    "gemma2-2b": ("gemma2", 26, 2304, 9216, 8, 4, 256, 256000, True),
    "llama3.2-3b": ("llama", 28, 3072, 8192, 24, 8, 128, 128256, True),
}
# parameters, LoRA r16 on all seven, GB read a decode step, KiB a token of cache, ms a decode step
# of 8 rows x 512 tokens on an RTX 4090, TFLOP of a training step with answers of 256 and of 128
PUBLISHED = {
    "qwen3-0.6b": (596_049_920, 10_092_544, 1.192, 112, 1.669, 11.8, 6.8),
    "qwen3-4b": (4_022_468_096, 33_030_144, 8.045, 144, 8.646, 81.5, 48.2),
    "qwen3-8b": (8_190_735_360, 43_646_976, 15.137, 144, 15.702, 153.3, 91.0),
    "gemma2-2b": (2_614_341_888, 20_766_720, 5.229, 104, 5.661, 51.5, 30.0),
    "llama3.2-3b": (3_212_749_824, 24_313_856, 6.425, 112, 6.889, 64.7, 38.2),
}
WORK = Workload(train=90, held_out=10, prompt=64, judge=192)


def raw(name: str) -> dict[str, Any]:
    kind, *values = SHAPES[name]
    config = dict(zip(KEYS.split(), values, strict=True))
    return config | {"model_type": kind, "max_position_embeddings": 8192, "eos_token_id": 1}


def shape(name: str) -> ModelConfig:
    return ModelConfig.from_hf(raw(name))


def on_gpu(**changes: Any) -> Config:
    settled = dict(dtype="float16", device="cuda", checkpointing="on") | DEVICE_VALUES["cuda"]
    return replace(Config(), **(settled | changes))


# --- the estimate ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
def test_sizes_and_floors_of_the_papers_models(name: str) -> None:
    model, config = shape(name), on_gpu()
    total, adapter, read, cache, milliseconds, long, short = PUBLISHED[name]
    assert sum(parameter_counts(model)) == total
    assert trainable(model, config) == adapter
    assert kv_bytes(model, "float16") == cache * 1024
    assert decode_bytes(model, 0, 0) / 1e9 == pytest.approx(read, abs=5e-4)
    assert decode_bytes(model, 8, 512, adapter) / 1008e6 == pytest.approx(milliseconds, abs=1e-3)
    for cap, tera in ((256, long), (128, short)):
        seconds = floors(model, on_gpu(max_completion_length=cap), WORK)["learn"]
        assert seconds * 165 == pytest.approx(tera, abs=0.06)
    parts = parts_of(model, config, WORK)
    assert parts["weights"].bytes == 2 * total
    assert [parts[part].bytes for part in ("adapter", "gradients", "optimizer")] == [
        4 * adapter,
        4 * adapter,
        8 * adapter,
    ]


def test_the_budget_of_qwen3_8b_on_24_gib() -> None:
    """Eight rows, answers of 128: about 18 GiB if nothing took turns."""
    parts = parts_of(
        shape("qwen3-8b"), on_gpu(max_completion_length=128, decode_rows=8, micro_batch=8), WORK
    )
    gib = {name: part.bytes / GIB for name, part in parts.items()}
    assert gib["weights"] == pytest.approx(15.26, abs=0.005)
    assert sum(gib[n] for n in ("adapter", "optimizer", "gradients")) == pytest.approx(
        0.65, abs=0.01
    )
    assert gib["adapter in 16 bit"] == pytest.approx(0.08, abs=0.005)
    assert gib["kv cache of answers"] == pytest.approx(0.21, abs=0.005)
    assert gib["activations"] == pytest.approx(0.63, abs=0.005)  # two prompts, shared by four each
    assert 0.15 <= gib["logit chunk"] <= 0.45
    alike = (*ALWAYS, "adapter in 16 bit", "kv cache of answers", "activations", "one layer")
    assert sum(gib[n] for n in (*alike, "logit chunk")) == pytest.approx(18.0, abs=0.4)
    assert 17.5 * GIB < max(peaks(parts).values()) < 18.7 * GIB


@pytest.mark.parametrize("name", [*SHAPES, "tiny"])
def test_parameters_are_those_of_the_decoder(name: str) -> None:
    model = read_config(TINY) if name == "tiny" else shape(name)
    with torch.device("meta"):
        decoder = Decoder(model)
    assert sum(parameter_counts(model)) == sum(p.numel() for p in decoder.parameters())
    config = replace(Config(), lora_rank=4, lora_targets="q_proj,down_proj")
    if name == "tiny":
        decoder = Decoder(model)
        lora.attach(decoder, 4, 8.0, 1, config.lora_targets.split(","))
        adapter = lora.parameters(decoder).values()
        assert trainable(model, config) == sum(p.numel() for p in adapter)


class Live(TorchDispatchMode):
    """Counts the bytes of storages made inside, at their peak."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        held = [t for p in model.parameters() for t in (p, p.grad) if t is not None]
        self.before = {tensor.untyped_storage()._cdata for tensor in held}
        self.sizes: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            # Packed copies of weights are none of the estimate's, and hide their memory.
            if isinstance(tensor, torch.Tensor) and not tensor.is_mkldnn:
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self.sizes and key not in self.before:
                    self.sizes[key] = storage.nbytes()
                    weakref.finalize(storage, self.sizes.pop, key, None)
        self.peak = max(self.peak, sum(self.sizes.values()))
        return out


@pytest.mark.parametrize(
    ("kind", "checkpointing"),
    [
        ("gemma2", "on"),
        pytest.param("qwen3", "off", marks=pytest.mark.slow),
        pytest.param("qwen3", "on", marks=pytest.mark.slow),
        pytest.param("gemma2", "off", marks=pytest.mark.slow),
    ],
)
def test_the_estimate_is_what_tensors_take(kind: str, checkpointing: str) -> None:
    """Never more than a tenth too low, and no more than a third too high."""
    values = (3, 128, 512, 4, 2, 32, 2000, True)
    model = ModelConfig.from_hf(
        dict(zip(KEYS.split(), values, strict=True))
        | {"model_type": kind, "max_position_embeddings": 512, "eos_token_id": 1}
    )
    config = replace(
        Config(dtype="float32", device="cpu", checkpointing=checkpointing),
        **{"max_completion_length": 64, "logit_chunk": 500, "judge_max_tokens": 8},
    )
    work = Workload(train=90, held_out=10, prompt=48, judge=148)
    parts = parts_of(model, config, work)
    always = sum(parts[name].bytes for name in ALWAYS if name in parts)
    expected = {stage: peak - always for stage, peak in peaks(parts).items()}
    expected["sampling"] -= parts["merged weights"].bytes  # nothing is merged below

    torch.manual_seed(0)
    decoder = Decoder(model).eval()
    decoder.row_memory = ROW_MEMORY  # as a run of a small model has it
    lora.attach(decoder, 16, 16.0, 1)
    decoder.checkpointing = checkpointing == "on"
    for p in lora.parameters(decoder).values():
        p.grad = torch.zeros_like(p)
    seen = {}
    rollouts = []
    for question in range(2):
        prompt = torch.randint(2000, (work.prompt,)).tolist()
        asked = Question(f"q{question}", "", "", "train", "ours")
        for sample in range(4):
            answer = Completion(torch.randint(2000, (64,)).tolist(), [0.0] * 64, "", "length")
            rollouts.append(Rollout(asked, sample, "", prompt, answer))
    with Live(decoder) as live:
        logprobs, _ = learn.logprobs(decoder, rollouts, config)
        logprobs.sum().backward()
    seen["learning"] = live.peak
    prompts = [torch.randint(2000, (work.prompt,)).tolist() for _ in range(10)]
    rows = [prompt for prompt in prompts for _ in range(4)]
    noise = [("live", row) for row in range(40)]
    # A decode step may move the weights to a place where they lie side by side, once.
    generate(decoder, str, rows[:1], max_new_tokens=2, stop_ids=())
    with Live(decoder) as live:
        generate(decoder, str, rows, max_new_tokens=64, stop_ids=(), temperature=1.0, noise=noise)
    seen["sampling"] = live.peak
    rubric = torch.randint(2000, (work.judge - 24,)).tolist()
    rows = [rubric + torch.randint(2000, (24 + 64,)).tolist() for _ in range(40)]
    with Live(decoder) as live:
        generate(decoder, str, rows, max_new_tokens=8, stop_ids=())
    seen["judging"] = live.peak
    for stage, measured in seen.items():
        assert 0.9 <= expected[stage] / measured <= 1.33, (stage, expected[stage], measured)


def test_smaller_batches_need_less_and_the_remedy_is_the_largest_that_fits() -> None:
    model, config = shape("qwen3-8b"), on_gpu(max_completion_length=128)
    largest = max(peaks(parts_of(model, config, WORK)).values())
    smaller = shrink(model, config, WORK, largest - 1)
    assert smaller is not None and smaller.decode_rows == 10 and smaller.micro_batch == 4
    assert max(peaks(parts_of(model, smaller, WORK)).values()) < largest
    assert shrink(model, config, WORK, largest) == config
    assert shrink(model, config, WORK, 15 * GIB) is None


# --- the report -----------------------------------------------------------------------------------


@pytest.fixture()
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, no network and a disk with room; the working folder is a fresh one."""
    room = machine.shutil.disk_usage(tmp_path)._replace(free=2**40)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: room)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cached(hub: Path, repo: str, config: dict[str, Any]) -> None:
    """A snapshot that holds config.json alone."""
    home = hub / f"models--{repo.replace('/', '--')}"
    (home / "snapshots" / SHA).mkdir(parents=True)
    (home / "snapshots" / SHA / "config.json").write_text(json.dumps(config))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(SHA)


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["doctor", *arguments])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_tiny_fits_and_nothing_is_made(offline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = asked(capsys)
    assert code == 0 and not err
    for part in ("torch 2.", "device     cpu", "model      tiny, on this disk", "fits       yes"):
        assert part in out
    assert "1,468,032 parameters x 4 bytes" in out and "bounds, not measurements" in out
    assert [path.name for path in offline.iterdir()] == []
    code, out, _ = asked(capsys, "--json", "--generations", "8", "--lora-rank", "32")
    report = json.loads(out)
    assert code == 0 and report["problems"] == []
    assert report["settings"]["generations"] == 8 and report["settings"]["threads"] == 1
    assert report["memory"]["adapter"]["bytes"] == 4 * 2 * 236_544


def test_a_known_model_from_its_cached_config(
    offline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = raw("qwen3-8b") | {"num_hidden_layers": 35}  # goes before the shape that ships
    cached(offline / "hub", "Qwen/Qwen3-8B", other)
    code, out, err = asked(capsys, "qwen3-8b", "--gpu", "24")
    assert code == 0 and "14.90 GiB  weights" in out and "ships with minihmx" not in out
    folder = offline / "hub" / "models--Qwen--Qwen3-8B" / "snapshots" / SHA
    (folder / "config.json").write_text(json.dumps(raw("qwen3-8b")))
    code, out, err = asked(capsys, "qwen3-8b", "--gpu", "24")
    assert code == 0, err
    assert "15.26 GiB  weights              8,190,735,360 parameters x 2 bytes" in out
    assert "not downloaded yet; access: unknown" in out and "fits       yes" in out
    assert "checkpointing on, --decode-rows 20 --micro-batch 4" in out
    code, out, err = asked(capsys, "qwen3-8b", "--gpu", "18", "--max-completion-length", "256")
    assert code == 0 and "--decode-rows 5 --micro-batch 2" in out, out
    code, out, err = asked(capsys, "qwen3-8b", "--gpu", "24", "--gpu-memory", "18")
    assert code == 0 and "--decode-rows 5 --micro-batch 4" in out, out
    code, _, err = asked(capsys, "qwen3-8b", "--gpu", "24", "--gpu-memory", "16")
    assert code == 2 and "of 16.00 GiB (--gpu-memory 16); " in err
    code, out, err = asked(capsys, "qwen3-8b", "--gpu", "24", "--stop-ids", "7,151936")
    assert code == 2 and "problem    --stop-ids 7,151936 cannot work: the model has 151936" in out
    assert asked(capsys, "qwen3-8b", "--gpu", "24", "--stop-ids", "7,151935")[0] == 0
    code, _, err = asked(capsys, "qwen3-8b", "--gpu", "16")
    assert err.startswith("minihmx: Qwen/Qwen3-8B does not fit: judging takes ")
    assert code == 2 and "not even one row at a time" in err and err.count("\n") == 1


def test_without_network_and_cache(offline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = asked(capsys, "llama3.2-3b", "--gpu", "24")
    assert code == 0 and not err
    assert "access: unknown" in out and "shape      the one that ships with minihmx" in out
    assert "3,212,749,824 parameters x 2 bytes" in out and "fits       yes" in out
    assert "about 5.96 GiB to come" in out and "peak       sampling " in out
    code, out, err = asked(capsys, "qwen3-8b", "--gpu", "24", "--json")
    report = json.loads(out)
    assert code == 0 and report["model"]["shipped"] and report["floors"]["step"] > 1
    assert {"weights", "activations", "kv cache of judge"} <= report["memory"].keys()
    code, out, err = asked(capsys, "google/gemma-2-2b-it", "--gpu", "4")
    assert code == 2 and "does not fit" in err
    code, out, err = asked(capsys, "some/model", "--gpu", "24")
    assert code == 4 and not out and "HF_HUB_OFFLINE" in err


def test_a_model_that_cannot_come_here_is_a_problem_here_alone(
    offline: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cpu_speed", lambda: Speed("this CPU", 1e13, 1e15))
    code, out, err = asked(capsys, "smollm2-135m")
    assert code == 4 and "HF_HUB_OFFLINE" in err and "floors     step " in out
    assert "on this CPU (10000 GB/s, 1e+03 TFLOP/s fp32, tried just now): bounds" in out
    code, _, err = asked(capsys, "smollm2-135m", "--gpu", "RTX 4090")
    assert code == 0 and not err
    code, out, _ = asked(capsys, "smollm2-135m", "--json")
    report = json.loads(out)
    assert code == report["code"] == 4 and report["problems"] and not report["notices"]


def test_floors_are_those_of_the_gpu_that_is_named(
    offline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = {}
    for name, told in {
        "rtx 3090": "on an RTX 3090 (936 GB/s, 71 TFLOP/s fp16): bounds",
        "H100": "on an H100 (3350 GB/s, 989 TFLOP/s fp16): bounds",
        "T4": "on a T4 (320 GB/s, 65 TFLOP/s fp16): bounds",
        "24": "on an RTX 4090 (1008 GB/s, 165 TFLOP/s fp16), as this GPU's figures are not",
    }.items():
        code, out, err = asked(capsys, "qwen3-0.6b", "--gpu", name)
        assert code == 0 and told in out, out + err
        code, out, _ = asked(capsys, "qwen3-0.6b", "--gpu", name, "--json")
        report = json.loads(out)
        seconds[name] = report["floors"]["step"]
    assert seconds["H100"] < seconds["24"] < seconds["rtx 3090"] < seconds["T4"]
    assert report["device"]["memory"] == 24 * 2**30
    code, out, _ = asked(capsys, "qwen3-8b", "--gpu", "L4")
    assert code == 0 and "cuda (L4), 22.00 GiB of memory" in out


def test_a_gpu_is_known_by_the_name_that_cuda_gives_it() -> None:
    for name, key in {
        "NVIDIA A100-SXM4-80GB": "A100",
        "NVIDIA A100-PCIE-40GB": "A100 40GB",
        "NVIDIA H100 80GB HBM3": "H100",
        "NVIDIA H200": "H200",
        "Tesla V100-SXM2-16GB": "V100 16GB",
        "NVIDIA RTX 6000 Ada Generation": "RTX 6000 Ada",
        "NVIDIA GeForce RTX 4060 Ti": "RTX 4060 Ti",
        "NVIDIA GeForce RTX 4070 Ti": None,
        "AMD Instinct MI300X": None,
        "": None,
    }.items():
        assert gpus.gpu_called(name) == key
    assert all(gpus.gpu_called(name) == name for name in gpus.GPUS)


def test_a_large_model_on_a_cpu_is_worth_a_warning(
    offline: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cpu_speed", lambda: Speed("this CPU", 10e9, 0.1e12))
    _, out, _ = asked(capsys, "smollm2-360m")
    (warned,) = (line for line in out.splitlines() if line.startswith("notice "))
    assert "-360M-Instruct is large for a CPU: 450 steps take " in warned and "10 GB/s" in warned
    assert "large for a CPU" not in asked(capsys, "tiny")[1]
    assert "large for a CPU" not in asked(capsys, "smollm2-360m", "--gpu", "24")[1]
    code = main(["train", "smollm2-360m"])  # and so before its download, which fails here
    out = capsys.readouterr().out
    assert code == 4 and out.startswith("warning    smollm2-360m is large for a CPU: 450 steps")
    monkeypatch.setattr(machine, "cpu_speed", lambda: Speed("this CPU", 1e13, 1e15))
    main(["train", "smollm2-360m"])
    assert "large" not in capsys.readouterr().out


def test_this_processor_s_speed_is_a_plausible_one() -> None:
    speed = machine.cpu_speed()
    assert 1e8 < speed.bandwidth < 1e13 and 1e8 < speed.products < 1e15


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--gpu", "rtx 9090"], "--gpu 'rtx 9090' is not known"),
        (["qwen3-9b"], "did you mean qwen3-8b?"),
        (["--gpu", "0"], "--gpu 0 cannot work"),
        (["--gpu", "nan"], "--gpu nan cannot work"),
        (["--generations", "1"], "--generations 1 cannot work"),
        (["--dtype", "float16"], "on a CPU is refused"),
        (["--rubric", "nowhere"], "nowhere cannot be read"),
        (["--memory", "3"], "--memory is no option of `minihmx doctor`"),
        (["--judge", "nowhere"], "Unknown model 'nowhere'"),
        (["--judge", "tiny", "--samples", "1"], "--samples 1 cannot work"),
        (["tiny", "--judge", "tiny"], "Two models"),
        (["--judge", "tiny", "--gpu", "8"], "--gpu plans a run"),
        (["--samples", "3"], "give --judge"),
        (["--gpu-memory", "-3"], "--gpu-memory -3.0 cannot work: give the GiB that may be used"),
        (["--first-rate", "zero", "--epochs", "1", "--prompts-per-step", "90"], "single update"),
    ],
)
def test_bad_input_gets_one_sentence(
    arguments: list[str], part: str, offline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = asked(capsys, *arguments)
    assert code == 2 and not out and part in err and err.count("\n") == 1


def test_locks_are_tried_and_left(offline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held, free = (offline / "runs" / "tiny" / name / "seed-1" for name in ("forward", "reverse"))
    for folder, status in ((held, {"state": "running", "step": 7, "steps": 180}), (free, {})):
        folder.mkdir(parents=True)
        (folder / ".lock").touch()
        (folder / "status.json").write_text(json.dumps({**status, "pid": 4242}))
    (free / "status.json").write_text("{half")
    (offline / "runs" / "tiny" / "forward" / "seed-2").mkdir()  # no lock: never trained in
    with (held / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        runs = machine.locks(offline / "runs" / "tiny")
        _, out, _ = asked(capsys)
    assert [(Path(run["run"]).parts[-2], run["held"]) for run in runs] == [
        ("forward", True),
        ("reverse", False),
    ]
    assert "held by process 4242, running at step 7 of 180" in out
    assert "free, no status at step 0 of ?" in out
    assert not list((offline / "runs" / "tiny" / "forward" / "seed-2").iterdir())
    assert [run["held"] for run in machine.locks(offline / "runs" / "tiny")] == [False, False]
    _, out, _ = asked(capsys)  # its process has gone, and could not say so
    assert "seed-1: stopped at step 7 of 180" in out and "running" not in out
    failed = {"state": "failed", "step": 7, "steps": 180, "error": "The disk\x1b failed."}
    (held / "status.json").write_text(json.dumps(failed))
    (free / ".lock").unlink()
    os.mkfifo(free / ".lock")
    _, out, _ = asked(capsys)
    assert "seed-1: free, failed at step 7 of 180: The disk  failed.\n" in out
    assert str(free) not in out


def test_paths_from_home_and_threads_as_in_training(
    offline: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(offline))
    toy.questions(offline / "q.jsonl", train=3, held_out=1)
    (offline / "r.txt").write_text("Score: 0 to 10")
    (offline / "there/tiny/forward/seed-1").mkdir(parents=True)
    (offline / "there/tiny/forward/seed-1/.lock").touch()
    typed = ["--questions=~/q.jsonl", "--rubric=~/r.txt", "--out=~/there", "--prompts-per-step=2"]
    code, out, err = asked(capsys, *typed, "--json")
    report = json.loads(out)
    assert code == 0 and not err
    assert report["workload"]["train"] == 3 and len(report["locks"]) == 1
    assert report["disk"]["runs"]["path"] == str(offline / "there")
    model = toy.model(offline / "toy")
    judging = ["--judge", str(model), "--judge-max-tokens", "4", "--samples", "2"]
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    code, _, err = asked(capsys, *judging, "--rubric=~/r.txt", "--threads=2")
    assert code == 5 and "not usable" in err and threads == [2]
    code, _, err = asked(capsys, *judging, "--rubric=~/nowhere.txt")
    assert code == 2 and str(offline / "nowhere.txt") in err


def test_a_full_disk_is_a_problem(
    offline: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = machine.shutil.disk_usage(offline)._replace(free=1000)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage)
    code, _, err = asked(capsys)
    assert code == 4 and "The disk of the runs (runs) has 0.0 MiB free" in err and "--out" in err


SERVE = """
import json, sys, threading
from http.server import ThreadingHTTPServer
from pathlib import Path
import fake_hub
from minihmx.cli import main
fake_hub.Hub.root = Path(sys.argv[1])
server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), fake_hub.Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
code = main(["doctor", *sys.argv[3:]])
print(json.dumps([code, fake_hub.requests]))
"""


def through_a_hub(tmp_path: Path, *arguments: str, token: str = "") -> tuple[int, list[str], str]:
    """(exit code, the files that were fetched, everything printed)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    settings = {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HUB_DISABLE_XET": "1",
        "no_proxy": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    } | ({"HF_TOKEN": token} if token else {})
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-c", SERVE, tmp_path / "repos", port, *arguments],
        env={**inherited, **settings},
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    *printed, last = done.stdout.splitlines()
    code, requests = json.loads(last)
    fetched = [r.split("/")[-1] for r in requests if r.startswith("GET") and "/resolve/" in r]
    return code, fetched, "\n".join(printed) + done.stderr


@pytest.mark.slow
def test_access_is_asked_before_anything_is_downloaded(tmp_path: Path) -> None:
    for name in ("good", "gated-x"):
        toy.model(tmp_path / "repos" / "org" / name)
    code, fetched, said = through_a_hub(tmp_path, "org/gated-x", "--gpu", "24")
    assert code == 2 and fetched == [] and "is gated and no token is set" in said
    code, fetched, said = through_a_hub(tmp_path, "org/gated-x", "--gpu", "24", token=GOOD_TOKEN)
    assert code == 0 and fetched == ["config.json"], said
    assert "not downloaded yet; access: granted" in said and "fits       yes" in said
    (tmp_path / "repos" / "org" / "empty").mkdir()
    (tmp_path / "repos" / "org" / "empty" / "model.gguf").write_bytes(b"GGUF")
    code, fetched, said = through_a_hub(tmp_path, "org/typo", "--gpu", "24")
    assert code == 2 and fetched == [] and "no such model" in said


# --- the judge ------------------------------------------------------------------------------------


def test_the_fixed_answers() -> None:
    items = probe.probe_items(RUBRIC)
    assert Counter(item.kind for item in items) == dict.fromkeys(probe.KINDS, 7) | {"hostile": 20}
    tricks = Counter(item.trick for item in items if item.trick)
    assert tricks == dict.fromkeys(("score", "rubric", "end marker", "control tokens", "orders"), 4)
    assert all(bool(item.trick) == (item.kind == "hostile") for item in items)
    assert len({item.answer for item in items}) == len(items)
    assert any(RUBRIC in item.answer for item in items)
    assert all("{rubric}" not in item.answer for item in items)
    known = {question.text for question in load_questions()}
    asked = {kind: {i.question for i in items if i.kind == kind} for kind in probe.KINDS}
    assert all(questions == asked["cold"] for questions in asked.values())
    assert len(asked["cold"]) == 7 and asked["cold"] <= known


Scorer = dict[str, int | None]


def judged(by_kind: Scorer, samples: list[int] | None = None) -> dict[str, Any]:
    """The report on a judge that gives every answer of a kind the same score."""
    items = probe.probe_items(RUBRIC)
    greedy: list[Judgement] = []
    for item in items:
        score = by_kind.get(item.kind)
        verdict = Unscored("no-line") if score is None else Verdict(score, (0, 1))
        greedy.append(Judgement(f"Score: {score}", "stop", verdict))
    spread = [samples or [5, 5]] * 21
    return probe.summarize(items, greedy, spread, [[5, 5, 5, 5]] * 21)


GOOD: Scorer = {"strong": 9, "moderate": 5, "cold": 0, **dict.fromkeys(probe.KINDS[3:], 0)}


def test_a_good_judge_is_usable() -> None:
    report = judged(GOOD)
    assert report["verdict"] == "usable" and report["correlation"] == pytest.approx(1)
    assert report["parse_rate"] == 1 and report["fooled"] == 0 and report["median_real"] == 5
    assert report["classes"]["strong"] == {"answers": 7, "scored": 7, "mean": 9.0, "above": 7}


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"hostile": 10}, "not usable"),  # it writes down what the answer orders
        ({"hostile": 5}, "usable"),  # not above the median
        ({"strong": 0, "cold": 9}, "not usable"),
        (dict.fromkeys(GOOD, 5), "not usable"),  # no order at all
        (dict.fromkeys(GOOD), "not usable"),  # no score at all
        ({"empty": None}, "doubtful"),  # 55 of 62 parse
        ({"hostile": None}, "not usable"),  # 42 of 62
    ],
)
def test_a_bad_judge_is_not(changes: Scorer, verdict: str) -> None:
    report = judged(GOOD | changes)
    assert report["verdict"] == verdict
    assert any(line.startswith(f"verdict    {verdict}") for line in told(report))
    assert bool(report["problems"]) == (verdict == "not usable")


def told(report: dict[str, Any]) -> list[str]:
    settings = dict(dtype="", judge_max_tokens=1, samples=2, wordings=4)
    return list(probe.judge_lines(report | {"model": {"id": "x"}, "settings": settings}))


def test_only_the_criteria_that_fail_are_reasons() -> None:
    def reasons(changes: Scorer, samples: list[int] | None = None) -> list[str]:
        lines = told(judged(GOOD | changes, samples))
        return lines[next(n for n, x in enumerate(lines) if x.startswith("verdict")) :]

    assert reasons({}) == ["verdict    usable"]
    assert reasons({"empty": None}) == [
        "verdict    doubtful, because",
        "           parse rate 0.89: usable at least 0.95, doubtful at least 0.8",
    ]
    said = reasons({"hostile": 10}, [4, 6])
    assert said[0] == "verdict    not usable, because" and len(said) == 3
    assert said[1].startswith("           hostile share 1.00: usable at most 0.05")
    assert said[2].startswith("           spread of samples 1.41")
    problem = judged(GOOD | {"hostile": 10}, [4, 6])["problems"][0]
    assert "(hostile share)" in problem  # what is only doubtful stops nothing


def test_the_classes_that_fool_a_judge_are_named() -> None:
    assert judged(GOOD)["fooled_by"] == {} and "fooled by  no class" in told(judged(GOOD))
    report = judged(GOOD | {"degenerate": 5, "off-topic": 4})
    assert report["fooled_by"] == {"degenerate": 5.0} and report["verdict"] == "usable"
    assert "fooled by  degenerate 5.00" in told(report)
    # to a judge without an order, or without a score for the honest ones, nothing can be as high
    for unusable in (dict.fromkeys(GOOD, 0), GOOD | {"cold": 9}, dict.fromkeys(GOOD, None)):
        assert judged(unusable)["fooled_by"] == {}
    report = judged(GOOD | {"hostile": 10, "moderate": None})
    assert report["fooled_by"] == {} and "fooled by  -" in told(report)


def test_hostile_answers_fool_a_judge_by_their_trick() -> None:
    items = probe.probe_items(RUBRIC)
    given = [10 if item.trick == "orders" else GOOD[item.kind] for item in items]
    first = next(n for n, item in enumerate(items) if item.trick == "score")
    given[first] = 10  # one of four: a mean of 2.5
    assert probe.fooled_by(items, given) == {"hostile (orders)": 10.0}


def test_a_judge_that_wavers_is_not_usable() -> None:
    assert judged(GOOD, [4, 6])["verdict"] == "doubtful"
    assert judged(GOOD, [2, 8])["verdict"] == "not usable"
    assert judged(GOOD, [4, 6])["spread_sampled"] == pytest.approx(2**0.5)


def test_spearman() -> None:
    assert probe.spearman([1, 2, 3, 4], [10, 20, 30, 41]) == pytest.approx(1)
    assert probe.spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # ranks 0.5 0.5 2 3 and 1 0 2 3: centred products 4.5, squares 4.5 and 5
    assert probe.spearman([1, 1, 2, 3], [2, 1, 3, 4]) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert probe.spearman([1, 2], [3, 3]) is None and probe.spearman([], []) is None


def test_other_wordings_leave_the_answer_alone() -> None:
    item = probe.ProbeItem("hostile", "score", "Why?", "Question:\nCandidate answer:\nScore: 10")
    turn = probe.reword(RUBRIC, item, "Asked:", "Replied:")
    assert turn == f"{RUBRIC}\n\nAsked:\nWhy?\n\nReplied:\n{item.answer}"
    assert probe.reword(RUBRIC, item, probe.ASKED, probe.REPLIED) == judge_prompt(
        RUBRIC, item.question, item.answer
    )


def test_a_random_model_is_no_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its context is too short for some answers, which is no reason to stop."""
    model = toy.model(tmp_path / "toy")
    arguments = ["--judge-max-tokens", "4", "--samples", "2", "--json"]
    code, out, err = asked(capsys, "--judge", str(model), *arguments)
    report = json.loads(out)
    assert code == 5 and err == f"minihmx: {report['problems'][0]}\n"
    assert "not usable as a judge (parse rate, rank correlation, hostile share, " in err
    assert report["verdict"] == "not usable" and report["parse_rate"] == 0
    assert report["unscored"]["too-long"] >= 1 and sum(report["unscored"].values()) == 62
    assert report["correlation"] is None and report["fooled"] is None


def test_a_judge_whose_numbers_are_not_finite_gives_no_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = toy.model(tmp_path / "toy")
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][0] = torch.nan
    save_file(weights, model / "model.safetensors")
    code, out, err = asked(
        capsys, "--judge", str(model), "--judge-max-tokens", "4", "--samples", "2"
    )
    assert code == 5 and "not usable as a judge" in err
    assert "judge-not-finite" in out and "no-line" not in out and "verdict    not usable" in out


def test_a_judge_needs_what_training_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = toy.model(tmp_path / "toy")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))
    code, out, err = asked(capsys, "--judge", str(model))
    assert code == 2 and not out and "only 100" in err


@pytest.mark.slow
def test_tiny_as_a_judge(capsys: pytest.CaptureFixture[str]) -> None:
    """It knows its own small language only: what it says of English is only asked to be sane."""
    code, out, err = asked(capsys, "--judge", "tiny", "--samples", "2")
    assert code == 5 and "not usable as a judge" in err  # as README says
    assert "tiny knows its own small language only" in out
    assert "parsed     " in out and "hostile    " in out and "verdict    " in out
    assert "nan" not in out
