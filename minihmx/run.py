"""A resolved run: everything `train` needs, found, loaded and checked before the first step."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from minihmx import __version__, lora
from minihmx.amax import Headroom
from minihmx.config import MODELS, Config, resolve, science, short_name
from minihmx.errors import Failure, UserError
from minihmx.judge import judge_prompt
from minihmx.memory import Limit
from minihmx.metrics import Clock
from minihmx.models import chat, hub, weights
from minihmx.models.configs import ModelConfig
from minihmx.models.decoder import Decoder
from minihmx.models.tokenizer import Tokenizer
from minihmx.questions import load_questions, load_rubric
from minihmx.records import Message, Question
from minihmx.store import Store
from minihmx.strict import read_json

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Prompts:
    """How text becomes the token ids of a prompt, up to where the assistant starts to speak."""

    tokenizer: Tokenizer
    date: str
    rubric: str

    def policy(self, question: str) -> list[int]:
        """The question as the only user turn, with no system prompt."""
        segments = chat.render(self.tokenizer.family, [Message("user", question)], date=self.date)
        return self.tokenizer.encode(segments)

    def judge(self, question: str, answer: str) -> list[int]:
        """Rubric, question and answer as one user turn (paper Appendix A)."""
        return self.policy(judge_prompt(self.rubric, question, answer))


@dataclass(frozen=True)
class Run:
    """One training run, ready to start."""

    config: Config
    sources: dict[str, str]
    source: hub.Source
    prompts: Prompts
    train_questions: list[Question]
    eval_questions: list[Question]
    store: Store
    decoder: Decoder
    decode_limit: Limit
    micro_limit: Limit
    clock: Clock
    identity: dict[str, Any]
    headroom: Headroom = field(default_factory=Headroom)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches; the questions left over in an epoch wait for the next one's order."""
        return len(self.train_questions) // self.config.prompts_per_step

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.config.epochs

    def notices(self) -> list[str]:
        """What memory forced upon the run since this was last asked."""
        told = (limit.take_notice() for limit in (self.decode_limit, self.micro_limit))
        return [notice for notice in told if notice]


def prepare(flags: Mapping[str, Any]) -> Run:
    """Resolve the model and config, check them, claim the folder, load the weights.

    What is cheap to check comes first. Raises Failure (errors.py) for what the user has to mend.
    """
    name = flags.get("model", "tiny")
    short = short_name(name)
    # what is wrong for any model, before a download
    given, _ = resolve(flags, short, MODELS[short].family if short else "", context=sys.maxsize)
    source = hub.resolve(given.model, given.revision or None)
    shape = weights.read_config(source.folder)
    config, sources = resolve(flags, short, shape.model_type, shape.max_positions)
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    config = replace(config, dtype=str(dtype).removeprefix("torch."))
    if config.lora_rank > shape.hidden_size:
        raise UserError(
            f"--lora-rank {config.lora_rank} cannot work: the model's matrices are only "
            f"{shape.hidden_size} wide; give at most that."
        )
    questions = load_questions(path_or_none(config.questions))
    rubric = load_rubric(path_or_none(config.rubric))
    prompts = Prompts(load_tokenizer(source.folder, shape), config.date, rubric)
    check_lengths(config, prompts, questions, shape.max_positions)
    out = Path(os.path.expanduser(config.out))
    store = Store(out / source.run_name / config.direction / f"seed-{config.seed}")
    own = fingerprint(config, source, questions, rubric)
    check_same_experiment(store, own)
    weights.check(source.folder)
    store.lock()
    set_arithmetic()
    if config.threads:
        torch.set_num_threads(config.threads)
    decoder = weights.load(source.folder, dtype, device)
    decoder.checkpointing = config.checkpointing == "on" or (
        config.checkpointing == "auto" and device.type == "cuda"
    )
    lora.attach(decoder, config.lora_rank, config.lora_alpha, config.seed, targets(config))
    train, held_out = ([q for q in questions if q.split == split] for split in ("train", "eval"))
    rows = Limit("--decode-rows", config.decode_rows), Limit("--micro-batch", config.micro_batch)
    clock = Clock(device)
    return Run(config, sources, source, prompts, train, held_out, store, decoder, *rows, clock, own)


def targets(config: Config) -> list[str]:
    return config.lora_targets.split(",")


def path_or_none(text: str) -> Path | None:
    return Path(os.path.expanduser(text)) if text else None  # Path's own fails at ~nobody


def load_tokenizer(folder: Path, shape: ModelConfig) -> Tokenizer:
    """The model's tokenizer. Raises UserError where it and the model do not belong together."""
    tokenizer = Tokenizer.load(folder)
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
    """What torch may do to products: the same wherever a model answers."""
    # a product of denormals costs a CPU a hundred times a normal one
    torch.set_flush_denormal(True)
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


def pick_device(name: str) -> torch.device:
    """Raises UserError where CUDA is asked for and absent."""
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise UserError("--device cuda was asked for, but torch sees no GPU; try --device cpu.")
    return torch.device(("cuda" if found else "cpu") if name == "auto" else name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """Raises UserError for 16-bit training on a CPU, which is slow and overflows unseen."""
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if device.type == "cpu" and name != "float32":
        raise UserError(
            f"--dtype {name} on a CPU is refused, because 16-bit products are slow there and "
            "overflow; leave --dtype out, or train on a GPU."
        )
    return DTYPES[name]


def check_lengths(
    config: Config, prompts: Prompts, questions: list[Question], context: int
) -> None:
    """Raises UserError when a question, or the judging of its longest answer, cannot fit."""
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


def fingerprint(
    config: Config, source: hub.Source, questions: list[Question], rubric: str
) -> dict[str, Any]:
    """What makes two runs the same experiment: the scientific fields and what they read."""
    return {
        **science(config),
        "model digest": source.digest,
        "questions digest": _digest(json.dumps([asdict(q) for q in questions], sort_keys=True)),
        "rubric digest": _digest(rubric),
    }


def check_same_experiment(store: Store, own: dict[str, Any]) -> None:
    """Raises UserError naming each field in which the run in this folder differs.

    So it does for checkpoints without a config.json, which is written before any of them.
    """
    path = store.folder / "config.json"
    if not path.exists():
        if any(store.checkpoints.glob("[!.]*")):
            raise UserError(
                f"{path} is gone, so nothing says whether the checkpoints beside it are of this "
                "experiment; restore it, or choose another --out or --seed."
            )
        return
    there = read_json(path)
    there = there.get("science") if isinstance(there, dict) else None
    if not isinstance(there, dict):
        raise UserError(f"{path} is no config of a run; move {store.folder} away to start anew.")
    differences = [
        f"{name} is {there.get(name)!r} there and {own.get(name)!r} here"
        for name in sorted(own.keys() | there.keys())
        if own.get(name) != there.get(name)
    ]
    if differences:
        raise UserError(
            f"{store.folder} holds a run of another config ({'; '.join(differences)}); "
            "choose another --out or --seed, or give the options that it was started with."
        )


def write_config(run: Run) -> None:
    """Write config.json, and add this start to env.json."""
    config, source, own, store = run.config, run.source, run.identity, run.store
    sampler = {"temperature": config.temperature, "top_k": None, "top_p": None}
    store.write_json(
        "config.json",
        {
            "science": own,
            "fingerprint": _digest(json.dumps(own, sort_keys=True)),
            "settings": {n: v for n, v in asdict(config).items() if n not in own},
            "sources": run.sources,
            "model": {"id": source.id, "revision": source.revision},
            "sampler": sampler | {"note": "plain softmax; generation_config's is not applied"},
        },
    )
    store.write_json("env.json", [*earlier_starts(store), environment(config.device)])


def earlier_starts(store: Store) -> list[Any]:
    """What env.json holds; a damaged one is no reason to stop."""
    try:
        starts = read_json(store.folder / "env.json")
    except Failure:
        return []
    return starts if isinstance(starts, list) else []


def environment(device: str) -> dict[str, Any]:
    """Versions, device and git state."""
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "minihmx": __version__,
        "git": git.stdout.strip() or None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name() if pick_device(device).type == "cuda" else "cpu",
        "command": sys.argv,
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
