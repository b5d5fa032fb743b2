"""`probe on-policy`: what is equal to the bit, what is not and why, and planted mistakes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import golden
import pytest
import real_models
import torch
from command_line import in_process, refused
from sampled import adapted, answers

from minihmx import lora
from minihmx.config import Config
from minihmx.engine import sampling
from minihmx.instruments.machine import device_name
from minihmx.models import attention, context
from minihmx.models.adapters import adapter_digest
from minihmx.models.configs import ModelConfig
from minihmx.models.decoder import Decoder
from minihmx.probes import on_policy, suspects, ways
from minihmx.probes.on_policy import compared, trace_of
from minihmx.probes.suspects import attend_by_query, switched_off
from minihmx.probes.trace import STAGE_ORDER, Stage, Trace, first_difference, sums_of_bits
from minihmx.probes.two_ways import PAIRS, causes_of
from minihmx.probes.ways import EVERY_WAY, Setup
from minihmx.terminal.on_policy import verdict_on

FAMILIES = ("llama", "qwen2", "qwen3", "gemma2")
DTYPES = (torch.float32, torch.bfloat16)
# The largest gap of a log-prob that was seen is a tenth to a half of this.
BOUND = {torch.float32: 1e-4, torch.bfloat16: 0.25}


def cases(*quick: tuple[Any, ...], of: Iterable[tuple[Any, ...]]) -> list[Any]:
    """All of these; those that are not quick go with the slow ones."""
    return [pytest.param(*case, marks=() if case in quick else pytest.mark.slow) for case in of]


def decoder_with_adapter(family: str, dtype: torch.dtype) -> Decoder:
    """A golden checkpoint, or for the family that has none random weights, with biases."""
    if family != "qwen2":
        return adapted(family, dtype)
    llama = golden.load("llama")[0].config
    torch.manual_seed(0)
    sizes = {
        "model_type": "qwen2", "num_hidden_layers": 4, "hidden_size": 48, "intermediate_size": 96,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": llama.vocab_size,
        "tie_word_embeddings": True, "max_position_embeddings": 128, "eos_token_id": 7,
    }  # fmt: skip
    decoder = Decoder(ModelConfig.from_hf(sizes)).eval().requires_grad_(False)
    for name, parameter in decoder.named_parameters():
        if name.endswith("bias"):
            parameter.add_(torch.randn_like(parameter) * 0.1)
    decoder = decoder.to(dtype)
    decoder.tie()
    lora.attach(decoder, 4, 8, seed=1)
    for _, layer in lora.layers(decoder):
        torch.nn.init.normal_(layer.lora_B.weight, std=0.02)
    return decoder


def setup_of(family: str, dtype: torch.dtype = torch.float32, temperature: float = 0.8) -> Setup:
    decoder = decoder_with_adapter(family, dtype)
    config = Config(temperature=temperature, max_completion_length=12, micro_batch=3)
    return Setup(decoder, answers(decoder, temperature), config)


def traces(setup: Setup, *names: str) -> list[Trace]:
    return [trace_of(setup, name, {}) for name in names]


def by_ways(report: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(pair["one"], pair["other"]): pair for pair in report["pairs"]}


@pytest.mark.parametrize(
    ("family", "dtype"),
    cases(("qwen2", DTYPES[0]), ("qwen3", DTYPES[1]), of=itertools.product(FAMILIES, DTYPES)),
)
def test_every_gap_is_rounding_and_has_causes(family: str, dtype: torch.dtype) -> None:
    """With all suspects switched off, every way gives the same bits in every stage."""
    report = compared(setup_of(family, dtype))
    pairs = by_ways(report)
    assert len(pairs) == len(PAIRS) and report["replayed"] == 1.0
    assert report["answers"] == 4 and report["tokens"] > 20
    for pair in pairs.values():
        found = pair["steps"][0]
        assert found["largest"] < BOUND[dtype], pair
        assert found["ratio"] == pytest.approx(1, abs=BOUND[dtype])
        assert found["weights"][0] <= 1 <= found["weights"][1] or found["first"] is None
        assert pair["equal"], verdict_on(pair)
        assert pair["steps"][-1]["largest"] == 0 and pair["steps"][-1]["first"] is None
        assert all(cause["suspects"] for cause in pair["causes"]), pair["causes"]
        assert (found["first"] is None) == (pair["causes"] == [])
    recomputed = pairs["trainer, checkpointing", "trainer"]
    assert len(recomputed["steps"]) == 1  # equal as it is, in every stage
    assert recomputed["layers"] == [0.0] * 5
    merged = pairs["decode", "prefill"]
    assert ("merged weights" in report["suspects"]) == (dtype == torch.float32)
    assert merged["layers"][0] == 0.0
    if dtype == torch.float32:
        causes = {cause["stage"]: cause["suspects"] for cause in merged["causes"]}
        assert "decode step" in causes["layer 1, input_layernorm"] and max(merged["layers"]) > 0
        assert "merged weights" in causes["layer 1, q_proj"]


@pytest.mark.parametrize("family", FAMILIES)
def test_merging_alone_parts_the_first_products(family: str) -> None:
    """The same tokens in the same products: what differs is W x + B A x and (W + B A) x."""
    setup = setup_of(family)
    as_is = frozenset(suspects.SUSPECTS) - {"merged weights"}
    stage, tokens = first_difference(*traces(setup._replace(off=as_is), "decode", "prefill"))
    assert stage == Stage(1, "q_proj") and tokens > 20
    apart = setup._replace(off=as_is | {"merged weights"})
    assert first_difference(*traces(apart, "decode", "prefill")) == (None, 0)


# --- mistakes that are no rounding ----------------------------------------------------------------


@contextmanager
def wrong_scale(setup: Setup) -> Iterator[None]:
    """alpha / r counted twice."""
    lora.set_strength(setup.decoder, 2)
    yield
    lora.set_strength(setup.decoder, 0.5)


@contextmanager
def counted_from_the_padding(setup: Setup) -> Iterator[None]:
    """Positions as if something stood on the left of every row."""

    def shifted(self: Any, config: Any, frequencies: Any, *more: Any) -> None:
        real(self, config, frequencies, *more)
        angles = (self.positions + 1)[:, :, None, None] * frequencies
        self.cos = torch.cat((angles.cos(), angles.cos()), dim=-1)
        self.sin = torch.cat((-angles.sin(), angles.sin()), dim=-1)

    real, context.Context.__init__ = context.Context.__init__, shifted  # type: ignore
    yield
    context.Context.__init__ = real  # type: ignore[method-assign]


@contextmanager
def first_key_hidden(setup: Setup) -> Iterator[None]:
    """A mask that takes the first token for padding."""

    def hidden(queries: Any, keys: Any, window: Any) -> Any:
        seen = real(queries, keys, window).clone()
        seen[..., 0] = queries == 0
        return seen

    real, context.attention_mask = context.attention_mask, hidden
    yield
    context.attention_mask = real


@contextmanager
def another_head(setup: Setup) -> Iterator[None]:
    """Logits a little larger than they are."""
    handle = setup.decoder.lm_head.register_forward_hook(lambda m, given, out: out * 1.01)
    yield
    handle.remove()


@contextmanager
def one_layer_forgotten(setup: Setup) -> Iterator[None]:
    """The adapter off in one projection of the third layer."""
    layer: Any = setup.decoder.model.layers[2].mlp.up_proj
    layer.enabled = False
    yield
    layer.enabled = True


MISTAKES = {
    wrong_scale: Stage(1, "q_proj"),
    counted_from_the_padding: Stage(1, "rope"),
    first_key_hidden: Stage(1, "attention"),
    one_layer_forgotten: Stage(3, "up_proj"),
    another_head: Stage(5, "head"),
}


@pytest.mark.parametrize(
    ("family", "mistake"),
    cases(
        *zip(("llama", "qwen3", "gemma2", "qwen2", "llama"), MISTAKES, strict=True),
        of=itertools.product(FAMILIES, MISTAKES),
    ),
)
def test_a_mistake_is_found_at_its_stage_and_not_explained(
    family: str, mistake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In decoding alone; no suspect that is switched off makes it go away."""

    def wrongly(setup: Setup, trace: Trace) -> None:
        with mistake(setup):
            ways.decoded(setup, trace)

    setup, stage = setup_of(family), MISTAKES[mistake]
    monkeypatch.setitem(EVERY_WAY, "decode", wrongly)
    pairs = by_ways(compared(setup))
    for ways_of_it in (("decode", "prefill"), ("trainer", "decode")):
        pair = pairs[ways_of_it]
        assert not pair["equal"] and pair["steps"][-1]["first"] == str(stage), pair["steps"]
        assert all(cause["stage"] != str(stage) for cause in pair["causes"])
        assert "two compute different things" in verdict_on(pair)
    # Positions count relatively, so that log-probs hardly show a common shift.
    if mistake is not counted_from_the_padding and family != "qwen2":
        assert pairs["trainer", "decode"]["steps"][-1]["largest"] > 1e-4
    assert pairs["trainer", "prefill"]["equal"]


def test_another_temperature_is_found_behind_the_head() -> None:
    setup = setup_of("llama")
    off = frozenset(suspects.SUSPECTS)
    hot = setup._replace(config=Config(temperature=1.0, max_completion_length=12), off=off)
    one, other = (*traces(hot, "prefill"), *traces(setup._replace(off=off), "prefill"))
    assert first_difference(one, other)[0] == Stage(5, "log-softmax")


# --- the parts ------------------------------------------------------------------------------------


def test_sums_tell_any_bit_apart_and_take_minus_zero_for_zero() -> None:
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    x[0, 3] = 0.0
    y = x.clone()
    y[0, 3] = -0.0
    assert torch.equal(sums_of_bits(x), sums_of_bits(y))
    for place in ((0, 0), (1, 17), (2, 39)):
        z = x.clone()
        z[place] = torch.nextafter(z[place], torch.tensor(9.0))
        different = sums_of_bits(z) != sums_of_bits(x)
        assert different.tolist() == [row == place[0] for row in range(3)]
    assert sums_of_bits(x[:, [1, 0, *range(2, 40)]]).ne(sums_of_bits(x)).all()  # order counts


@pytest.mark.parametrize("family", golden.FAMILIES)
@torch.no_grad()
def test_switching_suspects_off_computes_the_same_up_to_rounding(family: str) -> None:
    """What stands in for kernels must be right, or the cause would be another function."""
    decoder = adapted(family, torch.float64)
    ids = torch.tensor([[3, 14, 15, 92, 65, 35, 8, 9, 7, 9, 3, 2]])
    expected = decoder.logits(decoder(ids))
    kernels = attention.attend
    with switched_off(frozenset(suspects.SUSPECTS)):
        assert attention.attend is attend_by_query
        found = decoder.logits(decoder(ids))
    assert attention.attend is kernels
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def test_a_listener_changes_nothing_and_leaves_nothing() -> None:
    setup = setup_of("qwen3")
    ids = torch.tensor([[3, 14, 15]])
    before = setup.decoder(ids)
    (trace,) = traces(setup, "trainer")
    assert torch.equal(setup.decoder(ids), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in setup.decoder.modules())
    heard = {stage.name for stage in trace.sums}
    sandwich = {"pre_feedforward_layernorm", "post_feedforward_layernorm"}
    assert heard == set(STAGE_ORDER) - sandwich - {"log-softmax"}
    assert all(p.grad is None for p in setup.decoder.parameters())


@pytest.mark.parametrize(
    ("family", "dtype"), cases(("gemma2", DTYPES[1]), of=itertools.product(FAMILIES, DTYPES))
)
def test_a_gpu_s_static_step_is_heard_too(
    family: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its few kernels are a suspect of their own, and behind it all is as on a CPU."""
    monkeypatch.setattr(sampling, "decodes_statically", lambda decoder: True)
    for room in (suspects, ways):
        monkeypatch.setattr(room, "has_static_step", lambda decoder: True)
    monkeypatch.setattr("minihmx.engine.memory.worth_merging", lambda *given: False)
    decoder = decoder_with_adapter(family, dtype)
    monkeypatch.setattr(lora, "merged", lambda decoder: nullcontext())  # a GPU merges nothing
    setup = Setup(decoder, answers(decoder), Config(temperature=0.8, max_completion_length=12))
    report = compared(setup)
    assert report["replayed"] == 1.0 and "decode step" in report["suspects"]
    pair = by_ways(report)["decode", "prefill"]
    assert pair["equal"] and pair["steps"][0]["largest"] < BOUND[dtype]
    assert any("decode step" in cause["suspects"] for cause in pair["causes"])


def test_a_suspect_that_changes_nothing_is_not_blamed() -> None:
    steps = [
        {"off": None, "first": "o_proj", "place": [1, 9]},
        {"off": "step", "first": "q_proj", "place": [1, 2], "acts": True},  # more was heard
        {"off": "a", "first": "q_proj", "place": [1, 2], "acts": False},
        {"off": "b", "first": "q_proj", "place": [1, 2], "acts": True},
        {"off": "c", "first": "head", "place": [5, 19], "acts": True},
        {"off": "d", "first": None, "place": None, "acts": True},
    ]
    assert list(causes_of(steps)) == [
        {"stage": "q_proj", "suspects": ["step", "b", "c"]},
        {"stage": "head", "suspects": ["d"]},
    ]


# --- as it is typed -------------------------------------------------------------------------------


def typed(out: Path, *words: object) -> dict[str, Any]:
    done = in_process("probe", "on-policy", *words, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_tiny_before_and_after_training(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = typed(tmp_path, "tiny", "--tokens", 8)
    assert fresh["adapter"] is None and fresh["replayed"] == 1.0
    run = f"{pair}/tiny/forward/seed-1@epoch-01"  # which kept one held-out question
    trained = typed(tmp_path, "tiny", "--tokens", 8, "--adapter", run)
    assert trained["adapter"] == "forward/seed-1/epoch-01" and trained["replayed"] == 1.0
    for report, count in ((fresh, 4), (trained, 2)):
        assert report["dtype"] == "float32" and report["answers"] == count
        for found in report["pairs"]:
            assert found["steps"][0]["largest"] < 1e-4 and found["equal"], verdict_on(found)
    folders = {Path(report["folder"]) for report in (fresh, trained)}
    assert {*(tmp_path / "tiny/base/probes").iterdir()} == folders and len(folders) == 2
    digest = adapter_digest(pair / "tiny/forward/seed-1/checkpoints/epoch-01")
    settings = json.loads((Path(trained["folder"]) / "settings.json").read_text())
    assert settings["adapter"] == digest and settings["threads"] == torch.get_num_threads()
    assert settings["machine"] == device_name(torch.device("cpu")) != ""
    done = in_process("audit", tmp_path / "tiny" / "base")
    assert done.returncode == 0 and "findings of a probe" in done.stdout, done.stdout
    monkeypatch.setattr(on_policy, "load_decoder", None)  # nothing is measured a second time
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert typed(tmp_path, "tiny", "--tokens", 8) == fresh
    assert typed(tmp_path, "tiny", "--tokens", 8, "--adapter", run) == trained
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    for other in (("--tokens", 9), ("--tokens", 8, "--seed", 2), ("--tokens", 8, "--samples", 3)):
        with pytest.raises(TypeError):
            in_process("probe", "on-policy", "tiny", "--out", tmp_path, *other)
    monkeypatch.setattr(on_policy, "device_name", lambda device: "another processor")
    with pytest.raises(TypeError):
        in_process("probe", "on-policy", "tiny", "--out", tmp_path, "--tokens", 8)


def test_the_tables_say_where_and_why(tmp_path: Path) -> None:
    words = "probe", "on-policy", "tiny", "--tokens", 8, "--seed", 2, "--out", tmp_path
    done = in_process(*words)
    assert done.returncode == 0, done.stderr
    for part in (
        "sampled tokens of", "float32 on cpu", "trainer : decode", "first differs at",
        "How the residual streams part", "without product shapes", "rounding alone",
        "changes nothing): equal to the bit", "100% of the sampler's own", "This cannot tell",
    ):  # fmt: skip
        assert part in done.stdout, done.stdout
    assert in_process(*words).stdout == done.stdout
    (folder,) = (tmp_path / "tiny/base/probes").iterdir()
    path = folder / "report.json"
    path.write_text(path.read_text().replace('"replayed": 1.0', '"replayed": 0.5'))
    refused(in_process(*words), "is not what was written there", code=5)


def test_what_cannot_be_compared_is_refused(tmp_path: Path, pair: Path) -> None:
    probe = ("probe", "on-policy", "tiny", "--out", tmp_path / "runs")
    refused(in_process(*probe, "--prompts", 1, "--samples", 1), "no neighbours")
    refused(in_process(*probe, "--prompts", 0), "--prompts 0 cannot work")
    refused(in_process(*probe, "--tokens", 5000), "--tokens 5000 cannot work")
    refused(in_process(*probe, "--temperature", 0), "--temperature 0.0 cannot work")
    refused(in_process(*probe, "--dtype", "float16", "--device", "cpu"), "float16 on a CPU")
    refused(in_process(*probe, "--adapter", tmp_path / "none"), "There is no run or adapter")
    refused(in_process(*probe, "--adapter", tmp_path), "is no adapter")
    run = Path(f"{pair}/tiny/forward/seed-1")
    alone = tmp_path / "alone"
    alone.symlink_to(run / "checkpoints" / "epoch-01")
    refused(in_process(*probe, "--adapter", alone), "lies in no run's folder")
    folder = tmp_path / "forward" / "seed-1"
    folder.mkdir(parents=True)
    (folder / "checkpoints").symlink_to(run / "checkpoints")
    config = json.loads((run / "config.json").read_text())
    config["science"]["model digest"] = "0" * 64
    (folder / "config.json").write_text(json.dumps(config))
    refused(in_process(*probe, "--adapter", folder), "was trained on another model than tiny")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_published_model(dtype: torch.dtype, tmp_path: Path) -> None:
    """SmolLM2-135M-Instruct, whose activations are a hundred times those of random weights."""
    if dtype == torch.bfloat16 and not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("bfloat16 products are not in hardware here")
    folder = real_models.built("smollm2-135m")
    name = str(dtype).removeprefix("torch.")
    report = typed(tmp_path, folder, "--dtype", name, "--threads", 1, "--tokens", 12)
    assert report["replayed"] == 1.0
    pairs = by_ways(report)
    assert len(pairs["trainer, checkpointing", "trainer"]["steps"]) == 1
    for found in pairs.values():
        assert found["equal"], verdict_on(found)
        assert found["steps"][0]["largest"] < (1e-3 if dtype == torch.float32 else 0.5)
    assert pairs["trainer", "decode"]["steps"][0]["first"].startswith("layer 1, ")
