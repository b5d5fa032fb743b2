"""One training run: everything `train` needs, found, checked and loaded; saved and resumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import torch as safetensors

from minihmx import lora
from minihmx.config import FIELDS, Config, check_updates, is_told, science
from minihmx.engine import ranks
from minihmx.engine.memory import Limit, spend_on_speed, take_notices
from minihmx.engine.open import check_lengths, find_model, load_decoder, rows_that_fit
from minihmx.engine.prefill import Prefix, prefix_of
from minihmx.engine.prompts import Prompts
from minihmx.engine.samplers import sampler_record
from minihmx.errors import DataError, UserError
from minihmx.instruments.alarms import Alarms
from minihmx.instruments.amax import Headroom
from minihmx.instruments.clock import Clock
from minihmx.instruments.estimate import checkpointing
from minihmx.instruments.machine import environment, versions
from minihmx.models import hub, weights
from minihmx.models.decoder import Decoder
from minihmx.models.weights import read_tensors
from minihmx.optimizer import Optimizer
from minihmx.questions import batch_of, load_questions, load_rubric
from minihmx.records import Question, Rollout
from minihmx.storage import identity
from minihmx.storage.config_file import ConfigFile, merge_flags
from minihmx.storage.disk import dumps, home_path, parse_lines
from minihmx.storage.run_folder import LATEST, REPLACED, Store

FEWER = "for what the GPU has free: going on with --decode-rows {} --micro-batch {}"


@dataclass(frozen=True)
class Run:
    """One training run, ready to start.

    sources: where each value of config came from. science: the fingerprint of the experiment.
    underflow: weights that were too small for fp16 when they were loaded into it.
    """

    config: Config
    sources: dict[str, str]
    source: hub.Source
    prompts: Prompts
    questions: list[Question]
    train_questions: list[Question]
    eval_questions: list[Question]
    store: Store
    decoder: Decoder
    decode_limit: Limit
    micro_limit: Limit
    clock: Clock
    headroom: Headroom
    alarms: Alarms
    science: dict[str, Any]
    underflow: Counter[str]

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches: the questions that do not fill one are left out of that epoch."""
        return len(self.train_questions) // self.config.prompts_per_step

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.config.epochs

    @cached_property
    def rubric_prefix(self) -> Prefix:
        """The keys and values of the tokens that every prompt of the judge begins with.

        They are computed once a run, because the judge is the base, which never changes. The pass
        is always the same, so that a continued run rounds as an uninterrupted one does.
        """
        with lora.adapter_off(self.decoder):
            return prefix_of(self.decoder, self.prompts.judge_prefix())

    def batch(self, step: int) -> tuple[int, list[Question]]:
        """The epoch (from 1) and the questions of the step with this index."""
        config = self.config
        return batch_of(step, self.train_questions, config.prompts_per_step, config.seed)

    def notices(self, rollouts: Sequence[Rollout], where: str) -> list[str]:
        """What memory forced upon the run and what speaks against it, since this was last asked.

        rollouts: the answers of the step or evaluation that `where` names.
        """
        forced = ranks.tell(take_notices(self.decode_limit, self.micro_limit))
        return forced + self.headroom.notices() + self.alarms.notices(rollouts, where)


def open_run(flags: Mapping[str, Any], file: ConfigFile | None = None) -> Run:
    """Resolve model and config, check them, claim the folder, load the weights.

    flags: values by the names of Config's fields; they override those of the file. What is cheap
    to check comes first. Raises Failure (errors.py) for what the user has to mend.
    """
    values, came_from = merge_flags(flags, file)
    model = find_model(values, came_from=came_from)
    config, source = model.config, model.source
    if config.lora_rank > model.shape.hidden_size:
        raise UserError(
            f"--lora-rank {config.lora_rank} cannot work: the model's matrices are only "
            f"{model.shape.hidden_size} wide; give at most that."
        )
    questions = load_questions(path_or_none(config.questions), config.leave_out)
    rubric = load_rubric(path_or_none(config.rubric))
    prompts = Prompts(model.tokenizer, config.date, rubric)
    check_lengths(model, prompts, questions)
    check_updates(config, sum(question.split == "train" for question in questions))
    folder = home_path(config.out) / source.run_name / config.direction / f"seed-{config.seed}"
    store = ranks.Onlooker(folder) if ranks.rank() else Store(folder)
    own = identity.fingerprint(science(config), source.digest, questions, rubric)
    if file:
        file.check_same_files(own, flags)
    own = identity.check_same_experiment(store, own)
    weights.check_weights(source.folder)
    ranks.agree({**own, **versions(), "device": model.device.type})
    store.lock()
    fitting = rows_that_fit(model, prompts, questions)
    told = "" if fitting == config else FEWER.format(fitting.decode_rows, fitting.micro_batch)
    underflow = Counter[str]()
    decoder = load_decoder(model, underflow)
    decoder.checkpointing = checkpointing(config, model.device.type) == "on"
    lora.attach(decoder, config.lora_rank, config.lora_alpha, config.seed, targets(config))
    spend_on_speed(decoder)
    return Run(
        config,
        model.sources,
        source,
        prompts,
        questions,
        [q for q in questions if q.split == "train"],
        [q for q in questions if q.split == "eval"],
        store,
        decoder,
        Limit("--decode-rows", fitting.decode_rows, told),
        Limit("--micro-batch", fitting.micro_batch),
        Clock(model.device),
        Headroom(config.amax == "on", config.logit_chunk),
        Alarms(),
        own,
        underflow,
    )


def targets(config: Config) -> list[str]:
    """The names of the linears that get an adapter."""
    return config.lora_targets.split(",")


def path_or_none(text: str) -> Path | None:
    return home_path(text) if text else None


def describe_run(run: Run) -> None:
    """Write what the run is, so that its records can be read without any other file.

    config.json, rubric.txt, questions.jsonl, and in prompts.json the chat template's text around
    them; this start is added to env.json.
    """
    config = run.config
    others = {
        "settings": {n: v for n, v in asdict(config).items() if not FIELDS[n].metadata["science"]},
        "sources": {n: source for n, source in run.sources.items() if is_told(config, n)},
        "model": {"id": run.source.id, "revision": run.source.revision},
        "sampler": sampler_record(config.sampler, config.temperature),
    }
    identity.write_config(run.store, run.science, others)
    run.store.write_text("rubric.txt", run.prompts.rubric + "\n")
    asked = "".join(dumps(asdict(question)) + "\n" for question in run.questions)
    run.store.write_text("questions.jsonl", asked)
    run.store.write_json("prompts.json", run.prompts.frame())
    identity.add_start(run.store, environment(run.decoder.device))


def write_records(
    run: Run,
    file: str,
    rollouts: Sequence[Rollout],
    metrics: Mapping[str, Any],
    timings: Mapping[str, Any],
) -> None:
    """Write the answers to `file`, and a line each to metrics.jsonl and timings.jsonl."""
    run.store.write_lines(file, [rollout.line() for rollout in rollouts])
    run.store.append("metrics.jsonl", metrics)
    run.store.append("timings.jsonl", timings)


def check_moved(run: Run) -> bool:
    """True where some B of the adapter is not zero any more. Raises UserError where all are."""
    parameters = lora.parameters(run.decoder).items()
    if not any(name.endswith("lora_B.weight") and bool(p.any()) for name, p in parameters):
        raise UserError(
            "The first update did not change the adapter, so nothing would be learned; raise "
            "--learning-rate, or lower --adam-epsilon, with another --out."
        )
    return True


# --- checkpoints ----------------------------------------------------------------------------------


@dataclass
class Position:
    """Where a run stands; with the adapter and the optimizer this is all that a resume needs.

    step: batches done. epoch: the last one evaluated, -1 before any. bad_steps: failed steps in a
    row.
    """

    step: int = 0
    epoch: int = -1
    bad_steps: int = 0


def save(run: Run, position: Position, optimizer: Optimizer, name: str) -> None:
    """Publish a checkpoint. Its state holds no clock, so that equal runs have equal files."""
    config = run.config
    adapter = {key: p.detach().cpu() for key, p in lora.parameters(run.decoder).items()}
    peft = lora.peft_config(run.source.id, config.lora_rank, config.lora_alpha, targets(config))
    # safetensors writes further metadata keys in random order, which would break byte-identity.
    metadata = {"format": "pt"}
    files = {
        "adapter_model.safetensors": safetensors.save(adapter, metadata),
        "adapter_config.json": (dumps(peft) + "\n").encode(),
        "optimizer.safetensors": safetensors.save(optimizer.tensors(), metadata),
    }
    state = {**asdict(position), "optimizer": optimizer.counters()}
    run.store.publish(name, files, state)


def resume(run: Run, optimizer: Optimizer) -> tuple[Position, list[str]]:
    """Load the furthest whole checkpoint and cut the files back to it; says what was cut.

    Raises DataError, before anything is cut, for a checkpoint that this run cannot have written.
    """
    found = ranks.from_first(lambda: _resume(run, optimizer))
    ranks.align(lora.parameters(run.decoder), optimizer)
    return found


def _resume(run: Run, optimizer: Optimizer) -> tuple[Position, list[str]]:
    found = run.store.find_resume()
    if found is None:
        return Position(), run.store.cut(None)
    adapter = read_tensors(found.folder / "adapter_model.safetensors")
    lora.load_adapter(run.decoder, adapter, f"The adapter in {found.folder}")
    tensors = read_tensors(found.folder / "optimizer.safetensors")
    state = found.state
    optimizer.load(tensors, state.get("optimizer"), found.folder)
    position = Position(state["step"], state["epoch"], state.get("bad_steps", 0))
    # The last step of an epoch may be saved before its evaluation as well as after it.
    epochs = {step // run.steps_per_epoch for step in (position.step - 1, position.step)}
    # Each step and each evaluation wrote one line, so with any other count lines would be lost.
    if not (
        state["lines"]["metrics.jsonl"] == position.step + position.epoch + 1
        and optimizer.update <= position.step * run.config.iterations
        and position.epoch in epochs
        and position.bad_steps <= min(position.step, 2)  # the third ends the run unsaved
        and _recorded(run, position, optimizer.update)
    ):
        raise DataError(
            f"The counts in {found.folder / 'state.json'} (step {position.step}, epoch "
            f"{position.epoch}, update {optimizer.update}, {position.bad_steps} bad steps) cannot "
            "be this run's, so it cannot go on from there; move that folder away and give the same "
            "command again."
        )
    notices = found.notices + run.store.cut(state)
    if (before := identity.earlier_ranks(run.store)) != (now := ranks.world()):
        notices.append(f"processes: {before} until now, {now} from here; the same up to rounding")
    if found.folder.name not in (LATEST, REPLACED):  # then what those two hold is older
        run.store.drop(LATEST)
    return position, notices


def _recorded(run: Run, position: Position, update: int) -> bool:
    """Whether the lines of metrics.jsonl up to a checkpoint have its updates and bad steps.

    A line that lacks a field, as one of older code may, says nothing against them.
    """
    path = run.store.folder / "metrics.jsonl"
    whole = run.store.disk.read(path).split(b"\n")[: position.step + position.epoch + 1]
    lines = parse_lines(path, b"".join(line + b"\n" for line in whole))
    steps = [line for line in lines if line.get("kind") == "step"]
    said = position.bad_steps
    refused = [line.get("not_finite", n < said) for n, line in enumerate(reversed(steps))]
    bad = next((n for n, why in enumerate(refused) if not why), len(refused))
    return bad == said and (not steps or steps[-1].get("update", update) == update)
