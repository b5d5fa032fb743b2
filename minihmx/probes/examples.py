"""The paper's Figure 2 for any pair: base, forward and reverse answer the same questions.

All three are one loaded base, with and without an adapter. They draw the same random numbers, named
by seed, question and sample, so where two answers differ it is an adapter that speaks. The base
judges all of them by the rubric that the runs were trained with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minihmx.config import FIELDS, MOST, Config, check_number, is_told
from minihmx.engine.samplers import LEAST_TEMPERATURE, SAMPLERS, sampler_of
from minihmx.errors import Diverged, UserError, quoted
from minihmx.models import adapters
from minihmx.questions import extra_questions, load_questions, load_rubric
from minihmx.records import Question, Rollout
from minihmx.stats import mean
from minihmx.storage.identity import differences, text_digest
from minihmx.storage.strict import read_json

if TYPE_CHECKING:
    from minihmx.engine.prompts import Prompts
    from minihmx.models.decoder import Decoder

SIDES = (adapters.BASE, "forward", "reverse")
PARTS = ("model", "science", "settings")  # of config.json
KEPT = (
    *("question", "category", "sample", "prompt", "completion", "finish"),
    *("judge", "judge_finish", "score", "span", "unscored"),
)
LISTS = ("held-out", "extra", "all")


@dataclass(frozen=True)
class OpenPair:
    """A forward and a reverse checkpoint of runs that differ in their direction alone.

    folders: the checkpoints, by direction. run: the forward run's folder. config: its own.
    """

    folders: dict[str, Path]
    run: Path
    config: Config


def open_pair(forward: str, reverse: str) -> OpenPair:
    """Find both (RUN, or RUN@epoch-03) and read what they were trained with. Loads nothing.

    Raises UserError where the two are no pair: of other models, seeds or settings.
    """
    folders = [adapters.find_adapter(name) for name in (forward, reverse)]
    configs = [read_config_file(folder) for folder in folders]
    directions = tuple(config["science"].get("direction") for config in configs)
    if directions != ("forward", "reverse"):
        raise UserError(
            f"{forward} is a {directions[0]} run and {reverse} a {directions[1]} one, and a pair "
            "is one of each; give the forward run first, then the reverse one."
        )
    of_forward, of_reverse = ({"model": c["model"]["id"]} | c["science"] for c in configs)
    if differ := differences(of_forward, of_reverse, {"direction"}, ("forward", "in reverse")):
        raise UserError(
            f"{forward} and {reverse} are no pair ({differ}), so their answers would "
            "differ for more than the direction; give two runs that were started alike."
        )
    values = configs[0]["settings"] | configs[0]["science"]
    config = Config(**{name: value for name, value in values.items() if name in FIELDS})
    return OpenPair(dict(zip(SIDES[1:], folders, strict=True)), folders[0].parents[1], config)


def read_config_file(checkpoint: Path) -> dict[str, Any]:
    """The config.json of the run that a checkpoint lies in. Raises UserError if there is none."""
    path = checkpoint.parent.parent / "config.json"
    if checkpoint.parent.name != "checkpoints" or not path.is_file():
        raise UserError(
            f"{checkpoint} lies in no run's folder, so nothing says which model and seed it is of; "
            "give a run's folder (runs/MODEL/DIRECTION/seed-N), or RUN@epoch-03."
        )
    config: Any = read_json(path)
    parts = [config.get(name) for name in PARTS] if isinstance(config, dict) else [None]
    whole = all(isinstance(part, dict) for part in parts) and "id" in config["model"]
    values = config["science"] | config["settings"] if whole else {}
    odd = [n for n in values.keys() & FIELDS if type(values[n]) is not type(FIELDS[n].default)]
    if not whole or odd:
        raise UserError(f"{path} is no config of a run; restore the one that was saved there.")
    return dict(config)


def judge_of(checkpoint: Path | None) -> tuple[str, int]:
    """Rubric and cap of the judge's words: those of the run which a checkpoint lies in, where they
    are beside it, else the defaults."""
    run = checkpoint.resolve().parent.parent if checkpoint else Path()
    if checkpoint is None or not all((run / f).is_file() for f in ("config.json", "rubric.txt")):
        return load_rubric(None), Config().judge_max_tokens
    config = read_json(run / "config.json")
    settings = config.get("science") if isinstance(config, dict) else None
    cap = settings.get("judge_max_tokens") if isinstance(settings, dict) else None
    if type(cap) is not int or cap < 1:
        raise UserError(
            f"{run / 'config.json'} does not say how many tokens the judge may write "
            f"(judge_max_tokens = {quoted(cap)}), so nothing was judged; restore the file."
        )
    return load_rubric(run / "rubric.txt"), cap


def choose_questions(pair: OpenPair, asked: Sequence[str], which: str | None) -> list[Question]:
    """The user's own questions, then those of the list; without either, the held-out ones.

    The held-out questions are those that the run kept, else those of the file it was started with.
    """
    from minihmx.run import path_or_none

    if not all(text.strip() for text in asked):
        raise UserError("--question is empty; give its text, or leave it out.")
    chosen = [
        Question(f"asked-{n}", "asked", text, "eval", "ours") for n, text in enumerate(asked, 1)
    ]
    which = which or ("" if asked else "held-out")
    if which in ("held-out", "all"):
        kept = pair.run / "questions.jsonl"
        path = kept if kept.exists() else path_or_none(pair.config.questions)
        chosen += [question for question in load_questions(path) if question.split == "eval"]
    return chosen + (extra_questions() if which in ("extra", "all") else [])


def examples(
    pair: OpenPair,
    questions: Sequence[Question],
    samples: int = 1,
    temperature: float | None = None,
    flags: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Load the base once, let each side answer, judge all answers, and report.

    temperature: that of the runs where it is None. flags: of Config, in place of the runs' own
    model, device and dtype. Raises Failure (errors.py); Diverged where logits were not finite.
    """
    from minihmx.engine.open import find_model, load_decoder, open_adapter, with_adapter
    from minihmx.engine.prompts import Prompts
    from minihmx.run import path_or_none

    config = replace(
        pair.config, temperature=pair.config.temperature if temperature is None else temperature
    )
    check_number("temperature", config.temperature, LEAST_TEMPERATURE, 1e30, or_zero=True)
    check_number("samples", samples, 1, MOST["eval_samples"])
    if samples > 1 and config.temperature == 0:
        raise UserError(
            f"--samples {samples} at --temperature 0 would be the same answer each time; give a "
            "temperature above 0, or one sample."
        )
    kept = pair.run / "rubric.txt"
    rubric = load_rubric(kept if kept.exists() else path_or_none(config.rubric))
    kept_values = ("model", "revision", "threads", "date", "chat_format")
    own = {name: getattr(config, name) for name in kept_values}
    model = find_model(own | dict(flags or {}), slow_dtypes=True)
    doubts = [*filter(None, [model.tokenizer.chat_format.notice]), *plain_notices(pair.config)]
    opened = {side: open_adapter(str(pair.folders[side]), model.source) for side in SIDES[1:]}
    prompts, decoder = Prompts(model.tokenizer, config.date, rubric), load_decoder(model)
    wanted = [(question, s) for question in questions for s in range(samples)]
    rollouts = {}
    for side in SIDES:
        with with_adapter(decoder, opened.get(side)):
            rollouts[side] = answers_of(decoder, prompts, config, wanted)
        if not all(rollout.completion.finite for rollout in rollouts[side]):
            raise Diverged(
                f"The logits of {side} are not finite in {model.config.dtype}, so its answers "
                "would be noise and are not shown; try --dtype bfloat16 or float32."
            )
    judge_answers(decoder, prompts, config, [r for side in SIDES for r in rollouts[side]])
    return {
        "model": {name: getattr(model.source, name) for name in ("id", "revision", "digest")},
        "rubric digest": text_digest(rubric),
        "device": str(model.device),
        "dtype": model.config.dtype,
        "seed": config.seed,
        "temperature": config.temperature,
        "runs": {side: str(folder) for side, folder in pair.folders.items()},
        "notices": sorted({*doubts, *(n for each in opened.values() for n in each.notices)}),
        "answers": [{"side": s, **answer_record(r)} for s in SIDES for r in rollouts[s]],
        "scores": {side: score_record(rollouts[side]) for side in SIDES},
    }


def plain_notices(config: Config) -> list[str]:
    """That a run of this config spoke, stopped or judged otherwise than it does here, if it did."""
    own = [
        f"--{name.replace('_', '-')} {getattr(config, name)}"
        for name in (*SAMPLERS, "stop_ids")
        if is_told(config, name)
    ]
    return [
        f"The runs have {', '.join(own)}, which is not applied: these answers are from plain "
        "softmax, end at every id that the model names, and are judged greedily."
    ] * bool(own)


def answers_of(
    decoder: Decoder, prompts: Prompts, config: Config, wanted: Sequence[tuple[Question, int]]
) -> list[Rollout]:
    """The answer to each question and sample by the decoder as it is.

    The noise is named by the question's text, so a question has the same in any list.
    """
    from minihmx.engine.memory import Limit
    from minihmx.engine.sampling import generate

    ids = [prompts.policy(question.text) for question, _ in wanted]
    completions = generate(
        decoder,
        prompts.tokenizer.decode,
        ids,
        max_new_tokens=config.max_completion_length,
        stop_ids=decoder.config.eos_ids,
        temperature=config.temperature,
        noise=[("examples", config.seed, question.text, s) for question, s in wanted],
        limit=Limit("--decode-rows", config.decode_rows),
    )
    return [
        Rollout(question, s, question.text, prompt, completion)
        for (question, s), prompt, completion in zip(wanted, ids, completions, strict=True)
    ]


def judge_answers(
    decoder: Decoder,
    prompts: Prompts,
    config: Config,
    rollouts: Sequence[Rollout],
    noise: Sequence[tuple[object, ...]] | None = None,
) -> None:
    """Fill in the verdicts of the decoder as it is, which here is the base. They are greedy, or
    with `noise` drawn as the config says."""
    from minihmx.engine.memory import Limit
    from minihmx.rollout import ask_judge

    judgements = ask_judge(
        decoder,
        prompts.tokenizer,
        [prompts.judge(rollout.question.text, rollout.completion.text) for rollout in rollouts],
        max_new_tokens=config.judge_max_tokens,
        limit=Limit("--decode-rows", config.decode_rows),
        noise=noise,
        temperature=config.temperature,
        sampler=sampler_of(config.judge_sampler, config.temperature) if noise else None,
    )
    for rollout, judgement in zip(rollouts, judgements, strict=True):
        rollout.judge_text, rollout.judge_finish, rollout.verdict = judgement


def answer_record(rollout: Rollout) -> dict[str, Any]:
    """What is kept of an answer: as in evaluations/, with the question's text as `prompt`."""
    line = rollout.line()
    return {name: line[name] for name in KEPT}


def score_record(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """The mean score over the answers that have one (None: none has), and how many there are."""
    scores = [s for r in rollouts if (s := r.line()["score"]) is not None]
    return {"mean": mean(scores), "scored": len(scores), "answers": len(rollouts)}
