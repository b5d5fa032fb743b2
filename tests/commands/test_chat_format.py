"""`--chat-format` and the notice on an unknown template, wherever a model is asked something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import templates
import toy
from command_line import in_process, refused

NOTICE = "so the format chatml is taken"
TINY = ("--max-completion-length", 4, "--judge-max-tokens", 2, "--eval-samples", 1, "--epochs", 1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A toy in ChatML whose template is none of the known ones."""
    folder = templates.chatml_model(tmp_path / "toy")
    (folder / "chat_template.jinja").write_text("{{ 'what nobody knows' }}")
    return folder


def train(model: Path, *more: object) -> Any:
    questions = toy.questions(model.parent / "q.jsonl", train=2, held_out=1)
    out = ("--questions", questions, "--out", model.parent / "runs")
    return in_process("train", model, *out, *TINY, *more)


def config(model: Path) -> dict[str, Any]:
    (path,) = (model.parent / "runs").glob("*/forward/seed-1/config.json")
    return dict(json.loads(path.read_text()))


def test_training_says_which_format_it_takes_and_records_it(model: Path) -> None:
    done = train(model)
    assert done.returncode == toy.ENDED, done.stderr
    (notice,) = (line for line in done.stdout.splitlines() if NOTICE in line)
    assert notice.startswith("notice     the chat template of ") and "--chat-format" in notice
    assert config(model)["science"]["chat_format"] == "chatml"
    assert config(model)["sources"]["chat_format"] == "default"
    again = train(model, "--chat-format", "chatml")  # what it was, now said by the user
    assert again.returncode == toy.ENDED and NOTICE not in again.stdout
    other = train(model, "--chat-format", "qwen2.5")
    refused(other, "chat_format is 'chatml' there and 'qwen2.5' here")


def test_a_format_of_one_s_own_is_what_the_run_is_asked_in(model: Path) -> None:
    done = train(model, "--chat-format", "smollm2")
    assert done.returncode == toy.ENDED and "notice" not in done.stdout
    assert "chat_format = smollm2  (flag)" in done.stdout
    (path,) = (model.parent / "runs").glob("*/forward/seed-1/prompts.json")
    assert "named SmolLM" in json.loads(path.read_text())["before"]
    refused(train(model), "chat_format is 'smollm2' there and 'chatml' here")
    run = str(path.parent)
    said = in_process(
        "chat", model, "--adapter", run, "--prompt", "Hi", "--max-completion-length", 4
    )
    assert "trained on prompts in the chat format 'smollm2', and is asked in chatml" in said.stdout
    same = ("--chat-format", "smollm2", "--adapter", run, "--prompt", "Hi")
    said = in_process("chat", model, *same, "--max-completion-length", 4)
    assert said.returncode == 0 and "smollm2 chat" in said.stdout and "notice" not in said.stdout


@pytest.mark.parametrize(
    "verb", ["train", "eval", "chat", "doctor", "doctor --judge", "experiment"]
)
def test_a_format_that_the_tokenizer_cannot_write_is_refused(verb: str, model: Path) -> None:
    words: list[object] = [*verb.split(), model, "--chat-format", "llama3"]
    words += ["--tasks", "bbq", "--data", "sample"] if verb == "eval" else []
    words += ["--prompt", "Hi"] if verb == "chat" else []
    words += ["--out", model.parent / "runs"] if verb in ("train", "eval", "experiment") else []
    refused(in_process(*words), "--chat-format llama3 writes the control tokens", "give chatml or")
    assert not (model.parent / "runs").exists()


def test_an_unknown_name_is_refused(model: Path) -> None:
    refused(train(model, "--chat-format", "qwen2"), "--chat-format qwen2 cannot work", "qwen3")


def evaluated(model: Path, *more: object) -> Any:
    data = ("--data", "sample", "--limit", 1, "--samples", 1)
    return in_process("eval", model, "--out", model.parent / "runs", *data, *more)


def test_an_evaluation_in_chat_records_the_format_and_json_stays_json(model: Path) -> None:
    asked = ("--tasks", "are_you_sure", "--json")
    done = evaluated(model, *asked)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["settings"]["chat_format"] == "chatml"
    assert NOTICE in done.stderr
    other = evaluated(model, *asked, "--chat-format", "smollm2")
    settings = json.loads(other.stdout)["settings"]
    assert settings["chat_format"] == "smollm2" and NOTICE not in other.stderr
    assert json.loads(other.stdout)["folder"] != json.loads(line)["folder"]
    assert NOTICE in evaluated(model, "--tasks", "are_you_sure").stdout


def test_without_chat_there_is_no_format_and_no_notice(model: Path) -> None:
    done = evaluated(model, "--tasks", "bbq", "--json")
    assert done.returncode == 0 and NOTICE not in done.stdout + done.stderr
    assert "chat_format" not in json.loads(done.stdout)["settings"]


def test_chat_and_doctor_say_it_too(model: Path) -> None:
    said = in_process("chat", model, "--prompt", "Hi", "--max-completion-length", 4)
    assert said.returncode == 0 and f"notice   the chat template of {model}" in said.stdout
    text = in_process("doctor", model)
    assert text.returncode == 0 and "notice     the chat template" in text.stdout
    report = json.loads(in_process("doctor", model, "--json").stdout)
    assert report["settings"]["chat_format"] == "chatml" and NOTICE in report["notices"][0]
    quiet = json.loads(in_process("doctor", model, "--json", "--chat-format", "qwen2.5").stdout)
    assert quiet["settings"]["chat_format"] == "qwen2.5" and quiet["notices"] == []
    judge = in_process(
        "doctor", "--judge", model, "--json", "--samples", 2, "--judge-max-tokens", 1
    )
    assert NOTICE in json.loads(judge.stdout)["notices"][0]
    plan = in_process("experiment", model, "--tasks", "none", "--dry-run")
    assert plan.returncode == 0 and f"  notice      the chat template of {model}" in plan.stdout
