"""The HMX-feel loop (paper section 3.2), read from top to bottom.

    questions -> answers (adapter on) -> scores by the same model (adapter off) -> advantages
    -> log-probs of policy and reference -> loss -> clipped AdamW step, over all epochs,
    with an evaluation on the held-out questions and a checkpoint before the first and after each.

`train` is a generator: it yields plain records and prints nothing, so the terminal, the log and
the tests all read the same thing. Reverse training (section 3.4) is the same code with the sign of
the reward flipped; noise and question order do not depend on the direction.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from minihmx import lora
from minihmx import run as runs
from minihmx.advantages import assign_advantages
from minihmx.engine import ranks
from minihmx.instruments.metrics import STAGES, describe, score_error, zero_variance_groups
from minihmx.instruments.notfinite import base_state, diagnose, diagnose_step, diverged
from minihmx.learn import Learned, learn, measure
from minihmx.optimizer import Optimizer
from minihmx.records import Rollout
from minihmx.rollout import ask_policy, judge
from minihmx.run import Position, Run
from minihmx.storage.run_folder import LATEST

# A crash costs what was done since the last checkpoint, so one is renewed after so many steps, or
# once so many seconds have passed where steps are slow.
LATEST_EVERY, LATEST_SECONDS = 10, 600


@dataclass(frozen=True)
class Started:
    """First event. resumed: steps already done; notices: lines that were cut, files left aside."""

    run: Run
    resumed: int
    notices: list[str]


@dataclass(frozen=True)
class Measured:
    """A line of metrics.jsonl, one of timings.jsonl, the answers, and what a user should know."""

    metrics: dict[str, Any]
    timings: dict[str, Any]
    rollouts: list[Rollout]
    notices: list[str]


class Stepped(Measured):
    """One optimizer step."""


class Evaluated(Measured):
    """One evaluation on the held-out questions."""


@dataclass(frozen=True)
class Ended:
    """Last event. state: complete, already complete, or interrupted."""

    state: str


Event = Started | Stepped | Evaluated | Ended


def train(run: Run, should_stop: Callable[[], bool] = lambda: False) -> Iterator[Event]:
    """Train, continuing what is on disk. should_stop is asked before each step and evaluation.
    Raises Diverged where the run is lost to numbers that are not finite; UserError where the base
    model itself gives such numbers, or where the first update changed nothing."""
    config, store = run.config, run.store
    optimizer = Optimizer(lora.parameters(run.decoder), config, run.total_steps)
    position, notices = runs.resume(run, optimizer)
    already = position.epoch == config.epochs
    with store.failure_told():
        if not already:
            runs.describe_run(run)
            store.write_status("running", position.step, run.total_steps)
        yield Started(run, position.step, notices)
        # The base is judge and reference at once: if it moved, every score would be void.
        base = base_state(run)
        while position.epoch < config.epochs:
            if any(ranks.share(should_stop())):
                # Right after an evaluation, the epoch's own checkpoint already holds this position.
                if position.step > max(position.epoch, 0) * run.steps_per_epoch:
                    runs.save(run, position, optimizer, LATEST)
                store.write_status("interrupted", position.step, run.total_steps)
                yield Ended("interrupted")
                return
            # The first evaluation, of epoch 0, comes before any step: there B is zero, and its
            # score is that of the untouched model, which every later one is compared with.
            if position.epoch < position.step // run.steps_per_epoch:
                assert base_state(run) == base, "the frozen base changed during training"
                run.clock.start(*STAGES["evaluation"])
                yield evaluate_epoch(run, position, optimizer)
            else:
                run.clock.start(*STAGES["step"])
                yield take_step(run, position, optimizer)
                waited = time.monotonic() - store.published
                if position.step % LATEST_EVERY == 0 or waited > LATEST_SECONDS:
                    runs.save(run, position, optimizer, LATEST)
            store.write_status("running", position.step, run.total_steps)
        store.finish(run.total_steps)
        yield Ended("already complete" if already else "complete")


def take_step(run: Run, position: Position, optimizer: Optimizer) -> Stepped:
    """One optimizer step on the next batch of questions: all of section 3.2 in five lines.

    By default 2 questions get 4 answers each, and the step learns from those 8.
    """
    config, (epoch, questions) = run.config, run.batch(position.step)
    rollouts = ask_policy(run, questions, config.generations, "train", epoch)
    judge(run, rollouts, "train")
    assign_advantages(rollouts, config)
    learned = learn(run, rollouts, optimizer)
    return record_step(run, position, rollouts, learned, optimizer)


def record_step(
    run: Run, position: Position, rollouts: list[Rollout], learned: Learned, optimizer: Optimizer
) -> Stepped:
    """Write what a step gave. Raises Diverged and UserError as `train` does."""
    store, failed = run.store, learned.outcome.failed
    # The search for the first bad number computes the batch again, so it runs only after a failure.
    bad = diagnose_step(run, rollouts, learned.outcome, optimizer) if failed else ""
    epoch, _ = run.batch(position.step)
    position.step += 1
    position.bad_steps = position.bad_steps + 1 if failed else 0
    metrics = {
        "kind": "step",
        "step": position.step,
        "epoch": epoch,
        "update": optimizer.update,
        **describe(rollouts),
        "zero_variance_groups": zero_variance_groups(rollouts, run.config.generations),
        **learned.metrics,
        "not_finite": bad,
    }
    name = f"step-{position.step:06d}.jsonl"
    tokens = sum(len(rollout.completion.ids) for rollout in rollouts)
    timings = {"kind": "step", "step": position.step, **run.clock.report(), "tokens": tokens}
    runs.write_records(run, f"rollouts/{name}", rollouts, metrics, timings)
    if run.headroom.line:
        store.append("amax.jsonl", {"step": position.step, **run.headroom.line})
    # Resuming cuts rollouts/ back to a checkpoint, so a batch that failed is kept in crash/ too.
    if failed:
        store.write_lines(f"crash/{name}", [rollout.line() for rollout in rollouts])
    # One bad step may be an odd batch. Three in a row are a lasting fault of the policy or of the
    # dtype; and where an update made the adapter infinite, there is nothing to go on with.
    if failed == "update" or position.bad_steps == 3:
        who = "The adapter is" if failed == "update" else "Three steps in a row were"
        what = f"{who} not finite (last: {bad}), so the run stops; the batch is kept in"
        raise diverged(run, position, f"{what} {store.folder / 'crash' / name}.")
    if not (failed or optimizer.moved) and metrics["grad_norm"] and metrics["learning_rate"]:
        optimizer.moved = runs.check_moved(run)
    return Stepped(metrics, timings, rollouts, run.notices(rollouts, f"at step {position.step}"))


def evaluate_epoch(run: Run, position: Position, optimizer: Optimizer) -> Evaluated:
    """Ask the held-out questions, write that, then publish the epoch's checkpoint.

    Raises Diverged where a logit behind the policy's answers was not finite.
    """
    position.epoch += 1
    store, name = run.store, f"epoch-{position.epoch:02d}"
    rollouts = ask_policy(run, run.eval_questions, run.config.eval_samples, "eval", position.epoch)
    judge(run, rollouts, "eval")
    measured = measure(run, rollouts)
    # One bad number is enough to look for its cause: a reward that is NaN stands for the logits of
    # the answer or of its judge, and a KL that is not finite for those of policy and reference.
    all_finite = all(math.isfinite(rollout.reward or 0.0) for rollout in rollouts)
    bad = "" if all_finite and measured["kl_tokens"] is not None else diagnose(run, rollouts)
    if not all(rollout.completion.finite for rollout in rollouts):
        what = f"The policy is not finite any more after step {position.step} ({bad}), so the run"
        raise diverged(run, position, f"{what} stops and this epoch is not published.")
    metrics = {
        "kind": "evaluation",
        "step": position.step,
        "epoch": position.epoch,
        **describe(rollouts),
        "score_error": score_error(rollouts),
        **measured,
        "not_finite": bad,
    }
    timings = {"kind": "evaluation", "epoch": position.epoch, **run.clock.report()}
    runs.write_records(run, f"evaluations/{name}.jsonl", rollouts, metrics, timings)
    runs.save(run, position, optimizer, name)
    # The epoch's checkpoint replaces LATEST, so interrupted or not, a run ends with the same files.
    store.drop(LATEST)
    notices = run.notices(rollouts, f"at epoch {position.epoch}")
    return Evaluated(metrics, timings, rollouts, notices + [f"not finite: {bad}"] * bool(bad))
