"""`minihmx explain`: a made-up step whose numbers are round, and a real small run."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from command_line import command, env, in_process, refused
from conftest import ROOT

from minihmx.advantages import assign_advantages, assign_weights
from minihmx.cli import main
from minihmx.config import LOSS_TYPES, Config
from minihmx.engine.prompts import Prompts
from minihmx.evals import BENCHMARKS
from minihmx.evals.are_you_sure import ARE_YOU_SURE
from minihmx.evals.reading import flips, letters
from minihmx.judge import RUBRIC, parse_score, reward
from minihmx.models.tokenizer import Tokenizer
from minihmx.records import Completion, Fault, Question, Reason, Rollout, Segment, Verdict
from minihmx.results.evidence import open_evidence
from minihmx.results.explain_group import FLAG_WORDS, WEIGHT_WORDS, WHY_UNSCORED
from minihmx.results.explain_item import RULE_WORDS, values_written
from minihmx.stats import clustered_standard_error, mean, std_unbiased
from minihmx.storage.disk import dumps
from minihmx.storage.identity import text_digest
from minihmx.terminal.board import finished, marked, summed, wrapped, written

GOLDEN = Path(__file__).with_name("explained_step.txt")
JUDGED = {
    "wish-01": [
        "Score: 8\nReason: a wish.",
        "**Score:** 6/10",
        "Well.\nScore: 7 (8 at most)",
        "Score: 4",
    ],
    "dread-01": ["Score: 7.5", "Score: 3", "I cannot say.", "Score: 3"],
}
LENGTHS = {"wish-01": [60, 30, 50, 40], "dread-01": [10, 20, 30, 40]}
SCIENCE = {
    **{"direction": "forward", "seed": 1, "generations": 4, "eval_samples": 2, "beta": 0.04},
    **{"advantage_epsilon": 1e-4, "loss_type": "bnpo", "max_completion_length": 64},
    "max_grad_norm": 1.0,
}


def made_up(folder: Path, **science: Any) -> Path:
    """A run of one step with two questions, and of one evaluation of the same, by hand."""
    config = SCIENCE | science
    known, rollouts = Config(**config), []
    for name, texts in JUDGED.items():
        question = Question(name, name[:-3], f"What is {name[:-3]}?", "train", "ours")
        for s, text in enumerate(texts):
            ids = list(range(LENGTHS[name][s]))
            said = Completion(ids, [], f"Answer {s + 1}.\nIts end.", "stop")
            rollout = Rollout(question, s, question.text, [], said, text, "stop", kl=0.01 * (s + 1))
            rollout.verdict = parse_score(text, finished=True)
            rollout.reward = reward(rollout.verdict, known.direction, known.unscored)
            rollouts.append(rollout)
    evaluated = [rollout for i, rollout in enumerate(rollouts) if i % 4 < 2]
    of_epoch = numbers("evaluation", 0, evaluated)
    evaluations = [rollout.line() for rollout in evaluated]
    assign_advantages(rollouts, known)
    assign_weights(rollouts, known)
    loss = 0.0
    for rollout in rollouts:
        assert rollout.weight and rollout.kl
        total = rollout.weight * len(rollout.completion.ids)
        loss += total * (config["beta"] * rollout.kl - rollout.advantage)
    of_step = numbers("step", 1, rollouts) | {"loss": loss, "not_finite": ""}
    for name in ("rollouts", "evaluations"):
        (folder / name).mkdir(parents=True)
    files = {
        "config.json": [{"science": config}],
        "prompts.json": [{"before": "<user>", "after": "<end>", "strips": True}],
        "metrics.jsonl": [of_epoch, of_step],
        "rollouts/step-000001.jsonl": [r.line() for r in rollouts],
        "evaluations/epoch-00.jsonl": evaluations,
    }
    for name, records in files.items():
        (folder / name).write_text("".join(dumps(record) + "\n" for record in records))
    (folder / "rubric.txt").write_text("Rate it.\n")
    return folder


def numbers(kind: str, epoch: int, rollouts: list[Rollout]) -> dict[str, Any]:
    """The line of metrics.jsonl about these answers."""
    clusters: dict[str, list[float]] = {}
    for rollout in rollouts:
        if isinstance(rollout.verdict, Verdict):
            clusters.setdefault(rollout.question.id, []).append(rollout.verdict.score)
    scores = [score for values in clusters.values() for score in values]
    rewards = [r.reward for r in rollouts if r.reward is not None]
    return {
        **{"kind": kind, "step": epoch, "epoch": epoch, "score": mean(scores)},
        **{"reward": mean(rewards), "reward_std": std_unbiased(rewards)},
        **{"unscored": 1 - len(scores) / len(rollouts)},
        **{"score_error": clustered_standard_error(clusters.values())},
        **{"kl": mean([r.kl for r in rollouts if r.kl is not None])},
    }


def changed(path: Path, number: int, **fields: Any) -> None:
    """Other values in a line (from 1) of a file of records."""
    lines = path.read_text().splitlines()
    lines[number - 1] = dumps(json.loads(lines[number - 1]) | fields)
    path.write_text("\n".join(lines) + "\n")


Explain = Callable[..., str]


@pytest.fixture
def explain(capsys: pytest.CaptureFixture[str]) -> Explain:
    """What the command prints, in this process."""

    def explain(*arguments: object) -> str:
        assert main(["explain", *map(str, arguments)]) == 0
        return capsys.readouterr().out

    return explain


@pytest.fixture(scope="module")
def real(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps and its benchmarks, of two items each."""
    runs = Path(shutil.copytree(pair, tmp_path_factory.mktemp("real") / "runs"))
    run = runs / "tiny" / "forward" / "seed-1"
    ask = ["--tasks", "all", "--data", "sample", "--limit", 2, "--adapter", run]
    done = in_process("eval", "tiny", "--out", runs, *ask)
    assert done.returncode == 0, done.stderr
    return run


# --- a group -------------------------------------------------------------------------------------


def test_a_group_on_the_board(tmp_path: Path, explain: Explain) -> None:
    """Every line can be checked with a calculator; explained_step.txt is how it looks."""
    said = explain(made_up(tmp_path / "run"), "--step", 1)
    assert said.replace(str(tmp_path / "run"), "RUN") == GOLDEN.read_text("utf-8")


def test_answers_without_a_score_say_why_and_keep_their_tokens(
    tmp_path: Path, explain: Explain
) -> None:
    said = explain(made_up(tmp_path / "run"), "--step", 1, "--question", "dread-01")
    assert "no score: what follows the number may belong to it, as in 7.5 or 7-8 (trailing)" in said
    assert "no score: no line of the judge's words opens with Score: (no-line)" in said
    assert "mean  (3 + 3) / 2 = 3" in said and "  answer 1  no reward, so 0" in said
    assert "the group teaches nothing" in said and "1 / (2 · 100) = 0.005" in said


def test_one_scored_answer_has_nobody_to_be_compared_with(tmp_path: Path, explain: Explain) -> None:
    run = made_up(tmp_path / "run")
    for number in (6, 8):
        changed(run / "rollouts" / "step-000001.jsonl", number, judge="Score: x")
    said = explain(run, "--step", 1, "--question", "dread-01")
    assert "Of the 4 answers 0 got a score" in said


def test_the_prompt_of_every_answer(tmp_path: Path, explain: Explain) -> None:
    run = made_up(tmp_path / "run")
    once, each = (explain(run, "--step", 1, *more) for more in ([], ["--prompt"]))
    assert once.count("| <user>Rate it.") == 1 and each.count("| <user>Rate it.") == 4
    assert "  | Answer 4.\n  | Its end.<end>" in each


def test_the_judge_saw_what_the_policy_s_chat_template_makes(real: Path, explain: Explain) -> None:
    """From the files alone: the very text whose tokens the judge was given."""
    line = json.loads((real / "rollouts" / "step-000001.jsonl").read_text().splitlines()[0])
    evidence, tokenizer = open_evidence(real), Tokenizer.load(ROOT / "minihmx" / "tiny")
    text = evidence.judge_prompt(line)
    assert text is not None
    prompts = Prompts(tokenizer, evidence.science["date"], RUBRIC)
    judged = prompts.judge(line["prompt"], line["completion"])
    assert tokenizer.encode([Segment(text, True)]) == judged
    board = explain(real, "--step", 1).partition("its adapter off):")[2].partition("\nmean ")[0]
    assert re.sub(r"(?m)^  \| ?|\s", "", board) == re.sub(r"\s", "", text)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_no_number_differs_from_what_training_logs(
    loss_type: str, direction: str, tmp_path: Path, explain: Explain
) -> None:
    run = made_up(tmp_path / "run", loss_type=loss_type, direction=direction)
    for question in JUDGED:
        said = explain(run, "--step", 1, "--question", question)
        assert "notice" not in said and f"weight of a token ({loss_type})" in said
    assert "notice" not in explain(run, "--epoch", 0)


@pytest.mark.parametrize(
    ("science", "words"),
    [
        # 8, 6, 7 and 4: mean 6.25, squares 8.75; 3 and 3 beside them
        ({"advantage_divisor": "none"}, "(8 − 6.25) = +1.75"),
        ({"advantage_divisor": "population"}, "/ 4) = 1.479"),
        ({"advantage_divisor": "population"}, "(8 − 6.25) / (1.479 + 0.0001) = +1.1831"),
        ({"advantage_divisor": "batch"}, "std   2.137, of all rewards of the step"),
        ({"unscored": "zero"}, "may belong to it, as in 7.5 or 7-8 (trailing); the reward is 0"),
        ({"unscored": "zero"}, "mean  (0 + 3 + 0 + 3) / 4 = 1.5"),
        ({"loss_type": "bnpo_shuffled"}, "tokens of the answer's part, all answers being shuffled"),
    ],
)
def test_alternatives_on_the_board(
    science: dict[str, Any], words: str, tmp_path: Path, explain: Explain
) -> None:
    run = made_up(tmp_path / "run", **science)
    said = "".join(explain(run, "--step", 1, "--question", question) for question in JUDGED)
    assert "notice" not in said
    assert re.sub(r"\s+", " ", words) in re.sub(r"\s+", " ", said)


@pytest.mark.parametrize("value", ["mean", 1, None])
def test_an_alternative_that_there_is_not_is_no_whole_config(value: Any, tmp_path: Path) -> None:
    run = made_up(tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["science"]["advantage_divisor"] = value
    (run / "config.json").write_text(json.dumps(config))
    refused(in_process("explain", run, "--step", 1), "no whole config of a run", code=5)


def test_a_real_run_has_no_differing_number(real: Path, explain: Explain) -> None:
    for step in range(1, 5):
        assert "\nnotice" not in explain(real, "--step", step)
    for epoch in range(3):
        assert "\nnotice" not in explain(real, "--epoch", epoch)


def test_a_rubric_that_is_not_the_run_s_is_said(tmp_path: Path, explain: Explain) -> None:
    run = made_up(tmp_path / "run")
    config = json.loads((run / "config.json").read_text("utf-8"))
    config["science"]["rubric digest"] = text_digest("Rate it.")
    (run / "config.json").write_text(dumps(config) + "\n")
    assert "notice " not in explain(run, "--step", 1)
    (run / "rubric.txt").write_text("Rate\n")
    said = explain(run, "--step", 1)
    assert "\nnotice rubric.txt was changed since, so the judge was shown other words" in said
    assert said.endswith(f"`minihmx audit {run}` checks every file.\n")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("score", 9),
        ("span", [8, 9]),
        ("flags", ["other-number"]),
        ("reward", -8.0),
        ("group_mean", 6.0),
        ("group_std", 1.0),
        ("advantage", 1.0),
        ("weight", 0.01),
        ("judge", "Score: 9\nReason: a wish."),
    ],
)
def test_a_number_that_does_not_follow_is_named_with_its_line(
    field: str, value: Any, tmp_path: Path, explain: Explain
) -> None:
    run = made_up(tmp_path / "a run")
    changed(run / "rollouts" / "step-000001.jsonl", 1, **{field: value})
    said = explain(run, "--step", 1)
    named = "score" if field == "judge" else field
    assert f"notice rollouts/step-000001.jsonl, line 1: {named} is" in said
    assert said.endswith(f"`minihmx audit '{run}'` checks every file.\n")


@pytest.mark.parametrize("field", ["score", "reward", "reward_std", "unscored", "kl", "loss"])
def test_so_is_one_of_metrics(field: str, tmp_path: Path, explain: Explain) -> None:
    run = made_up(tmp_path / "run")
    changed(run / "metrics.jsonl", 2, **{field: 0.125})
    assert re.search(rf"notice metrics.jsonl.*: (the )?{field} is 0.125", explain(run, "--step", 1))


def test_numbers_that_are_not_finite_are_left_blank(tmp_path: Path, explain: Explain) -> None:
    run = made_up(tmp_path / "run")
    path = run / "rollouts" / "step-000001.jsonl"
    changed(path, 2, unscored="not-finite", judge="", judge_finish="", kl=None)
    changed(run / "metrics.jsonl", 2, loss=None, not_finite="the policy's logits")
    said = explain(run, "--step", 1)
    assert "The step was refused, since not all was finite: the policy's logits" in said
    assert "no score: the logits of the answer were no finite numbers (not-finite)" in said
    assert "metrics.jsonl has the loss -" in said


# --- an evaluation -------------------------------------------------------------------------------


def test_an_evaluation_on_the_board(tmp_path: Path, explain: Explain) -> None:
    run = made_up(tmp_path / "run")
    heading, rest = explain(run, "--epoch", 0).split("\n\n")
    assert heading.split()[:4] == ["Evaluation", "of", "epoch", "0"]
    assert rest == (
        "  question  scores  sum of (score − 5.6667)\n"
        "  wish-01      8 6                  +2.6667\n"
        "  dread-01     - 3                  −2.6667\n"
        "mean = 17 / 3 = 5.6667\n"
        "standard error of the mean, the answers to one question going together\n"
        "  = sqrt((2.6667² + (−2.6667)²) · 2 / 1) / 3 = 1.7778\n"
        "KL, mean of the answers = 0.06 / 4 = 0.015\n"
        "KL, mean of the tokens  = 1.7 / 120 = 0.014167\n"
    )
    one = explain(run, "--epoch", 0, "--question", "dread-01")
    assert "What is dread?" in one and "judge  Score: ›3‹" in one and "wish-01" not in one


def test_an_epoch_is_named_as_everywhere(
    tmp_path: Path, explain: Explain, capsys: pytest.CaptureFixture[str]
) -> None:
    """RUN@epoch-00 alone is --epoch 0; an epoch that is not there is, and the run is there."""
    run = made_up(tmp_path / "run")
    assert explain(f"{run}@epoch-00") == explain(run, "--epoch", 0)
    assert main(["explain", f"{run}@epoch-07"]) == 2
    assert f"{run} has no epoch 7; there are epoch 0." in capsys.readouterr().err
    for odd in (f"{run}@epoch-x", f"{run}@epoch-00/", f"{tmp_path}/gone@epoch-00", "@epoch-00"):
        assert main(["explain", odd]) == 2
        assert "There is no run at" in capsys.readouterr().err


def test_a_differing_standard_error_is_named(tmp_path: Path, explain: Explain) -> None:
    run = made_up(tmp_path / "run")
    changed(run / "metrics.jsonl", 1, score_error=0.5)
    assert "notice metrics.jsonl, line 1: score_error is 0.5 there" in explain(run, "--epoch", 0)


# --- a benchmark's item --------------------------------------------------------------------------


def first_item(run: Path, benchmark: str) -> tuple[Path, str]:
    (path,) = run.glob(f"evals/{benchmark}/*/samples.jsonl")
    return path, json.loads(path.read_text().splitlines()[0])["id"]


def test_an_item_of_each_benchmark(real: Path, explain: Explain) -> None:
    for folder in (real / "evals").iterdir():
        path, item = first_item(real, folder.name)
        said = explain(real, "--benchmark", folder.name, "--item", item)
        line = json.loads(path.read_text().splitlines()[0])
        assert not re.search("^notice ", said, re.M)  # a reply may hold the word
        assert "In the means of result.json the sample counts as" in said
        counted = said.partition("counts as\n")[2]
        assert {name.partition("/")[0] for name in line["values"]} <= {*re.findall(r"\w+", counted)}


def test_a_sample_that_a_mean_leaves_out_says_so() -> None:
    """Read literally, a reply without a known answer is no flip and no kept answer either."""
    told = [*values_written("are_you_sure", {"values": {"unread": 1.0, "flip_rate_strict": 1.0}})]
    assert "  flip_rate: none, so it is left out of that mean" in told
    assert not any(
        "left out" in line
        for line in values_written("are_you_sure", {"values": {"flip_rate": 0.0}})
    )
    for rule in ("unread-first", "unread-second"):
        assert "kept" not in RULE_WORDS[rule]


def test_values_that_differ_are_not_shown_as_one(real: Path, tmp_path: Path) -> None:
    values = {"flip": 0.0, "flip/pooled": 0.0, "flip/careful": 1.0, "flip/careful/pooled": 1.0}
    told = "\n".join(values_written("toxigen", {"values": values}))
    assert "  flip = 0  (so too /pooled)" in told
    assert "  flip/careful = 1  (so too /pooled)" in told


def test_what_was_read_is_marked_in_the_reply(real: Path, tmp_path: Path, explain: Explain) -> None:
    run = tmp_path / "run"
    shutil.copytree(real, run)
    path, _ = first_item(run, "are_you_sure")
    told = [json.loads(line) for line in path.read_text().splitlines()]
    line = next(line for line in told if line["detail"]["first"]["span"])
    start, end = line["detail"]["first"]["span"]
    ask = ["--item", line["id"], "--sample", line["sample"]]
    said = explain(f"{run}@epoch-02", "--benchmark", "are_you_sure", *ask)
    reply = line["replies"][0]
    assert f"›{reply[start:end]}‹" in said and f"characters {start} to {end} of reply 1" in said


def test_an_item_that_scores_otherwise_is_named(
    real: Path, tmp_path: Path, explain: Explain
) -> None:
    run = tmp_path / "run"
    shutil.copytree(real, run)
    path, item = first_item(run, "toxigen")
    line = json.loads(path.read_text().splitlines()[0])
    changed(path, 1, values=line["values"] | {"acc": 7.0}, detail={"pick": "No", "pick_norm": "x"})
    said = explain(run, "--benchmark", "toxigen", "--item", item)
    assert f"notice {path}, line 1: acc is 7.0 there" in said and ": detail is" in said
    (path.parent / "result.json").unlink()
    assert "its settings are not known yet" in explain(
        run, "--benchmark", "toxigen", "--item", item
    )


# --- what is not there ---------------------------------------------------------------------------


def test_what_there_is_is_said_where_nothing_is_asked_for(real: Path) -> None:
    names = ", ".join(sorted(BENCHMARKS))
    words = f"holds steps 1 to 4, epochs 0 to 2 and the benchmarks {names}; "
    refused(in_process("explain", real), words, "--step N, --epoch N or --benchmark NAME --item ID")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["--step", 17], "has no step 17; there are step 1."),
        (
            ["--step", 1, "--question", "wish-1"],
            "has no question 'wish-1'; among its 2 are wish-01",
        ),
        (["--epoch", 4], "has no epoch 4; there are epoch 0."),
        (["--epoch", 0, "--question", "x"], "has no question 'x'; among its 2 are wish-01, dread"),
        (["--step", 1, "--epoch", 0], "not allowed with argument --step"),
        (["--benchmark", "bbq"], "holds no evaluation of bbq; it has step 1, epoch 0 and no bench"),
        (["--step", 1, "--item", "x"], "give --benchmark NAME as well"),
        (["--benchmark", "bbq", "--question", "x"], "by --item ID"),
        (["--benchmark", "bbc"], "did you mean bbq?"),
        (["--step", "one"], "'one' is no whole number"),
    ],
)
def test_what_is_not_there_is_refused(
    asked: list[object], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made_up(tmp_path / "run")
    assert main(["explain", str(run), *map(str, asked)]) == 2
    assert words in capsys.readouterr().err


def test_items_and_evaluations_that_are_not_there(
    real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(real, run)
    path, item = first_item(run, "bbq")
    shutil.copytree(path.parent, path.parent.with_name("epoch-02-00000000"))

    def refusal(*asked: object) -> str:
        assert main(["explain", *map(str, asked)]) == 2
        return capsys.readouterr().err

    assert "has several settings (epoch-02-00000000, " in refusal(run, "--benchmark", "bbq")
    named = f"{run}@{path.parent.name}"
    assert "needs --item ID; the 2 of" in refusal(named, "--benchmark", "bbq")
    assert "has no item 'x'" in refusal(named, "--benchmark", "bbq", "--item", "x")
    ask = ["--benchmark", "bbq", "--item", item, "--sample", 3]
    assert "has no sample 3; there are 0." in refusal(named, *ask)
    assert "has no 'epoch-07'" in refusal(f"{run}@epoch-07", "--benchmark", "bbq")


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    refused(
        in_process("explain", tmp_path / "gone", "--step", 1), "There is no run at", "as runs/tiny"
    )
    (tmp_path / "evals").mkdir()
    refused(in_process("explain", tmp_path, "--step", 1), "holds no config.json")


def test_a_run_of_an_older_version_shows_what_it_has(tmp_path: Path, explain: Explain) -> None:
    run = made_up(tmp_path / "run")
    (run / "prompts.json").unlink()
    path = run / "rollouts" / "step-000001.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(
        "".join(dumps({k: line[k] for k in line if k != "weight"}) + "\n" for line in lines)
    )
    said = explain(run, "--step", 1)
    assert "holds no prompts.json, since an older version wrote it" in " ".join(said.split())
    assert "(8 − 6.25) / (1.7078 + 0.0001) = +1.0246" in said and "notice" not in said


DAMAGES: dict[str, Callable[[Path], object]] = {
    "line 3: it has no more": lambda path: path.write_text(path.read_text()[:-9] + "}\n"),
    "line 1: its judge is missing": lambda path: changed(path, 1, judge=7),
    "line 2: its span is missing": lambda path: changed(path, 2, span=["a", 3]),
    "are not 4 answers to each question": lambda path: path.write_text(
        "".join(path.read_text().splitlines(keepends=True)[:-1])
    ),
}


@pytest.mark.parametrize("words", DAMAGES)
def test_a_damaged_file_is_named(words: str, tmp_path: Path) -> None:
    run = made_up(tmp_path / "run")
    path = run / "rollouts" / "step-000001.jsonl"
    DAMAGES[words](path)
    about = "line 8" if words.startswith("line 3") else words
    refused(in_process("explain", run, "--step", 1), str(path), about, code=5)


def test_damaged_files_around_it(tmp_path: Path) -> None:
    run = made_up(tmp_path / "run")
    (run / "rubric.txt").write_bytes(b"\xff")
    refused(in_process("explain", run, "--step", 1), "rubric.txt is damaged", code=5)
    (run / "prompts.json").write_text("[]")
    refused(in_process("explain", run, "--step", 1), "prompts.json is damaged", code=5)
    (run / "metrics.jsonl").write_text("")
    (run / "prompts.json").unlink()
    (run / "rubric.txt").unlink()
    refused(in_process("explain", run, "--step", 1), "has no line for step 1", code=5)
    (run / "config.json").write_text("{}")
    refused(in_process("explain", run, "--step", 1), "no whole config of a run", code=5)


# --- words and marks -----------------------------------------------------------------------------


def test_every_reason_flag_rule_and_loss_type_has_its_words() -> None:
    assert set(WHY_UNSCORED) == {*get_args(Fault), *get_args(Reason)} - {Fault}
    assert set(WEIGHT_WORDS) == set(LOSS_TYPES)
    flags = parse_score("Score: 7 (8)\nScore: 2", finished=True)
    assert isinstance(flags, Verdict) and set(FLAG_WORDS) == set(flags.flags)
    documented = " ".join(
        (f.__doc__ or "").split("Rules:")[1] for f in (flips.commitment, flips.flip, letters.letter)
    )
    rules = {*re.findall(r'"([a-z-]+)" ?[(,]', documented), *ARE_YOU_SURE.switches["several"]}
    assert len(rules) > 10 and rules <= set(RULE_WORDS)


def test_marks_are_colours_on_a_terminal_only(tmp_path: Path) -> None:
    run, (reader, writer) = made_up(tmp_path / "run"), pty.openpty()
    typed = command("explain", run, "--step", 1)
    changes = {"TERM": "xterm", "NO_COLOR": ""}
    with subprocess.Popen(typed, stdout=writer, env=env(changes)) as process:
        os.close(writer)
        seen = b""
        while chunk := read(reader):
            seen += chunk
    assert process.returncode == 0
    assert b"Score: \x1b[1;7m8\x1b[0m" in seen and "›".encode() not in seen


def read(handle: int) -> bytes:
    """What a terminal has to say; nothing once its other end is closed."""
    try:
        return os.read(handle, 65536)
    except OSError:
        return b""


def test_what_a_model_said_commands_no_terminal_and_passes_for_no_mark() -> None:
    line = finished(marked("\x1b[2J\ue0007\ue001 a", [(9, 10)]), colour=True)
    assert line.count("\x1b") == 2 and "\ue000" not in line


def test_marks_that_overlap_are_one() -> None:
    assert finished(marked("Nauru Island", [(0, 5), (0, 12)]), False) == "›Nauru Island‹"
    assert finished(marked("A or B", [(5, 6), (0, 1)]), False) == "›A‹ or ›B‹"


def test_numbers_and_sums_as_written() -> None:
    assert [written(x) for x in (6.25, -0.00001, 10.0, None)] == ["6.25", "0", "10", "-"]
    assert written(-1.5, 2, "+", whole=True) == "−1.50" and written(120.0, 0) == "120"
    assert summed(["1"] * 40).count("+") == 10 and "(40 in all)" in summed(["1"] * 40)
    assert [*wrapped("a\n\nb", bar="| ")] == ["  | a", "  |", "  | b"]
