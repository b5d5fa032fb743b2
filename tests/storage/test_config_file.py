"""Config files: every field, what goes before what, where it came from, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import toy
from command_line import in_process, refused

from minihmx.config import FIELDS, NOT_ZERO, resolve_config
from minihmx.errors import UserError
from minihmx.run import open_run
from minihmx.storage.config_file import merge_flags, read_values
from minihmx.storage.strict import read_json

OTHER: dict[str, Any] = {  # a value that is not the default, for what cannot be any
    "direction": "reverse",
    "chat_format": "qwen3",
    "loss_type": "grpo",
    "lora_targets": "q_proj,v_proj",
    "dtype": "bfloat16",
    "device": "cpu",
    "checkpointing": "on",
    "amax": "on",
    "judge_reason": "never",
    **dict.fromkeys(("sampler", "judge_sampler", "eval_sampler"), "top_p=0.9"),
    "stop_ids": "1,107",
    "unscored": "zero",
    "advantage_divisor": "none",
    "truncated": "masked",
    "first_rate": "zero",
    "adam_beta1": 0.5,
    "adam_beta2": 0.5,
    "warmup_ratio": 0.5,
}


def other(name: str) -> Any:
    default = FIELDS[name].default
    plain = default + 1 if not isinstance(default, str) else f"{default}x"
    return OTHER.get(name, plain)


def written(folder: Path, text: str, name: str = "run.toml") -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_can_stand_in_a_file_and_a_flag_goes_before_it(
    name: str, tmp_path: Path
) -> None:
    value = other(name)
    path = written(tmp_path, f"{name} = {json.dumps(value)}  # why\n")
    file = read_values(str(path))
    values, came_from = merge_flags({}, file)
    config, sources = resolve_config(values, None, "", 10**6, came_from, "none of them")
    assert getattr(config, name) == value != FIELDS[name].default
    assert sources == dict.fromkeys(FIELDS, "default") | {name: f"file {path}"}
    values, came_from = merge_flags({name: FIELDS[name].default}, file)
    config, sources = resolve_config(values, None, "", 10**6, came_from)
    assert getattr(config, name) == FIELDS[name].default and sources[name] == "flag"


def test_a_default_of_the_device_goes_before_the_default() -> None:
    found = [resolve_config({}, None, "", 640, device=device) for device in ("cpu", "cuda", "mps")]
    assert [config.logit_chunk for config, _ in found] == [2048, 8192, 8192]
    assert [sources["logit_chunk"] for _, sources in found] == ["device cpu", "default", "default"]


def test_a_file_goes_before_the_row_of_the_model() -> None:
    values = {"model": "tiny", "beta": 0.5}
    config, sources = resolve_config(values, "tiny", "llama", 640, {"beta": "file a"})
    assert config.beta == 0.5 and sources["beta"] == "file a" and sources["epochs"] == "model tiny"
    with pytest.raises(UserError, match=r"^With file a: --beta -1.0 cannot work"):
        resolve_config({"beta": -1.0}, "tiny", "llama", 640, {"beta": "file a"})
    longer = {"max_sequence_length": 9999}
    with pytest.raises(UserError, match=r"With file a: --max-sequence-length 9999 .*context is"):
        resolve_config(longer, None, "", 640, dict.fromkeys(longer, "file a"))


@pytest.mark.parametrize("name", [*NOT_ZERO, "beta"])
def test_a_number_out_of_bounds_is_only_told_to_be_0_where_0_works(name: str) -> None:
    with pytest.raises(UserError) as refusal:
        resolve_config({name: -1.0}, None, "", 640)
    assert ("must be 0, or a number from" in str(refusal.value)) is (name not in NOT_ZERO)
    if name in NOT_ZERO:
        with pytest.raises(UserError, match=NOT_ZERO[name]):
            resolve_config({name: 0.0}, None, "", 640)


def test_a_run_from_a_file_and_the_same_from_its_config(tmp_path: Path) -> None:
    """The second has all values, and the same fingerprint, from the first one's config.json."""
    flags = toy.flags(tmp_path)
    lines = [f"{name} = {json.dumps(value)}" for name, value in flags.items()]
    path = written(tmp_path, "\n".join(lines))
    done = in_process("train", "--config", path, "--epochs", 1)
    assert done.returncode == toy.ENDED, done.stderr
    assert f"judge_max_tokens = 4  (file {path})" in done.stdout
    (folder,) = (tmp_path / "runs").glob("toy-*/forward/seed-1")
    config = read_json(folder / "config.json")
    assert config["sources"]["epochs"] == "flag" and config["science"]["epochs"] == 1
    assert config["sources"]["learning_rate"] == f"file {path}"
    assert config["sources"]["beta"] == "default"
    again = ["train", "--config", folder / "config.json"]
    done = in_process(*again)
    assert done.returncode == toy.ENDED and "already complete" in done.stdout, done.stderr
    done = in_process(*again, "--out", tmp_path / "again")
    assert done.returncode == toy.ENDED, done.stderr
    (copy,) = (tmp_path / "again").glob("toy-*/forward/seed-1")
    assert (copy / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()
    second = read_json(copy / "config.json")
    assert second["fingerprint"] == config["fingerprint"]
    assert second["sources"]["beta"] == f"file {folder / 'config.json'}"
    assert in_process("doctor", "--config", folder / "config.json").returncode == 0


def test_other_questions_than_those_of_the_run_are_refused(tmp_path: Path) -> None:
    done = in_process("train", *typed(toy.flags(tmp_path, epochs=1)))
    assert done.returncode == toy.ENDED, done.stderr
    (folder,) = (tmp_path / "runs").glob("toy-*/forward/seed-1")
    toy.questions(tmp_path / "questions.jsonl", train=5)
    again = ["train", "--config", folder / "config.json", "--out", tmp_path / "again"]
    refused(in_process(*again), "questions had another content", f"{folder / 'questions.jsonl'}")
    assert not (tmp_path / "again").exists()
    kept = in_process(*again, "--questions", folder / "questions.jsonl")
    assert kept.returncode == toy.ENDED, kept.stderr
    asked_for = in_process(*again, "--questions", tmp_path / "questions.jsonl", "--seed", 2)
    assert asked_for.returncode == toy.ENDED, asked_for.stderr
    file = read_values(str(folder / "config.json"))
    toy.questions(tmp_path / "questions.jsonl")
    config = read_json(tmp_path / "toy" / "config.json")
    (tmp_path / "toy" / "config.json").write_text(json.dumps(config | {"rope_theta": 5000.0}))
    with pytest.raises(UserError, match="model had another content"):
        open_run({"out": str(tmp_path / "third")}, file)


def typed(flags: dict[str, object]) -> list[object]:
    """Values as flags of the command line."""
    model = flags.pop("model")
    return [model, *(w for n, v in flags.items() for w in (f"--{n.replace('_', '-')}", v))]


BAD = {
    "unknown": ("epoch = 2", ["'epoch' is no field", "did you mean epochs?"]),
    "with dashes": ("lora-rank = 2", ["'lora-rank' is no field", "did you mean lora_rank?"]),
    "a table": ("[optimizer]\nepochs = 2", ["'optimizer' is a table", "--help"]),
    "text for a number": ('epochs = "2"', ["epochs = '2' is no whole number", "`epochs = 10`"]),
    "half": ("epochs = 2.5", ["epochs = 2.5 is no whole number"]),
    "truth": ("beta = true", ["beta = True is no number"]),
    "a switch": ("amax = true", ["amax = True is no text in quotes", '`amax = "off"`']),
    "a list": ('lora_targets = ["q_proj"]', ["is no text in quotes", '"q_proj,k_proj,']),
    "a date": ("date = 2024-07-26", ["is no text in quotes", "26 Jul 2024"]),
    "no text": ("date = 26 Jul 2024", ["not valid TOML", "line 1", "text stands in quotes"]),
    "twice": ("epochs = 2\nepochs = 3\n", ["not valid TOML", "line 2"]),
    "not finite": ("beta = nan", ["With file ", "--beta nan cannot work"]),
    "no choice": ('loss_type = "grop"', ["With file ", "perhaps grpo"]),
    "deep": ("a = " + "[" * 5000, ["config"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case: str, tmp_path: Path) -> None:
    text, parts = BAD[case]
    path = written(tmp_path, text)
    result = in_process("train", "tiny", "--config", path, "--out", tmp_path / "runs")
    refused(result, str(path), *parts)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("name", "data", "parts"),
    [
        ("none.toml", None, ["cannot be read (No such file"]),
        ("bytes.toml", b"date = '\xff'", ["not valid TOML"]),
        ("half.json", b"{", ["not valid JSON"]),
        ("list.json", b"[]", ["no config.json of a run"]),
        ("plain.json", b'{"epochs": 2}', ["no config.json of a run"]),
        (
            "later.json",
            b'{"science": {"warmth": 2}, "settings": {}}',
            ["'warmth' is no field that minihmx ", "another version made that run"],
        ),
    ],
)
def test_files_that_are_none(
    name: str, data: bytes | None, parts: list[str], tmp_path: Path
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    refused(in_process("train", "--config", tmp_path / name), name, *parts)
    refused(in_process("train", "--config", tmp_path), "folder")
