"""Every knob of a run: one flat frozen dataclass, and one small table of per-model values.

A default exists once, here: command-line flags derive from it, and docs/decisions.md is checked
against it.
"paper" marks what the paper fixes (Table 2 unless a section is named), "ours" where it is silent.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from minihmx.errors import UserError, quoted, shortened


class ModelInfo(NamedTuple):
    """A model known by a short name. gigabytes: 16-bit weights on disk. paper: one of its five."""

    repo: str
    family: str
    parameters: str
    gigabytes: float
    gated: bool
    paper: bool = False


MODELS = {
    "tiny": ModelInfo("", "llama", "1.5M", 0.003, False),
    "qwen3-0.6b": ModelInfo("Qwen/Qwen3-0.6B", "qwen3", "0.6B", 1.5, False, True),
    "qwen3-4b": ModelInfo("Qwen/Qwen3-4B", "qwen3", "4.0B", 8.0, False, True),
    "qwen3-8b": ModelInfo("Qwen/Qwen3-8B", "qwen3", "8.2B", 16.4, False, True),
    "gemma2-2b": ModelInfo("google/gemma-2-2b-it", "gemma2", "2.6B", 5.2, True, True),
    "llama3.2-3b": ModelInfo("meta-llama/Llama-3.2-3B-Instruct", "llama", "3.2B", 6.4, True, True),
    "smollm2-135m": ModelInfo("HuggingFaceTB/SmolLM2-135M-Instruct", "llama", "135M", 0.27, False),
    "smollm2-360m": ModelInfo("HuggingFaceTB/SmolLM2-360M-Instruct", "llama", "362M", 0.72, False),
    "smollm2-1.7b": ModelInfo("HuggingFaceTB/SmolLM2-1.7B-Instruct", "llama", "1.7B", 3.4, False),
    "qwen2.5-0.5b": ModelInfo("Qwen/Qwen2.5-0.5B-Instruct", "qwen2", "0.5B", 1.0, False),
    "qwen2.5-1.5b": ModelInfo("Qwen/Qwen2.5-1.5B-Instruct", "qwen2", "1.5B", 3.1, False),
    "qwen2.5-3b": ModelInfo("Qwen/Qwen2.5-3B-Instruct", "qwen2", "3.1B", 6.2, False),
    "llama3.2-1b": ModelInfo("meta-llama/Llama-3.2-1B-Instruct", "llama", "1.2B", 2.5, True),
    "qwen3-1.7b": ModelInfo("Qwen/Qwen3-1.7B", "qwen3", "1.7B", 4.1, False),
}

# How a list of the models is headed, and the names below each heading.
MODEL_GROUPS = {
    "bundled": [name for name, info in MODELS.items() if not info.repo],
    "the paper's": [name for name, info in MODELS.items() if info.paper],
    "for small machines": [name for name, info in MODELS.items() if info.repo and not info.paper],
}

# Field values that a model needs instead of the dataclass's default. A short name's row also holds
# for its hub id, and goes before the row of its family.
MODEL_VALUES: dict[str, dict[str, Any]] = {
    "tiny": dict(
        prompts_per_step=4,
        learning_rate=2.6e-3,
        beta=0.04,
        lora_alpha=32.0,
        epochs=4,
        max_completion_length=96,
        threads=1,  # products this small gain nothing from a second, and stall when it is busy
    ),
    "qwen3-8b": dict(max_completion_length=128),
}
LOSS_TYPES = ("bnpo", "grpo", "dr_grpo", "dapo")
CHAT_FORMATS = ("auto", "qwen3", "chatml", "qwen2.5", "smollm2", "gemma2", "llama3", "tiny")
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FAMILY_VALUES: dict[str, dict[str, Any]] = {"gemma2": dict(learning_rate=1e-5)}
# A GPU's memory is short. A step is two micro-batches there (Table 2's accumulation of 2), and the
# cache of an evaluation's judge, which would be the peak of a run, holds half of its rows.
DEVICE_VALUES: dict[str, dict[str, Any]] = {"cuda": dict(micro_batch=4, decode_rows=20)}


def knob(default: Any, source: str, text: str, *, science: bool = True, choices: Any = None) -> Any:
    """A field with its documentation. science: part of the run's fingerprint."""
    metadata = {"source": source, "help": text, "science": science, "choices": choices}
    return field(default=default, metadata=metadata)


def setting(default: Any, text: str, *, choices: Any = None) -> Any:
    """A knob of memory, place or display, which may change when a run is continued."""
    return knob(default, "ours", text, science=False, choices=choices)


@dataclass(frozen=True)
class Config:
    """One training run. Lengths are tokens, rates are per optimizer step."""

    model: str = setting("tiny", "short name, local path or hub id")
    direction: str = knob(
        "forward", "paper 3.4", "reverse negates the reward", choices=("forward", "reverse")
    )
    seed: int = knob(1, "paper 3.4", "names the initial adapter, the question order and all noise")
    # rollouts
    prompts_per_step: int = knob(2, "ours", "questions per optimizer step (batch 1 x accum. 2)")
    generations: int = knob(4, "paper", "completions per question, the group size G")
    temperature: float = knob(1.0, "paper", "of sampling, and of the log-probs that train")
    max_completion_length: int = knob(256, "ours", "cap on an answer (paper: 128 for Qwen3-8B)")
    max_sequence_length: int = knob(4096, "paper", "prompt and completion together")
    date: str = knob("26 Jul 2024", "ours", "the date in Llama 3's header; it would change daily")
    chat_format: str = knob(
        "auto", "ours", "auto: as the model's published template has it", choices=CHAT_FORMATS
    )
    judge_max_tokens: int = knob(64, "ours", "cap on the judge's greedy score and reason")
    # objective
    loss_type: str = knob("bnpo", "ours", "how tokens are weighted", choices=LOSS_TYPES)
    beta: float = knob(0.001, "ours", "weight of the k3 KL to the adapter-off model")
    advantage_epsilon: float = knob(1e-4, "ours", "added to a group's standard deviation")
    iterations: int = knob(1, "ours", "optimizer steps on each batch of rollouts; 1 is on-policy")
    clip_epsilon: float = knob(0.2, "ours", "bound on the ratio, acts when iterations > 1")
    # adapter
    lora_rank: int = knob(16, "paper", "rank r")
    lora_alpha: float = knob(16.0, "ours", "the branch is scaled by alpha / r")
    lora_targets: str = knob(",".join(LORA_TARGETS), "ours", "linears that get an adapter")
    # optimizer
    epochs: int = knob(10, "ours", "passes over the training questions")
    learning_rate: float = knob(2e-5, "paper", "peak rate (paper: 1e-5 for Gemma)")
    warmup_ratio: float = knob(0.1, "ours", "share of all updates in linear warm-up")
    weight_decay: float = knob(0.01, "ours", "AdamW's, on the adapter")
    adam_beta1: float = knob(0.9, "ours", "AdamW's first moment")
    adam_beta2: float = knob(0.999, "ours", "AdamW's second moment")
    adam_epsilon: float = knob(1e-8, "ours", "AdamW's epsilon")
    max_grad_norm: float = knob(1.0, "ours", "gradient norm is clipped to this")
    # evaluation
    eval_samples: int = knob(4, "ours", "completions per held-out question, every epoch")
    # precision
    dtype: str = knob(
        "auto",
        "paper",
        "auto: float16 on CUDA (the paper's), float32 on a CPU",
        choices=("auto", "float16", "bfloat16", "float32"),
    )
    # place and memory: free to change when a run continues
    revision: str = setting("", "hub revision (commit, tag or branch); empty: the default branch")
    questions: str = setting("", "questions file instead of the built-in one (its digest counts)")
    leave_out: str = setting(
        "", "category of which no question is trained on; all are held out (their digest counts)"
    )
    rubric: str = setting("", "rubric file instead of the paper's (its digest counts)")
    out: str = setting("runs", "folder that holds all runs")
    device: str = setting("auto", "auto: cuda when there is one", choices=("auto", "cpu", "cuda"))
    threads: int = setting(0, "CPU threads; 0: torch's own choice")
    micro_batch: int = setting(8, "completions per forward and backward pass")
    decode_rows: int = setting(40, "rows decoded together at most")
    judge_reason: str = setting(
        "always", "never: a judge's text ends with its score line", choices=("always", "never")
    )
    gpu_memory: float = setting(0.0, "GiB of the GPU to use at most; 0: what is free")
    logit_chunk: int = setting(8192, "vocabulary rows per piece of the log-prob computation")
    checkpointing: str = setting(
        "auto", "recompute layers in the backward; auto: on CUDA", choices=("auto", "on", "off")
    )
    amax: str = setting("off", "write each step's largest activations", choices=("off", "on"))


FIELDS = {f.name: f for f in dataclasses.fields(Config)}


def short_name(model: str) -> str | None:
    """The row of MODELS that a short name or a hub id means; None for any other model."""
    return next((name for name, info in MODELS.items() if model in (name, info.repo)), None)


def resolve_config(
    flags: Mapping[str, Any],
    short_name: str | None,
    family: str,
    context: int,
    came_from: Mapping[str, str] | None = None,
    device: str = "cpu",
) -> tuple[Config, dict[str, str]]:
    """The config of a run and where each value came from.

    Flags go before the model's row, that before its family's, the device's, the default. A default
    sequence longer than the model's context is lowered to it. came_from: the source of those among
    the flags that a config file gave. Raises UserError for values that cannot work.
    """
    came_from = came_from or {}
    rows = {
        "default": {name: f.default for name, f in FIELDS.items()},
        f"device {device}": DEVICE_VALUES.get(device, {}),
        f"family {family}": FAMILY_VALUES.get(family, {}),
        f"model {short_name}": MODEL_VALUES.get(short_name or "", {}),
        "flag": flags,
    }
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for source, row in rows.items():
        values |= row
        sources |= dict.fromkeys(row, source)
    if "max_sequence_length" not in flags and values["max_sequence_length"] > context:
        values["max_sequence_length"], sources["max_sequence_length"] = context, "model's context"
    config = Config(**values)
    try:
        check_config(config, context)
    except UserError as error:
        if not came_from:
            raise
        raise UserError(f"With {', '.join(sorted({*came_from.values()}))}: {error}") from None
    return config, {**sources, **came_from}


# With more, torch ends the process without a word, or the list of answers fills the memory.
MOST = {"threads": 1024, "generations": 4096, "eval_samples": 4096}

LARGEST = 2**31 - 1  # of any other whole number
# The step between fp32 numbers near a logit of 30 is 2e-6. Divided by this temperature it moves a
# log-prob by 0.02; below it, what is drawn would soon be the rounding.
LEAST_TEMPERATURE = 1e-4

NOT_ZERO = {
    "temperature": "all answers of a group would be the same",
    **dict.fromkeys(("lora_alpha", "learning_rate", "max_grad_norm"), "nothing would train"),
    **dict.fromkeys(
        ("adam_epsilon", "advantage_epsilon"), "it keeps a division from being by zero"
    ),
}


def check_number(
    name: str, value: float, least: float, most: float, *, or_zero: bool = False
) -> None:
    """Raise UserError, naming the flag, for an option outside these bounds, or one that is NaN."""
    if least <= value <= most or (or_zero and value == 0):
        return
    kind = ("0, or " if or_zero else "") + ("a whole" if isinstance(value, int) else "a")
    bounds = f"{least} to {most}".replace("e+", "e")
    flag = f"--{name.replace('_', '-')} {shortened(str(value))}"
    raise UserError(f"{flag} cannot work: it must be {kind} number from {bounds}.")


def check_config(config: Config, context: int) -> None:
    """Raise UserError, naming flag, value and remedy, for sizes that cannot work."""

    def refuse(name: str, why: str) -> None:
        value = getattr(config, name) or repr(getattr(config, name))
        raise UserError(f"--{name.replace('_', '-')} {value} cannot work: {why}.")

    for name, f in FIELDS.items():
        value, choices = getattr(config, name), f.metadata["choices"]
        if choices and value not in choices:
            near = difflib.get_close_matches(str(value), choices, 1)
            hint = f", perhaps {near[0]}" if near else ""
            refuse(name, f"choose one of {', '.join(choices)}{hint}")
        if isinstance(value, float):
            least = LEAST_TEMPERATURE if name == "temperature" else 1e-30
            check_number(name, value, least, 1e30, or_zero=True)
        elif isinstance(value, int):
            check_number(name, value, int(name not in ("threads", "seed")), MOST.get(name, LARGEST))
    if not config.out.strip():
        refuse("out", "it is empty; name a folder, or leave it out for runs/")
    if config.generations < 2:
        refuse("generations", "a group of one has no answer to be better than; give 2 or more")
    for name, why in NOT_ZERO.items():
        if getattr(config, name) == 0:
            refuse(name, f"{why}; give a number above 0")
    if config.learning_rate * config.weight_decay > 1e30:
        refuse("weight_decay", "with that --learning-rate it overflows; lower one of them")
    if config.warmup_ratio > 1:
        refuse("warmup_ratio", "it is a share of all updates; give a number from 0 to 1")
    if max(config.adam_beta1, config.adam_beta2) >= 1:
        refuse("adam_beta1" if config.adam_beta1 >= 1 else "adam_beta2", "it must be below 1")
    for target in config.lora_targets.split(","):
        if target not in LORA_TARGETS:
            refuse("lora_targets", f"{quoted(target)} is none of {','.join(LORA_TARGETS)}")
    if config.max_sequence_length > context:
        refuse("max_sequence_length", f"the model's context is {context} tokens; give at most that")
    if config.max_completion_length >= config.max_sequence_length:
        refuse(
            "max_completion_length",
            f"with --max-sequence-length {config.max_sequence_length} no room is left for a "
            "prompt; lower it",
        )


def science(config: Config) -> dict[str, Any]:
    """The fields that decide what a run computes."""
    return {name: getattr(config, name) for name, f in FIELDS.items() if f.metadata["science"]}


def learning_rate(update: int, total: int, config: Config) -> float:
    """Rate of the update with this index: linear up over the warm-up, then linear down, to reach 0
    just after the last update.

    >>> config = Config(learning_rate=1.0, warmup_ratio=0.2)
    >>> [learning_rate(update, 10, config) for update in (0, 1, 2, 9)]
    [0.5, 1.0, 1.0, 0.125]

    The first update already moves, and so does the last. The schedule of transformers would give
    the first one a rate of 0 and waste its rollouts.
    """
    warmup = math.ceil(total * config.warmup_ratio)
    if update < warmup:
        return config.learning_rate * (update + 1) / warmup
    return config.learning_rate * (total - update) / max(total - warmup, 1)
