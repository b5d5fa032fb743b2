"""The terminal: the resolved plan, a line per step, a block per evaluation. Plain text only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from minihmx import lora
from minihmx.engine import ranks
from minihmx.instruments.metrics import Eta
from minihmx.instruments.wreck import wreck_sentence
from minihmx.judge import doubts
from minihmx.run import Run
from minihmx.stats import mean
from minihmx.storage.history import history
from minihmx.terminal.answers import extremes, said_lines
from minihmx.terminal.summary import summary_lines
from minihmx.terminal.text import ERROR, Copied, duration, number
from minihmx.train import Ended, Evaluated, Event, Started, Stepped

SAMPLER_GAP = 0.05  # nats a token; 16-bit rounding stays below
SHARES = {  # of a step: what taught less than it seems
    "unscored": "unscored",
    "truncated": "truncated",
    "zero_variance_groups": "of groups without variance",
}
ODD = "odd is the share of answers that look degenerate: one word, repeats or another script"
STOPPING = ("finishing what is under way, then saving;", "once more to stop at once")


class Lines:
    """Turns the events of one training run into lines; keeps its metrics, and its rates.

    command: what a user types to continue the run. planned: an experiment or a sweep goes on with
    it. width: columns of an answer. verdict: on a run that ended wrecked, once it has ended.
    """

    def __init__(self, command: str, planned: bool = False, width: int = 100) -> None:
        self.command, self.planned, self.width = command, planned, width
        self.verdict = ""
        self.eta = Eta()
        self.steps: list[dict[str, Any]] = []  # their metrics, those before a resume included
        self.evaluations: list[dict[str, Any]] = []

    def render(self, event: Event) -> Iterator[str]:
        """The lines of one event."""
        if isinstance(event, Started):
            self.run, folder = event.run, event.run.store.folder
            self.steps, self.evaluations = history(folder).values()
            self.eta.recall(folder / "timings.jsonl")
            yield from plan(event.run)
            for notice in event.notices:
                yield f"resume     {notice}"
            if event.resumed:
                yield f"resume     {event.resumed} of {self.run.total_steps} steps are done"
            yield ""
        elif isinstance(event, Stepped):
            self.eta.timings["step"].append(event.timings)
            self.steps.append(event.metrics)
            yield self.step(event.metrics, event.timings)
            yield from (f"  notice {notice}" for notice in event.notices)
        elif isinstance(event, Evaluated):
            self.eta.timings["evaluation"].append(event.timings)
            self.evaluations.append(event.metrics)
            yield from self.evaluation(event)
        elif isinstance(event, Ended):
            yield from self.end(event.state)

    def step(self, m: dict[str, Any], timings: dict[str, Any]) -> str:
        """One optimizer step."""
        remarks = [f"{m[name]:.0%} {words}" for name, words in SHARES.items() if m[name]]
        if (m["sampler_gap"] or 0) > SAMPLER_GAP:
            remarks.append(f"sampler and trainer differ by {m['sampler_gap']:.2f} nats")
        if m["not_finite"]:
            remarks.append(f"SKIPPED, not finite: {m['not_finite']}")
        return (
            f"step {m['step']:>4}/{self.run.total_steps}  reward {number(m['reward'], '+6.2f')} "
            f"std {number(m['reward_std'], '.2f')}  odd {m['degenerate']:4.0%}  "
            f"kl {number(m['kl'], '.4f')}  "
            f"grad {number(m['grad_norm'], '.2f')}  {m['length']:>3.0f} tokens  "
            f"{timings['seconds']:.2f} s  eta {self.left(m['step'], m['epoch'] - 1)}"
            + "".join(f"  [{remark}]" for remark in remarks)
        )

    def evaluation(self, event: Evaluated) -> Iterator[str]:
        """The held-out questions, with the best and the worst answer."""
        m, config = event.metrics, self.run.config
        when = "before training" if m["epoch"] == 0 else f"epoch {m['epoch']} of {config.epochs}"
        score = f"{number(m['score'], '.2f')} ± {number(m['score_error'], '.2f')}"
        yield ""
        yield (
            f"evaluation {when}: score {score} of 10 on {len(self.run.eval_questions)} held-out "
            f"questions x {config.eval_samples}, kl {number(m['kl'], '.4f')}, "
            f"{m['length']:.0f} tokens, {m['unscored']:.0%} unscored, "
            f"{m['truncated']:.0%} truncated, {m['degenerate']:.0%} odd"
        )
        for said in extremes(event.rollouts, config.direction):
            yield from said_lines(said, self.width)
        silent = [s["zero_variance_groups"] for s in self.steps if s["epoch"] == m["epoch"]]
        yield from warnings(m, mean(silent) or 0.0)
        yield from (f"  notice {notice}" for notice in event.notices)
        seconds, left = event.timings["seconds"], self.left(m["step"], m["epoch"])
        place = self.run.store.checkpoints / f"epoch-{m['epoch']:02d}"
        yield f"  saved {place}  ({seconds:.1f} s, eta {left})"
        yield ""

    def end(self, state: str) -> Iterator[str]:
        """How the run ended, and what to do next."""
        folder = self.run.store.folder
        if state == "interrupted":
            yield f"interrupted; {folder} is saved, and this continues it:"
            yield Copied(f"  {self.command}")
            return
        if state == "already complete":
            yield f"{folder} is already complete; choose another --seed or --out for a new run."
            yield ""
        self.verdict = wreck_sentence(folder, self.evaluations)
        if self.evaluations:
            yield from summary_lines(
                self.run, self.evaluations, self.verdict, self.width, self.planned
            )

    def left(self, step: int, evaluated: int) -> str:
        """Time to the end after so many steps, the last evaluation being of this epoch."""
        epochs, total = self.run.config.epochs, self.run.total_steps
        return duration(self.eta.seconds(total - step, epochs - max(evaluated, 0)))


def warnings(m: dict[str, Any], silent: float) -> Iterator[str]:
    """What makes a score less than it seems. silent: share of groups without variance."""
    if m["epoch"] > 0 and m["kl"] == 0:
        yield "  warning the policy still equals the reference: nothing was learned"
    if silent > 0.5:
        yield (
            f"  warning {silent:.0%} of this epoch's groups had equal scores and taught nothing; "
            "more --generations would tell answers apart"
        )
    if m["truncated"] > 0.1:
        yield (
            f"  warning {m['truncated']:.0%} of the answers ran into the cap; "
            "raise --max-completion-length"
        )
    if m["degenerate"] > 0.1:
        yield (
            f"  warning {m['degenerate']:.0%} of the answers look degenerate; if the score climbs "
            "with that, the judge is being fooled: read evaluations/"
        )
    if m["unscored"] > 0.2:
        yield (
            f"  warning {m['unscored']:.0%} of the answers got no score and taught nothing; "
            "read the judge's words in evaluations/"
        )


def plan(run: Run) -> Iterator[str]:
    """What is about to happen, with every value that is not the default."""
    c, source, decoder = run.config, run.source, run.decoder
    total = sum(p.numel() for p in decoder.parameters() if not p.requires_grad)
    trained = sum(p.numel() for p in lora.parameters(decoder).values())
    threads = f", threads {torch.get_num_threads()}" if decoder.device.type == "cpu" else ""
    n, samples = len(run.eval_questions), c.eval_samples
    yield f"model      {source.id} ({decoder.config.model_type}, {total:,} parameters)"
    yield f"           revision {source.revision or 'none (local files)'}"
    split = f", {ranks.world()} processes that share the rows" if ranks.world() > 1 else ""
    yield f"device     {decoder.device}, {c.dtype}{threads}{split}"
    if fine := run.underflow["subnormal"]:
        zero = run.underflow["zero"]
        yield f"           {fine:,} weights are below float16's normal range, {zero:,} became 0"
    yield f"direction  {c.direction}, seed {c.seed}"
    yield f"adapter    LoRA rank {c.lora_rank}, alpha {c.lora_alpha:g}: {trained:,} trainable"
    yield (
        f"each step  {c.prompts_per_step} questions x {c.generations} answers of at most "
        f"{c.max_completion_length} tokens, judged by the same model with the adapter off"
    )
    epochs = f"{c.epochs} epoch{'s' * (c.epochs > 1)}"
    yield (
        f"schedule   {epochs} x {run.steps_per_epoch} steps = {run.total_steps} steps; "
        f"{c.epochs + 1} evaluations of {n} held-out questions x {samples}"
    )
    left_over = len(run.train_questions) % c.prompts_per_step
    if left_over:
        yield f"           {left_over} of {len(run.train_questions)} questions rest in each epoch"
    yield f"           {ERROR}, the answers to one question going together"
    yield f"           {ODD}"
    yield (
        f"objective  {c.loss_type}, beta {c.beta:g} (k3), learning rate {c.learning_rate:g}, "
        f"grad norm {c.max_grad_norm:g}"
    )
    drawn = f"temperature {c.temperature:g}, plain softmax"
    if c.sampler == "plain":
        yield f"sampler    {drawn} (top-k and top-p of generation_config are not applied)"
    else:
        yield f"sampler    {c.sampler}; log-probs that train are of {drawn}"
    for name, came_from in sorted(run.sources.items()):
        if came_from != "default" and name != "model":
            yield f"  {name} = {getattr(c, name)}  ({came_from})"
    if notice := run.prompts.tokenizer.chat_format.notice:
        yield f"notice     {notice}"
    yield from (f"warning    {doubt}" for doubt in doubts(run.prompts.rubric))
    yield f"files      {run.store.folder}"
