"""Amax telemetry: the largest activations of each step, for who asks."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import golden
import pytest
import torch
import toy
from safetensors.torch import load_file, save_file
from sampled import Bare, adapted, answers
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from minihmx import learn, lora, train
from minihmx.config import Config
from minihmx.instruments import alarms, amax
from minihmx.models.context import Context, inverse_frequencies
from minihmx.models.decoder import Decoder
from minihmx.optimizer import Optimizer
from minihmx.records import Rollout, Verdict
from minihmx.run import Run, open_run
from minihmx.storage.disk import read_lines


def hooks(decoder: Decoder) -> int:
    return sum(len(module._forward_hooks) for module in decoder.modules())


@torch.no_grad()
def by_hand(decoder: Decoder, ids: Tensor) -> dict[str, list[float]]:
    """The same five maxima from a forward pass written out."""
    config = decoder.config
    frequencies = inverse_frequencies(config)
    context = Context(config, frequencies, ids, None, None, 0)
    x = decoder.model.embed_tokens(ids).float() * config.embed_scale
    found: dict[str, list[float]] = {kind: [] for kind in ("residual", *alarms.SIXTEEN_BIT)}
    for i, layer in enumerate(decoder.model.layers):
        attended = layer.self_attn(layer.input_layernorm(x), context, i)  # type: ignore[operator]
        middle = layer.post_attention_layernorm(attended) if config.sandwich else attended  # type: ignore[operator]
        norm = "pre_feedforward_layernorm" if config.sandwich else "post_attention_layernorm"
        fed = getattr(layer, norm)(x + middle)
        gate, up = layer.mlp.gate_proj(fed), layer.mlp.up_proj(fed)  # type: ignore[operator, union-attr]
        found["attention"].append(attended.abs().max().item())
        found["product"].append(layer.mlp.product(gate, up).abs().max().item())  # type: ignore[operator, union-attr]
        found["mlp"].append(layer.mlp(fed).abs().max().item())  # type: ignore[operator]
        x = layer(x, context)
        found["residual"].append(x.abs().max().item())
    logits = decoder.model.norm(x).double() @ decoder.lm_head.weight.double().T
    return {**found, "logits": [logits.abs().max().item()]}


@pytest.mark.parametrize("family", golden.FAMILIES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_peaks_are_those_of_a_pass_written_out(family: str, checkpointing: bool) -> None:
    """Also where the backward computes each layer again; logits are those before a softcap."""
    decoder = adapted(family, torch.float32)
    ids = golden.load(family)[1]["input_ids"]
    want = by_hand(decoder, ids)
    decoder.checkpointing = checkpointing
    with amax.watched(decoder, chunk=100) as peaks:
        decoder(ids).sum().backward()
    assert hooks(decoder) == 0
    got = amax.peak_line(peaks)
    for kind, values in want.items():
        assert got[kind] == pytest.approx(values, rel=1e-5), kind
    assert got["share"] == pytest.approx(
        max(max(want[kind]) for kind in alarms.SIXTEEN_BIT) / 65504, rel=1e-5
    )


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_a_backward_written_out_whatever_the_scale(
    checkpointing: bool,
) -> None:
    decoder = adapted("llama", torch.float32)
    ids = golden.load("llama")[1]["input_ids"]
    outputs: dict[str, list[Tensor]] = {"residual": [], "attention": [], "mlp": []}
    config = decoder.config
    context = Context(config, inverse_frequencies(config), ids, None, None, 0)
    x = decoder.model.embed_tokens(ids).float() * config.embed_scale
    for i, layer in enumerate(decoder.model.layers):
        attended = layer.self_attn(layer.input_layernorm(x), context, i)  # type: ignore[operator]
        x = x + attended
        fed = layer.mlp(layer.post_attention_layernorm(x))  # type: ignore[operator]
        x = x + fed
        for kind, values in (("residual", x), ("attention", attended), ("mlp", fed)):
            outputs[kind].append(values)
    flat = [values for kind in outputs.values() for values in kind]
    found = iter(torch.autograd.grad(decoder.model.norm(x).square().sum(), flat))
    want = {kind: [next(found).abs().max().item() for _ in of] for kind, of in outputs.items()}
    decoder.checkpointing = checkpointing
    with amax.watched(decoder, chunk=100, scale=lambda: 64.0) as peaks:
        (decoder(ids).square().sum() * 64.0).backward()
    got = amax.peak_line(peaks)
    for kind, values in want.items():
        assert got[f"{kind}_gradient"] == pytest.approx(values, rel=1e-4), kind
    largest = max(want["attention"] + want["mlp"])
    assert got["gradient_share"] == pytest.approx(largest / 65504, rel=1e-4)


def test_a_gradient_that_overflowed_is_null_and_no_alarm_but_a_large_one_is() -> None:
    decoder = adapted("llama", torch.float32)
    ids = golden.load("llama")[1]["input_ids"]
    with amax.watched(decoder, chunk=100) as peaks:
        (decoder(ids).sum() * math.inf).backward()
    line = amax.peak_line(peaks)
    assert line["gradient_share"] is None and None in line["mlp_gradient"]
    assert [kind for kind, _, _ in alarms.peak_alarms(line)] == []
    large = {"share": 0.1, "gradient_share": 0.4, "attention_gradient": [1.0, 26000.0]}
    headroom = amax.Headroom(True, 100)
    headroom.line = large | {"mlp_gradient": [3.0, 4.0]}
    (told,) = headroom.notices()
    assert "the gradient of the attention output of layer 1 reached 26,000" in told
    assert headroom.notices() == []


def test_a_peak_is_that_of_all_passes_and_none_reads_the_device() -> None:
    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(
            self, call: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            Reads.count += call.overloadpacket.__name__ in ("_local_scalar_dense", "is_nonzero")
            return call(*args, **(kwargs or {}))

    decoder, expected = golden.load("qwen3", torch.float16)
    first, second = expected["input_ids"][:1], expected["input_ids"][1:2]
    single = []
    for ids in (first, second):
        with torch.no_grad(), amax.watched(decoder, 8192) as peaks:
            decoder(ids)
        single.append(amax.peak_line(peaks))
    with torch.no_grad(), Reads(), amax.watched(decoder, 8192) as peaks:
        decoder(first)
        decoder(second)
    assert Reads.count == 0
    both = amax.peak_line(peaks)
    for kind in ("residual", *alarms.SIXTEEN_BIT):
        pairs = zip(single[0][kind], single[1][kind], strict=True)
        assert both[kind] == [max(pair) for pair in pairs]
        assert single[0][kind] != single[1][kind]


def test_what_is_not_finite_is_null() -> None:
    decoder, expected = golden.load("llama", torch.float32)
    with torch.no_grad(), amax.watched(decoder, 8192) as peaks:
        decoder.model.layers[1].mlp.up_proj.weight[0, 0] = math.nan  # type: ignore[union-attr, index]
        decoder(expected["input_ids"])
    line = amax.peak_line(peaks)
    assert line["product"][0] is not None and line["product"][1] is None
    assert line["share"] is None
    json.dumps(line, allow_nan=False)


def test_off_watches_nothing() -> None:
    decoder = adapted("llama", torch.float32)
    headroom = amax.Headroom(False, 8192)
    with headroom.watched(decoder, lambda: 1.0):
        assert hooks(decoder) == 0
    assert headroom.line is None and headroom.notices() == []
    assert Config().amax == "off"


def test_the_warning_names_the_activation_with_the_least_headroom() -> None:
    kinds = dict(residual=[9e5, 9e5], attention=[5.0, 6.0], product=[100.0, 20000.0])
    line = kinds | dict(mlp=[3.0, 50.0], logits=[400.0], share=20000 / 65504)
    told = alarms.peak_warning(line)
    for part in ("gate * up product of layer 1", "20,000", "31%", "--dtype bfloat16"):
        assert part in told
    assert "reached 70,000" in alarms.peak_warning(line | {"logits": [7e4], "share": 7e4 / 65504})


def test_an_activation_that_is_not_finite_is_told_once() -> None:
    headroom = amax.Headroom(True, 8192)
    headroom.line = {"share": None}
    (notice,) = headroom.notices()
    assert "not finite" in notice and headroom.notices() == []


# --- in a run -------------------------------------------------------------------------------------


def by_tokens(run: Run, rollouts: Sequence[Rollout], phase: str) -> None:
    for rollout in rollouts:
        rollout.verdict = Verdict(sum(rollout.completion.ids) % 11, (0, 1))
        rollout.reward = float(rollout.verdict.score)


def trained(
    tmp_path: Path, stops: Sequence[int] = (), **changes: object
) -> tuple[Path, list[train.Stepped]]:
    """Train to the end, stopping after so many steps before; the folder and the steps."""
    steps: list[train.Stepped] = []
    for stop in (*stops, 99):
        run = open_run(toy.flags(tmp_path, **changes))
        asked = iter([False] * stop + [True])
        events = list(train.train(run, lambda asked=asked: next(asked)))  # type: ignore[misc]
        steps += [event for event in events if isinstance(event, train.Stepped)]
        assert hooks(run.decoder) == 0
        run.store._lock.close()
    return run.store.folder, steps


def test_a_run_writes_a_line_a_step_and_is_otherwise_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "judge", by_tokens)
    plain, _ = trained(tmp_path, out=str(tmp_path / "plain"))
    watched, _ = trained(tmp_path, out=str(tmp_path / "watched"), amax="on")
    again, _ = trained(tmp_path, [2, 3], out=str(tmp_path / "again"), amax="on")
    assert not (plain / "amax.jsonl").exists()
    lines = read_lines(watched / "amax.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(len(line["residual"]) == 2 and len(line["logits"]) == 1 for line in lines)
    assert (again / "amax.jsonl").read_bytes() == (watched / "amax.jsonl").read_bytes()
    for name in ("metrics.jsonl", "checkpoints/epoch-02/adapter_model.safetensors"):
        assert (plain / name).read_bytes() == (watched / name).read_bytes()


def test_lines_behind_the_checkpoint_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "judge", by_tokens)
    folder, _ = trained(tmp_path, amax="on")
    whole = (folder / "amax.jsonl").read_bytes()
    (folder / "checkpoints/epoch-02/optimizer.safetensors").write_bytes(b"")
    trained(tmp_path, amax="on")
    assert (folder / "amax.jsonl").read_bytes() == whole


def test_little_headroom_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A toy whose MLP gives more than a quarter of what fp16 holds."""
    monkeypatch.setattr(train, "judge", by_tokens)
    flags = toy.flags(tmp_path)
    file = Path(str(flags["model"])) / "model.safetensors"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if "layers.1.mlp.down_proj" in name:
            tensor *= 3e6
    save_file(tensors, file, {"format": "pt"})
    monkeypatch.setattr(toy, "model", lambda folder: Path(str(flags["model"])))
    folder, steps = trained(tmp_path, amax="on", learning_rate=1e-6)
    shares = [line["share"] for line in read_lines(folder / "amax.jsonl")]
    assert min(shares) > 0.25 and max(shares) < 2 * shares[0]
    told = [notice for step in steps for notice in step.notices]
    assert told == steps[0].notices and len(told) == 1
    assert told[0].startswith("amax: the MLP output of layer 1 reached")


def test_learning_gives_peaks_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = learn.accumulate

    def update(run: Any, *arguments: Any) -> Any:
        seen.append(hooks(run.decoder))
        return real(run, *arguments)

    monkeypatch.setattr(learn, "accumulate", update)
    for setting, watched in (("off", 0), ("on", 4 * 5 + 1)):
        decoder = adapted("llama", torch.float32)
        config = Config(dtype="float32", amax=setting)
        made = Optimizer(lora.parameters(decoder), config, 10)
        run = Bare(config, decoder, headroom=amax.Headroom(setting == "on", config.logit_chunk))
        learn.learn(run, answers(decoder), made)  # type: ignore[arg-type]
        assert (run.headroom.line is not None) == (setting == "on")
        assert seen.pop() == watched
