"""The files that grow with a run, line by line, and the checkpoints that rely on their lines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain, islice, repeat
from typing import Any

from minihmx.config import learning_rate
from minihmx.instruments.metrics import describe, score_error, zero_variance_groups
from minihmx.records import Rollout
from minihmx.results.audit_rows import Endings, Turn, check_rows
from minihmx.results.audit_run import Facts
from minihmx.results.findings import ABSENT, Audit, Line, Place, Words
from minihmx.stats import mean
from minihmx.storage.run_folder import GROWING

# How far a sum may differ that is made again in another order. The loss was summed in fp32, by
# micro-batches. kl_tokens was summed in fp64, by tokens.
LOSS_ROUNDING, KL_ROUNDING = 1e-4, 1e-9

STATE = {
    **dict.fromkeys(("step", "epoch", "bad_steps"), ()),
    "lines": GROWING,
    "optimizer": ("update", "scale", "since_growth"),
}
PEFT = (  # what adapter_config.json says beside rank, alpha and targets
    *("base_model_name_or_path", "bias", "fan_in_fan_out", "inference_mode", "init_lora_weights"),
    *("lora_dropout", "modules_to_save", "peft_type", "task_type", "use_dora", "use_rslora"),
)
# Every field of a line, by the file and the line's kind.
SECONDS: dict[str, tuple[str, ...]] = {
    "step": ("sample", "judge", "reference", "learn", "seconds", "peak_gib")
}
SECONDS["evaluation"] = ("sample", "judge", "measure", "seconds", "peak_gib")
MEASURED = (
    *("kind", "step", "epoch", "score", "reward", "reward_std", "unscored", "length", "truncated"),
    *("degenerate", "kl", "kl_tokens", "entropy", "sampler_gap", "not_finite"),
)
METRICS: dict[str, tuple[str, ...]] = {"evaluation": (*MEASURED, "score_error")}
METRICS["step"] = (
    *(*MEASURED, "update", "zero_variance_groups"),
    *("loss", "grad_norm", "learning_rate", "loss_scale"),
)


def turns(facts: Facts) -> Iterator[Turn]:
    """The evaluation of the untouched model, then each epoch's steps and its evaluation."""
    yield Turn("evaluation", 0, 0)
    for epoch in range(1, facts.config.epochs + 1):
        first = (epoch - 1) * facts.steps_per_epoch + 1
        last = epoch * facts.steps_per_epoch
        yield from (Turn("step", step, epoch) for step in range(first, last + 1))
        yield Turn("evaluation", last, epoch)


def check_steps(audit: Audit, facts: Facts) -> list[Line]:
    """Check every line of metrics.jsonl and of timings.jsonl, and the answers that it is about.

    Returns the lines of metrics.jsonl.
    """
    folder, growing, endings = facts.folder, not facts.complete, Endings()
    lines = audit.lines(folder / "metrics.jsonl", growing)
    timings = audit.lines(folder / "timings.jsonl", growing)
    expected, update = list(islice(turns(facts), len(lines) + 1)), 0
    if facts.complete:
        total = (facts.steps_per_epoch + 1) * facts.config.epochs + 1
        for file, found in (("metrics.jsonl", lines), ("timings.jsonl", timings)):
            audit.compare("metrics", Place(folder / file), "number of lines", len(found), total)
    if lines and not any("degenerate" in line.record for line in lines):
        facts.lacking.add("degenerate")
    timed = chain(timings, repeat(None))
    for turn, line, timing in zip(expected, lines, timed, strict=False):
        rows = audit.lines(folder / turn.file)
        bad = line.record.get("not_finite") not in ("", None)
        rollouts = check_rows(audit, facts, turn, rows, bad, endings)
        if line.record:
            check_numbers(audit, facts, turn, line, rollouts)
            check_not_finite(audit, facts, line, rollouts, last=line is lines[-1])
        if turn.kind == "step":
            update = check_update(audit, facts, line, update)
        if timing and timing.record:
            check_timing(audit, turn, timing, rollouts)
    endings.check(audit)
    known = [turn.file for turn in expected]
    for path in sorted([*folder.glob("rollouts/*"), *folder.glob("evaluations/*")]):
        name = path.relative_to(folder).as_posix()
        if name in known[len(lines) :] and not facts.complete:
            audit.note(f"{path} has no line in metrics.jsonl yet, so it is left out")
        elif name not in known[: len(lines)]:
            audit.find("records", Place(path), "file", Words("there"), ABSENT)
    return lines


def check_timing(audit: Audit, turn: Turn, timing: Line, rollouts: Sequence[Rollout]) -> None:
    """Check a line of timings.jsonl. Seconds and memory need only be numbers of 0 or more."""
    told: dict[str, Any] = {"kind": turn.kind, "epoch": turn.epoch}
    if turn.kind == "step":
        told = {"kind": turn.kind, "step": turn.step}
        if rollouts:
            told["tokens"] = sum(len(rollout.completion.ids) for rollout in rollouts)
    file, line = (timing.place.file, ""), timing.place.line
    names = (*told, *SECONDS[turn.kind], *(("tokens",) if turn.kind == "step" else ()))
    audit.known("metrics", file, timing.record, names, line=line)
    for name, value in told.items():
        audit.compare("metrics", timing.place, name, timing.record.get(name, ABSENT), value)
    for name in SECONDS[turn.kind]:
        value = timing.record.get(name, ABSENT)
        holds = type(value) in (int, float) and value >= 0
        audit.require("bounds", timing.place, name, value, holds, "0 or more")


def check_numbers(
    audit: Audit, facts: Facts, turn: Turn, line: Line, rollouts: Sequence[Rollout]
) -> None:
    """Make the numbers that a line of metrics.jsonl gives of its answers again from the answers."""
    record, place = line.record, line.place
    audit.known("metrics", (place.file, ""), record, METRICS[turn.kind], line=place.line)
    again: dict[str, Any] = {"kind": turn.kind, "step": turn.step, "epoch": turn.epoch}
    if rollouts:
        again |= describe(rollouts)
        again["kl"] = mean([r.kl for r in rollouts if r.kl is not None])
        if turn.kind == "step":
            again["zero_variance_groups"] = zero_variance_groups(rollouts, facts.config.generations)
            check_close(audit, line, "loss", loss_terms(rollouts, facts.config.beta), LOSS_ROUNDING)
        else:
            again["score_error"] = score_error(rollouts)
        tokens = sum(len(r.completion.ids) for r in rollouts)
        terms = [kl_of(r) * len(r.completion.ids) / tokens for r in rollouts]
        check_close(audit, line, "kl_tokens", terms, KL_ROUNDING)
    for name, value in again.items():
        if name not in facts.lacking:
            audit.compare("metrics", place, name, record.get(name, ABSENT), value)
    for name in ("entropy", "sampler_gap"):
        value = record.get(name, ABSENT)
        holds = type(value) is float and value >= -1e-4
        holds |= value is None and record.get("not_finite") != ""
        audit.require("bounds", place, name, value, holds, "0 or more")


def check_not_finite(
    audit: Audit, facts: Facts, line: Line, rollouts: Sequence[Rollout], last: bool
) -> None:
    """Whether `not_finite` names a number if, and only if, some logged number is null or NaN.

    There are two exceptions, in which all logged numbers are finite. An update may itself have made
    the adapter infinite; such a step is the last of its run. And with several iterations on one
    batch a later one may have failed, while only the first one's loss is logged.
    """
    record, bad = line.record, line.record.get("not_finite", ABSENT)
    holds = isinstance(bad, str) and bad is not ABSENT
    null = any(record.get(name, ABSENT) is None for name in ("loss", "grad_norm"))
    # An answer of weight 0 may have a KL that overflowed, because the step is taken all the same.
    null |= any(r.kl is None and (r.weight or record.get("kind") != "step") for r in rollouts)
    null |= any(r.reward is not None and math.isnan(r.reward) for r in rollouts)
    if bad and not null:
        holds &= facts.config.iterations > 1 or (last and not facts.complete)
    rule = "text that names one" if null else "empty"
    audit.require("bounds", line.place, "not_finite", bad, holds and (bool(bad) or not null), rule)


def kl_of(rollout: Rollout) -> float:
    return math.nan if rollout.kl is None else rollout.kl


def loss_terms(rollouts: Sequence[Rollout], beta: float) -> list[float]:
    """What each answer adds to the loss: tokens * weight * (beta * KL - advantage). The ratio of
    new to old policy is 1 here, because the policy that drew the answers is the one that learns."""
    weights = [(r, len(r.completion.ids) * r.weight) for r in rollouts]
    return [w * (beta * kl_of(r) - r.advantage) if w else 0.0 for r, w in weights]


def check_close(
    audit: Audit, line: Line, name: str, terms: Sequence[float], rounding: float
) -> None:
    """Whether a logged sum is that of the terms within rounding, or null if it is not finite."""
    value, again = line.record.get(name, ABSENT), sum(terms)
    room = rounding * sum(map(abs, terms)) + 1e-9
    holds = type(value) is float and abs(value - again) <= room
    if not math.isfinite(again) or line.record.get("not_finite") != "":
        holds |= value is None
    audit.require("bounds", line.place, name, value, holds, f"{again:.9g} within {room:.1g}")


def check_update(audit: Audit, facts: Facts, line: Line, before: int) -> int:
    """Check a step's count of updates, its learning rate, gradient norm and loss scale.

    before: the count after the previous step. Returns the count after this one. A refused step
    adds fewer updates than config.iterations, and its rate may be that of the refused update.
    """
    record, place, config = line.record, line.place, facts.config
    if not record:
        return before + config.iterations
    update, bad = record.get("update", ABSENT), record.get("not_finite", ABSENT)
    least = before if bad else before + config.iterations
    holds = type(update) is int and least <= update <= before + config.iterations
    audit.require("metrics", place, "update", update, holds, str(before + config.iterations))
    update = update if holds else before + config.iterations
    total = facts.steps_per_epoch * config.epochs * config.iterations
    rates = [
        learning_rate(u, total, config) for u in ((update - 1, update) if bad else (update - 1,))
    ]
    rate = record.get("learning_rate", ABSENT)
    audit.compare("metrics", place, "learning_rate", rate, rate if rate in rates else rates[0])
    norm, scale = record.get("grad_norm", ABSENT), record.get("loss_scale", ABSENT)
    holds = (type(norm) is float and norm >= 0) or (norm is None and bad != "")
    audit.require("bounds", place, "grad_norm", norm, holds, "0 or more")
    holds = type(scale) is float and scale >= 1 and math.frexp(scale)[0] == 0.5
    holds &= scale == 1 or config.dtype == "float16"
    audit.require("bounds", place, "loss_scale", scale, holds, "1, or in fp16 a power of 2")
    return update


def check_checkpoints(audit: Audit, facts: Facts, lines: Sequence[Line]) -> None:
    """Make state.json and adapter_config.json of each checkpoint again, and look for lost ones.

    lines: of metrics.jsonl.
    """
    steps: list[dict[str, Any]] = [
        line.record for line in lines if line.record.get("kind") == "step"
    ]
    epochs = [line.record for line in lines if line.record.get("kind") == "evaluation"]
    folder, config = facts.folder / "checkpoints", facts.config
    names = {f"epoch-{epoch:02d}": epoch for epoch in range(len(epochs))}
    for path in sorted(folder.glob("[!.]*")):
        if path.name not in names and path.name != "latest-step":
            audit.find("checkpoints", Place(path), "folder", Words("there"), ABSENT)
            continue
        state, adapter = path / "state.json", path / "adapter_config.json"
        if found := audit.json(state):
            stored, text = found
            step, epoch = stored.get("step"), stored.get("epoch")
            if path.name in names:
                epoch = names[path.name]
                step = epoch * facts.steps_per_epoch
            again = state_again(steps, step, epoch)
            audit.compare_tree("checkpoints", (state, text), stored, again)
            audit.known("records", (state, text), stored, STATE)
            for name in ("lines", "optimizer"):
                if isinstance(stored.get(name), dict):
                    audit.known("records", (state, text), stored[name], STATE[name], (name,))
        if found := audit.json(adapter):
            targets = sorted(config.lora_targets.split(","))
            again = {"r": config.lora_rank, "lora_alpha": config.lora_alpha}
            again["target_modules"] = targets
            audit.compare_tree("checkpoints", (adapter, found[1]), found[0], again)
            audit.known("records", (adapter, found[1]), found[0], (*again, *PEFT))
    for name in names:
        # An evaluation is written before its checkpoint, so the last one may still lack it.
        if not (folder / name).is_dir() and (facts.complete or name != max(names)):
            audit.find("checkpoints", Place(folder / name), "folder", ABSENT, Words("there"))


def state_again(steps: Sequence[dict[str, Any]], step: Any, epoch: Any) -> dict[str, Any]:
    """The state.json of a checkpoint after this step and epoch, as far as metrics.jsonl tells."""
    if type(step) is not int or type(epoch) is not int or not 0 <= step <= len(steps):
        return {"step": Words(f"0 to {len(steps)}")}
    done = steps[:step]
    bad = next((n for n, line in enumerate(reversed(done)) if not line.get("not_finite")), step)
    last = done[-1] if done else {"update": 0, "loss_scale": None}
    optimizer = {"update": last.get("update"), "scale": last.get("loss_scale")}
    if optimizer["scale"] in (None, 1.0):  # a change of the scale starts this count anew
        optimizer["since_growth"] = optimizer["update"]
    return {
        "step": step,
        "epoch": epoch,
        "bad_steps": bad,
        "lines": dict.fromkeys(("metrics.jsonl", "timings.jsonl"), step + epoch + 1),
        "optimizer": {name: value for name, value in optimizer.items() if value is not None},
    }
