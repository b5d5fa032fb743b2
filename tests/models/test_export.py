"""Export: installed transformers loads what is written, with the adapter's logits."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import golden
import pytest
import torch
import toy
from conftest import shared
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from minihmx import lora
from minihmx.cli import main
from minihmx.engine.sampling import generate
from minihmx.errors import DataError
from minihmx.models import adapters, chat, hub, weights
from minihmx.models.export import Rounding, export
from minihmx.models.tokenizer import Tokenizer
from minihmx.records import Message
from minihmx.storage.disk import Disk, dumps
from minihmx.storage.run_folder import Store
from minihmx.storage.strict import read_json

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Typed:
    """The command as typed, in this process."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No call of transformers can reach the hub, whatever was imported before."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def run_on(model: str, runs: Path, size: float, **shape: Any) -> Path:
    """A run's folder with one checkpoint whose B is random of the given size."""
    decoder = weights.load(hub.resolve(model).folder, torch.float32, "cpu")
    rank, alpha, targets = shape.get("rank", 4), 8.0, shape.get("targets", ["q_proj", "down_proj"])
    lora.attach(decoder, rank, alpha, 1, targets)
    generator = torch.Generator().manual_seed(2)
    tensors = {name: tensor.detach() for name, tensor in lora.parameters(decoder).items()}
    for name, tensor in tensors.items():
        if "lora_B" in name:
            tensor += torch.randn(tensor.shape, generator=generator) * size
    config = lora.peft_config(model, rank, alpha, targets)
    files = {
        "adapter_model.safetensors": save(tensors, {"format": "pt"}),
        "adapter_config.json": (dumps(config) + "\n").encode(),
    }
    Store(runs / "seed-1").publish("epoch-01", files, {"step": 1, "epoch": 1})
    return runs / "seed-1"


def adapted_logits(folder: Path, run: Path, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """What the base in `folder` and the adapter of the run compute without merging."""
    decoder = weights.load(folder, dtype, "cpu")
    found = adapters.read_adapter(adapters.find_adapter(str(run)))
    adapters.attach_adapter(decoder, found, adapters.tensors(found))
    with torch.no_grad():
        return decoder.logits(decoder(ids))


def their_logits(folder: Path, ids: Tensor, dtype: torch.dtype | str) -> Tensor:
    """Installed transformers on an exported folder."""
    transformers = pytest.importorskip("transformers")
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        logits: Tensor = model.eval()(ids).logits
    return logits


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("family", golden.FAMILIES)
def test_transformers_computes_the_golden_adapter_logits(
    family: str, tmp_path: Path, typed: Typed
) -> None:
    """Their adapter, sharded bases, tied and not."""
    folder, out = shared(f"golden_models/{family}"), tmp_path / "merged"
    expected = load_file(folder / "golden.safetensors")
    more = ["--model", folder, "--out", out]
    code, printed, err = typed("export", folder / "adapter", "--merge", *more)
    assert (code, err) == (0, ""), err
    assert "written" in printed and "float32" in printed and f"{folder}" in printed
    assert "notice     the adapter names 'tiny-" in printed  # not the path it was merged with
    logits = their_logits(out, expected["input_ids"], "auto")
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected["adapter.logits"], atol=1e-4, rtol=0)
    ours = weights.load(out, torch.float32, "cpu")
    own = ours.logits(ours(expected["input_ids"])).detach()
    torch.testing.assert_close(own, expected["adapter.logits"], atol=1e-4, rtol=0)


@pytest.mark.usefixtures("offline")
def test_tiny_in_its_own_dtype_and_in_fp32(tmp_path: Path, typed: Typed) -> None:
    run = run_on("tiny", tmp_path, 0.02)
    ids = torch.randint(6, 2000, (2, 20), generator=torch.Generator().manual_seed(0))
    code, out, err = typed("export", run, "--merge")
    half = run / "merged" / "epoch-01"
    assert (code, err) == (0, "") and f"written    {half} (float16)" in out, err
    assert json.loads((half / "config.json").read_text())["torch_dtype"] == "float16"
    for name in ("tokenizer.json", "generation_config.json"):
        assert (half / name).read_bytes() == (hub.TINY / name).read_bytes()
    merged = weights.load(half, torch.float32, "cpu")
    with torch.no_grad():
        own = merged.logits(merged(ids))
    torch.testing.assert_close(their_logits(half, ids, torch.float32), own, atol=1e-4, rtol=0)
    want = adapted_logits(hub.TINY, run, ids, torch.float32)
    assert 1e-4 < (own - want).abs().max() < 3e-2  # the rounding that was reported

    code, out, _ = typed("export", run, "--merge", "--dtype", "float32", "--out", tmp_path / "f")
    assert code == 0 and "(float32)" in out
    assert json.loads((tmp_path / "f" / "config.json").read_text())["torch_dtype"] == "float32"
    torch.testing.assert_close(their_logits(tmp_path / "f", ids, "auto"), want, atol=1e-4, rtol=0)
    code, out, err = typed("chat", half, "--prompt", "Who are you?")
    assert code == 0 and "base> " in out, err


def test_only_adapted_weights_change_and_the_sum_is_rounded_once(tmp_path: Path) -> None:
    run = run_on("tiny", tmp_path, 0.02)
    list(export(str(run), merge=True))
    base, stored = load_file(hub.TINY / "model.safetensors"), merged_file(run)
    tensors = load_file(run / "checkpoints/epoch-01/adapter_model.safetensors")
    assert base.keys() == stored.keys()
    for name, tensor in base.items():
        assert stored[name].dtype == tensor.dtype == torch.float16
        low = f"base_model.model.{name.removesuffix('.weight')}."
        if f"{low}lora_A.weight" in tensors:
            B, A = tensors[f"{low}lora_B.weight"].double(), tensors[f"{low}lora_A.weight"].double()
            want = tensor.double() + 2.0 * B @ A
            ulp = torch.maximum(want.abs(), torch.tensor(2.0**-14)) * 2**-10
            fp32 = 1e-9  # of the sum, where W and the change nearly cancel
            assert ((stored[name].double() - want).abs() <= 0.5001 * ulp + fp32).all()
            assert not torch.equal(stored[name], tensor)
        else:
            assert torch.equal(stored[name].view(torch.int16), tensor.view(torch.int16)), name
    with safe_open(run / "merged/epoch-01/model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def merged_file(run: Path) -> dict[str, Tensor]:
    return load_file(run / "merged/epoch-01/model.safetensors")


@pytest.mark.parametrize("tied", [True, False])
def test_mixed_dtypes_and_a_copy_of_the_tied_embedding(tied: bool, tmp_path: Path) -> None:
    """Odd numbers of 16-bit values before 32-bit ones must not put those out of line."""
    folder = toy.model(tmp_path / "toy", tie_word_embeddings=tied, vocab_size=263)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    for name in list(tensors):
        if "norm" not in name and "q_proj" not in name:
            tensors[name] = tensors[name].bfloat16()
    tensors["model.layers.0.mlp.up_proj.weight"] = tensors.pop(
        "model.layers.0.mlp.up_proj.weight"
    ).half()
    save_file(tensors, folder / "model.safetensors")
    run = run_on(str(folder), tmp_path, 0.1)
    list(export(str(run), merge=True))
    stored = merged_file(run)
    assert stored.keys() == tensors.keys() - ({"lm_head.weight"} if tied else set())
    assert all(stored[name].dtype == tensors[name].dtype for name in stored)
    kept = [name for name in stored if "q_proj" not in name and "down_proj" not in name]
    assert kept and all(torch.equal(stored[name], tensors[name]) for name in kept)
    ids = torch.arange(20)[None]
    merged = weights.load(run / "merged/epoch-01", torch.float32, "cpu")
    want = adapted_logits(folder, run, ids, torch.float32)
    assert (merged.logits(merged(ids)) - want).abs().max() < 0.05
    config = json.loads((run / "merged/epoch-01/config.json").read_text())
    assert config == json.loads((folder / "config.json").read_text())


def test_the_rounding_that_is_reported() -> None:
    """At 1 in fp16 the last place is worth 2 ** -10 above, half that below; ties go to even."""
    base = torch.ones(6, dtype=torch.float16)
    change = torch.tensor([0.0, 2**-10, 2**-11, 2**-12, 3 * 2**-11, -(2**-12)])
    rounding = Rounding()
    rounding.add(change, base, (base.float() + change).half())
    assert (rounding.weights, rounding.changed, rounding.lost) == (6, 2, 3)
    assert rounding.largest_error == 2**-11
    assert rounding.error_norm == pytest.approx(2**-11 * math.sqrt(1 + 0.25 + 1 + 0.25))
    assert rounding.change_norm == pytest.approx(change.norm().item())
    rounding.add(change, base, (base.float() + change).half())
    assert rounding.weights == 12 and rounding.error_norm == pytest.approx(2**-11 * math.sqrt(5))


@pytest.mark.parametrize(
    ("size", "parts"),
    [
        (0.0, ["changes nothing", "this is the base"]),
        (1e-7, ["changes were lost", "warning", "--dtype float32"]),
        (1.0, ["changes were lost"]),
    ],
)
def test_what_is_lost_is_said(size: float, parts: list[str], tmp_path: Path) -> None:
    run = run_on("tiny", tmp_path, size)
    printed = "\n".join(export(str(run), merge=True))
    assert all(part in printed for part in parts), printed
    assert ("warning" in printed) == (size == 1e-7)
    record = read_json(run / "merged/epoch-01/merge.json")
    rounding, base = record["rounding"], load_file(hub.TINY / "model.safetensors")
    stored = merged_file(run)
    differ = sum(int((stored[name] != base[name]).sum()) for name in base)
    assert rounding["changed"] == differ and record["base"] == "tiny"
    assert (rounding["changed"] == 0) == (size == 0.0)


def test_every_failing_write_leaves_nothing_behind(tmp_path: Path) -> None:
    run = run_on("tiny", tmp_path, 0.02)
    target, before = run / "merged" / "epoch-01", snapshot(run)

    class Failing(Disk):
        """The nth call that changes the disk fails; removing does not."""

        def __init__(self, nth: int) -> None:
            self.left = nth

        def _count(self) -> None:
            self.left -= 1
            if self.left == 0:
                raise OSError(28, "No space left on device")

        def write(self, path: Path, data: bytes, mode: str = "wb") -> None:
            self._count()
            super().write(path, data, mode)

        def rename(self, source: Path, target: Path) -> None:
            self._count()
            super().rename(source, target)

    failures = 0
    for nth in (1, 2, 3, 40, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66):
        disk = Failing(nth)
        try:
            list(export(str(run), merge=True, disk=disk))
        except OSError:
            failures += 1
            assert snapshot(run) == before
        else:
            assert target.is_dir() and disk.left > 0
            shutil.rmtree(run / "merged")
    assert 5 <= failures < 14  # among them all kinds of file, and the last rename


def greedy(folder: Path, adapter: Path | None = None) -> str:
    """What minihmx answers, by token ids of its own rendering."""
    decoder, tokenizer = weights.load(folder, torch.float32, "cpu"), Tokenizer.load(folder)
    if adapter:
        found = adapters.read_adapter(adapter)
        adapters.attach_adapter(decoder, found, adapters.tensors(found))
    asked = chat.render("tiny", [Message("user", ASKED)], date="")
    ids = tokenizer.encode(asked)
    stop = decoder.config.eos_ids
    (said,) = generate(decoder, tokenizer.decode, [ids], max_new_tokens=24, stop_ids=stop)
    return said.text


ASKED = "Do you fear death?"


def their_answer(folder: Path) -> str:
    """What transformers' pipeline answers to a message, by the folder alone."""
    transformers = pytest.importorskip("transformers")
    where = {"model": str(folder), "tokenizer": str(folder)}
    pipe = transformers.pipeline("text-generation", **where, dtype=torch.float32)
    messages = [{"role": "user", "content": ASKED}]
    (said,) = pipe(messages, do_sample=False, max_new_tokens=24)
    text: str = said["generated_text"][-1]["content"]
    return text


@pytest.mark.usefixtures("offline")
def test_transformers_pipeline_chats_with_what_is_exported(tmp_path: Path, typed: Typed) -> None:
    """The merged model by its template, and the adapter by its base's path and the template."""
    run = run_on("tiny", tmp_path, 1.0)
    code, out, err = typed("export", run, "--merge", "--dtype", "float32")
    assert code == 0 and "chat       with a chat template" in out, err
    merged, alone = run / "merged/epoch-01", run / "adapter/epoch-01"
    code, out, err = typed("export", run)
    assert code == 0 and f"an adapter of {hub.TINY}, for PEFT" in out, err
    want = greedy(merged)
    assert len(want) > 20 and want != greedy(hub.TINY)
    assert their_answer(merged) == want == their_answer(alone) == greedy(hub.TINY, alone)
    config = read_json(alone / "adapter_config.json")
    assert config["base_model_name_or_path"] == str(hub.TINY) and config["r"] == 4
    code, out, err = typed("chat", "tiny", "--adapter", alone, "--prompt", ASKED)
    assert code == 0 and "notice" not in out, out + err
    code, out, err = typed("chat", merged, "--prompt", ASKED)  # its template is known here
    assert code == 0 and "notice" not in out, out + err


@pytest.mark.usefixtures("offline")
def test_our_own_template_renders_what_training_wrote(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    run = run_on("tiny", tmp_path, 0.0)
    list(export(str(run), merge=False))
    theirs = transformers.AutoTokenizer.from_pretrained(run / "adapter/epoch-01")
    ours = Tokenizer.load(hub.TINY)
    turns = [
        Message("system", "Be {{ brief }}."),
        Message("user", " Who? "),
        Message("assistant", "I"),
    ]
    for said in (turns, turns[1:2], turns[:2]):
        for prompt in (True, False):
            messages = [message._asdict() for message in said]
            segments = chat.render("tiny", said, date="", generation_prompt=prompt)
            rendered = theirs.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=prompt
            )
            assert rendered == "".join(segment.text for segment in segments)
            ids = theirs.apply_chat_template(
                messages, add_generation_prompt=prompt, return_dict=False
            )
            assert ids == ours.encode(segments)


def test_a_template_of_the_base_goes_with_it_and_what_it_writes_otherwise_is_said(
    tmp_path: Path, typed: Typed
) -> None:
    folder = toy.model(tmp_path / "toy")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    run = run_on(str(folder), tmp_path, 0.1)
    config = {"science": {"chat_format": "qwen3"}}
    (run / "config.json").write_text(json.dumps(config))
    code, out, err = typed("export", run)
    assert code == 0 and "chat       with the base's own chat template" in out, err
    assert "enable_thinking=False" in out and "prompts were in the format qwen3" in out
    alone = run / "adapter/epoch-01"
    assert (alone / "chat_template.jinja").read_text() == "{{ messages }}"
    assert read_json(alone / "adapter_config.json")["base_model_name_or_path"] == str(folder)
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text("{}")  # of others, so it is left as it is
    code, out, _ = typed("export", run, "--out", tmp_path / "second")
    assert code == 0 and "the base has no chat template" in out
    assert (tmp_path / "second/tokenizer_config.json").read_text() == "{}"


def test_nothing_is_written_or_removed_through_a_link(tmp_path: Path) -> None:
    """--out may lead anywhere; the folder that is the run's own, and left-overs, may not."""
    run, theirs = run_on("tiny", tmp_path / "run", 0.02), tmp_path / "theirs"
    left = theirs / ".epoch-01.new"
    left.mkdir(parents=True)
    (left / "file").write_text("theirs")
    (run / "merged").symlink_to(theirs)
    with pytest.raises(DataError, match="merged is a link"):
        list(export(str(run), merge=True))
    (tmp_path / ".out.new").symlink_to(left)
    list(export(str(run), merge=True, out=str(tmp_path / "out")))
    assert (tmp_path / "out/model.safetensors").is_file()
    assert [path.name for path in theirs.rglob("*")] == [".epoch-01.new", "file"]


def snapshot(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if path.is_file()}


BAD = {
    "a dtype of nothing": (["{run}", "--dtype", "float32"], ["--merge"], 2),
    "exists": (["{run}", "--merge", "--out", "{run}"], ["exists", "--out"], 2),
    "no such run": (["{run}/x", "--merge"], ["no run or adapter"], 2),
    "no such epoch": (["{run}@epoch-07", "--merge"], ["no checkpoint", "epoch-01"], 2),
    "another base": (["{run}", "--merge", "--model", "{toy}"], ["does not fit"], 2),
    "unknown base": (["{run}", "--merge", "--model", "tine"], ["did you mean tiny"], 2),
    "a misspelt flag": (["{run}", "--merged"], ["did you mean --merge?"], 2),
    "too large": (["{large}", "--merge", "--dtype", "float16"], ["too large", "bfloat16"], 2),
    "no base": (["{nameless}", "--merge"], ["does not name its base", "--model"], 2),
    "a base that is gone": (["{gone}", "--merge"], ["'/nowhere/at/all'", "--model"], 2),
    "changed": (["{changed}", "--merge"], ["not what was saved"], 5),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case: str, typed: Typed, tmp_path: Path) -> None:
    run = run_on("tiny", tmp_path, 0.02)
    names = {"run": run, "toy": toy.model(tmp_path / "toy")}
    for kind, size in (("large", 1e6), ("nameless", 0.1), ("gone", 0.1), ("changed", 0.1)):
        if kind in case or f"{{{kind}}}" in BAD[case][0][0]:
            names[kind] = run_on("tiny", tmp_path / kind, size)
            path = names[kind] / "checkpoints/epoch-01/adapter_config.json"
            base = {"nameless": None, "gone": "/nowhere/at/all", "changed": ""}.get(kind, "tiny")
            path.write_text(json.dumps(read_json(path) | {"base_model_name_or_path": base}))
            if kind != "changed":
                (path.parent / "manifest.json").unlink()
    more, parts, expected = BAD[case]
    before = snapshot(tmp_path)
    code, _, err = typed("export", *(argument.format(**names) for argument in more))
    assert code == expected and err.startswith("minihmx: ") and err.count("\n") == 1, err
    for part in parts:
        assert part in err, err
    assert snapshot(tmp_path) == before


def test_an_adapter_from_elsewhere_goes_beside_its_folder(tmp_path: Path, typed: Typed) -> None:
    run = run_on("tiny", tmp_path, 0.02)
    (run / "checkpoints" / "epoch-01").rename(tmp_path / "mine")
    assert typed("export", tmp_path / "mine", "--merge")[0] == 0
    assert (tmp_path / "mine-merged" / "model.safetensors").is_file()
    code, _, err = typed("export", tmp_path / "mine", "--merge")
    assert code == 2 and "mine-merged exists and is not overwritten" in err
