"""Stored held-out answers judged again: by other models, or by other rubrics.

The judge is the product's own, `rollout.ask_judge`: greedy, the caps of the run, the chat format of
the model that judges. Nothing of the run is changed; verdicts go to folders of their own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from minihmx.config import Config
from minihmx.errors import DataError, UserError
from minihmx.judge import judge_prompt
from minihmx.models.known import MODELS
from minihmx.probes.judge import THRESHOLDS, probe_items, summarize
from minihmx.probes.judged_folder import JudgedFolder, stored_answers, verdict_line
from minihmx.probes.rubrics import Rubric, find_rubric
from minihmx.records import Verdict
from minihmx.storage.strict import read_file, read_json

if TYPE_CHECKING:
    from minihmx.engine.open import Model
    from minihmx.models.decoder import Decoder
    from minihmx.rollout import Judgement

CRITERION_TOKENS = 128
_NEEDED = ("parse_rate", "correlation")  # without these a judge's scores say nothing at all
GREEDY = (*_NEEDED, "fooled")  # what the probe tells without sampling


class StoredRun(NamedTuple):
    """A run whose answers are judged again.

    model: its own, as it can be opened. science: of its config.json. epochs: those to be judged.
    """

    folder: Path
    model: str
    revision: str | None
    science: Mapping[str, Any]
    rubric: str
    epochs: tuple[int, ...]


def stored_run(folder: Path, epochs: Sequence[int]) -> StoredRun:
    """Raises UserError where a run does not say which model judged it, and by which rubric."""
    config = read_json(folder / "config.json")
    try:
        own, typed, science = config["model"], config["settings"]["model"], config["science"]
        model = typed if typed in MODELS else own["id"]
        wanted = {"judge_max_tokens": int, "date": str, "model digest": str}
        if not isinstance(model, str) or any(
            type(science[name]) is not kind for name, kind in wanted.items()
        ):
            raise TypeError
        rubric = read_file(folder / "rubric.txt").decode().rstrip("\n")
    except (LookupError, TypeError, OSError, UnicodeDecodeError):
        raise UserError(
            f"{folder} does not say which model judged it and by which rubric (config.json, "
            "rubric.txt), so it cannot be judged again in the same way; restore these files."
        ) from None
    return StoredRun(folder, model, own.get("revision"), science, rubric, tuple(epochs))


def judge_again(
    runs: Sequence[StoredRun], by: Sequence[str], rubrics: Sequence[str], flags: Mapping[str, Any]
) -> Iterator[str]:
    """Judge what is not judged yet, one model after the other; yields lines for a reader.

    by: models; none: each run's own. rubrics: names of rubrics.py or files. flags: Config's fields.
    Raises Failure for what the user has to mend, among it a foreign judge that cannot score.
    """
    jobs: dict[str, list[StoredRun]] = {name: list(runs) for name in by}
    for run in runs if not by else ():
        jobs.setdefault(run.model, []).append(run)
    for name, own in jobs.items():
        given = {**flags, "model": name}
        if not by and own[0].revision:  # the very weights that were trained
            given["revision"] = own[0].revision
        yield from _by_one(_Judge(given, foreign=bool(by)), own, rubrics)


class _Judge:
    """One model as a judge. Its weights are loaded when the first verdict is wanted of it."""

    def __init__(self, flags: Mapping[str, Any], foreign: bool):
        from minihmx.engine.open import find_model

        self.model: Model = find_model(flags)
        self.foreign, self.probe = foreign, dict[str, Any]()
        self.said: dict[tuple[int, ...], Judgement] = {}
        self._decoder: Decoder | None = None

    @property
    def decoder(self) -> Decoder:
        from minihmx.engine.open import load_decoder

        self._decoder = self._decoder or load_decoder(self.model)
        return self._decoder

    def verdicts(self, config: Config, turns: Sequence[str]) -> list[Judgement]:
        """The judge's answer to each user turn. One that is said twice, as the untouched model's
        answers are in both directions, is judged once."""
        from minihmx.engine.memory import Limit
        from minihmx.engine.prompts import Prompts
        from minihmx.rollout import ask_judge

        prompts = Prompts(self.model.tokenizer, config.date, "")
        cap = config.judge_max_tokens
        ids = [tuple(prompts.policy(turn)) for turn in turns]
        new = [list(row) for row in dict.fromkeys(ids) if (cap, *row) not in self.said]
        limit = Limit("--decode-rows", config.decode_rows)
        judge = (
            ask_judge(self.decoder, self.model.tokenizer, new, max_new_tokens=cap, limit=limit)
            if new
            else []
        )
        for row, judgement in zip(new, judge, strict=True):
            self.said[(cap, *row)] = judgement
        return [self.said[(cap, *row)] for row in ids]

    def refuse_long(self, config: Config, rubric: Rubric) -> None:
        """Raises UserError for a rubric that leaves no room for an answer."""
        tokens = self.model.tokenizer.count(rubric.text)
        context = self.model.shape.max_positions
        if tokens + config.judge_max_tokens >= context:
            raise UserError(
                f"The rubric {rubric.name} has {tokens} tokens, and the context of "
                f"{self.model.source.run_name} is {context} with the verdict in it, so no answer "
                "could be judged by it; shorten it."
            )

    def words(self, config: Config, request: str) -> str:
        """The model's own greedy reply to a request."""
        longer = replace(config, judge_max_tokens=CRITERION_TOKENS)
        return self.verdicts(longer, [request])[0].text

    def check(self, config: Config, rubric: str) -> dict[str, Any]:
        """What the probe's fixed answers say of this judge, asked greedily and once.

        Raises DataError where it cannot score: its verdicts are not read, or do not follow the
        strength of the answers.
        """
        if not self.probe:
            items = probe_items(rubric)
            turns = [judge_prompt(rubric, item.question, item.answer) for item in items]
            report = summarize(items, self.verdicts(config, turns), [], [])
            grades = {name: THRESHOLDS[name].grade(report[name]) for name in GREEDY}
            verdict = ("not usable", "doubtful", "usable")[min(grades.values())]
            failing = [THRESHOLDS[name].label for name in _NEEDED if grades[name] == 0]
            self.probe = {name: report[name] for name in GREEDY} | {"verdict": verdict}
            self.probe |= {"answers": len(items), "failing": failing}
        if self.probe["failing"]:
            told = ", ".join(
                f"{THRESHOLDS[name].label} {_number(self.probe[name])} (at least "
                f"{THRESHOLDS[name].doubtful:g} is needed)"
                for name in _NEEDED
            )
            raise DataError(
                f"{self.model.source.id} cannot score, so its verdicts would say nothing: the "
                f"judge's probe of {self.probe['answers']} fixed answers finds it "
                f"{self.probe['verdict']}, {told}; `minihmx doctor --judge "
                f"{self.model.source.id}` shows all of it; give --by another model."
            )
        return self.probe


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def _by_one(judge: _Judge, runs: Sequence[StoredRun], rubrics: Sequence[str]) -> Iterator[str]:
    """Every run by every rubric, by one model."""
    source, config = judge.model.source, judge.model.config
    if notice := judge.model.tokenizer.chat_format.notice:
        yield f"notice     {notice}"
    for run in runs:
        own = source.digest == run.science["model digest"]
        if not (judge.foreign or own):
            raise UserError(
                f"{source.id} is not the model that {run.folder} was trained with (its files are "
                "others now), so it cannot be judged by its own model; give --by MODEL."
            )
        own_config = replace(
            config, judge_max_tokens=run.science["judge_max_tokens"], date=run.science["date"]
        )
        for name in rubrics:
            rubric = find_rubric(name, run.rubric, partial(judge.words, own_config))
            judge.refuse_long(own_config, rubric)
            yield from _one_folder(judge, run, rubric, own_config, own)


def _one_folder(
    judge: _Judge, run: StoredRun, rubric: Rubric, config: Config, own: bool
) -> Iterator[str]:
    source = judge.model.source
    model = {"id": source.id, "revision": source.revision, "digest": source.digest}
    names = ("judge_max_tokens", "date", "chat_format", "dtype")
    settings = {name: getattr(config, name) for name in names}
    folder = JudgedFolder(run.folder, source.run_name, model, rubric, settings)
    folder_left = folder.left(run.epochs)
    title = f"{run.folder} by {source.run_name} ({rubric.name})"
    if not folder_left:
        yield f"{title}: all {len(run.epochs)} epochs are judged already"
        return
    probe = None
    if not own:  # the run's own model gave the rewards, whatever its probe says
        judge.probe = judge.probe or folder.probed() or {}
        if not judge.probe:
            yield f"{source.run_name} is asked about the probe's fixed answers first"
        probe = judge.check(config, run.rubric)
    folder.begin()
    # Asked again, since another process may have judged here until this one owned the folder.
    for epoch in folder.left(run.epochs):
        began, answers = time.monotonic(), stored_answers(run.folder, epoch)
        turns = [judge_prompt(rubric.text, a["prompt"], a["completion"]) for a in answers]
        judgements = judge.verdicts(config, turns)
        pairs = zip(answers, judgements, strict=True)
        lines = [verdict_line(answer, *judgement) for answer, judgement in pairs]
        folder.add(epoch, lines, {"probe": probe, "own_model": own})
        scored = sum(isinstance(j.verdict, Verdict) for j in judgements)
        seconds = time.monotonic() - began
        yield f"{title}: epoch {epoch}, {scored} of {len(lines)} answers scored ({seconds:.1f} s)"
