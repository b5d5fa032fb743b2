"""Every knob of a run: one flat frozen dataclass, and what makes its values possible ones.

A default exists once, here: command-line flags derive from it, and docs/decisions.md is checked
against it. "paper" marks what the paper fixes (Table 2 unless a section is named), and "ours" marks
what it leaves open.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from minihmx.engine.samplers import LEAST_TEMPERATURE, SAMPLERS, fault_of
from minihmx.errors import UserError, quoted, shortened
from minihmx.models.known import DEVICE_VALUES, FAMILY_VALUES, MODEL_VALUES

LOSS_TYPES = ("bnpo", "grpo", "dr_grpo", "dapo", "bnpo_shuffled")
CHAT_FORMATS = ("auto", "qwen3", "chatml", "qwen2.5", "smollm2", "gemma2", "llama3", "tiny")
DIVISORS = ("sample", "population", "batch", "none")
FIRST_RATES = ("moves", "zero")
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def knob(
    default: Any,
    source: str,
    text: str,
    *,
    science: bool = True,
    choices: Any = None,
    late: bool = False,
) -> Any:
    """A field with its documentation. science: part of the run's fingerprint."""
    metadata = {"source": source, "help": text, "science": science, "choices": choices}
    return field(default=default, metadata=metadata | {"late": late})


def setting(default: Any, text: str, *, choices: Any = None) -> Any:
    """A knob of memory, place or display, which may change when a run is continued."""
    return knob(default, "ours", text, science=False, choices=choices)


def late(default: Any, text: str, *, choices: Any = None) -> Any:
    """A knob that was added when runs already existed. A run's files name it only if it is not the
    default, so that older runs, made before it was there, count as the same experiment."""
    return knob(default, "ours", text, choices=choices, late=True)


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
    sampler: str = late(
        "plain", "of answers: plain softmax, model (its own), or top_k=20,top_p=0.95 and the like"
    )
    stop_ids: str = late("", "token ids that end an answer, as 1,107; empty: all the model names")
    date: str = knob("26 Jul 2024", "ours", "the date in Llama 3's header; it would change daily")
    chat_format: str = knob(
        "auto", "ours", "auto: as the model's published template has it", choices=CHAT_FORMATS
    )
    judge_max_tokens: int = knob(64, "ours", "cap on the judge's score and reason")
    judge_sampler: str = late("greedy", "of the judge's words: greedy, or as for --sampler")
    unscored: str = late(
        "left-out", "an answer without a score, or its reward is 0", choices=("left-out", "zero")
    )
    # objective
    loss_type: str = knob("bnpo", "ours", "how tokens are weighted", choices=LOSS_TYPES)
    beta: float = knob(0.001, "ours", "weight of the k3 KL to the adapter-off model")
    advantage_epsilon: float = knob(1e-4, "ours", "added to a group's standard deviation")
    advantage_divisor: str = late(
        "sample", "a group's std (by n - 1 or n), the step's, or none", choices=DIVISORS
    )
    truncated: str = late(
        "trained", "an answer cut at the cap, or it teaches nothing", choices=("trained", "masked")
    )
    iterations: int = knob(1, "ours", "optimizer steps on each batch of rollouts; 1 is on-policy")
    clip_epsilon: float = knob(0.2, "ours", "bound on the ratio, acts when iterations > 1")
    clip_epsilon_high: float = late(0.0, "its upper bound; 0: as the lower one")
    # adapter
    lora_rank: int = knob(16, "paper", "rank r")
    lora_alpha: float = knob(16.0, "ours", "the branch is scaled by alpha / r")
    lora_targets: str = knob(",".join(LORA_TARGETS), "ours", "linears that get an adapter")
    # optimizer
    epochs: int = knob(10, "ours", "passes over the training questions")
    learning_rate: float = knob(2e-5, "paper", "peak rate (paper: 1e-5 for Gemma)")
    warmup_ratio: float = knob(0.1, "ours", "share of all updates in linear warm-up")
    first_rate: str = late(
        "moves", "zero: the first update's rate is 0, as transformers has it", choices=FIRST_RATES
    )
    weight_decay: float = knob(0.01, "ours", "AdamW's, on the adapter")
    adam_beta1: float = knob(0.9, "ours", "AdamW's first moment")
    adam_beta2: float = knob(0.999, "ours", "AdamW's second moment")
    adam_epsilon: float = knob(1e-8, "ours", "AdamW's epsilon")
    max_grad_norm: float = knob(1.0, "ours", "gradient norm is clipped to this")
    # evaluation
    eval_samples: int = knob(4, "ours", "completions per held-out question, every epoch")
    eval_sampler: str = late("train", "of held-out answers: train (the same), greedy, or as above")
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
        "always", "which scores a reason follows", choices=("always", "evaluations", "never")
    )
    gpu_memory: float = setting(0.0, "GiB of the GPU to use at most; 0: what is free")
    logit_chunk: int = setting(8192, "vocabulary rows per piece of log-probs; 2048 on a CPU")
    checkpointing: str = setting(
        "auto", "recompute layers in the backward; auto: on CUDA", choices=("auto", "on", "off")
    )
    amax: str = setting("off", "write each step's largest activations", choices=("off", "on"))


FIELDS = {f.name: f for f in dataclasses.fields(Config)}


def resolve_config(
    flags: Mapping[str, Any],
    short_name: str | None,
    family: str,
    context: int,
    came_from: Mapping[str, str] | None = None,
    device: str = "cpu",
) -> tuple[Config, dict[str, str]]:
    """The config of a run and where each value came from.

    A flag overrides the model's row, which overrides its family's, then the device's, then the
    default. A default max_sequence_length is lowered to the model's context if that is shorter.
    came_from: where those flags came from that a config file gave. Raises UserError for values that
    cannot work.
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

    if config.gpu_memory < 0:
        refuse("gpu_memory", "give the GiB that may be used, or 0 for all that is free")
    for name, f in FIELDS.items():
        value, choices = getattr(config, name), f.metadata["choices"]
        if choices and value not in choices:
            near = difflib.get_close_matches(str(value), choices, 1)
            hint = f", perhaps {near[0]}" if near else ""
            refuse(name, f"choose one of {', '.join(choices)}{hint}")
        if isinstance(value, float):
            least = LEAST_TEMPERATURE if name == "temperature" else 1e-30
            check_number(name, value, least, 1e30, or_zero=not value or name not in NOT_ZERO)
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
    for name in SAMPLERS:
        text, samples = getattr(config, name), config.eval_samples
        if why := fault_of(name, text, config.temperature, samples):
            refuse(name, why)
    if config.stop_ids and not re.fullmatch(r"[0-9]{1,9}(,[0-9]{1,9})*", config.stop_ids):
        refuse("stop_ids", "write token ids as 1 or 1,107")
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


def is_told(config: Config, name: str) -> bool:
    """Whether a run's files name this field; see `late`."""
    return not FIELDS[name].metadata["late"] or getattr(config, name) != FIELDS[name].default


def science(config: Config) -> dict[str, Any]:
    """The fields that decide what a run computes, as its files name them."""
    names = (name for name, f in FIELDS.items() if f.metadata["science"] and is_told(config, name))
    return {name: getattr(config, name) for name in names}


def learning_rate(update: int, total: int, config: Config) -> float:
    """Rate of the update with this index: linear up over the warm-up, then linear down, to reach 0
    just after the last update.

    >>> config = Config(learning_rate=1.0, warmup_ratio=0.2)
    >>> [learning_rate(update, 10, config) for update in (0, 1, 2, 9)]
    [0.5, 1.0, 1.0, 0.125]

    The first update already moves, and so does the last. The schedule of transformers, which
    first_rate="zero" takes, gives the first one a rate of 0 and wastes its rollouts.
    """
    warmup = math.ceil(total * config.warmup_ratio)
    if update < warmup:
        return config.learning_rate * (update + (config.first_rate == "moves")) / warmup
    return config.learning_rate * (total - update) / max(total - warmup, 1)


def check_updates(config: Config, trained: int) -> None:
    """Raise UserError where a run on so many questions has one update, and its rate is 0."""
    updates = trained // config.prompts_per_step * config.epochs * config.iterations
    if updates == 1 and learning_rate(0, updates, config) == 0:
        raise UserError(
            "--first-rate zero cannot work: this run has a single update, whose rate would be 0, "
            "so nothing would train; leave it out, or give more --epochs."
        )
