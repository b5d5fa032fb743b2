"""Chat: two sides on the same noise, histories of their own, and adapters that are no fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import golden
import pytest
import torch
import toy
from safetensors.torch import load_file, save_file
from test_train import finished

from minihmx import lora
from minihmx.cli import main
from minihmx.config import Config
from minihmx.engine.sampling import generate
from minihmx.errors import UserError
from minihmx.judge import RUBRIC
from minihmx.models import adapters, weights
from minihmx.models.targets import written_out
from minihmx.models.tokenizer import Tokenizer
from minihmx.records import Message, Unscored, Verdict
from minihmx.rollout import Judgement
from minihmx.storage import strict
from minihmx.storage.disk import read_lines
from minihmx.storage.run_folder import LATEST
from minihmx.terminal import talk

Typed = Callable[..., tuple[int, str, str]]


def model(tokenizer: Any) -> Any:
    """What a conversation reads of its model."""
    return SimpleNamespace(tokenizer=tokenizer, config=Config(date="1 Jan 2026"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, toy, and a run on it of two epochs, the last with a B that is far from zero."""
    folder = tmp_path_factory.mktemp("made")
    finished(folder).rename(folder / "run")
    toy.stir(folder / "run", "epoch-02", seed=1)
    return folder


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Typed:
    """The command as typed, in this process; and what is typed into it, line by line."""

    def run(*arguments: object, lines: Iterable[Any] = ()) -> tuple[int, str, str]:
        given = iter(lines)

        def answer(prompt: str) -> str:
            line = next(given, EOFError)
            if not isinstance(line, str):
                raise line
            return line

        monkeypatch.setattr("builtins.input", answer)
        code = main([str(argument) for argument in arguments])
        return (code, *capsys.readouterr())

    return run


def said(out: str) -> list[tuple[str, str]]:
    """(side, answer) of each answer; the toy model's may have several lines."""
    found: list[tuple[str, str]] = []
    for line in out.split("\n\n", 1)[1].splitlines():
        side, mark, text = line.partition("> ")
        if mark and side in ("base", "trained"):
            found.append((side, text))
        elif found:
            found[-1] = (found[-1][0], f"{found[-1][1]}\n{line}")
    return [(side, text.strip("\n ")) for side, text in found]


def chat(made: Path, *more: object) -> list[object]:
    return ["chat", made / "toy", "--max-completion-length", 12, "--temperature", 3, *more]


def test_the_base_alone_says_what_sampling_says(made: Path, typed: Typed) -> None:
    code, out, err = typed(*chat(made, "--prompt", "Why?", "--seed", 5, "--temperature", 0.7))
    assert (code, err) == (0, "") and out.startswith(f"base     {made / 'toy'}, tiny chat, cpu")
    tokenizer = Tokenizer.load(made / "toy")
    decoder = weights.load(made / "toy", torch.float32, "cpu")
    ids = [1, 2, *tokenizer.encode_text("Why?"), 4, 3]
    noise = [("chat", 5, 0)]
    (want,) = generate(decoder, tokenizer.decode, [ids], max_new_tokens=12, stop_ids=[4],
                       temperature=0.7, noise=noise)  # fmt: skip
    clean = "".join(c if c.isprintable() or c == "\n" else " " for c in want.text)
    cut = " [cut here]" if want.finish_reason == "length" else ""
    assert out.split("\n\n", 1)[1] == f"base> {clean}{cut}\n\n"


def test_an_untrained_adapter_says_the_same_and_a_trained_one_does_not(
    made: Path, typed: Typed
) -> None:
    answers = {}
    for epoch in ("epoch-00", "epoch-02"):
        for seed in (1, 2, 3):
            run = f"{made / 'run'}@{epoch}"
            code, out, _ = typed(*chat(made, "--adapter", run, "--prompt", "Who?", "--seed", seed))
            (one, base), (other, trained) = said(out)
            assert (code, one, other) == (0, "base", "trained") and f"/{epoch}, rank 16" in out
            answers[epoch, seed] = base, trained
    assert all(answers["epoch-00", seed][0] == answers["epoch-00", seed][1] for seed in (1, 2, 3))
    assert any(answers["epoch-02", seed][0] != answers["epoch-02", seed][1] for seed in (1, 2, 3))
    assert all(answers["epoch-00", seed][0] == answers["epoch-02", seed][0] for seed in (1, 2, 3))
    assert len({base for base, _ in answers.values()}) == 3  # the seed does name the noise


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_an_untrained_adapter_says_the_same_in_sixteen_bit(
    dtype: str, made: Path, typed: Typed
) -> None:
    adapter = ["--adapter", f"{made / 'run'}@epoch-00", "--dtype", dtype]
    code, out, _ = typed(*chat(made, *adapter), lines=["Who?", "Who?"])
    (_, one), (_, same), (_, two), (_, again) = said(out)
    assert code == 0 and dtype in out and (one, two) == (same, again)


def test_turns_are_remembered_by_each_side_and_forgotten_by_reset(made: Path, typed: Typed) -> None:
    adapter = ["--adapter", made / "run"]
    lines = ["One?", "", "Two?", "/reset", "One?", "Two?", "/Quit now", "never"]
    code, out, err = typed(*chat(made, *adapter), lines=lines)
    assert (code, err) == (0, "") and out.count("forgotten") == 1
    answers = [(side, text.removesuffix("forgotten").strip()) for side, text in said(out)]
    assert len(answers) == 8 and answers[:4] == answers[4:]
    alone = said(typed(*chat(made, *adapter), lines=["Two?"])[1])
    assert alone != answers[2:4]  # what was said before makes a difference


def test_a_history_holds_what_that_side_said(made: Path) -> None:
    tokenizer = Tokenizer.load(made / "toy")
    decoder = weights.load(made / "toy", torch.float32, "cpu")
    found = adapters.read_adapter(adapters.find_adapter(str(made / "run")))
    adapters.attach_adapter(decoder, found, adapters.tensors(found))
    sides = (talk.BASE, talk.TRAINED)
    conversation = talk.Conversation(model(tokenizer), decoder, sides, "Be brief.", 3.0, 1, 12)
    first, second = conversation.ask("One?"), conversation.ask("Two?")
    for side in sides:
        assert conversation.histories[side] == [
            Message("user", "One?"),
            Message("assistant", first[side].text),
            Message("user", "Two?"),
            Message("assistant", second[side].text),
        ]
    assert first[talk.BASE].text != first[talk.TRAINED].text
    ids = conversation.prompt([Message("user", "One?")])
    assert ids[:2] == [1, 5] and tokenizer.decode(ids) == "Be brief.One?"


def test_the_system_text_of_a_format_without_one_goes_to_the_first_question(made: Path) -> None:
    class Gemma:
        family = "gemma2"

        def encode(self, segments: Any) -> str:
            return "".join(segment.text for segment in segments)

    decoder: Any = None
    tokenizer: Any = Gemma()
    sides = (talk.BASE,)
    conversation = talk.Conversation(model(tokenizer), decoder, sides, "Be brief.", 1.0, 1, 12)
    turns = [Message("user", "One?"), Message("assistant", "1."), Message("user", "Two?")]
    text: Any = conversation.prompt(turns)
    assert text.startswith("<bos><start_of_turn>user\nBe brief.\n\nOne?<end_of_turn>")
    assert text.count("Be brief.") == 1


def test_the_judge_of_the_chat_is_the_judge_of_training(made: Path, tmp_path: Path) -> None:
    """An answer that the run evaluated gets the same words from it, adapter off, and score."""
    run = made / "run"
    decoder = weights.load(made / "toy", torch.float32, "cpu")
    found = adapters.read_adapter(adapters.find_adapter(str(run)))
    adapters.attach_adapter(decoder, found, adapters.tensors(found))
    sides = talk.BASE, talk.TRAINED
    assert talk.judge_of(found.folder)[1] == 4 and talk.judge_of(tmp_path) == (RUBRIC, 64)
    own = SimpleNamespace(tokenizer=Tokenizer.load(made / "toy"), config=Config())
    conversation = talk.Conversation(own, decoder, sides, "", 1.0, 1, 12, found.folder)
    with pytest.raises(UserError, match="no answer yet"):
        conversation.judge()
    first, second, *_ = read_lines(run / "evaluations" / "epoch-02.jsonl")
    for side, line in zip(sides, (first, second), strict=True):
        said = [Message("user", line["prompt"]), Message("assistant", line["completion"])]
        conversation.histories[side] = [Message("user", "Before?"), *said]
    judged = conversation.judge()
    assert [judged[side].text for side in sides] == [first["judge"], second["judge"]]
    assert [judged[side].finish for side in sides] == ["length", "length"]


def test_what_a_slash_does(made: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = iter([Verdict(7, (7, 8)), Unscored("no-line")])

    def judge(*_: object, **__: object) -> list[Judgement]:
        return [Judgement("Score: 7\x1b\nIt feels.", "stop", verdict) for verdict in verdicts]

    monkeypatch.setattr(talk, "ask_judge", judge)
    lines = ["/score", "One?", "/temperature 0", "/Reset", "One?", "/temperature", "/SCORE"]
    lines += ["/temperature hot", "/temperature -1", "/scor", "/help", "/etc/hosts holds what?"]
    code, out, err = typed(*chat(made, "--adapter", made / "run"), lines=lines)
    assert (code, err) == (0, "") and out.count("There is no answer yet") == 1
    assert out.count("temperature 0\n") == 2
    assert "judge of base> 7 of 10: Score: [7] \nIt feels.\n" in out
    assert "judge of trained> no score (no-line): Score: 7 \nIt feels." in out
    assert "/temperature 'hot' is no number" in out and "/temperature -1 cannot work" in out
    assert "/scor is no command" in out and "did you mean /score?" in out
    assert all(f"{name} " in out for name in talk.HELP)
    greedy = said(typed(*chat(made, "--temperature", 0), lines=["One?"])[1])
    answers = [text for side, text in said(out) if side == "base"]
    assert len(answers) == 3 and answers[1].startswith(greedy[0][1])  # a path is a question


def test_a_run_of_another_version_can_be_talked_with(
    made: Path, tmp_path: Path, typed: Typed
) -> None:
    """Of the run's config only what /score needs is read, and only for /score."""
    run = copy(made, tmp_path)
    config = strict.read_json(run / "config.json")
    config["settings"] |= {"of_tomorrow": 1, "decode_rows": None}
    (run / "config.json").write_text(json.dumps(config))
    code, out, err = typed(*chat(made, "--adapter", run), lines=["One?", "/score"])
    assert (code, err) == (0, "") and "judge of trained> " in out
    config["science"]["judge_max_tokens"] = None
    (run / "config.json").write_text(json.dumps(config))
    code, out, err = typed(*chat(made, "--adapter", run), lines=["One?", "/score"])
    assert (code, err) == (0, "") and "trained> " in out
    assert "judge_max_tokens = None" in out and "judge of" not in out


@pytest.mark.parametrize("leave", [EOFError, KeyboardInterrupt])
def test_ctrl_d_and_ctrl_c_leave(leave: type[BaseException], made: Path, typed: Typed) -> None:
    code, out, err = typed(*chat(made), lines=["One?", leave, "never"])
    assert (code, err) == (0, "") and len(said(out)) == 1


def test_a_turn_that_is_too_long_is_not_added(made: Path, typed: Typed) -> None:
    lines = ["One?", "why " * 300, "Two?"]
    code, out, err = typed(*chat(made), lines=lines)
    assert (code, err) == (0, "") and out.count("exceed the model's context of 1024") == 1
    refusal = next(line for line in out.splitlines() if "exceed" in line)
    assert "not added" in refusal and "/reset" in refusal
    without = typed(*chat(made), lines=["One?", "Two?"])[1]
    assert out.replace(refusal + "\n", "") == without
    code, _, err = typed(*chat(made, "--prompt", "why " * 300))
    assert code == 2 and "exceed" in err and "Traceback" not in err


def test_wide_terminals_show_two_columns(
    made: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = chat(made, "--adapter", made / "run", "--prompt", "Who?")
    monkeypatch.setenv("COLUMNS", "99")
    assert not any("base> " in line and "trained> " in line for line in run(typed, arguments))
    monkeypatch.setenv("COLUMNS", "100")
    (row,) = (line for line in run(typed, arguments) if "base> " in line)
    assert 45 <= row.index("trained> ") <= 55


def run(typed: Typed, arguments: list[object]) -> list[str]:
    code, out, _ = typed(*arguments)
    assert code == 0
    return out.splitlines()


@pytest.mark.parametrize("columns", ["80", "120"])
def test_nothing_that_a_terminal_obeys_is_printed(
    columns: str, made: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\r\x08\u202ehidden\x9b31m\x00ok"
    monkeypatch.setattr(Tokenizer, "decode", lambda self, ids: evil)
    monkeypatch.setenv("COLUMNS", columns)
    code, out, _ = typed(*chat(made, "--adapter", made / "run", "--prompt", "Who?"))
    assert code == 0 and out.count("owned") == 2 and out.count("hidden") == 2
    assert all(c.isprintable() or c == "\n" for c in out)


def test_odd_bytes_typed_are_replaced(made: Path, typed: Typed) -> None:
    code, out, err = typed(*chat(made, "--prompt", "caf\udce9 \ud800?", "--system", "\udcff"))
    assert (code, err) == (0, "") and len(said(out)) == 1


@pytest.mark.parametrize("asked", [["--prompt", "Who?"], []])
def test_answers_from_logits_that_are_not_finite_are_refused(
    asked: list[str], made: Path, tmp_path: Path, typed: Typed
) -> None:
    run = copy(made, tmp_path)
    weaken(run / "checkpoints" / "epoch-02", lambda t: [x.fill_(3e38) for x in t.values()])
    code, out, err = typed(*chat(made, "--adapter", run, *asked), lines=["Who?", "Why?"])
    assert code == 3 and "The trained model's logits are not finite in float32" in err, err
    assert "trained> " not in out and err.count("\n") == 1


# --- which adapter --------------------------------------------------------------------------------


def copy(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path / "run"


def test_a_run_means_its_selected_epoch_or_its_last(made: Path, tmp_path: Path) -> None:
    run = copy(made, tmp_path)
    epochs = run / "checkpoints"
    assert adapters.find_adapter(str(run)) == epochs / "epoch-02"
    assert adapters.find_adapter(f"{run}@epoch-01") == epochs / "epoch-01"
    assert adapters.find_adapter(str(epochs / "epoch-00")) == epochs / "epoch-00"
    (run / "selected.json").write_text('{"winner": "epoch-01"}')
    assert adapters.find_adapter(str(run)) == epochs / "epoch-01"
    shutil.copytree(epochs / "epoch-02", epochs / "epoch-10")
    (run / "selected.json").unlink()
    assert adapters.find_adapter(str(run)) == epochs / "epoch-10"
    named = tmp_path / "name@with-at"
    (epochs / "epoch-01").rename(named)
    assert adapters.find_adapter(str(named)) == named
    (named / "manifest.json").unlink()  # as PEFT would save it
    assert adapters.find_adapter(str(named)) == named


LINEARS = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
PARTS = "self_attn|attention|attn|mlp|feed_forward|ffn|dense"
UNSLOTH = (
    rf"(?:.*?(?:language|text).*?(?:{PARTS}).*?(?:{LINEARS}).*?)|"
    rf"(?:\bmodel\.layers\.[\d]{{1,}}\.(?:{PARTS})\.(?:(?:{LINEARS})))"
)


@pytest.mark.parametrize("family", golden.FAMILIES)
@pytest.mark.parametrize(
    "targets",
    [
        "all-linear",
        r"model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj",
        r".*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)$",
        UNSLOTH,
        ["self_attn.q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "mlp.down_proj"],
    ],
)
@torch.no_grad()
def test_target_modules_as_peft_writes_them(
    family: str, targets: list[str] | str, tmp_path: Path
) -> None:
    decoder, expected = golden.load(family)
    shutil.copytree(golden.shared(f"golden_models/{family}/adapter"), tmp_path / "adapter")
    change(tmp_path / "adapter", target_modules=targets)
    found = adapters.read_adapter(adapters.find_adapter(str(tmp_path / "adapter")))
    adapters.attach_adapter(decoder, found, adapters.tensors(found))
    logits = decoder.logits(decoder(expected["input_ids"]))
    torch.testing.assert_close(logits, expected["adapter.logits"], atol=1e-4, rtol=0)


def change(folder: Path, **changes: object) -> None:
    """Change adapter_config.json, the manifest with it; a value of ... is left out."""
    path = folder / "adapter_config.json"
    config = {k: v for k, v in (json.loads(path.read_text()) | changes).items() if v is not ...}
    path.write_text(json.dumps(config))
    (folder / "manifest.json").unlink(missing_ok=True)


def weaken(folder: Path, changed: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    changed(tensors)
    save_file(tensors, path)
    (folder / "manifest.json").unlink()


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
DAMAGES: dict[str, tuple[Callable[[Path], object], str, int]] = {
    "one bit": (lambda f: (f / "adapter_config.json").write_text("{}"), "manifest", 5),
    "cut": (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\x08"), "manifest", 5),
    "no config": (lambda f: (f / "adapter_config.json").unlink(), "No such file", 5),
    "not JSON": (lambda f: change(f) or (f / "adapter_config.json").write_text("{"), "JSON", 2),
    "a list": (lambda f: change(f) or (f / "adapter_config.json").write_text("[]"), "peft_type", 2),
    "no r": (lambda f: change(f, r=...), "r = None", 2),
    "another r": (lambda f: change(f, r=8), "says r = 8, but", 2),
    "a giant r": (lambda f: change(f, r=10**12), "of rank 16", 2),
    "a bool r": (lambda f: change(f, r=True), "r = True", 2),
    "no alpha": (lambda f: change(f, lora_alpha=...), "lora_alpha = None", 2),
    "an infinite alpha": (lambda f: change(f, lora_alpha=float("inf")), "no finite", 2),
    "no targets": (lambda f: change(f, target_modules=None), "target_modules = None", 2),
    "a broken pattern": (lambda f: change(f, target_modules="(q_proj"), "target_modules", 2),
    "a pattern of fewer": (lambda f: change(f, target_modules=r".*\.q_proj"), "unknown", 2),
    "one layer": (lambda f: change(f, layers_to_transform=0), "layers_to_transform = 0", 2),
    "a falsy number": (lambda f: change(f, use_rslora=0.0), "use_rslora = 0.0", 2),
    "an empty text": (lambda f: change(f, bias=""), "bias = ''", 2),
    "a field of tomorrow": (lambda f: change(f, lora_shift={"x": 1}), "lora_shift = {'x': 1}", 2),
    "its default": (lambda f: change(f, kasa_config=None, qalora_group_size=16), "rank 16", 0),
    "other targets": (lambda f: change(f, target_modules=["query"]), "no linear of this", 2),
    "the head": (lambda f: change(f, target_modules=["lm_head"]), "lm_head", 2),
    "fewer targets": (lambda f: change(f, target_modules=["q_proj"]), "unknown", 2),
    "no LoRA": (lambda f: change(f, peft_type="IA3"), "'IA3'", 2),
    "rsLoRA": (lambda f: change(f, use_rslora=True), "use_rslora = True", 2),
    "DoRA": (lambda f: change(f, use_dora=True), "use_dora = True", 2),
    "a bias": (lambda f: change(f, bias="all"), "bias = 'all'", 2),
    "whole modules": (lambda f: change(f, modules_to_save=["lm_head"]), "modules_to_save", 2),
    "PiSSA": (lambda f: change(f, init_lora_weights="pissa"), "init_lora_weights", 2),
    "another model": (lambda f: change(f, base_model_name_or_path="Qwen/Qwen3-4B"), "notice", 0),
    "no model": (lambda f: change(f, base_model_name_or_path=None), "does not name", 0),
    "a missing key": (lambda f: weaken(f, lambda t: t.pop(FIRST)), "lacks", 2),
    "a misnamed key": (lambda f: weaken(f, lambda t: t.update(x=t.pop(FIRST))), "lacks", 2),
    "another shape": (
        lambda f: weaken(f, lambda t: t.update({FIRST: t[FIRST][:, :5].clone()})),
        "is [16, 5], not [16, 32]",
        2,
    ),
    "not finite": (
        lambda f: weaken(f, lambda t: t.update({FIRST: t[FIRST] * float("nan")})), "finite", 2
    ),
    "whole numbers": (
        lambda f: weaken(f, lambda t: t.update({FIRST: t[FIRST].int()})), "is I32", 2
    ),
    "not safetensors": (
        lambda f: change(f) or (f / "adapter_model.safetensors").write_bytes(b"\x08" * 99),
        "corrupt",
        2,
    ),
    "pickled": (
        lambda f: change(f) or (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"),
        "only safetensors",
        2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_adapter_that_is_no_fit(damage: str, made: Path, tmp_path: Path, typed: Typed) -> None:
    do, part, expected = DAMAGES[damage]
    run = copy(made, tmp_path)
    do(run / "checkpoints" / "epoch-02")
    code, out, err = typed(*chat(made, "--adapter", run, "--prompt", "Who?"))
    assert code == expected and "Traceback" not in err, err
    assert part in (err if code else out), (out, err)
    assert (len(said(out)) == 2 and not err) if not code else err.startswith("minihmx: ")


def test_an_adapter_of_another_public_model_is_refused_before_any_download(
    made: Path, tmp_path: Path, typed: Typed
) -> None:
    run = copy(made, tmp_path)
    change(run / "checkpoints" / "epoch-02", base_model_name_or_path="Qwen/Qwen3-4B")
    code, out, err = typed("chat", "tiny", "--adapter", run, "--prompt", "Who?")
    assert code == 2 and "'Qwen/Qwen3-4B'" in err and "'tiny'" in err and not out
    change(run / "checkpoints" / "epoch-02", base_model_name_or_path=str(made / "toy"))
    code, out, err = typed("chat", "tiny", "--adapter", run, "--prompt", "Who?")  # other shapes
    assert code == 2 and "does not fit" in err and "> " not in out


def test_a_base_that_changed_since_is_said(made: Path, tmp_path: Path, typed: Typed) -> None:
    run = copy(made, tmp_path)
    _, out, _ = typed(*chat(made, "--adapter", run, "--prompt", "Who?"))
    assert "notice" not in out
    config = strict.read_json(run / "config.json")
    config["science"]["model digest"] = "0" * 64
    (run / "config.json").write_text(json.dumps(config))
    _, out, _ = typed(*chat(made, "--adapter", run, "--prompt", "Who?"))
    assert "notice" in out and "not the same version" in out


BAD = {
    "no such run": (["--adapter", "{}/nowhere"], ["no run or adapter", "nowhere"]),
    "nothing there": (["--adapter", "{}"], ["no adapter", "adapter_config.json"]),
    "an empty name": (["--adapter", ""], ["adapter"]),
    "no such epoch": (["--adapter", "{}/run@epoch-09"], ["'epoch-09'", "epoch-00, epoch-01"]),
    "a way out": (["--adapter", "{}/run@../../x"], ["no checkpoint '../../x'"]),
    "no run, an epoch": (["--adapter", "{}/nowhere@epoch-01"], ["no run or adapter"]),
    "a cold temperature": (["--temperature", "-1"], ["--temperature -1"]),
    "no temperature": (["--temperature", "nan"], ["--temperature nan"]),
    "no tokens": (["--max-completion-length", "0"], ["--max-completion-length 0"]),
    "more than fit": (["--max-completion-length", "1024"], ["context of 1024"]),
    "nothing asked": (["--prompt", " "], ["--prompt is empty"]),
    "a misspelt flag": (["--adaptor", "x"], ["did you mean --adapter?"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case: str, made: Path, typed: Typed) -> None:
    more, parts = BAD[case]
    given = [argument.format(made) for argument in more]
    code, _, err = typed("chat", made / "toy", "--prompt", "Who?", *given)
    assert code == 2 and err.startswith("minihmx: ") and err.count("\n") == 1, err
    for part in parts:
        assert part in err, err


def test_a_selection_that_names_nothing_is_refused(
    made: Path, tmp_path: Path, typed: Typed
) -> None:
    run = copy(made, tmp_path)
    for text in ('{"winner": "epoch-07"}', "{}", "[]", '{"winner": ["epoch-01"]}'):
        (run / "selected.json").write_text(text)
        code, _, err = typed(*chat(made, "--adapter", run, "--prompt", "Who?"))
        assert code == 5 and "selected.json" in err
    assert adapters.find_adapter(f"{run}@epoch-01").name == "epoch-01"


def test_a_run_without_a_finished_epoch_is_no_trained_adapter(made: Path, tmp_path: Path) -> None:
    run = copy(made, tmp_path)
    for name in ("epoch-01", "epoch-02"):
        shutil.rmtree(run / "checkpoints" / name)
    with pytest.raises(UserError, match=r"has finished no epoch yet.*let the run go on\.$"):
        adapters.find_adapter(str(run))
    shutil.copytree(run / "checkpoints" / "epoch-00", run / "checkpoints" / LATEST)
    with pytest.raises(UserError, match=f"take its last steps as .*@{LATEST}"):
        adapters.find_adapter(str(run))
    assert adapters.find_adapter(f"{run}@{LATEST}").name == LATEST
    assert adapters.find_adapter(f"{run}@epoch-00").name == "epoch-00"  # asked for by its name


def test_lora_targets_match_whole_names() -> None:
    assert lora.targeted("model.layers.0.self_attn.q_proj", ["q_proj"])
    assert not lora.targeted("model.layers.0.self_attn.q_proj", ["proj"])
    name = "model.layers.0.self_attn.q_proj"
    assert written_out("q_proj", [name]) == []  # PEFT matches a pattern with the whole name
    assert written_out(".*q_proj", [name]) == [name]
    assert not lora.targeted("lm_head", written_out("all-linear", ["lm_head"]))
