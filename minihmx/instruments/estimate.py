"""How much memory a run takes, from config.json alone. time_floors.py gives the least time.

This is pure arithmetic on shapes, with no torch and no weights. Each figure carries the product
that gave it. Numbers are bytes unless a name says otherwise, and lengths are tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from minihmx.config import Config
from minihmx.engine.samplers import bytes_a_word
from minihmx.models.configs import ModelConfig
from minihmx.records import Question

GIB = 2**30
CUDA_CONTEXT = GIB // 2  # what a process holds before its first tensor
MARGIN = 0.95  # of the memory may be planned for; the allocator leaves gaps
SPENDS_BELOW = 2**29  # bytes of weights; a run on a CPU with fewer spends memory to save time
ROW_MEMORY = 2**27  # bytes of attention's rows that such a run keeps for the backward, at most
COPIES_PAY = 64  # tokens of decoding that repay copies of the weights; for a 0.5B model it was 25
CHARACTERS = 4  # to a token, about what English has with every tokenizer here
PREFILL_TOKENS = 2048  # of prompts that go through the model at once; more is no faster
TEMPLATE = 40  # tokens of the chat format around a turn; Llama's, with its dates, is the longest

ALWAYS = ("weights", "adapter", "optimizer", "gradients", "kv cache of rubric", "cuda context")
# The parts that a stage adds. The parts in one bracket take turns, so only the largest counts.
MEMORY_STAGES: dict[str, tuple[tuple[str, ...], ...]] = {
    "sampling": (("merged weights",), ("kv cache of answers",), ("prompts", "sampler")),
    "judging": (("kv cache of judge",), ("judge prompts", "judge sampler")),
    "learning": (("adapter in 16 bit",), ("activations",), ("one layer", "logit chunk")),
}


class Part(NamedTuple):
    """bytes, and the product that gave them."""

    bytes: int
    how: str


class Workload(NamedTuple):
    """train, held_out: numbers of questions. prompt: tokens of the longest prompt. judge: tokens of
    a judge's prompt without the answer."""

    train: int
    held_out: int
    prompt: int
    judge: int

    @classmethod
    def of(cls, questions: Sequence[Question], rubric: str) -> Workload:
        """Token counts are estimated from characters, since a tokenizer may not be here yet."""
        held_out = sum(question.split == "eval" for question in questions)
        prompt = TEMPLATE + max(len(question.text) for question in questions) // CHARACTERS
        judge = prompt + len(rubric) // CHARACTERS
        return cls(len(questions) - held_out, held_out, prompt, judge)


def parameter_counts(model: ModelConfig) -> tuple[int, int, int]:
    """Parameters of the body (layers and norms), of the embedding, and of the head (0 if tied)."""
    D, hd = model.hidden_size, model.head_dim
    layer = sum(inner * outer for inner, outer in linears(model).values())
    layer += D * (4 if model.sandwich else 2) + (2 * hd if model.qk_norm else 0)
    if model.qkv_bias:
        layer += hd * (model.num_attention_heads + 2 * model.num_key_value_heads)
    embedding = model.vocab_size * D
    return model.num_hidden_layers * layer + D, embedding, 0 if model.tied else embedding


def linears(model: ModelConfig) -> dict[str, tuple[int, int]]:
    """(in, out) of the seven matrices of a layer."""
    D, inner = model.hidden_size, model.intermediate_size
    heads = model.num_attention_heads * model.head_dim
    keys = model.num_key_value_heads * model.head_dim
    return {
        "q_proj": (D, heads),
        "k_proj": (D, keys),
        "v_proj": (D, keys),
        "o_proj": (heads, D),
        "gate_proj": (D, inner),
        "up_proj": (D, inner),
        "down_proj": (inner, D),
    }


def trainable(model: ModelConfig, config: Config) -> int:
    """Parameters of the adapter: A [r, in] and B [out, r] on every target of every layer."""
    sides = (sum(linears(model)[target]) for target in config.lora_targets.split(","))
    return model.num_hidden_layers * config.lora_rank * sum(sides)


def kv_bytes(model: ModelConfig, dtype: str) -> int:
    """Bytes of the keys and values of one token in all layers."""
    return 2 * model.num_hidden_layers * model.num_key_value_heads * model.head_dim * width(dtype)


def width(dtype: str) -> int:
    return 4 if dtype == "float32" else 2


def worth_merging(weights: int, memory: float, tokens: int = COPIES_PAY) -> bool:
    """Whether answers of so many tokens repay the making of merged copies of the weights, and the
    memory (bytes) holds the weights in fp32, the copies, and as much again for the rest."""
    return tokens >= COPIES_PAY and 4 * weights <= memory


def parts(
    model: ModelConfig, config: Config, work: Workload, memory: float = math.inf
) -> dict[str, Part]:
    """All parts that take memory, with their arithmetic. MEMORY_STAGES says which come together.

    memory: all bytes of the device. config: dtype, device and checkpointing must not be "auto".
    Evaluations count as well, since they may decode more rows than a step.
    """
    w, n = width(config.dtype), trainable(model, config)
    total = sum(parameter_counts(model))
    parts = {
        "weights": Part(total * w, f"{total:,} parameters x {w} bytes"),
        "adapter": Part(n * 4, f"{n:,} parameters of rank {config.lora_rank} x 4 bytes"),
        "optimizer": Part(n * 8, f"{n:,} x 8 bytes, the two moments of AdamW"),
        "gradients": Part(n * 4, f"{n:,} x 4 bytes"),
    }
    if config.device == "cuda":
        parts["cuda context"] = Part(CUDA_CONTEXT, "taken as 0.5 GiB")
    if w == 2:
        parts["adapter in 16 bit"] = Part(n * 2, f"{n:,} x 2 bytes, at most")
    elif config.device == "cpu" and worth_merging(total * w, memory, config.max_completion_length):
        merged = sum(math.prod(linears(model)[t]) for t in config.lora_targets.split(","))
        merged *= model.num_hidden_layers
        parts["merged weights"] = Part(merged * 4, f"{merged:,} x 4 bytes, W + B A while sampling")
    return parts | generating(model, config, work) | learning(model, config, work)


def generating(model: ModelConfig, config: Config, work: Workload) -> dict[str, Part]:
    """The parts of the two decoding stages at the largest batch of a step or an evaluation."""
    token, cap = kv_bytes(model, config.dtype), config.max_completion_length
    groups = config.prompts_per_step * config.generations, work.held_out * config.eval_samples
    rows, V = min(max(groups), config.decode_rows), model.vocab_size
    fresh = cap + work.prompt // 2  # after the rubric, which the judge's prompts share
    # A CPU's rows share the rubric (engine/prefill.py, cache_for), and have room for the longest.
    whole = work.judge + cap + config.judge_max_tokens
    inside = all(window is None or window >= whole for window in model.windows)
    once = config.device == "cpu" and rows > 1 and inside
    own = (work.prompt if once else work.judge) + cap
    prompts = math.ceil(rows / min(config.generations, config.eval_samples))
    drawn = max(bytes_a_word(config.sampler), bytes_a_word(config.eval_sampler))
    asked = bytes_a_word(config.judge_sampler)
    return {
        "kv cache of answers": _cached(rows, (work.prompt, cap), token),
        "prompts": prefilling(model, config, prompts * work.prompt, work.prompt),
        "sampler": Part(rows * V * drawn, f"{rows} rows x {V:,} words x {drawn} bytes"),
        "kv cache of rubric": _cached(1, (work.judge,), token),
        "kv cache of judge": _cached(rows, (own, config.judge_max_tokens), token),
        "judge prompts": prefilling(model, config, rows * fresh, work.judge + cap),
        "judge sampler": Part(rows * V * asked, f"{rows} rows x {V:,} words x {asked} bytes"),
    }


def _cached(rows: int, tokens: tuple[int, ...], token: int) -> Part:
    how = f"{rows} rows x ({' + '.join(map(str, tokens))}) tokens x {token:,} bytes"
    return Part(rows * sum(tokens) * token, how)


def prefilling(model: ModelConfig, config: Config, tokens: int, keys: int) -> Part:
    """Memory that so many tokens of prompts, with so many keys each, take at once in one layer."""
    w = width(config.dtype)
    held = 12 if w == 4 else 14  # three values in fp32, and in 16 bit one of them in 16 bit too
    forward = held * model.intermediate_size
    if model.attention_softcap is not None:  # no fused kernel knows it: the scores are tensors
        forward = max(forward, held * model.num_attention_heads * keys)
    forward += (8 + w) * model.hidden_size
    tokens = min(tokens, PREFILL_TOKENS)
    return Part(tokens * forward, f"{tokens:,} tokens x {forward:,} bytes in one layer")


def learning(model: ModelConfig, config: Config, work: Workload) -> dict[str, Part]:
    """The memory that a forward and backward pass over one micro-batch takes.

    The residual stream and the MLP's product are fp32 in any dtype, and the adapter's branch makes
    every linear keep its input; that is where the bytes per token come from.
    """
    w, D, inner = width(config.dtype), model.hidden_size, model.intermediate_size
    rows = min(config.micro_batch, config.prompts_per_step * config.generations)
    length = work.prompt + config.max_completion_length
    answers = rows * config.max_completion_length
    # A group's answers share their prompt, except in attention (context.Packed).
    tokens = math.ceil(rows / config.generations) * work.prompt + answers
    heads, keys = (
        n * model.head_dim for n in (model.num_attention_heads, model.num_key_value_heads)
    )
    # Inputs of norms, linears and the gated product; q, k and v before they are apart in rows.
    kept = (8 + 2 * w) * D + w * (2 * heads + 2 * keys) + (8 + w) * inner
    kept += 4 * (heads + keys) * model.qk_norm + 8 * D * model.sandwich
    softcapped = model.attention_softcap is not None
    # Attention's own are made again in the backward, one layer at a time, or kept in each.
    scores = 10 * rows * model.num_attention_heads * length**2 if softcapped else 0
    scores += rows * length * w * (2 * heads + 2 * keys)  # q, k, v and their sum
    chunk, layers = min(config.logit_chunk, model.vocab_size), model.num_hidden_layers
    weights = sum(parameter_counts(model)) * w + 4 * trainable(model, config)
    spends = config.device == "cpu" and weights < SPENDS_BELOW
    copies = 5 if model.final_softcap is None else 8
    if config.checkpointing == "on":
        saved, text = tokens * D * 4, f"{tokens:,} tokens x {D:,} x 4 bytes"
        borrowed = kept + 14 * inner
    else:
        saved, text = tokens * kept, f"{tokens:,} tokens x {kept:,} bytes"
        borrowed = 14 * inner
        if spends and model.attention_bytes(rows, length) <= ROW_MEMORY:
            saved, text = saved + scores, f"{text} + {scores:,} of attention"
            scores = 0
    return {
        "activations": Part(saved * layers, f"({text}) x {layers} layers"),
        "one layer": Part(
            tokens * borrowed + scores,
            f"{tokens:,} tokens x {borrowed:,} bytes + {scores:,} of attention",
        ),
        "logit chunk": Part(
            answers * chunk * copies * 4,
            f"{answers:,} answer tokens x {chunk:,} words x {copies} x 4 bytes",
        ),
    }


def peaks(parts: dict[str, Part]) -> dict[str, int]:
    """The most bytes that each stage holds at once."""
    always = sum(parts[name].bytes for name in ALWAYS if name in parts)
    return {
        stage: always
        + sum(max((parts[n].bytes for n in turns if n in parts), default=0) for turns in brackets)
        for stage, brackets in MEMORY_STAGES.items()
    }


def checkpointing(config: Config, device: str) -> str:
    """ "on" or "off"; "auto" means on where memory is short, which is on CUDA."""
    auto = "on" if device == "cuda" else "off"
    return auto if config.checkpointing == "auto" else config.checkpointing


def shrink(
    model: ModelConfig, config: Config, work: Workload, limit: float, memory: float = math.inf
) -> Config | None:
    """The config with its batches halved, as training halves them, until they need at most `limit`
    bytes; None if even one row needs more. memory: as in `parts`."""
    while True:
        peak = peaks(parts(model, config, work, memory))
        stage = max(peak, key=peak.__getitem__)
        if peak[stage] <= limit:
            return config
        knob = "micro_batch" if stage == "learning" else "decode_rows"
        rows: int = getattr(config, knob)
        if rows == 1:
            return None
        fewer: dict[str, Any] = {knob: (rows + 1) // 2}
        config = replace(config, **fewer)


def size(count: float) -> str:
    """A number of bytes in GiB or MiB, for a reader."""
    return f"{count / GIB:.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"
