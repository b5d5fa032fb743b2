"""What 16 bits may hold and what they may not, on small fp16 models on the CPU.

A run refuses 16 bits on a CPU; here that one check is replaced, and all else is the product.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import golden
import pytest
import torch
import toy
from safetensors.torch import load_file, save, save_file
from sampled import Bare, adapted, answers
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minihmx import grpo, learn, lora, optimizer, train
from minihmx.config import Config
from minihmx.engine import open as opening
from minihmx.instruments import notfinite
from minihmx.models import weights
from minihmx.models.attention import attend
from minihmx.models.context import Context, KVCache, inverse_frequencies
from minihmx.models.decoder import MLP, RMSNorm
from minihmx.optimizer import Optimizer, Outcome, Overflow
from minihmx.records import Rollout, Verdict
from minihmx.run import Run, open_run
from minihmx.terminal.lines import SAMPLER_GAP, plan

token_logprobs = partial(grpo.token_logprobs, temperature=1.0, softcap=None, chunk=8192)
HALF, LARGEST = torch.float16, 65504.0
FILES = ("rollouts/*", "evaluations/*", "checkpoints/epoch-*/*", "metrics.jsonl")


# --- what is fp32 in an fp16 model ----------------------------------------------------------------

PRODUCTS = {"linear", "matmul", "mm", "bmm", "scaled_dot_product_attention"}
PRODUCTS |= {"_scaled_dot_product_flash_attention_for_cpu"}
COPIES = {"to", "_to_copy", "t", "transpose", "view", "_unsafe_view", "reshape", "expand", "clone"}
COPIES |= {"select", "slice", "index", "index_put_", "cat", "embedding", "detach", "zeros"}
COPIES |= {"permute", "zeros_like", "copy_", "empty", "roll", "masked_fill_", "unsqueeze"}


class Sixteen(TorchDispatchMode):
    """Collects the operations that compute in fp16, and those that do not.

    Where one of the operands is an fp32 tensor torch computes in fp32, also if it reads the others
    from fp16 and rounds the result to it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.half, self.full = set[str](), set[str]()

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = call(*args, **(kwargs or {}))
        given = [x for x in tree_leaves(args) if isinstance(x, Tensor) and x.dim()]
        kinds = {x.dtype for x in given if x.is_floating_point()}
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        half = kinds == {HALF} or (not kinds and any(x.dtype == HALF for x in made))
        (self.half if half else self.full).add(call.overloadpacket.__name__)
        return out


@pytest.mark.parametrize("family", golden.FAMILIES)
def test_only_products_and_copies_see_sixteen_bits(family: str) -> None:
    """Residual stream, norms, rotation, softcaps, softmax, gate * up, logits, log-sum-exp: fp32."""
    decoder = adapted(family, HALF)
    with Sixteen() as sampled:
        rollouts = answers(decoder)
    with Sixteen() as learned:
        logprobs, _ = learn.logprobs(decoder, rollouts, Config())
    scaled = {"mul"} if family == "gemma2" else set()  # q, before its product with k
    assert sampled.half - COPIES <= PRODUCTS | scaled, sampled.half
    assert learned.half - COPIES <= PRODUCTS | scaled, learned.half
    activation = "gelu" if family == "gemma2" else "silu"
    for seen in (sampled.full, learned.full):
        assert {activation, "add", "addcmul", "cos"} <= seen
    assert {"softmax", "cumsum", "log"} <= sampled.full | {n.strip("_") for n in sampled.full}
    assert {"exp", "log"} <= learned.full
    assert family != "gemma2" or {"tanh", "softmax"} <= sampled.full
    assert logprobs.dtype == torch.float32


@torch.no_grad()
@pytest.mark.parametrize("family", golden.FAMILIES)
def test_the_residual_stream_passes_what_fp16_holds(family: str) -> None:
    """One embedded value of two million and more; the norms can read it."""
    decoder, expected = golden.load(family, HALF)
    decoder.model.embed_tokens.weight[:, 2] = 60000.0
    decoder.config = dataclasses.replace(decoder.config, embed_scale=48.0)
    streams: list[Tensor] = []
    for layer in decoder.model.layers:
        layer.register_forward_hook(lambda module, given, out: streams.append(out))
    hidden = decoder(expected["input_ids"])
    assert all(x.dtype == torch.float32 and x.abs().max() > 2.8e6 for x in streams)
    assert hidden.dtype == HALF and torch.isfinite(hidden).all() and hidden.abs().max() > 1


@torch.no_grad()
@pytest.mark.parametrize("family", golden.FAMILIES)
def test_every_norm_is_that_of_float64_rounded_once(family: str) -> None:
    """Of residuals whose squares overflow even bf16's neighbour fp16, and of tiny ones, by eps."""
    decoder, _ = golden.load(family, HALF)
    norms = {n: m for n, m in decoder.named_modules() if isinstance(m, RMSNorm)}
    assert any("q_norm" in name for name in norms) == (family == "qwen3")
    generator = torch.Generator().manual_seed(0)
    for norm in norms.values():
        size = norm.weight.shape[0]
        for scale in (3e5, 1.0, 1e-3):
            x = torch.randn(5, size, generator=generator) * scale
            x[0, 0] *= 30
            wide = x.double()
            weight = norm.weight.double() + norm.offset
            want = wide / (wide.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt() * weight
            got = norm(x)
            assert got.dtype == HALF
            torch.testing.assert_close(got.double(), want, rtol=2**-10.9, atol=1e-7)


def test_angles_at_the_end_of_the_context() -> None:
    """Position 4,000 in fp16 would be off by whole radians."""
    decoder, _ = golden.load("llama", HALF)
    positions = torch.tensor([[4000]])
    frequencies = inverse_frequencies(decoder.config)
    context = Context(decoder.config, frequencies, positions, positions, None, 1)
    angles = 4000 * frequencies.double()
    want = torch.cat((angles.cos(), angles.cos()))
    assert context.cos.dtype == torch.float32
    torch.testing.assert_close(context.cos.flatten().double(), want, atol=5e-4, rtol=0)


def test_a_softcap_bends_scores_in_fp32() -> None:
    """Near the cap fp16 knows steps of 0.03 only; and no score is infinite on the way."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 6, 16, generator=generator) for _ in "qkv")
    q, k, v = (q * 40).half(), (k * 40).half(), v.half()
    mask = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
    got = attend(q, k, v, mask, 16**-0.5, 50.0)
    scores = q.double() @ k.double().transpose(-1, -2) / 4
    assert scores.abs().max() > 1000
    bent = (50 * torch.tanh(scores / 50)).masked_fill(~mask, -math.inf)
    want = torch.softmax(bent, -1) @ v.double()
    flat = want.transpose(1, 2).reshape(1, 6, 32)
    torch.testing.assert_close(got.double(), flat, atol=4e-3, rtol=0)


def test_log_sum_exp_over_more_tokens_than_fp16_can_count() -> None:
    hidden, head = torch.zeros(1, 4, dtype=HALF), torch.zeros(100_000, 4, dtype=HALF)
    logprob, entropy = token_logprobs(hidden, head, torch.tensor([77_777]))
    assert logprob.item() == pytest.approx(-math.log(100_000), abs=1e-5)
    assert entropy.item() == pytest.approx(math.log(100_000), abs=1e-5)


def test_products_add_up_in_fp32_on_a_gpu() -> None:
    """Settings of torch that only a GPU reads."""
    opening.set_arithmetic()
    matmul = torch.backends.cuda.matmul
    assert matmul.allow_fp16_reduced_precision_reduction is False
    assert matmul.allow_bf16_reduced_precision_reduction is False
    assert getattr(matmul, "allow_fp16_accumulation", False) is False  # not before torch 2.7


def test_a_cache_holds_no_garbage() -> None:
    """Behind a mask 0 * NaN would still be NaN."""
    decoder, _ = golden.load("llama", HALF)
    filth = torch.full((1 << 20,), math.nan, dtype=HALF)  # memory that the next one may be given
    del filth
    cache = KVCache(decoder.config, 4, 64, HALF, torch.device("cpu"))
    assert not cache.k.any() and not cache.v.any() and cache.k.dtype == HALF


def test_weights_too_small_for_fp16_are_counted_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below 2^-14 digits go, at 2^-25 and below all; what is 0 already loses nothing."""
    folder = toy.model(tmp_path / "toy")
    tensors = load_file(folder / "model.safetensors")
    for tensor in tensors.values():
        tensor.copy_(torch.where(tensor.abs() < 2.0**-14, 1.0, tensor))
    small = [2.0**-14, 2.0**-15, -(2.0**-24), 2.0**-25, -1e-9, 0.0]
    tensors["model.layers.1.mlp.up_proj.weight"][3, :6] = torch.tensor(small)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    found = Counter[str]()
    weights.load(folder, torch.bfloat16, "cpu", found)
    assert not found
    weights.load(folder, HALF, "cpu", found)
    assert found == {"subnormal": 4, "zero": 2}
    flags = toy.flags(tmp_path / "run") | {"model": str(folder)}
    assert "normal range" not in "\n".join(plan(open_run(flags)))
    monkeypatch.setattr(opening, "pick_dtype", lambda name, device: HALF)
    told = plan(open_run(flags | {"out": str(tmp_path / "half")}))
    assert "           4 weights are below float16's normal range, 2 became 0" in list(told)


# --- gate * up ------------------------------------------------------------------------------------


def mlp(activation: str, dtype: torch.dtype) -> MLP:
    """One whose product is 300 * 300 = 90,000 for an input of 300, and 90 for one of 9.5."""
    decoder, _ = golden.load("gemma2" if activation == "gelu" else "llama", torch.float32)
    module = decoder.model.layers[0].mlp
    assert isinstance(module, MLP) and module.tanh_gelu == (activation == "gelu")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for linear in (module.gate_proj, module.up_proj):
            linear.weight.copy_(torch.randn(linear.weight.shape, generator=generator) * 1e-3)
            linear.weight[:3, 0] = 1.0
        module.down_proj.weight.copy_(
            torch.randn(module.down_proj.weight.shape, generator=generator).half() * 2**-7
        )
        for linear in (module.gate_proj, module.up_proj):
            linear.weight.copy_(linear.weight.half())
    return module.to(dtype)


@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_a_product_that_fp16_cannot_hold_goes_through(activation: str) -> None:
    """As in fp32 to fp16's own rounding, forward and backward; other tokens to the last bit."""
    half, full = mlp(activation, HALF), mlp(activation, torch.float32)
    inputs = torch.randn(
        1, 3, half.gate_proj.in_features, generator=torch.Generator().manual_seed(2)
    )
    inputs[0, :, 0] = torch.tensor([300.0, 9.5, 2000.0])
    x = inputs.half().requires_grad_()
    y = inputs.half().float().requires_grad_()
    product = full.product(full.gate_proj(y), full.up_proj(y))
    assert product[0, 0].max() > LARGEST and product[0, 2].max() > 50 * LARGEST
    got, want = half(x), full(y)
    assert torch.isfinite(got).all()
    for token in range(3):
        error = (got - want)[0, token].norm() / want[0, token].norm()
        assert error < 1e-3, (token, error)
    plainly = half.down_proj(half.product(half.gate_proj(x), half.up_proj(x)).half())
    assert torch.equal(got[0, 1], plainly[0, 1].float())
    assert not torch.isfinite(plainly[0, 0]).all()  # what the shrinking is for
    weights = torch.randn(got.shape, generator=torch.Generator().manual_seed(3)) * 1e-3
    (got * weights).sum().backward()
    (want * weights).sum().backward()
    assert x.grad is not None and y.grad is not None
    assert (x.grad.float() - y.grad).norm() / y.grad.norm() < 3e-3


@torch.no_grad()
def test_a_model_whose_products_overflow_gives_the_logits_of_fp32() -> None:
    """up_proj 2^12 times as large and down_proj as much smaller is the same function."""
    decoder, expected = golden.load("llama", HALF)
    for layer in decoder.model.layers:
        layer.mlp.up_proj.weight.mul_(2.0**12)  # type: ignore[union-attr,operator]
        layer.mlp.gate_proj.weight.mul_(2.0**6)  # type: ignore[union-attr,operator]
    full = golden.load("llama")[0]
    full.load_state_dict({name: x.float() for name, x in decoder.state_dict().items()})
    ids, tops = expected["input_ids"], []
    full.model.layers[1].mlp.down_proj.register_forward_hook(
        lambda module, given, out: tops.append(given[0].abs().max())
    )
    want = full.logits(full(ids))
    assert tops[0] > LARGEST
    got = decoder.logits(decoder(ids))
    got, want = torch.log_softmax(got, -1), torch.log_softmax(want, -1)
    torch.testing.assert_close(got, want, atol=6e-2, rtol=0)


# --- the loss scale -------------------------------------------------------------------------------


class Update(NamedTuple):
    """One real update of a small model: the change of each tensor, and what was told of it."""

    change: dict[str, Tensor]
    optimizer: Optimizer
    found: dict[str, Any]
    outcome: Outcome


def one_update(dtype: torch.dtype, scale: float | None = None, size: float = 1.0) -> Update:
    """From a given loss scale, on the same answers for every dtype; size is that of advantages."""
    decoder, sampled = adapted("llama", dtype), answers(adapted("llama", torch.float32))
    for rollout in sampled:
        rollout.advantage *= size
    name = str(dtype).removeprefix("torch.")
    config = Config(dtype=name, temperature=0.8, learning_rate=1e-3, beta=0.04 * size)
    parameters = lora.parameters(decoder)
    made = Optimizer(parameters, config, 10)
    made.scale = scale or made.scale
    before = {n: p.detach().clone() for n, p in parameters.items()}
    found, outcome = learn.learn(Bare(config, decoder), sampled, made)  # type: ignore[arg-type]
    return Update({n: p.detach() - before[n] for n, p in parameters.items()}, made, found, outcome)


def gradient(update: Update) -> Tensor:
    """What the step saw, flat; Adam divides it by its own size, so the change would not tell."""
    grads = [p.grad for p in update.optimizer.parameters.values()]
    return torch.cat([g.flatten() for g in grads if g is not None])


@pytest.mark.parametrize(("size", "unscaled"), [(1e-3, 0.03), (1e-5, 0.5)])
def test_the_scale_keeps_the_gradients_of_small_advantages(size: float, unscaled: float) -> None:
    """With it they are as near to fp32's as fp16 gets; without it they fade away."""
    full = gradient(one_update(torch.float32, size=size))

    def error(scale: float) -> float:
        return float((gradient(one_update(HALF, scale, size)) - full).norm() / full.norm())

    assert error(2.0**16) < 0.01
    assert error(1.0) > unscaled


def test_after_an_overflow_the_update_is_that_of_a_fitting_scale() -> None:
    """To the last bit; the first tries leave no trace in the adapter, moments or counters."""
    retried = one_update(HALF, 2.0**40)
    fitting = retried.optimizer.scale
    assert 2.0**16 <= fitting < 2.0**30 and retried.found["loss_scale"] == fitting
    straight = one_update(HALF, fitting)
    assert straight.optimizer.scale == fitting  # this one did not overflow
    assert retried.found == straight.found
    assert retried.outcome == straight.outcome and retried.outcome.failed == ""
    assert retried.change.keys() == straight.change.keys()
    assert all(torch.equal(retried.change[n], straight.change[n]) for n in retried.change)
    assert save(retried.optimizer.tensors()) == save(straight.optimizer.tensors())
    assert retried.optimizer.counters() == straight.optimizer.counters()


def test_masters_gradients_and_moments_are_fp32_and_move_by_less_than_fp16_could() -> None:
    """Near 0.1 the next fp16 number is 6e-5 away; a rate of 2e-5 would round to no update."""
    update = one_update(HALF)
    for name, parameter in update.optimizer.parameters.items():
        assert parameter.dtype == torch.float32, name
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32
    assert {x.dtype for x in update.optimizer.tensors().values()} == {torch.float32}
    weight = torch.nn.Parameter(torch.full((8,), 0.1))
    made = Optimizer({"x": weight}, Config(dtype="float16", learning_rate=2e-5), 1)
    made.zero_grad()
    made.backward(weight.sum())
    made.step(0.0, made.unscale(0.0))
    moved = 0.1 - weight.detach()
    assert torch.allclose(moved, torch.full((8,), 2e-5), rtol=1e-2)
    assert torch.equal(weight.detach().half(), torch.full((8,), 0.1).half())


def small_optimizer(steps: int) -> tuple[Optimizer, Callable[[float], Any]]:
    """An fp16 optimizer on one number, and a try of a step with a given gradient."""
    weight = torch.nn.Parameter(torch.ones(1))
    made = Optimizer({"x": weight}, Config(dtype="float16"), steps)

    def attempt(slope: float) -> Any:
        made.zero_grad()
        made.backward((weight * slope).sum())
        return made.step(0.0, made.unscale(0.0))

    return made, attempt


def test_the_scale_comes_back_within_an_epoch_or_two_and_stops_growing() -> None:
    """45 steps are an epoch of the paper's run; torch's interval is 2,000."""
    made, attempt = small_optimizer(1000)
    assert 45 <= optimizer.GROWTH_INTERVAL <= 90
    with pytest.raises(Overflow):
        attempt(1e34)
    assert attempt(1e-3).failed == "" and made.scale == 2.0**15
    for _ in range(2 * 45):
        attempt(1e-3)
    assert made.scale == 2.0**16
    for _ in range(12 * optimizer.GROWTH_INTERVAL):
        attempt(1e-3)
    assert made.scale == 2.0**24


def test_a_skipped_step_leaves_scale_growth_and_schedule_alone() -> None:
    made, attempt = small_optimizer(100)
    for _ in range(20):
        rate = attempt(1e-3).rate
    before = made.counters()
    for _ in range(16):
        with pytest.raises(Overflow):
            attempt(math.nan)
    skipped = attempt(math.nan)
    assert skipped.failed == "gradient"
    assert made.counters() == before and before["since_growth"] == 20
    assert skipped.rate == attempt(1e-3).rate != rate


# --- a whole run ----------------------------------------------------------------------------------


def by_tokens(run: Run, rollouts: Sequence[Rollout], phase: str) -> None:
    """A judge whose scores differ, and depend on nothing but the answer."""
    for rollout in rollouts:
        rollout.verdict = Verdict(sum(rollout.completion.ids) % 11, (0, 1))
        rollout.reward = float(rollout.verdict.score)


def test_a_run_in_fp16_learns_keeps_its_base_and_resumes_with_its_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a scale that overflows at once, growing every second update."""
    start = Optimizer.__init__

    def high(self: Optimizer, *arguments: Any) -> None:
        start(self, *arguments)
        self.scale = 2.0**40

    monkeypatch.setattr(Optimizer, "__init__", high)
    monkeypatch.setattr(optimizer, "GROWTH_INTERVAL", 2)
    monkeypatch.setattr(opening, "pick_dtype", lambda name, device: HALF)
    monkeypatch.setattr(train, "judge", by_tokens)

    def trained(out: str, *stops: int) -> dict[str, bytes]:
        """Every file without a clock, after interruptions behind so many steps."""
        for stop in (*stops, 99):
            run = open_run(toy.flags(tmp_path, out=str(tmp_path / out)))
            assert run.decoder.dtype == HALF
            base = notfinite.base_state(run)
            done: list[train.Event] = []
            events = []
            for event in train.train(run, lambda done=done, stop=stop: len(done) == stop):  # type: ignore[misc]
                events.append(event)
                done += [event] * isinstance(event, train.Stepped)
            assert events[-1] == train.Ended("complete" if stop == 99 else "interrupted")
            assert notfinite.base_state(run) == base
            run.store._lock.close()
        folder = run.store.folder
        files = (path for part in FILES for path in folder.glob(part))
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    whole = trained("whole")
    lines = [json.loads(line) for line in whole["metrics.jsonl"].splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    assert [line["update"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert all(line["not_finite"] == "" and line["sampler_gap"] < SAMPLER_GAP for line in steps)
    scales = [line["loss_scale"] for line in steps]
    assert scales[0] < 2.0**40 and len(set(scales)) > 1 and steps[-1]["kl"] > 0
    assert trained("cut", 2, 1) == whole and len(whole) > 20
