"""The command line as a person types it, on the bundled model."""

from __future__ import annotations

import importlib
import inspect
import json
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from command_line import command, env, minihmx, refused, small
from conftest import ROOT
from safetensors.torch import load_file, save_file
from test_train import contents

from minihmx.cli import COMMANDS, main, parse_arguments
from minihmx.commands.probe import ACTIONS as PROBES
from minihmx.config import FIELDS
from minihmx.models.known import MODELS
from minihmx.storage.disk import read_lines


@pytest.mark.slow
def test_train_prints_plan_steps_and_evaluations(tmp_path: Path) -> None:
    result = minihmx(*small(tmp_path))
    assert result.returncode == 0, result.stderr
    out = result.stdout
    for part in (
        "model      tiny (llama, ",
        "device     cpu, float32, threads 1",
        "schedule   2 epochs x 2 steps = 4 steps; 3 evaluations of 1 held-out questions x 4",
        "learning_rate = 0.0026  (model tiny)",
        "± is the standard error of a mean, the answers to one question going together",
        "evaluation before training: score ",
        "step    1/4  reward ",
        "  eta 0:00:0",
        "evaluation epoch 2 of 2: score ",
        "complete: forward, 4 steps in ",
        "; held-out score ",
    ):
        assert part in out, out
    plan, first = out.index("files      "), out.index("evaluation before")
    assert plan < first
    again = minihmx(*small(tmp_path))
    assert again.returncode == 0 and "already complete" in again.stdout


def test_help_names_every_knob_and_model() -> None:
    result = minihmx("train", "--help")
    assert result.returncode == 0
    for name in FIELDS:
        assert name == "model" or f"--{name.replace('_', '-')} " in result.stdout
    for name in MODELS:
        assert name in result.stdout
    assert "train" in minihmx("--help").stdout
    assert minihmx().returncode == 2


def test_a_sign_that_the_terminal_lacks_is_spelled_out() -> None:
    paper = minihmx("compare", "--paper", PYTHONIOENCODING="ascii")
    assert paper.returncode == 0 and paper.stdout.isascii() and "?" not in paper.stdout
    assert "BBQ accuracy_amb, %" in paper.stdout and "-3.58 +/- 0.25" in paper.stdout
    for minus in ("\N{MINUS SIGN}0.34", "\N{EN DASH}0.34"):
        assert minus.encode("latin-1", "plainly") == b"-0.34"


def test_a_verb_is_a_file_and_the_door_has_no_rules() -> None:
    """Each file in commands/ adds its arguments and runs; cli.py only knows where it is."""
    files = {path.stem for path in (ROOT / "minihmx" / "commands").glob("*.py")} - {"__init__"}
    modules = [importlib.import_module(f"minihmx.commands.{name}") for name in sorted(files)]
    assert {verb.__name__ for _, verb in COMMANDS.values()} == {m.__name__ for m in modules}
    assert len(COMMANDS) == len(files)
    for module in modules:
        for name, parameter in (("arguments", "parser"), ("run", "options")):
            function = getattr(module, name)
            assert inspect.isfunction(function) and function.__module__ == module.__name__
            assert [*inspect.signature(function).parameters] == [parameter]
    assert len((ROOT / "minihmx" / "cli.py").read_text().splitlines()) <= 150


def test_what_is_asked_of_a_benchmark_is_a_flag_in_one_place() -> None:
    """Two declarations of one flag would come to differ in type, default or words."""
    declared = {"--strength": ["evaluate"], "--data": ["data", "evaluate", "experiment"]}
    declared["--limit"] = declared["--data"][1:]  # those of experiment leave the default to eval
    for flag, files in declared.items():
        found = re.compile(rf"""add_argument\(\s*['"]{flag}['"]""")
        verbs = sorted((ROOT / "minihmx" / "commands").glob("*.py"))
        assert [p.stem for p in verbs for _ in found.finditer(p.read_text())] == files
    typed = ["--data", "sample", "--limit", "3"]
    for words in (["eval"], ["probe", "measures", "F", "R"], ["probe", "equal-kl", "F", "R"]):
        options = parse_arguments([*words, *typed])
        assert (options.data, options.limit) == ("sample", 3)
    for words in (["eval"], ["probe", "measures", "F", "R"]):
        both = parse_arguments([*words, "--strength", "0.5", "--strength", "1"])
        assert both.strengths == [0.5, 1.0] and parse_arguments(words).strengths is None
    assert parse_arguments(["chat"]).strength == 1
    assert parse_arguments(["chat", "--strength", "0.5"]).strength == 0.5


def test_every_verb_explains_itself_where_torch_is_not_installed() -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"  # importing it, or anything in it, raises ImportError
        "from minihmx.cli import COMMANDS, main\n"
        "for verb in COMMANDS:\n"
        "    try: main([verb, '--help'])\n"
        "    except SystemExit as end: print('ended', verb, end.code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for verb, (text, _) in COMMANDS.items():
        assert f"usage: minihmx {verb} [-h]" in done.stdout and f"ended {verb} 0" in done.stdout
        assert text in " ".join(done.stdout.split())


def test_no_help_is_wider_than_a_terminal_of_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = [[], *([name] for name in COMMANDS)]
    words += [["probe", name] for name in PROBES]
    words += [["sweep", name] for name in ("plan", "submit", "run", "status", "fetch", "job")]
    for each in words:
        with pytest.raises(SystemExit) as end:
            main([*each, "--help"])
        text = capsys.readouterr().out
        assert end.value.code == 0 and text.startswith(" ".join(["usage: minihmx", *each]))
        assert not [line for line in text.splitlines() if len(line) > 80], each


def test_a_command_that_a_refusal_names_is_spelled_as_the_user_s_own(tmp_path: Path) -> None:
    told = minihmx("select", tmp_path, tmp_path)
    refused(told, f"the folder that `{sys.executable} -m minihmx train` made")
    refused(minihmx("train", "--nothing"), f"`{sys.executable} -m minihmx train --help` lists them")


def killed(arguments: list[object], lines: int, seconds: float) -> bool:
    """Start, kill -9 after so many lines of progress behind the plan; False if it had finished."""
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=env({}),
    )  # fmt: skip
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        printed.append(line)
        lines -= line.startswith(("files", "step", "  saved"))
        if lines < 0:
            break
    time.sleep(seconds)
    process.kill()
    process.stdout.close()
    code = process.wait()
    assert code in (0, -signal.SIGKILL), "".join(printed)
    return code != 0


@pytest.mark.slow
def test_kill_nine_at_random_moments_and_continue(tmp_path: Path) -> None:
    """Counted in printed lines, so that a fast and a slow machine die at the same places."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    assert minihmx(*small(whole, "--epochs", 6)).returncode == 0
    arguments, dice = small(parts, "--epochs", 6), random.Random(7)
    kills = [
        killed(arguments, dice.randrange(5), dice.choice([0, 0, 0.003, 0.03])) for _ in range(8)
    ]
    assert sum(kills) >= 6
    result = minihmx(*arguments)
    assert result.returncode == 0, result.stderr
    (a,) = whole.glob("runs/tiny/forward/seed-1")
    (b,) = parts.glob("runs/tiny/forward/seed-1")
    assert contents(a) == contents(b)


def interrupted(arguments: list[object], signals: int) -> tuple[int, str]:
    """Start, wait for the first step's line, send Ctrl-C so many times."""
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=env({}),
    )  # fmt: skip
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("step    1"):
            for _ in range(signals):
                process.send_signal(signal.SIGINT)
                time.sleep(0.02)
    return process.wait(), "".join(lines)


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_continues(tmp_path: Path) -> None:
    code, out = interrupted(small(tmp_path, "--epochs", 3), 1)
    assert code == 130, out
    assert "finishing what is under way, then saving; once more to stop at once" in out
    typed = shlex.join(command(*small(tmp_path, "--epochs", 3)))
    assert out.endswith(f"is saved, and this continues it:\n  {typed}\n"), out
    (folder,) = tmp_path.glob("runs/tiny/forward/seed-1")
    assert json.loads((folder / "status.json").read_text())["state"] == "interrupted"
    result = minihmx(*small(tmp_path, "--epochs", 3))
    assert result.returncode == 0 and "steps are done" in result.stdout, result.stdout


@pytest.mark.slow
def test_ctrl_c_twice_stops_at_once(tmp_path: Path) -> None:
    code, out = interrupted(small(tmp_path, "--epochs", 3), 2)
    assert code == 130 and "Traceback" not in out, out
    assert minihmx(*small(tmp_path, "--epochs", 3)).returncode == 0


BAD = {
    "unknown model": (["train", "qwen3-4"], ["qwen3-4b", "gemma2-2b", "gated"]),
    "missing path": (["train", "./nowhere"], ["./nowhere", "does not exist"]),
    "revision of a local model": (["train", "tiny", "--revision", "x"], ["revision"]),
    "unknown flag": (["train", "tiny", "--learning-rat", "1"], ["did you mean --learning-rate?"]),
    "direction": (["train", "tiny", "--direction", "backward"], ["forward, reverse"]),
    "group of one": (["train", "tiny", "--generations", "1"], ["--generations 1", "2 or more"]),
    "no temperature": (["train", "tiny", "--temperature", "0"], ["--temperature 0"]),
    "rank": (["train", "tiny", "--lora-rank", "1000000"], ["--lora-rank", "128 wide"]),
    "absurd": (["train", "tiny", "--lora-alpha", "1e300"], ["--lora-alpha 1e+300"]),
    "no epsilon": (["train", "tiny", "--adam-epsilon", "0"], ["--adam-epsilon 0.0"]),
    "negative rate": (["train", "tiny", "--learning-rate", "-1"], ["--learning-rate -1.0"]),
    "rate nan": (["train", "tiny", "--learning-rate", "nan"], ["--learning-rate nan"]),
    "no epochs": (["train", "tiny", "--epochs", "0"], ["--epochs 0"]),
    "sequence": (["train", "tiny", "--max-sequence-length", "9999"], ["context is"]),
    "no room": (["train", "tiny", "--max-completion-length", "2000"], ["no room"]),
    "judging": (["train", "tiny", "--judge-max-tokens", "900"], ["Judging", "context"]),
    "too few": (["train", "tiny", "--prompts-per-step", "91"], ["90 training questions"]),
    "half on a cpu": (["train", "tiny", "--dtype", "float16"], ["on a CPU is refused"]),
    "targets": (["train", "tiny", "--lora-targets", "q_proj,query"], ["'query'"]),
    "no questions file": (["train", "tiny", "--questions", "none.jsonl"], ["none.jsonl"]),
    "no rubric file": (["train", "tiny", "--rubric", "none.txt"], ["none.txt"]),
}  # fmt: skip


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """The command in this process, where torch is loaded already."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess([], code, out, err)

    return run


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case: str, typed: Callable[..., Any], tmp_path: Path) -> None:
    arguments, parts = BAD[case]
    refused(typed(*arguments, "--out", tmp_path / "runs"), *parts)
    assert not (tmp_path / "runs").exists()  # nothing was begun


def test_a_gpu_that_is_not_there(
    typed: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(typed("train", "tiny", "--device", "cuda", "--out", tmp_path), "sees no GPU")


def test_a_type_that_is_none() -> None:
    result = minihmx("train", "tiny", "--epochs", "two")
    refused(result, "--epochs: 'two' is no whole number")


@pytest.mark.slow  # test_the_process_itself_ends_with_that_code is the quick one
def test_offline_and_not_cached(tmp_path: Path) -> None:
    result = minihmx("train", "qwen3-0.6b", HF_HOME=str(tmp_path))
    refused(result, "Qwen/Qwen3-0.6B", code=4)


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _garbage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x00" * 500)


def _wrong_shape(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:5].clone()
    save_file(tensors, path)


def _other_family(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mistral"}))


def _no_eos(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["eos_token_id"]
    (folder / "config.json").write_text(json.dumps(config))


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _base_model(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for token in tokenizer["added_tokens"]:
        if token["content"] == "<|user|>":
            token["content"] = "<|nobody|>"
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (_no_weights, ["safetensors"]),
        (_truncated, ["model.safetensors"]),
        (_garbage, ["model.safetensors"]),
        (_wrong_shape, ["model.norm.weight"]),
        (_other_family, ["mistral", "llama, qwen2, qwen3, gemma2"]),
        (_no_eos, ["eos_token_id"]),
        (_no_tokenizer, ["tokenizer.json"]),
        (_base_model, ["chat"]),
    ],
)
def test_a_model_that_cannot_be_used(
    damage: Callable[[Path], None], parts: list[str], typed: Callable[..., Any], tmp_path: Path
) -> None:
    folder = toy.model(tmp_path / "toy")
    damage(folder)
    refused(typed("train", folder, "--out", tmp_path / "runs"), *parts)
    assert not (tmp_path / "runs").exists() or damage in (_truncated, _wrong_shape, _garbage)


def test_a_question_longer_than_the_context(typed: Callable[..., Any], tmp_path: Path) -> None:
    path = toy.questions(tmp_path / "q.jsonl")
    long = json.loads(path.read_text().splitlines()[0]) | {"id": "long", "text": "why " * 900}
    path.write_text(path.read_text() + json.dumps(long) + "\n")
    refused(typed("train", "tiny", "--questions", path), "Question long is", "tokens long")


@pytest.mark.slow
def test_a_run_of_another_config_is_refused_and_kept(
    typed: Callable[..., Any], tmp_path: Path
) -> None:
    assert minihmx(*small(tmp_path)).returncode == 0
    (folder,) = tmp_path.glob("runs/tiny/forward/seed-1")
    before = contents(folder)
    refused(typed(*small(tmp_path, "--beta", 0.5)), "beta is 0.04 there and 0.5 here")
    assert contents(folder) == before
    assert len(read_lines(folder / "metrics.jsonl")) == 7


def test_a_file_where_the_runs_should_be(typed: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(typed("train", "tiny", "--out", tmp_path / "file"), f"{tmp_path}/file is no folder")
