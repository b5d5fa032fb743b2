"""The static decode step beside the decoder that it stands for, and what a CUDA graph asks of it.

No GPU is needed: the CPU computes the step, and the meta device counts its kernels.
"""

from __future__ import annotations

import collections
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from meta import COMPOSITE, META, decoder_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from minihmx import lora
from minihmx.engine import graphs, sampling
from minihmx.engine.memory import Limit
from minihmx.engine.prefill import prefill
from minihmx.engine.sampling import Decoding, GenerationRequest, complete
from minihmx.models.configs import FAMILIES, ModelConfig
from minihmx.models.context import KVCache
from minihmx.models.decoder import Decoder
from minihmx.models.folder import shipped_config
from minihmx.models.joined import Apart, Fused, Joined
from minihmx.models.products import onednn_rule
from minihmx.models.step import Step

KINDS = tuple(FAMILIES)
CPU = torch.device("cpu")
SIZES = {
    "num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 300, "tie_word_embeddings": True,
    "max_position_embeddings": 256, "eos_token_id": 299, "sliding_window": 6,
}  # fmt: skip


def small(
    kind: str, adapter: bool, targets: tuple[str, ...] = lora.LORA_TARGETS, window: int = 6
) -> Decoder:
    """Random weights, and an adapter that says something. window: of Gemma's layers."""
    torch.manual_seed(0)
    own = {"sliding_window": window} if kind == "gemma2" else {}
    sizes = {k: v for k, v in SIZES.items() if k != "sliding_window"} | own
    decoder = Decoder(ModelConfig.from_hf(sizes | {"model_type": kind})).eval()
    decoder.requires_grad_(False)
    for parameter in decoder.parameters():
        if parameter.dim() == 1:  # biases and norms
            parameter.add_(torch.randn_like(parameter) * 0.1)
    lora.attach(decoder, 4, 6.0, 1, targets)
    for _, layer in lora.layers(decoder):
        torch.nn.init.normal_(layer.lora_B.weight, std=0.1)
        layer.enabled = adapter
    return decoder


def same_bits(found: Tensor, expected: Tensor) -> None:
    assert torch.equal(found, expected)


def in_dtype(decoder: Decoder, dtype: torch.dtype) -> Decoder:
    """The same with a frozen base of this dtype."""
    for name, parameter in decoder.named_parameters():
        if "lora" not in name:
            parameter.data = parameter.data.to(dtype)
    decoder.tie()
    return decoder


def requests() -> list[GenerationRequest]:
    shared = [7, 8, 9, 10]
    prompts = [[*shared, 20 + i, *range(30, 30 + i % 4)] for i in range(7)] + [[5, 6]] * 2
    return [GenerationRequest(p, 9 + i % 5, ("graphs", i)) for i, p in enumerate(prompts)]


@pytest.mark.parametrize("adapter", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_static_step_draws_the_same_tokens(
    kind: str, adapter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are refilled, prompts of several lengths, and eight tokens between two looks."""
    decoder = small(kind, adapter)
    how = Decoding(decoder, lambda ids: " ".join(map(str, ids)), (3,), temperature=1.0)
    growing = dict(complete(how, requests(), Limit("--decode-rows", 4)))
    monkeypatch.setattr(sampling, "decodes_statically", lambda decoder: True)
    static = dict(complete(how, requests(), Limit("--decode-rows", 4)))
    for index, expected in growing.items():
        found = static[index]
        assert (found.ids, found.text, found.finish_reason) == (
            expected.ids,
            expected.text,
            expected.finish_reason,
        )
        assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    assert len({len(found.ids) for found in static.values()}) > 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_it_rounds_where_the_decoder_does(kind: str, dtype: torch.dtype) -> None:
    """One token in 16 bit: the same but for the order of sums within a product."""
    decoder = in_dtype(small(kind, True), dtype)
    caches = [KVCache(decoder.config, 2, 16, dtype, CPU) for _ in range(2)]
    with torch.inference_mode():
        for cache in caches:
            prefill(decoder, [[5, 6, 7], [8, 9]], cache)
        token, where = torch.tensor([11, 12]), torch.tensor([3, 2])
        expected = decoder(token[:, None], where[:, None], caches[0], 4)[:, 0]
        found = Step(decoder, caches[1])(token, where)
    assert found.dtype == dtype
    bound = 8 * torch.finfo(dtype).eps
    assert float((found - expected).abs().max() / expected.abs().max()) < bound
    assert torch.allclose(caches[0].both.float(), caches[1].both.float(), rtol=bound, atol=bound)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("begin", [0, 5])
@pytest.mark.parametrize("spoken", ["adapter", "merged", "some", "base"])
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_cpu_it_is_the_decoder(kind: str, spoken: str, begin: int, dtype: torch.dtype) -> None:
    """To the last bit in 16 bit, up to rounding in fp32, where products are joined and norms are of
    fewer kernels. Also of rows behind shared tokens, once some of the rows have gone, and at the
    last place."""
    agree = partial(torch.testing.assert_close, atol=2e-5, rtol=2e-5)
    agree = agree if dtype == torch.float32 else same_bits
    targets = ("q_proj", "v_proj", "down_proj") if spoken == "some" else lora.LORA_TARGETS
    # Rows share tokens only where each layer sees all of them.
    decoder = small(kind, spoken != "base", targets, window=16 if begin else 6)
    decoder = in_dtype(decoder, dtype)
    shared = KVCache(decoder.config, 1, begin, dtype, CPU) if begin else None
    caches = [KVCache(decoder.config, 4, 16, dtype, CPU, shared) for _ in range(2)]
    merging = lora.merged(decoder) if spoken == "merged" else nullcontext()
    with torch.inference_mode(), merging:
        step = graphs.next_states(decoder, caches[0], Limit("--rows", 4), 8, static=False)
        assert isinstance(step, Step)
        kinds = {
            "merged": Joined,
            "base": Joined,
            "adapter": Fused if onednn_rule().pieces else Apart,
        }
        wanted = kinds.get(spoken, Apart) if dtype == torch.float32 else Apart
        assert isinstance(step.layers[0].qkv, wanted)
        if shared:
            decoder(torch.tensor([[5, 6, 7, 8, 9]]), torch.arange(5)[None], shared, 5)
        where = torch.tensor([0, 1, 2, 3]) + begin
        for t in range(14):
            if keep := {5: [1, 3], 9: [1]}.get(t):
                for cache in caches:
                    cache.keep(keep)
                where = where[keep]
            token, keys = torch.arange(11, 11 + len(where)) + 7 * t, int(where.max()) + 1
            expected = decoder(token[:, None], where[:, None], caches[1], keys)[:, 0]
            agree(step(token, where, keys), expected)
            where = (where + 1).clamp(max=15)
    agree(caches[0].both, caches[1].both)


def test_a_second_batch_changes_no_version_of_the_base() -> None:
    """Its step writes the adapter behind the weights. A run that saw a new version there would take
    the base for changed, and stop at its second evaluation; on a GPU it would have."""
    decoder = small("qwen3", True)
    versions = []
    for _ in range(3):
        with torch.inference_mode():
            Step(decoder, KVCache(decoder.config, 1, 8, torch.float32, CPU))
        versions.append([p._version for p in decoder.parameters()])
    assert versions[0] == versions[1] == versions[2]


def test_some_linears_may_have_no_adapter() -> None:
    decoder = small("qwen2", True, ("q_proj", "v_proj", "down_proj"))
    caches = [KVCache(decoder.config, 1, 8, torch.float32, CPU) for _ in range(2)]
    with torch.inference_mode():
        token, where = torch.tensor([11]), torch.tensor([0])
        expected = decoder(token[:, None], where[:, None], caches[0], 1)[:, 0]
        assert torch.allclose(Step(decoder, caches[1])(token, where), expected, atol=1e-5)


def test_the_weights_stay_where_they_are_and_are_still_trained_around() -> None:
    """They move into common memory once; their values, names and gradients are what they were."""
    decoder = small("qwen3", True)
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        for _ in range(2):
            Step(decoder, KVCache(decoder.config, 1, 8, torch.float32, CPU))
            places = [p.data_ptr() for p in decoder.parameters()]
        Step(decoder, KVCache(decoder.config, 1, 8, torch.float32, CPU))
    assert places == [p.data_ptr() for p in decoder.parameters()]
    after = decoder.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    attention = decoder.model.layers[0].self_attn
    homes = {attention.get_submodule(f"{n}_proj").weight.untyped_storage()._cdata for n in "qkv"}
    assert len(homes) == 1
    decoder(ids).sum().backward()
    assert all(p.grad is not None for p in lora.parameters(decoder).values())


class Kernels(TorchDispatchMode):
    """Counts what a GPU would start. Refuses what a graph cannot hold: values that are read, shapes
    that depend on values, and copies from the CPU."""

    FREE = ("empty", "empty_like", "empty_strided", "new_empty", "detach", "_unsafe_view")
    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "item")

    def __init__(self) -> None:
        super().__init__()
        self.names: collections.Counter[str] = collections.Counter()
        self.places: list[int] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = function._schema.name.removeprefix("aten::")
        assert name not in self.FORBIDDEN, name
        if COMPOSITE[function]:
            with self:
                return function.decompose(*args, **kwargs)
        for tensor in args:
            if isinstance(tensor, Tensor) and tensor.dim():
                assert tensor.device == META or META not in [
                    other.device for other in args if isinstance(other, Tensor)
                ], f"{name} copies from the CPU"
                self.places.append(tensor.data_ptr() if tensor.device == CPU else 0)
        if name in ("index", "index_put_"):
            assert all(i is None or i.dtype == torch.long for i in args[1]), "a mask as an index"
        out = function(*args, **kwargs)
        returned = function._schema.returns
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in returned)
        if not view and name not in self.FREE:
            self.names[name] += 1
        return out


def kernels(name: str, adapter: bool, layers: int) -> collections.Counter[str]:
    shape = shipped_config(name)
    shape = replace(shape, num_hidden_layers=layers, windows=shape.windows[:layers])
    decoder = decoder_of(shape, torch.float16)
    for _, layer in lora.layers(decoder):
        layer.enabled = adapter
    token = torch.zeros(8, dtype=torch.long, device=META)
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        step = Step(decoder, KVCache(shape, 8, 256, torch.float16, META))
        # Each of these two is one kernel on a GPU.
        patch.setattr(F, "rms_norm", lambda x, *_, **__: x.clone())
        patch.setattr(F, "scaled_dot_product_attention", lambda q, *_, **__: q.clone())
        with Kernels() as seen:
            step(token, token)
    return seen.names


@pytest.mark.parametrize("adapter", [True, False])
@pytest.mark.parametrize("name", ["llama3.2-3b", "qwen2.5-0.5b", "qwen3-0.6b", "gemma2-2b"])
def test_a_layer_is_at_most_forty_kernels(name: str, adapter: bool) -> None:
    """And 40 for all layers together; nothing that a graph cannot hold is among them."""
    two, four = (kernels(name, adapter, layers) for layers in (2, 4))
    a_layer = (four.total() - two.total()) / 2
    assert a_layer <= 40, four - two
    assert two.total() - 2 * a_layer <= 40
    if name.startswith(("llama", "qwen")):
        assert a_layer <= (33 if adapter else 27)


def test_two_steps_read_and_write_at_the_same_places() -> None:
    decoder = in_dtype(small("gemma2", True), torch.float16)
    cache = KVCache(decoder.config, 2, 16, torch.float16, CPU)
    with torch.inference_mode():
        step = Step(decoder, cache)
        token, where = torch.tensor([11, 12]), torch.tensor([3, 2])
        own = [cache.both, *decoder.parameters(), step.product, token, where]
        held = {tensor.untyped_storage().data_ptr() for tensor in own}
        seen = []
        for _ in range(2):
            with Kernels() as mode:
                step(token, where)
            seen.append([place for place in mode.places if place in held])
            where += 1
    assert seen[0] == seen[1] and len(seen[0]) > 20


class Graph:
    """What torch.cuda would record, on a CPU: the step again, into the same memory."""

    def __init__(self) -> None:
        self.again: Any = None

    def replay(self) -> None:
        self.again()


def on_a_gpu(patch: pytest.MonkeyPatch, decoding: graphs.StaticDecoding) -> list[str]:
    """torch.cuda in what a capture calls."""
    import contextlib

    told: list[str] = []

    class Stream:
        def wait_stream(self, other: Any) -> None:
            told.append("wait")

    @contextlib.contextmanager
    def capture(graph: Graph, **_: Any) -> Any:
        told.append("capture")
        yield

        def again() -> None:
            decoding.hidden.copy_(decoding.step(decoding.token, decoding.where))

        graph.again = again

    patch.setattr(torch.cuda, "Stream", Stream)
    patch.setattr(torch.cuda, "current_stream", Stream)
    patch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    patch.setattr(torch.cuda, "CUDAGraph", Graph)
    patch.setattr(torch.cuda, "graph", capture)
    decoding.captures = True
    return told


def test_a_graph_is_captured_once_and_fed_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = small("llama", True)
    caches = [KVCache(decoder.config, 2, 16, torch.float32, CPU) for _ in range(2)]
    eager, graph = (
        graphs.StaticDecoding(decoder, cache, Limit("--rows", 2), 32) for cache in caches
    )
    told = on_a_gpu(monkeypatch, graph)
    with torch.inference_mode():
        for t in range(4):
            token, where = torch.tensor([11 + t, 12 + t]), torch.tensor([t, t])
            expected, found = eager(token, where), graph(token, where)
            assert torch.equal(expected, found) and found is graph.hidden
    assert told.count("capture") == 1
    assert torch.equal(caches[0].both, caches[1].both)  # the warm-up left nothing behind


def test_without_a_graph_the_step_runs_as_it_is_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(graphs.StaticDecoding, "told", False)
    decoder, limits = small("llama", False), [Limit("--rows", 1), Limit("--rows", 1)]
    for limit in limits:
        cache = KVCache(decoder.config, 1, 8, torch.float32, CPU)
        decoding = graphs.StaticDecoding(decoder, cache, limit, 32)
        on_a_gpu(monkeypatch, decoding)

        def refuse(*_: Any, **__: Any) -> Any:
            raise RuntimeError("CUDA error: operation not permitted\nmore lines")

        monkeypatch.setattr(torch.cuda, "graph", refuse)
        with torch.inference_mode():
            token, where = torch.tensor([11]), torch.tensor([0])
            assert decoding(token, where).shape == decoding(token, where).shape == (1, 64)
    assert [bool(limit.notice) for limit in limits] == [True, False]
    assert limits[0].notice.endswith("the same: CUDA error: operation not permitted")


def test_a_layer_with_a_hook_is_called() -> None:
    """Steering and removal are hooks, which the static step, another program, would pass by."""
    decoder = small("llama", False).to("meta")
    assert graphs.decodes_statically(decoder)
    handle = decoder.model.layers[0].register_forward_hook(lambda *_: None)
    assert not graphs.decodes_statically(decoder)
    handle.remove()
    assert graphs.decodes_statically(decoder)
    cpu = small("llama", False)
    assert not graphs.decodes_statically(cpu) and not graphs.hooked(cpu)
    handle = cpu.model.layers[0].register_forward_hook(lambda *_: None)
    cache = KVCache(cpu.config, 1, 8, torch.float32, CPU)
    assert not isinstance(graphs.next_states(cpu, cache, Limit("--rows", 1), 8, False), Step)
    handle.remove()
