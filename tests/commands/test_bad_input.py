"""Bad input as a person types it: one sentence, the right exit code, and nothing on disk changed.

Each case starts from a model and a run that work, breaks one thing and types one command.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from conftest import ROOT
from safetensors.torch import load_file, save_file

from minihmx import cli
from minihmx.cli import LONGEST_MESSAGE, main
from minihmx.engine import open as opening
from minihmx.errors import as_failure
from minihmx.judge import RUBRIC, doubts
from minihmx.models.folder import INDEX
from minihmx.run import open_run
from minihmx.train import train

Damage = Callable[[Path], object]
SIZES = ["--epochs", 1, "--max-completion-length", 4, "--judge-max-tokens", 4]
SIZES += ["--eval-samples", 1, "--generations", 2, "--lora-rank", 4]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """toy/, questions.jsonl, and a finished run of one epoch under runs/."""
    folder = tmp_path_factory.mktemp("bad-input")
    toy.model(folder / "toy")
    flags = dict(zip(SIZES[::2], SIZES[1::2], strict=True))
    flags = {str(flag).strip("-").replace("-", "_"): value for flag, value in flags.items()}
    paths = {"model": folder / "toy", "out": folder / "runs"}
    paths["questions"] = toy.questions(folder / "questions.jsonl", train=2, held_out=1)
    ready = open_run(flags | {name: str(path) for name, path in paths.items()})
    for _ in train(ready):
        pass
    ready.store._lock.close()
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to break. It is the current folder, so that what is typed is short."""
    monkeypatch.chdir(shutil.copytree(made, tmp_path / "here"))
    (next(Path.cwd().glob("runs/*"))).rename("runs/toy")
    return Path.cwd()


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every name below a folder, with the content of what is a file."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def refused(
    place: Path, capsys: pytest.CaptureFixture[str], typed: str, *parts: str, code: int = 2
) -> str:
    """Type it; returns the sentence, which holds the parts."""
    capsys.readouterr()
    before = snapshot(place)
    found = main([str(word) for word in typed.split()])
    message = capsys.readouterr().err
    assert found == code, message
    assert message.startswith("minihmx: ") and message.count("\n") == 1, message
    assert message.rstrip()[-1] in ".?}" and len(message) < 900, message
    assert "Traceback" not in message and ("  " not in message or "owned" in message), message
    for part in parts:
        assert part in message, message
    assert snapshot(place) == before
    return message


def change(path: Path, **values: Any) -> None:
    """Change keys of a JSON file; a value of ... is left out. No manifest vouches for it then."""
    document = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: v for key, v in document.items() if v is not ...}))
    (path.parent / "manifest.json").unlink(missing_ok=True)


def weigh(path: Path, changed: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of a file."""
    tensors = load_file(path)
    changed(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    (path.parent / "manifest.json").unlink(missing_ok=True)


# --- what is typed --------------------------------------------------------------------------------

TYPED = {
    "train qwen3-4": ["qwen3-4b", "8 GB", "gemma2-2b (2.6B, 5.2 GB, gated)", "did you mean"],
    "train llama": ["Unknown model 'llama'", "did you mean", "llama3.2-3b"],
    "train ./nowhere": ["./nowhere does not exist"],
    "train ~nobody-at-all/toy": ["~nobody-at-all/toy does not exist"],
    "train questions.jsonl": ["questions.jsonl is a file"],
    "train runs": ["runs holds no config.json"],
    "train runs/toy/forward/seed-1/checkpoints/epoch-01": ["is a LoRA adapter, not a model"],
    "train runs/toy/forward/seed-1": ["is a run", "name the model that it trained"],
    "train tiny --revision main": ["has no revision"],
    "train tiny --epoch 3": ["--epoch is no option", "did you mean --epochs?"],
    "trian tiny": ["trian is no command", "did you mean train?"],
    "tiny": ["tiny is no command", "did you mean train?"],
    "?": ["? is no command; there are train, eval"],
    "--quiet": ["arguments are required: command", "`minihmx --help`"],
    "train tiny --epochs 1.5": ["--epochs: '1.5' is no whole number", "`minihmx train --help`"],
    "train tiny --beta x": ["--beta: 'x' is no number"],
    "train tiny --seed": ["--seed: expected one argument"],
    "train tiny toy": ["'toy' is one word too many"],
    "train tiny toy --epoch 3": ["--epoch is no option", "did you mean --epochs?"],
    "train tiny --xyzzy": ["--xyzzy is no option of `minihmx train`; `minihmx train --help` lists"],
    "chat toy --dtype int8": ["--dtype: invalid choice: 'int8'", "float16"],
    "export": ["arguments are required: run"],
    "train tiny --epochs 0": ["--epochs 0", "from 1"],
    "train tiny --epochs 99999999999999": ["--epochs 99999999999999", "to 2147483647"],
    "train tiny --threads 100000": ["--threads 100000", "from 0 to 1024"],
    "train tiny --generations 2000000000": ["--generations 2000000000", "4096"],
    "train tiny --seed -1": ["--seed -1", "from 0"],
    "train tiny --seed 99999999999999999999": ["--seed 99999999999999999999"],
    "train tiny --out=": ["--out", "is empty"],
    "train tiny --lora-targets=": ["--lora-targets", "q_proj"],
    "train tiny --lora-rank 4096": ["--lora-rank 4096", "128 wide"],
    "train tiny --beta nan": ["--beta nan"],
    "train tiny --dtype float16": ["on a CPU is refused", "--dtype"],
    "train tiny --dtype bfloat16": ["on a CPU is refused", "--dtype"],
    "train tiny --max-completion-length 5000": ["no room is left"],
    "train tiny --max-sequence-length 5000": ["context is 1024"],
    "train tiny --judge-max-tokens 1000": ["Judging", "--judge-max-tokens"],
    "train tiny --prompts-per-step 91": ["90 training questions"],
    "train tiny --questions ~nobody-at-all/q": ["~nobody-at-all/q does not exist", "no home"],
    "train tiny --out ~nobody-at-all/runs": ["~nobody-at-all/runs does not exist", "no home"],
    "eval tiny --tasks bbq --data sample --out ~nobody-at-all/x": ["~nobody-at-all/x does not"],
    "eval tiny --tasks bbq --data ~nobody-at-all/x": ["~nobody-at-all/x does not exist"],
    "doctor tiny --out ~nobody-at-all/x": ["~nobody-at-all/x does not exist"],
    "chat toy --prompt Hi --adapter ~nobody-at-all/x@epoch-01": ["~nobody-at-all", "no home"],
    "export runs/toy/forward/seed-1 --merge --out ~nobody-at-all/x": ["~nobody-at-all/x does not"],
    "export runs/toy/forward/seed-1 --merge --out=": ["--out is empty"],
    "export runs/toy/forward/seed-1 --merge --model=": ["Unknown model ''"],
    "train tiny --temperature 1e-300": ["--temperature 1e-300", "from 0.0001 to 1e30"],
    "eval tiny --tasks bbq --data sample --temperature 1e-5": ["--temperature 1e-05", "0.0001"],
    "chat toy --prompt Hi --temperature 1e-300": ["--temperature 1e-300", "from 0.0001"],
    "chat toy --prompt Hi --temperature 1e300": ["--temperature 1e+300", "to 1e30"],
    "chat toy --prompt Hi --seed -1": ["--seed -1", "from 0 to"],
    "eval tiny --tasks bbq --data sample --samples 1000000000": ["--samples 1000000000", "4096"],
    "eval tiny --tasks bbq --data sample --batch-tokens 0": ["--batch-tokens 0", "from 1"],
    "doctor tiny --gpu 1e300": ["--gpu 1e+300", "in GiB"],
    "doctor tiny --gpu nan": ["--gpu nan", "in GiB"],
    "train tiny --rubric toy": ["The rubric file toy", "directory"],
    "train tiny --questions toy": ["The question file toy", "directory"],
    "train toy --questions questions.jsonl --beta 0.5": ["of another config", "beta is 0.001"],
    "chat toy --prompt Hi --adapter nowhere": ["no run or adapter at nowhere"],
    "chat toy --prompt Hi --adapter questions.jsonl": ["no run or adapter at questions.jsonl"],
    "chat toy --prompt Hi --adapter toy": ["toy is no adapter", "adapter_config.json"],
    "chat toy --prompt Hi --adapter runs/toy/forward/seed-1@epoch-9": ["there are epoch-00"],
    "chat toy --prompt Hi --adapter runs/toy/forward/seed-1@../..": ["no checkpoint '../..'"],
    "chat tiny --prompt Hi --adapter runs/toy/forward/seed-1": ["does not fit", "lacks"],
    "export runs/toy/forward/seed-1 --dtype float32": ["give --merge"],
    "export runs/toy/forward/seed-1 --out toy": ["toy exists and is not overwritten"],
    "log nowhere --to tensorboard": ["nowhere holds no config.json, so it is no run"],
    "log runs/toy/forward/seed-1 --to tensorboards": ["--to: invalid choice: 'tensorboards'"],
    "train --config nowhere.toml": ["nowhere.toml cannot be read"],
    "train --config questions.jsonl": ["questions.jsonl is not valid TOML"],
    "train --config ~nobody-at-all/x": ["~nobody-at-all/x does not exist"],
    "doctor --gpu RTX9090": ["--gpu 'RTX9090' is not known", "its memory in GiB"],
    "export nowhere --merge": ["no run or adapter at nowhere"],
    "export runs/toy/forward/seed-1 --merge --out toy": ["toy exists and is not overwritten"],
    "export runs/toy/forward/seed-1 --merge --model tiny": ["does not fit", "lacks"],
    "export runs/toy/forward/seed-1 --merge --model nothing": ["Unknown model 'nothing'"],
    "doctor tiny --gpu 0": ["--gpu 0"],
    "doctor tiny --judge tiny": ["Two models"],
    "doctor --judge tiny --gpu 8": ["--gpu plans a run"],
    "doctor tiny --samples 3": ["give --judge"],
    "train tiny --questions /dev/zero": ["/dev/zero is no ordinary file"],
    "doctor tiny --rubric /dev/zero": ["/dev/zero is no ordinary file"],
}  # fmt: skip


@pytest.mark.parametrize("typed", TYPED)
def test_typed(
    typed: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "cpu_has_bfloat16", lambda: False)  # wherever the tests run
    if typed.startswith("train toy"):
        typed += " --out runs " + " ".join(map(str, SIZES))
        Path("runs/toy").rename(f"runs/{run_name(place)}")
    refused(place, capsys, typed, *TYPED.get(typed, TYPED[typed.partition(" --out runs ")[0]]))


BYTES = "caf\udce9"  # Latin-1 as Python hands it over


@pytest.mark.parametrize(
    "typed",
    [
        f"train tiny --date {BYTES}",
        f"train {BYTES}",
        f"train tiny --out {BYTES}",
        f"train tiny --revision {BYTES}",
        f"eval tiny --tasks bbq --data sample --date {BYTES}",
        f"eval tiny --tasks bbq --data sample --out {BYTES}",
        f"eval tiny --tasks bbq --data sample --adapter {BYTES}",
        f"chat toy --prompt Hi --adapter {BYTES}",
        f"export {BYTES} --merge",
        f"doctor --judge {BYTES}",
        f"data check bbq --data {BYTES}",
        f"data list bbq {BYTES}",
        f"{BYTES}",
        f"train tiny --{BYTES}",
        f"train tiny --epochs {BYTES}",
    ],
)
def test_what_is_not_utf_8_is_refused_before_anything_begins(
    typed: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(place, capsys, typed, "caf")


def test_a_model_at_a_path_that_is_not_utf_8(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree("toy", f"{BYTES}/toy")
    monkeypatch.chdir(BYTES)
    refused(place, capsys, "train toy --questions ../questions.jsonl", "not UTF-8", "rename")


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("chat toy --max-completion-length 4", 0),
        ("chat toy --max-completion-length 4 --prompt Hi", 0),
        ("data list bbq", 0),
        ("train nothing", 2),
    ],
)
def test_streams_that_are_closed(words: str, code: int, closed: str, place: Path) -> None:
    """What only prints has nobody to print for where stdout is closed."""
    code = 4 if code == 0 and ">&-" in closed.replace("2>&-", "") else code
    script = f'"{sys.executable}" -m minihmx {words} {closed}'
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    assert bool(done.stderr) == (code != 0 and "2>" not in closed)


@pytest.mark.parametrize(
    "words",
    [
        "data list",
        "data check bbq --data sample",
        "doctor tiny",
        "doctor --judge tiny",
        "chat tiny",
    ],
)
def test_stdout_that_is_closed_is_no_success(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "open_streams", lambda: ["stdout"])
    assert main(words.split()) == 4
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert said.err.startswith("minihmx: stdout is closed, and all that `minihmx")
    assert "> FILE" in said.err


@pytest.mark.parametrize(
    "words", ["train nothing", "eval nothing", "export no --merge", "data get x"]
)
def test_what_leaves_files_goes_on_where_stdout_is_closed(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "open_streams", lambda: ["stdout"])
    assert main(words.split()) == 2
    assert "stdout" not in capsys.readouterr().err


def test_a_process_whose_stdout_is_closed_says_so() -> None:
    script = f'"{sys.executable}" -m minihmx data list >&-'
    done = subprocess.run(["sh", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 4 and done.stderr.startswith("minihmx: stdout is closed")


def test_no_file_gets_the_number_of_a_closed_stream(place: Path) -> None:
    """Where it did, a line for the terminal would stand in the middle of a file."""
    code = (
        "import os, sys; from minihmx.cli import main; main(['data', 'list', 'bbq']);"
        "handle = os.open('new', os.O_CREAT | os.O_WRONLY); os.write(2, b'x'); print('y');"
        "sys.exit(handle)"
    )
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env, script = os.environ | {"PYTHONPATH": path}, f'"{sys.executable}" -c "{code}" <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", script], env=env)
    assert done.returncode >= 3 and Path("new").read_bytes() == b""


def run_name(place: Path) -> str:
    from minihmx.models import hub

    return hub.resolve(str(place / "toy")).run_name


@pytest.mark.parametrize("command", ["train {}", "chat toy --prompt Hi --adapter {}"])
def test_a_name_longer_than_any_file_s(
    command: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(place)
    assert main(command.format("x" * 9000).split()) == 2
    message = capsys.readouterr().err
    assert (
        "[...]" in message
        and len(message) < LONGEST_MESSAGE + 50
        and message.rstrip().endswith(".")
    )
    assert snapshot(place) == before


def test_nothing_that_a_terminal_obeys_is_quoted(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model's files may come from anyone."""
    evil = "\x1b]0;owned\x07\x1b[2J\nminihmx: all is well"
    weigh(place / "toy/model.safetensors", lambda t: t.update({evil: torch.ones(1)}))
    message = refused(place, capsys, "train toy", "owned")
    assert message.rstrip("\n").isprintable()


def test_the_process_itself_ends_with_that_code(place: Path) -> None:
    words = [sys.executable, "-m", "minihmx", "train", "qwen3-0.6b"]
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "hf")}
    done = subprocess.run(words, env=offline, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert not done.stdout or done.stdout.startswith("warning    qwen3-0.6b is large for a CPU")
    assert "Qwen/Qwen3-0.6B" in done.stderr and not (place / "runs/qwen3-0.6b").exists()


# --- a model's folder -----------------------------------------------------------------------------


def put(name: str, data: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(data)


def but(name: str, **values: Any) -> Damage:
    return lambda folder: change(folder / name, **values)


def cut(name: str, bytes_left: int) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:bytes_left])


def renamed(name: str, new: str) -> Damage:
    return lambda folder: (folder / name).rename(folder / new)


def folder_instead(name: str) -> Damage:
    return lambda folder: ((folder / name).unlink(), (folder / name).mkdir())


def _wrong_shape(folder: Path) -> None:
    norm = "model.norm.weight"
    weigh(folder / "model.safetensors", lambda t: t.update({norm: t[norm][:5]}))


def _missing_tensor(folder: Path) -> None:
    weigh(folder / "model.safetensors", lambda t: t.pop("model.norm.weight"))


def _base_model(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text().replace("<|user|>", "<|nobody|>")
    (folder / "tokenizer.json").write_text(text)


SECRET = b'{"weight_map": {"model.norm.weight": "../questions.jsonl.safetensors"}}'
MODELS: dict[str, tuple[Damage, list[str]]] = {
    "cut": (cut("model.safetensors", -100), ["model.safetensors", "cut short", "again"]),
    "cut in its header": (cut("model.safetensors", 99), ["model.safetensors", "cut short"]),
    "empty": (put("model.safetensors", b""), ["model.safetensors", "cut short"]),
    "zeros": (put("model.safetensors", bytes(500)), ["model.safetensors", "corrupt"]),
    "a header of 8 EiB": (put("model.safetensors", b"\xff" * 8 + b"{}"), ["corrupt"]),
    "another shape": (_wrong_shape, ["model.norm.weight has shape [5]", "[32]"]),
    "a tensor gone": (_missing_tensor, ["lacks the tensor model.norm.weight"]),
    "pickled": (renamed("model.safetensors", "pytorch_model.bin"), ["only safetensors", ".bin"]),
    "torch's": (renamed("model.safetensors", "model.pt"), ["only safetensors", "model.pt"]),
    "a folder": (folder_instead("model.safetensors"), ["only safetensors"]),
    "a way out": (put(INDEX, SECRET), [INDEX, "../questions.jsonl.safetensors"]),
    "another family": (but("config.json", model_type="mistral"), ["'mistral'", "qwen2, qwen3"]),
    "no family": (but("config.json", model_type=...), ["model_type None"]),
    "quantised": (but("config.json", quantization_config={"bits": 4}), ["quantised"]),
    "no layers": (but("config.json", num_hidden_layers=0), ["num_hidden_layers is 0"]),
    "too many": (but("config.json", num_hidden_layers=10**15), ["num_hidden_layers is 1000"]),
    "no eos": (but("config.json", eos_token_id=...), ["eos_token_id"]),
    "a key twice": (put("config.json", b'{"a": 1, "a": 2}'), ["'a' is there twice", "again"]),
    "NaN": (put("config.json", b'{"rope_theta": NaN}'), ["NaN is no finite number"]),
    "no JSON": (put("config.json", b"model_type: llama"), ["config.json is not valid JSON"]),
    "no object": (put("config.json", b"[]"), ["config.json holds no JSON object"]),
    "UTF-16": (put("config.json", b"\xff\xfe{\0}\0"), ["config.json is not valid JSON"]),
    "nested": (put("config.json", b"[" * 9999), ["nested more than 64 deep"]),
    "no tokenizer": (renamed("tokenizer.json", "tokenizer.model"), ["only tokenizer.model"]),
    "half a tokenizer": (cut("tokenizer.json", 999), ["tokenizer.json is damaged"]),
    "a base model": (_base_model, ["chat"]),
    "more tokens": (but("config.json", vocab_size=100), ["tokens of", "only 100"]),
}  # fmt: skip


@pytest.mark.parametrize("case", MODELS)
def test_a_model(case: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage, parts = MODELS[case]
    damage(place / "toy")
    refused(place, capsys, "train toy", *parts)


def test_a_model_with_a_byte_order_mark_and_windows_line_ends(place: Path) -> None:
    config = (place / "toy/config.json").read_text().replace(",", ",\r\n")
    (place / "toy/config.json").write_bytes(b"\xef\xbb\xbf" + config.encode())
    typed = ["train", "toy", "--questions", "questions.jsonl", *map(str, SIZES)]
    assert main(typed) == toy.ENDED


# --- an adapter -----------------------------------------------------------------------------------

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def tensors(changed: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    return lambda folder: weigh(folder / WEIGHTS, changed)


def unsealed(damage: Damage) -> Damage:
    """As from elsewhere, without a manifest."""
    return lambda folder: ((folder / "manifest.json").unlink(), damage(folder))


def _without_layer(t: dict[str, torch.Tensor]) -> None:
    for name in [name for name in t if ".layers.1." in name]:
        del t[name]


ADAPTERS: dict[str, tuple[Damage, list[str], int]] = {
    "a byte": (put(CONFIG, b"{}"), ["differs from its manifest"], 5),
    "a manifest that leads out": (
        put("manifest.json", b'{"sha256": {"../../config.json": "0"}}'),
        ["'../../config.json', no file of its own folder"],
        5,
    ),
    "a manifest of nothing": (put("manifest.json", b'{"sha256": {}}'), ["names no files"], 5),
    "a key missing": (tensors(lambda t: t.pop(FIRST)), [f"lacks {FIRST!r}", "in part"], 2),
    "a layer missing": (tensors(_without_layer), ["lacks", "(14 names differ)"], 2),
    "a key too many": (
        tensors(lambda t: t.update({FIRST.replace("layers.0", "layers.9"): t[FIRST].clone()})),
        ["holds an unknown", "layers.9"],
        2,
    ),
    "a key misnamed": (
        tensors(lambda t: t.update({FIRST.replace("lora_A", "lora_a"): t.pop(FIRST)})),
        ["lacks", "(2 names differ)"],
        2,
    ),
    "PEFT's live names": (
        tensors(lambda t: t.update({FIRST.replace("A.", "A.default."): t.pop(FIRST)})),
        ["holds an unknown", "lora_A.default.weight", "(2 names differ)"],
        2,
    ),
    "another shape": (
        tensors(lambda t: t.update({FIRST: t[FIRST][:, :9]})), ["is [4, 9], not [4, 32]"], 2
    ),
    "another rank": (but(CONFIG, r=8), ["says r = 8", "of rank 4"], 2),
    "ranks that differ": (tensors(lambda t: t.update({FIRST: t[FIRST][:2]})), ["rank 2, 4"], 2),
    "a rank that is true": (but(CONFIG, r=True), ["r = True"], 2),
    "alpha 0": (but(CONFIG, lora_alpha=0), ["lora_alpha = 0"], 2),
    "alpha in words": (but(CONFIG, lora_alpha="16"), ["lora_alpha = '16'"], 2),
    "alpha by module": (but(CONFIG, alpha_pattern={"q_proj": 32}), ["alpha_pattern"], 2),
    "another scale": (but(CONFIG, use_rslora=True), ["use_rslora = True", "merge"], 2),
    "fewer targets": (but(CONFIG, target_modules=["q_proj"]), ["holds an unknown"], 2),
    "other targets": (but(CONFIG, target_modules=["c_attn"]), ["['c_attn']", "no linear"], 2),
    "no targets": (but(CONFIG, target_modules=[]), ["target_modules = []"], 2),
    "targets without end": (but(CONFIG, target_modules="(.*)*!"), ["'(.*)*!'"], 2),
    "a method": (but(CONFIG, peft_type="IA3"), ["peft_type = 'IA3'"], 2),
    "a rank of a megabyte": (but(CONFIG, r="1" * 2**20), ["r = '111", "[...] 111"], 2),
    "a field of a megabyte": (but(CONFIG, **{"x" * 2**20: "y" * 2**20}), ["not computed"], 2),
    "layers": (but(CONFIG, layers_to_transform=0), ["layers_to_transform = 0"], 2),
    "no layers": (but(CONFIG, layers_to_transform=[]), ["layers_to_transform = []", "merge"], 2),
    "switched on by being empty": (
        but(CONFIG, alora_invocation_tokens=[]), ["alora_invocation_tokens = []"], 2
    ),
    "a range from high to low": (
        but(CONFIG, target_modules=".*[z-a]_proj"), ["no character is from z to a", "a list"], 2
    ),
    "a pattern without end": (
        but(CONFIG, target_modules=".*" * 20 + "z"), ["'.*.*", "write its modules out"], 2
    ),
    "a base that is a list": (but(CONFIG, base_model_name_or_path=["a"]), ["base_model_name"], 2),
    "no config": (unsealed(renamed(CONFIG, "config.json")), [CONFIG], 2),
    "no JSON": (unsealed(put(CONFIG, b"r: 4")), ["is not valid JSON"], 2),
    "a key twice in JSON": (unsealed(put(CONFIG, b'{"r": 4, "r": 8}')), ["'r' is there twice"], 2),
    "a folder for a config": (unsealed(folder_instead(CONFIG)), [CONFIG], 2),
    "weights cut": (unsealed(cut(WEIGHTS, 99)), [WEIGHTS, "cut short"], 2),
    "weights gone": (unsealed(renamed(WEIGHTS, "adapter_model.bin")), ["only safetensors"], 2),
    "not finite": (tensors(lambda t: t[FIRST].fill_(float("inf"))), ["finite"], 2),
    "whole numbers": (tensors(lambda t: t.update({FIRST: t[FIRST].int()})), ["is I32"], 2),
}  # fmt: skip


@pytest.mark.parametrize("command", ["chat toy --prompt Hi --adapter {}", "export {} --merge"])
@pytest.mark.parametrize("case", ADAPTERS)
def test_an_adapter(
    case: str, command: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, parts, code = ADAPTERS[case]
    folder = Path("runs/toy/forward/seed-1/checkpoints/epoch-01")
    damage(folder)
    refused(place, capsys, command.format(folder), str(folder), *parts, code=code)


def test_a_notice_quotes_little(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Notices do not pass through the one place where refusals are cut."""
    folder = Path("runs/toy/forward/seed-1/checkpoints/epoch-01")
    change(folder / CONFIG, base_model_name_or_path="/x" * 2**19)
    typed = ["chat", "toy", "--prompt", "Hi", "--max-completion-length", "4"]
    assert main([*typed, "--adapter", str(folder)]) == 0
    (notice,) = (li for li in capsys.readouterr().out.splitlines() if li.startswith("notice"))
    assert "'/x/x" in notice and len(notice) < 300
    refused(place, capsys, f"export {folder} --merge", "'/x/x", "give the right one with --model")


def test_an_adapter_of_another_base(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two public names mean two models; nothing is downloaded to find that out."""
    folder = Path("runs/toy/forward/seed-1/checkpoints/epoch-01")
    change(folder / CONFIG, base_model_name_or_path="Qwen/Qwen3-4B")
    for command in (f"chat tiny --prompt Hi --adapter {folder}", f"export {folder} --merge"):
        if command.startswith("export"):
            command += " --model tiny"
        refused(place, capsys, command, str(folder), "'Qwen/Qwen3-4B'", "'tiny'")


# --- questions and rubrics ------------------------------------------------------------------------

ROW = {"id": "a", "category": "c", "text": "Why?", "split": "train", "source": "ours"}


def rows(*changes: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(ROW | change).encode() + b"\n" for change in changes)


HELD_OUT = {"id": "b", "text": "Who?", "split": "eval"}
QUESTIONS: dict[str, tuple[bytes, list[str]]] = {
    "empty": (b"", ["is empty"]),
    "a mark alone": (b"\xef\xbb\xbf", ["is empty"]),
    "blank lines": (b"\r\n \r\n", ["is empty"]),
    "an array": (b"[" + rows({}) + b"]", ["line 1", "not JSON"]),
    "text": (b"Why?\nWho?\n", ["line 1", "not JSON"]),
    "a list in a line": (rows(HELD_OUT) + b"[1]\n", ["line 2", "not a JSON object"]),
    "cut": (rows({}, HELD_OUT)[:-20], ["line 2", "not JSON"]),
    "same id": (rows({}, HELD_OUT | {"id": "a"}), ["line 2", '"id" is that of line 1']),
    "same text": (rows({}, HELD_OUT | {"text": "Why?"}), ["line 2", '"text" is that of line 1']),
    "a key twice": (rows(HELD_OUT) + b'{"id": "a", "id": "b"}\n', ["'id' is there twice"]),
    "no text": (rows({"text": ""}), ["line 1", '"text"']),
    "a number": (rows({"id": 7}), ["line 1", '"id"']),
    "another split": (rows({"split": "test"}), ["line 1", '"test"']),
    "Latin-1": (rows({}) + "é\n".encode("latin-1"), ["not UTF-8 (line 2)"]),
    "UTF-16": (rows({}).decode().encode("utf-16"), ["not UTF-8 (line 1)"]),
    "zeros": (bytes(99), ["line 1", "not JSON"]),
    "half a character": (rows({"text": "\ud800"}), ["line 1", "surrogates"]),
    "none held out": (rows({}), ['no question with split "eval"']),
    "none to train": (rows(HELD_OUT), ['no question with split "train"']),
    "too long": (rows({"text": "why " * 999}, HELD_OUT), ["Question a is", "tokens long"]),
}


@pytest.mark.parametrize("case", QUESTIONS)
def test_questions(case: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, parts = QUESTIONS[case]
    (place / "mine.jsonl").write_bytes(data)
    named = [] if case == "too long" else ["mine.jsonl"]
    refused(place, capsys, "train toy --questions mine.jsonl", *named, *parts)


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf\r\n", "is empty"),
        (b"Rate it.\n\xe9\n", "not UTF-8 (line 2)"),
        (b"\xff\xfeR\0a\0", "not UTF-8 (line 1)"),
        (b"Rate it. " * 9999, "shorten the rubric"),
    ],
)
def test_rubrics(data: bytes, part: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "mine.txt").write_bytes(data)
    refused(place, capsys, "train toy --rubric mine.txt", part)


@pytest.mark.parametrize(
    ("rubric", "silent"),
    [
        (RUBRIC, True),
        ("Answer with **score** : N", True),
        ("score：整数", True),
        ("Rate it from 0 to 10.", False),
        ("Give a score from 0 to 10.", False),
    ],
)
def test_a_rubric_that_never_says_score(
    rubric: str, silent: bool, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may still work, so the run goes on; the plan says what to expect."""
    assert (doubts(rubric) == []) is silent
    if rubric.startswith("Rate"):
        (place / "mine.txt").write_text(rubric)
        typed = ["train", "toy", "--questions", "questions.jsonl", "--rubric", "mine.txt"]
        assert main([*typed, "--out", "new", *map(str, SIZES)]) == toy.ENDED
        assert "warning    the rubric never says `Score:`" in capsys.readouterr().out


def test_a_byte_order_mark_and_windows_line_ends_are_no_mistake(place: Path) -> None:
    text = (place / "questions.jsonl").read_text().replace("\n", "\r\n")
    (place / "mine.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (place / "mine.txt").write_bytes(b"\xef\xbb\xbf" + RUBRIC.replace("\n", "\r\n").encode())
    typed = ["train", "toy", "--questions", "mine.jsonl", "--rubric", "mine.txt"]
    Path("runs/toy").rename(f"runs/{run_name(place)}")
    assert main([*typed, *map(str, SIZES)]) == toy.ENDED  # the very experiment that stands there


# --- a run's folder -------------------------------------------------------------------------------


def _last(path: Path, line: bytes) -> None:
    path.write_bytes(b"\n".join([*path.read_bytes().splitlines()[:-1], line, b""]))


RUNS: dict[str, tuple[Damage, list[str], int]] = {
    "no config": (put("config.json", b"{}"), ["config.json is no config of a run"], 2),
    "no JSON": (put("config.json", b"{"), ["config.json is not valid JSON"], 2),
    "a folder": (folder_instead("config.json"), ["config.json is a folder, and only an ord"], 2),
    "a link": (
        lambda f: ((f / "config.json").rename(f / "c"), (f / "config.json").symlink_to("c")),
        ["config.json is a link, so writing there"],
        5,
    ),
    "a link to nothing": (
        lambda f: ((f / "config.json").unlink(), (f / "config.json").symlink_to("nowhere")),
        ["config.json is a link, so writing there"],
        5,
    ),
    "a link to another file": (
        lambda f: ((f / "config.json").unlink(), (f / "config.json").symlink_to("metrics.jsonl")),
        ["config.json is a link, so writing there"],
        5,
    ),
    "no whole checkpoint": (
        lambda f: [cut("state.json", 9)(p) for p in f.glob("checkpoints/*")],
        ["No checkpoint", "is whole", "differs from its manifest"],
        5,
    ),
    "no whole metrics": (
        lambda f: _last(f / "metrics.jsonl", b'{"kind":"evaluation","score_error":1}'),
        ["metrics.jsonl, line 3", "no whole record"],
        5,
    ),
    "records lost": (lambda f: (f / "metrics.jsonl").unlink(), ["metrics.jsonl has 0 of"], 5),
}


@pytest.mark.parametrize("case", RUNS)
def test_a_run_that_is_continued(
    case: str, place: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, parts, code = RUNS[case]
    (kept,) = made.glob("runs/*/forward/seed-1")
    folder = place / f"runs/{run_name(place)}/forward/seed-1"
    shutil.rmtree("runs")
    shutil.copytree(kept, folder)
    damage(folder)
    typed = f"train toy --questions questions.jsonl {' '.join(map(str, SIZES))}"
    refused(place, capsys, typed, *parts, code=code)


def test_a_run_whose_timings_are_damaged_goes_on(place: Path, made: Path) -> None:
    """To its last step: seconds are in nobody's way."""
    (kept,) = made.glob("runs/*/forward/seed-1")
    folder = place / f"runs/{run_name(place)}/forward/seed-1"
    shutil.rmtree("runs")
    shutil.copytree(kept, folder)
    shutil.rmtree(folder / "checkpoints/epoch-01")
    _last(folder / "timings.jsonl", b"gar\xffbage")
    lines = (folder / "timings.jsonl").read_bytes().splitlines()
    (folder / "timings.jsonl").write_bytes(b"\n".join([b"{}", *lines[1:], b""]))
    typed = ["train", "toy", "--questions", "questions.jsonl", *map(str, SIZES)]
    assert main(typed) == toy.ENDED and (folder / "checkpoints/epoch-01").is_dir()


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "Not even one row"),
        (MemoryError(), "lower --decode-rows"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "lower --decode-rows"),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), "lower --decode-rows"),
    ],
)
def test_out_of_memory_names_what_still_helps(error: Exception, part: str) -> None:
    """On a GPU rows have been halved down to one by then."""
    failure = as_failure(error)
    assert failure is not None and failure.code == 2 and part in str(failure)
