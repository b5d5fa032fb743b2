"""The products: whichever library computes one, value and gradient are the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minihmx import grpo, lora
from minihmx.engine import memory
from minihmx.engine.memory import packing_pays
from minihmx.models import hub, joined, products, weights
from minihmx.models.decoder import Decoder
from minihmx.models.joined import Apart, Fused, Joined, joins, on_cpu
from minihmx.models.products import FEW, Linear, OneDNNRule, linear, pack, packed
from minihmx.probes.suspects import OneProduct

INTEL = OneDNNRule(products.MANY, 4, 64, pieces=12)
KEEPS_BITS = products.packing_keeps_bits

if not products.has_onednn():
    pytest.skip("this torch has no oneDNN", allow_module_level=True)


@pytest.fixture(autouse=True)
def by_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take it on every processor and pack with every torch, so that these tests test the same thing
    everywhere."""
    monkeypatch.setattr(products, "onednn_rule", lambda: OneDNNRule(0, 1, math.inf))
    monkeypatch.setattr(products, "packing_keeps_bits", lambda: True)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """The shapes of the inputs that go to oneDNN."""
    seen: list[tuple[int, ...]] = []
    real = products._onednn

    def watched(x: Tensor, *rest: Tensor | None) -> Tensor:
        seen.append(tuple(x.shape))
        return real(x, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(products, "_onednn", watched)
    yield seen


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def branched(inside: int, sizes: Sequence[int], bias: bool = False) -> list[lora.LoRALinear]:
    """Linears [size, inside] with an adapter of rank 4 and scale 2 that says something."""
    adapted = [lora.LoRALinear(Linear(inside, size, bias=bias), 4, 8.0) for size in sizes]
    for layer in adapted:
        nn.init.normal_(layer.lora_B.weight)
    return adapted


@pytest.mark.parametrize("bias", [False, True])
def test_value_and_gradient_are_those_of_torch(bias: bool, calls: list[tuple[int, ...]]) -> None:
    weight, b = normal(640, 384), normal(640, seed=1) if bias else None
    ours, theirs = (normal(3, 7, 384, seed=2).requires_grad_() for _ in range(2))
    grad = normal(3, 7, 640, seed=3)
    y, expected = linear(ours, weight, b), F.linear(theirs, weight, b)
    y.backward(grad)
    expected.backward(grad)
    assert y.shape == (3, 7, 640)
    torch.testing.assert_close(y, expected, atol=2e-4, rtol=1e-5)
    assert ours.grad is not None and theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, atol=2e-4, rtol=1e-5)
    assert calls == [(3, 7, 384), (3, 7, 640)]  # forward, and backward with the weight turned


@pytest.mark.parametrize("case", ["trained", "few", "double", "bfloat16"])
def test_what_stays_with_torch(case: str, calls: list[tuple[int, ...]]) -> None:
    dtype = {"double": torch.float64, "bfloat16": torch.bfloat16}.get(case, torch.float32)
    rows = 1 if case == "few" else 64
    weight, x = normal(256, 256).to(dtype), normal(rows, 256, seed=1).to(dtype)
    assert (x.numel() * 256 < FEW) == (case == "few")
    weight.requires_grad_(case == "trained")
    y = linear(x, weight)
    assert torch.equal(y, F.linear(x, weight)) and calls == []
    if case == "trained":
        y.sum().backward()
        assert weight.grad is not None and weight.grad.abs().sum() > 0


@pytest.mark.skipif(not KEEPS_BITS(), reason="packing is not used with this torch")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_weight_changes_no_bit(dtype: torch.dtype) -> None:
    """Packing may depend on the memory that is free only because it cannot be seen in a result."""
    if dtype == torch.bfloat16 and not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("bfloat16 products are not in hardware here")
    layer = Linear(512, 1024, bias=True).to(dtype).requires_grad_(False)
    for rows in (1, 2, 3, 8, 40, 300):
        x = normal(rows, 512).to(dtype)
        plain = layer(x)
        with packed(nn.Sequential(layer)), torch.inference_mode():
            assert layer.packed is not None and layer.packed.is_mkldnn
            assert torch.equal(layer(x), plain)
    assert layer.packed is None


def test_an_older_torch_packs_only_what_never_depends_on_free_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its packed products round otherwise, so a run would depend on what other programs take."""
    monkeypatch.setattr(products, "packing_keeps_bits", KEEPS_BITS)
    layer = Linear(512, 1024).requires_grad_(False)
    for version, packs in (("2.9.1+cpu", False), ("2.11.0", False), ("2.12.0+cu130", True)):
        monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion(version))
        with packed(layer):
            assert (layer.packed is not None) == packs
    assert pack(layer.weight).is_mkldnn  # as merged weights are, whatever is free


def test_reference_and_policy_go_through_one_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else their KL would not be 0 at first, on a processor where packing changes a bit."""
    used = list[bool]()
    real = products._onednn
    monkeypatch.setattr(
        products, "_onednn", lambda x, w, b: used.append(w.is_mkldnn) or real(x, w, b)
    )
    layer, x = Linear(512, 1024).requires_grad_(False), normal(300, 512)
    with packed(layer):
        with torch.no_grad():
            reference = layer(x)
        policy = layer(x.requires_grad_())
        policy.sum().backward()
    assert used == [True, True, False]  # the backward has the weight turned
    assert torch.equal(policy, reference)
    expected = (torch.ones(300, 1024) @ layer.weight).detach()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, expected, atol=1e-4, rtol=1e-4)


def test_packing_ends_with_an_error_too_and_leaves_the_state_dict_alone() -> None:
    layer = Linear(512, 1024, bias=False)
    names = set(layer.state_dict())
    with pytest.raises(ZeroDivisionError), packed(layer):
        assert set(layer.state_dict()) == names == {"weight"}
        raise ZeroDivisionError
    assert layer.packed is None
    small = Linear(8, 8)
    with packed(small):
        assert small.packed is None  # of no use there
    assert pack(torch.empty(1024, 512, device="meta")).device.type == "meta"


def test_a_head_of_a_large_vocabulary_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else memory would grow with the vocabulary twice as fast as the weights do."""
    layer = Linear(512, 1024, bias=False).requires_grad_(False)
    for limit in (1024 * 512 * 4, 1024 * 512 * 4 - 1):
        monkeypatch.setattr(products, "LARGEST_COPY", limit)
        with packed(layer):
            assert (layer.packed is None) == (limit % 2 == 1)
    assert pack(layer.weight).is_mkldnn  # merged weights take no memory beside another copy


def test_an_adapter_is_heard_through_packed_weights() -> None:
    """On, off and merged: the packed copy is always that of the weight in use."""
    model = nn.Sequential(Linear(512, 640, bias=True)).requires_grad_(False)
    lora.attach(model, rank=4, alpha=8, seed=1, targets=("0",))
    (_, layer), *_ = lora.layers(model)
    nn.init.normal_(layer.lora_B.weight, generator=torch.Generator().manual_seed(5))
    x = normal(16, 512)

    def values() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            on = model(x)
            with lora.adapter_off(model):
                return on, model(x)

    on, off = values()
    assert (on - off).abs().max() > 0.1
    with packed(model), torch.inference_mode():
        assert layer.packed is not None and layer.packed.is_mkldnn
        torch.testing.assert_close(values(), (on, off), atol=1e-4, rtol=1e-5)
    with lora.merged(model):
        assert layer.merged is not None and layer.merged.is_mkldnn
        with packed(model):
            assert layer.packed is None  # a second copy would be for nothing
            torch.testing.assert_close(values()[0], on, atol=1e-4, rtol=1e-5)
    with lora.adapter_off(model), lora.merged(model), packed(model), torch.inference_mode():
        assert layer.packed is not None  # the judge's weights, not the merged ones
        torch.testing.assert_close(model(x), off, atol=1e-4, rtol=1e-5)


def test_no_gradient_is_lost_without_a_word() -> None:
    layer, x = Linear(512, 1024).requires_grad_(False), normal(8, 512).requires_grad_()
    with packed(layer):
        layer(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert not linear(x, pack(layer.weight)).requires_grad  # merged: backward would be refused
    layer.bias.requires_grad_()
    layer(x).sum().backward()
    assert layer.bias.grad is not None


def test_packing_waits_for_work_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder: Decoder = weights.load(hub.TINY, torch.float32, "cpu")
    assert packing_pays(decoder, rows=8, steps=64)
    assert not packing_pays(decoder, rows=1, steps=64)  # one row adds up in another order
    assert not packing_pays(decoder, rows=8, steps=63)
    size = 4 * sum(parameter.numel() for parameter in decoder.parameters())
    monkeypatch.setattr(memory, "free_memory", lambda device: (4 * size, 4 * size))
    assert not packing_pays(decoder, rows=8, steps=64)


def test_logits_are_wide_in_sampling_and_in_learning_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU hands over what it has added up in fp32; the meta device stands for it."""
    x, head = torch.ones(3, 2, 16, dtype=torch.float16), torch.ones(40, 16, dtype=torch.float16)
    assert torch.equal(products.wide_linear(x, head), F.linear(x, head).float())
    asked = []
    real = torch.mm
    monkeypatch.setattr(torch, "mm", lambda *a, **k: asked.append(k) or real(*a, **k))
    wide = products.wide_linear(x.to("meta"), head.to("meta"))
    assert wide.shape == (3, 2, 40) and wide.dtype == torch.float32
    with torch.no_grad():
        products.Head(16, 40, bias=False, device="meta", dtype=torch.float16)(x.to("meta"))
        grpo._scaled_logits(x[0].to("meta"), head.to("meta"), 1.0, None)
    assert asked == [{"out_dtype": torch.float32}] * 3 * products.has_wide_products()


@pytest.mark.parametrize(
    ("processor", "rule"),
    [
        ("vendor_id : AuthenticAMD\nflags : fpu avx2", OneDNNRule(0, 1, math.inf)),
        ("vendor_id : GenuineIntel\nflags : fpu avx512f", INTEL),
        ("vendor_id : GenuineIntel\nflags : fpu avx2", OneDNNRule(math.inf, 1, math.inf)),
    ],
)
def test_the_processor_decides_who_computes(
    processor: str, rule: OneDNNRule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    (tmp_path / "cpuinfo").write_text(processor)
    monkeypatch.setattr(products, "Path", lambda _: tmp_path / "cpuinfo")
    assert products.onednn_rule.__wrapped__() == rule
    for room in (products, joined):
        monkeypatch.setattr(room, "onednn_rule", lambda: rule)
    for rows, size in ((3, 800), (4, 800), (8, 640), (8, 800), (64, 800), (65, 800), (300, 640)):
        expected = {0: rows * size * size >= FEW, math.inf: False}
        wanted = expected.get(rule.elements, size == 800 and 4 <= rows <= 64)
        assert products.by_onednn(normal(rows, size), normal(size, size), None) == wanted
    # A small weight is joined where no product with it would be packed.
    assert joins([normal(300, 300)]) and joins([normal(360, 360)] * 2) == (rule.elements > 0)
    assert not joins([normal(800, 800)])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", [(1030, 1024), (2100, 520), (300, 4096)])
def test_a_large_weight_that_is_never_packed_is_computed_in_pieces(
    size: tuple[int, int], bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For 4 to 12 rows, while answers are made."""
    monkeypatch.setattr(products, "onednn_rule", lambda: INTEL)
    whole, seen = torch.mm, list[tuple[int, ...]]()

    def watched(x: Tensor, piece: Tensor, out: Tensor) -> Tensor:
        seen.append(tuple(piece.shape))
        return whole(x, piece, out=out)

    monkeypatch.setattr(torch, "mm", watched)
    weight, b = normal(*size), normal(size[0], seed=1) if bias else None
    for rows, pieces in ((3, False), (4, True), (12, True), (13, False)):
        x = normal(rows, 1, size[1], seed=2)
        expected = F.linear(x.double(), weight.double(), None if b is None else b.double())
        for never_packed in (True, False):
            with torch.inference_mode():
                found = linear(x, weight, b, never_packed=never_packed)
            torch.testing.assert_close(found.double(), expected, atol=2e-3, rtol=1e-5)
            assert bool(seen) is (pieces and never_packed)
            assert sum(out for _, out in seen) in (0, size[0]) and len(seen) != 1
            seen.clear()
        with torch.no_grad():  # the reference rounds as the policy does
            linear(x, weight, b, never_packed=True)
        assert not seen
    with torch.inference_mode():  # nor is a smaller weight
        linear(normal(8, 1000), normal(1000, 1000), never_packed=True)
    assert not seen


@pytest.mark.parametrize("bias", [False, True])
def test_an_adapter_s_branch_is_fused_on_intel(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever memory is free, so with packed copies as well; not beside a linear without one."""
    adapted, x = branched(24, (16, 8, 8), bias), normal(5, 24)
    with torch.no_grad():
        expected = torch.cat([layer(x) for layer in adapted], -1)
        monkeypatch.setattr(joined, "onednn_rule", lambda: OneDNNRule(0, 1, math.inf))
        assert isinstance(on_cpu(adapted), Apart)
        monkeypatch.setattr(joined, "onednn_rule", lambda: INTEL)
        adapted[0].packed = adapted[0].weight
        one = on_cpu(adapted)
        assert isinstance(one, Fused)
        torch.testing.assert_close(one(x), expected)
        torch.testing.assert_close(torch.cat([layer(x) for layer in adapted], -1), expected)
        assert isinstance(on_cpu([adapted[0], Linear(24, 8, bias=bias)]), Apart)


def test_a_large_fused_product_is_one_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the on-policy probe, which gives each token a product of its own, hears these too."""
    monkeypatch.setattr(products, "onednn_rule", lambda: INTEL)
    adapted, x = branched(1024, (640, 512)), normal(8, 1024)
    real, seen = products.piecewise, list[int]()

    def watched(x: Tensor, *rest: Any) -> Tensor:
        seen.append(len(x))
        return real(x, *rest)

    monkeypatch.setattr(products, "piecewise", watched)
    with torch.inference_mode():
        expected = torch.cat([layer(x) for layer in adapted], -1)
        assert not seen
        one = Fused(adapted)
        torch.testing.assert_close(one(x), expected, atol=1e-4, rtol=1e-4)
        with OneProduct(alone=True):
            found, alone = one(x), torch.cat([layer(x) for layer in adapted], -1)
            rows = [torch.cat([layer(row) for layer in adapted], -1) for row in x.split(1)]
    assert seen == [8, 8]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(alone, torch.cat(rows))


@pytest.mark.parametrize("bias", [False, True])
def test_joined_products_are_those_of_the_modules(bias: bool) -> None:
    """Of frozen weights, of merged ones and with the adapter off; beside a branch nothing joins."""
    parts = [Linear(24, size, bias=bias) for size in (16, 8, 8)]
    adapted, x = branched(24, (16, 8, 8), bias), normal(5, 24)
    with torch.no_grad():
        for layer in adapted:
            layer.merged = layer.weight + 2 * layer.lora_B.weight @ layer.lora_A.weight
        off = [lora.LoRALinear(part, 4, 8.0) for part in parts]
        for layer in off:
            layer.enabled = False
        for modules in (parts, adapted, off):
            one = on_cpu(modules)
            assert isinstance(one, Joined) and one.weight.T.is_contiguous()  # fast for few rows
            torch.testing.assert_close(one(x), torch.cat([m(x) for m in modules], -1))
            for found, module in zip(one.split(x), modules, strict=True):
                torch.testing.assert_close(found, module(x))
        adapted[1].merged = None
        assert isinstance(on_cpu(adapted), Apart)  # one has a merged copy and the other none
        assert isinstance(on_cpu([part.bfloat16() for part in parts]), Apart)
