"""The one way to open a model, its tokenizer and an adapter on it.

Opening has two halves. `find_model` does what is cheap: it finds the files (downloading them if
need be), reads config and tokenizer, and settles every value that depends on the model. The caller
then checks what only it knows, such as whether its questions fit. `load_decoder` brings the
weights, which takes seconds to minutes and gigabytes.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minihmx import lora
from minihmx.config import Config, resolve_config
from minihmx.engine import cuda, ranks
from minihmx.engine.memory import free_memory, merging
from minihmx.engine.prompts import Prompts
from minihmx.engine.samplers import settled_samplers
from minihmx.errors import UserError
from minihmx.instruments.estimate import (
    CUDA_CONTEXT,
    GIB,
    MARGIN,
    Workload,
    checkpointing,
    parameter_counts,
    shrink,
    size,
)
from minihmx.models import adapters, hub, weights
from minihmx.models.configs import ModelConfig
from minihmx.models.decoder import Decoder
from minihmx.models.folder import read_config, shipped_config
from minihmx.models.known import MODELS, short_name
from minihmx.models.products import cpu_has_bfloat16
from minihmx.models.template import AUTO
from minihmx.models.tokenizer import Tokenizer
from minihmx.records import Question

STRONGEST = 2.0  # of --strength; beyond twice what was trained lies noise


@dataclass(frozen=True)
class Model:
    """A model that was found, whose config and tokenizer belong together; its weights may follow.

    config: of a run on this model. Its dtype and chat format are resolved, but for a base model's
    format; device and checkpointing may be "auto".
    sources: where each value of config came from.
    """

    source: hub.Source
    shape: ModelConfig
    tokenizer: Tokenizer
    config: Config
    sources: dict[str, str]
    device: torch.device
    dtype: torch.dtype


def find_model(
    flags: Mapping[str, Any],
    *,
    slow_dtypes: bool = False,
    came_from: Mapping[str, str] | None = None,
) -> Model:
    """Resolve the model and the config. flags: values by the names of Config's fields.

    came_from: as in config.resolve_config.
    slow_dtypes: allow 16 bit on a CPU, where products are slow, as is fine for a short chat.
    Raises Failure (errors.py) for what the user has to mend.
    """
    name = flags.get("model", "tiny")
    short = short_name(name)
    # Flags that are wrong for any model are refused first, before gigabytes are downloaded.
    family = MODELS[short].family if short else ""
    given, _ = resolve_config(flags, short, family, sys.maxsize, came_from)
    device = pick_device(given.device)
    cuda.prepare_gpu(device, given.gpu_memory)
    dtype = weights.DTYPES.get(given.dtype) if slow_dtypes else None
    dtype = dtype or pick_dtype(given.dtype, device)
    if short and MODELS[short].repo:
        check_memory(given.model, shipped_config(short), dtype, device)
    source = hub.resolve(given.model, given.revision or None)
    shape = read_config(source.folder)
    check_memory(source.id, shape, dtype, device)
    config, sources = resolve_config(
        flags, short, shape.model_type, shape.max_positions, came_from, device.type
    )
    tokenizer = load_tokenizer(source.folder, shape, config.chat_format)
    settled = tokenizer.chat_format.name or config.chat_format
    own = settled_samplers(config, source.folder, shape.vocab_size)
    config = replace(config, dtype=str(dtype).removeprefix("torch."), chat_format=settled, **own)
    return Model(source, shape, tokenizer, config, sources, device, dtype)


def load_decoder(model: Model, underflow: Counter[str] | None = None) -> Decoder:
    """The weights on their device, frozen. underflow: as in weights.load.

    Sets torch's arithmetic (`set_arithmetic`) and the number of CPU threads as well.
    """
    set_arithmetic()
    if model.config.threads:
        torch.set_num_threads(model.config.threads)
    return weights.load(model.source.folder, model.dtype, model.device, underflow)


def check_memory(name: str, shape: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
    """Raises UserError where the weights alone are more than the device has free."""
    needed, (free, _) = sum(parameter_counts(shape)) * dtype.itemsize, free_memory(device)
    if needed > free:
        place = "the GPU" if device.type == "cuda" else "this machine"
        halved = "--dtype bfloat16 where it is allowed, " if dtype == torch.float32 else ""
        raise UserError(
            f"{name} does not fit: its weights alone take {size(needed)} in "
            f"{str(dtype).removeprefix('torch.')}, and {place} has {size(free)} of memory free; "
            f"take a smaller model, {halved}or another machine."
        )


def rows_that_fit(model: Model, prompts: Prompts, questions: Sequence[Question]) -> Config:
    """The config with as many rows as a GPU's memory will hold, by the estimate.

    On a CPU it stays as it is, since free memory is hard to tell from the disk's cache there.
    """
    if model.device.type == "cpu":
        return model.config
    held_out = sum(question.split == "eval" for question in questions)
    policy = max(len(prompts.policy(question.text)) for question in questions)
    judge = max(len(prompts.judge(question.text, "")) for question in questions)
    work = Workload(len(questions) - held_out, held_out, policy, judge)
    settled = replace(
        model.config, device="cuda", checkpointing=checkpointing(model.config, "cuda")
    )
    # The estimate counts the context, which lies inside --gpu-memory and outside what is free.
    free, total = free_memory(model.device)
    most = min(free + CUDA_CONTEXT, model.config.gpu_memory * GIB or total)
    smaller = shrink(model.shape, settled, work, MARGIN * most)
    # By an estimate alone nobody is turned away: the smallest batch is tried.
    rows, micro = (smaller.decode_rows, smaller.micro_batch) if smaller else (1, 1)
    return replace(model.config, decode_rows=rows, micro_batch=micro)


def load_tokenizer(folder: Path, shape: ModelConfig, chat_format: str = AUTO) -> Tokenizer:
    """The model's tokenizer. Raises UserError where it and the model, or it and the chat format
    that is asked for, do not belong together."""
    tokenizer = Tokenizer.load(folder, chat_format)
    if not shape.eos_ids:
        raise UserError(
            f"{folder} names no eos_token_id in generation_config.json or config.json, so no "
            "answer would ever end; add the one its chat format ends turns with."
        )
    largest, smallest = max(tokenizer.vocab_size - 1, *shape.eos_ids), min(shape.eos_ids)
    if largest >= shape.vocab_size or smallest < 0:
        raise UserError(
            f"The tokens of {folder} go up to {largest} (eos: {list(shape.eos_ids)}), but its "
            f"model has only {shape.vocab_size}; take tokenizer and model from one source."
        )
    return tokenizer


def set_arithmetic() -> None:
    """Let torch compute without denormal numbers, cuDNN's attention, and sums in 16 bits."""
    # A product of denormal numbers costs a CPU about a hundred times as much as a normal one.
    torch.set_flush_denormal(True)
    # cuDNN's attention plans anew for every number of keys, so for every decoded token.
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


def pick_device(name: str) -> torch.device:
    """Raises UserError where CUDA is asked for and absent, or a rank would have no GPU."""
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise UserError("--device cuda was asked for, but torch sees no GPU; try --device cpu.")
    device = torch.device(("cuda" if found else "cpu") if name == "auto" else name)
    return ranks.own_gpu() if device.type == "cuda" and ranks.world() > 1 else device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """Raises UserError for 16 bit on a CPU that has no instructions for such products."""
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if device.type == "cpu" and name == "bfloat16" and not cpu_has_bfloat16():
        raise UserError(
            "--dtype bfloat16 on a CPU is refused here, because this processor has neither AMX nor "
            "AVX-512 BF16 and would be slower with it; leave --dtype out, or train on a GPU."
        )
    if device.type == "cpu" and name == "float16":
        raise UserError(
            "--dtype float16 on a CPU is refused, because 16-bit products are slow there and "
            "overflow; leave --dtype out, or train on a GPU."
        )
    return weights.DTYPES[name]


# --- adapters -------------------------------------------------------------------------------------


class OpenAdapter(NamedTuple):
    """An adapter in memory, and what remains uncertain about its belonging to the model."""

    adapter: adapters.Adapter
    tensors: dict[str, Tensor]
    notices: list[str]


def open_adapter(name: str, source: hub.Source, chat_format: str = "") -> OpenAdapter:
    """Find, read and check an adapter: a run, RUN@epoch-03, or a folder in PEFT's format.

    chat_format: as in adapters.belongs.
    """
    adapter = adapters.read_adapter(adapters.find_adapter(name))
    notices = adapters.belongs(adapter, source, chat_format)
    return OpenAdapter(adapter, adapters.tensors(adapter), notices)


def check_strength(strength: float, adapted: bool) -> None:
    """Raises UserError for a strength out of range, and for any but 1 where nothing is adapted."""
    if strength != 1 and not adapted:
        raise UserError(
            "--strength multiplies an adapter, and none is given, so it would change nothing; add "
            "--adapter RUN, or leave it out."
        )
    if not 0 <= strength <= STRONGEST:
        raise UserError(
            f"--strength {strength:g} cannot work: it is what the adapter is multiplied by, from 0 "
            f"(the base) over 1 (as trained) to {STRONGEST:g}; give one of these."
        )


@contextmanager
def with_adapter(
    decoder: Decoder, opened: OpenAdapter | None, strength: float = 1.0
) -> Iterator[None]:
    """Inside, the loaded base has this adapter (None: none); afterwards it is the base again.

    strength: as in lora.set_strength.
    Raises RuntimeError if it is not the base any more, since every later figure would be wrong.
    """
    if opened is None:
        yield
        return
    before = checksum(decoder)
    adapters.attach_adapter(decoder, opened.adapter, opened.tensors)
    lora.set_strength(decoder, strength)
    try:
        with merging(decoder):
            yield
    finally:
        lora.detach(decoder)
    if checksum(decoder) != before:
        raise RuntimeError("taking the adapter off did not give the base back: this is a bug")


def checksum(decoder: Decoder) -> dict[str, int]:
    """For each frozen tensor the sum of its bits read as integers, to notice that it changed."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    frozen = {name: p.detach() for name, p in decoder.named_parameters() if not p.requires_grad}
    sums = [tensor.view(integers[tensor.itemsize]).sum() for tensor in frozen.values()]
    return dict(zip(frozen, torch.stack(sums).tolist(), strict=True))  # waits for the GPU once


def check_lengths(model: Model, prompts: Prompts, questions: list[Question]) -> None:
    """Raises UserError when a question or the judging of its longest answer cannot fit, or when
    there are too few training questions for a step."""
    config, context = model.config, model.shape.max_positions
    room = config.max_sequence_length - config.max_completion_length
    for question in questions:
        length = len(prompts.policy(question.text))
        if length > room:
            raise UserError(
                f"Question {question.id} is {length} tokens long, but --max-sequence-length "
                f"{config.max_sequence_length} less --max-completion-length "
                f"{config.max_completion_length} leaves {room}; shorten it or change those."
            )
        judged = len(prompts.judge(question.text, "")) + config.max_completion_length
        if judged + config.judge_max_tokens > context:
            raise UserError(
                f"Judging an answer to question {question.id} takes up to {judged} tokens and "
                f"{config.judge_max_tokens} for the verdict, more than the model's context of "
                f"{context}; lower --max-completion-length or --judge-max-tokens, or shorten the "
                "rubric."
            )
    trained = sum(q.split == "train" for q in questions)
    if trained < config.prompts_per_step:
        raise UserError(
            f"--prompts-per-step {config.prompts_per_step} cannot work: there are only "
            f"{trained} training questions; lower it."
        )
