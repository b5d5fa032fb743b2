"""Base, forward and reverse side by side: one noise, one judge, and runs that are no pair."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from command_line import minihmx, small
from test_train import finished

from minihmx.cli import main
from minihmx.engine import prompts
from minihmx.engine.sampling import generate
from minihmx.judge import judge_prompt
from minihmx.models import weights
from minihmx.models.tokenizer import Tokenizer
from minihmx.probes.examples import SIDES
from minihmx.questions import extra_questions, load_questions, load_rubric
from minihmx.storage import strict
from minihmx.terminal.examples import markdown_page, show_examples

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, toy, and a forward and a reverse run on it, whose last B are far from zero."""
    folder = tmp_path_factory.mktemp("pair")
    for seed, direction in enumerate(("forward", "reverse")):
        finished(folder, direction=direction).rename(folder / direction)
        toy.stir(folder / direction, "epoch-02", seed)
    return folder


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Typed:
    def run(*arguments: object) -> tuple[int, str, str]:
        return (main(["examples", *map(str, arguments)]), *capsys.readouterr())

    return run


def report(made: Path, typed: Typed, *more: object, epoch: str = "epoch-02") -> dict[str, Any]:
    pair = [f"{made / direction}@{epoch}" for direction in ("forward", "reverse")]
    code, out, err = typed(*pair, "--json", *more)
    assert code == 0 and err.endswith("forward and reverse ...\n"), err
    return dict(json.loads(out))


def said(found: dict[str, Any]) -> dict[str, list[str]]:
    sides: dict[str, list[str]] = {"base": [], "forward": [], "reverse": []}
    for answer in found["answers"]:
        sides[answer["side"]].append(answer["completion"])
    return sides


def test_untrained_adapters_say_what_the_base_says_and_trained_ones_do_not(
    made: Path, typed: Typed
) -> None:
    more = ("--samples", 3, "--temperature", 3)
    before = said(report(made, typed, *more, epoch="epoch-00"))
    after = said(report(made, typed, *more))
    assert before["base"] == before["forward"] == before["reverse"] == after["base"]
    assert len(set(after["base"])) == 6  # 2 held-out questions x 3 samples, each its own noise
    assert after["base"] != after["forward"] != after["reverse"] != after["base"]


def test_answers_are_those_of_sampling_and_verdicts_those_of_the_base(
    made: Path, typed: Typed
) -> None:
    found = report(made, typed, "--question", "Who?", "--temperature", 0.7)
    tokenizer = Tokenizer.load(made / "toy")
    decoder = weights.load(made / "toy", torch.float32, "cpu")

    def complete(text: str, tokens: int, **more: Any) -> str:
        ids = [1, 2, *tokenizer.encode_text(text), 4, 3]
        (done,) = generate(decoder, tokenizer.decode, [ids], max_new_tokens=tokens,
                           stop_ids=[4], **more)  # fmt: skip
        return done.text

    noise = [("examples", 1, "Who?", 0)]
    base, forward, reverse = found["answers"]
    assert base["completion"] == complete("Who?", 10, temperature=0.7, noise=noise)
    for answer in (base, forward, reverse):
        judged = judge_prompt(load_rubric(), "Who?", answer["completion"])
        assert answer["judge"] == complete(judged, 4)
        assert (answer["question"], answer["prompt"]) == ("asked-1", "Who?")
    assert found["scores"]["forward"]["answers"] == 1 and found["seed"] == 1


def test_a_question_has_the_same_noise_in_every_list(made: Path, typed: Typed) -> None:
    whole = report(made, typed, "--list", "all", "--question", "Are you human?")
    questions = {answer["question"]: answer["prompt"] for answer in whole["answers"]}
    assert list(questions)[:3] == ["asked-1", "eval-0", "eval-1"] and len(questions) == 11
    extra = {a["side"]: a for a in whole["answers"] if a["question"] == "extra-01"}
    for answer in whole["answers"]:
        if answer["question"] == "asked-1":
            same = extra[answer["side"]]
            assert answer["prompt"] == same["prompt"] == "Are you human?"
            assert answer["completion"] == same["completion"]


def test_the_extra_questions_are_trained_on_by_nobody() -> None:
    extra = extra_questions()
    assert len(extra) == 8 and {question.split for question in extra} == {"eval"}
    assert not {q.text for q in extra} & {q.text for q in load_questions()}


def copy(made: Path, tmp_path: Path) -> list[Path]:
    return [Path(shutil.copytree(made / d, tmp_path / d)) for d in ("forward", "reverse")]


def test_the_questions_and_the_rubric_that_a_run_kept_go_first(
    made: Path, tmp_path: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    rubrics = []
    monkeypatch.setattr(prompts, "judge_prompt", lambda *words: rubrics.append(words[0]) or "x")
    forward, reverse = copy(made, tmp_path)
    lines = [
        {"id": split, "category": "x", "text": f"{split}?", "split": split, "source": "ours"}
        for split in ("train", "eval")
    ]
    (forward / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, out, _ = typed(forward, reverse, "--json")
    plain = json.loads(out)["answers"]
    assert [answer["prompt"] for answer in plain] == ["eval?"] * 3
    (forward / "rubric.txt").write_text("Say Score: 1\n")
    _, out, _ = typed(forward, reverse, "--json")
    again = json.loads(out)["answers"]
    assert [a["completion"] for a in again] == [a["completion"] for a in plain]
    assert rubrics == [load_rubric()] * 3 + ["Say Score: 1"] * 3


def test_the_selected_epoch_is_asked(made: Path, tmp_path: Path, typed: Typed) -> None:
    forward, reverse = copy(made, tmp_path)
    (forward / "selected.json").write_text('{"winner": "epoch-01"}')
    _, out, _ = typed(forward, reverse, "--question", "Who?", "--json")
    runs = json.loads(out)["runs"]
    assert [Path(folder).name for folder in runs.values()] == ["epoch-01", "epoch-02"]


# --- what is refused ------------------------------------------------------------------------------


def other(folder: Path, part: str, **changes: object) -> None:
    config = strict.read_json(folder / "config.json")
    config[part] |= changes
    (folder / "config.json").write_text(json.dumps(config))


NO_PAIRS: dict[str, tuple[Callable[[Path], object], str]] = {
    "seeds": (lambda run: other(run, "science", seed=2), "seed is 1 forward and 2 in reverse"),
    "models": (lambda run: other(run, "model", id="Qwen/Qwen3-4B"), "'Qwen/Qwen3-4B'"),
    "versions": (lambda run: other(run, "science", **{"model digest": "0"}), "model digest"),
    "settings": (lambda run: other(run, "science", beta=0.5), "beta is 0.001 forward and 0.5 in"),
    "directions": (lambda run: other(run, "science", direction="forward"), "one of each"),
    "no config": (lambda run: (run / "config.json").unlink(), "lies in no run's folder"),
    "no JSON": (lambda run: (run / "config.json").write_text("{"), "not valid JSON"),
    "a list": (lambda run: (run / "config.json").write_text("[]"), "no config of a run"),
    "no science": (lambda run: (run / "config.json").write_text("{}"), "no config of a run"),
    "a wrong kind": (lambda run: other(run, "settings", threads="1"), "no config of a run"),
    "no checkpoint": (lambda run: shutil.rmtree(run / "checkpoints"), "no run with a checkpoint"),
}


@pytest.mark.parametrize("case", NO_PAIRS)
def test_what_is_no_pair_is_refused_in_one_sentence(
    case: str, made: Path, tmp_path: Path, typed: Typed
) -> None:
    forward, reverse = copy(made, tmp_path)
    change, part = NO_PAIRS[case]
    change(reverse)
    code, out, err = typed(forward, reverse)
    assert (code, out) == (2, "") and part in err, err
    assert err.startswith("minihmx: ") and err.count("\n") == 1


BAD = {
    "swapped": (["{}/reverse", "{}/forward"], "give the forward run first"),
    "one alone": (["{}/forward", "{}/forward"], "a forward run and"),
    "no such run": (["{}/forward", "{}/nowhere"], "no run or adapter"),
    "no such epoch": (["{}/forward", "{}/reverse@epoch-09"], "no checkpoint 'epoch-09'"),
    "nothing asked": (["--question", " "], "--question is empty"),
    "no list": (["--list", "mine"], "--list"),
    "no samples": (["--samples", "0"], "--samples 0"),
    "the same twice": (["--samples", "2", "--temperature", "0"], "same answer each time"),
    "too cold": (["--temperature", "-1"], "--temperature -1"),
    "a page that is there": (["--out", "{}/questions.jsonl"], "exists already"),
    "no folder for it": (["--out", "{}/none/x.md"], "a folder that is not there"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case: str, made: Path, typed: Typed) -> None:
    words, part = BAD[case]
    given = [word.format(made) for word in words]
    if given[0].startswith("--"):
        given = [str(made / "forward"), str(made / "reverse"), *given]
    before = (made / "questions.jsonl").read_bytes()
    code, out, err = typed(*given)
    refusal = err.splitlines()[-1]
    assert (code, out) == (2, "") and part in refusal and refusal.startswith("minihmx: "), err
    assert (made / "questions.jsonl").read_bytes() == before


# --- what is shown --------------------------------------------------------------------------------


def answer(side: str, judge: str, span: tuple[int, int] | None, **more: Any) -> dict[str, Any]:
    made_up = {"side": side, "question": "q-1", "sample": 0, "prompt": "Who *is* there?"}
    made_up |= {"completion": f"I am {side}|\nand <b>.", "finish": "stop", "judge": judge}
    return made_up | {"span": span, "unscored": None if span else "no-line", **more}


REPORT: dict[str, Any] = {
    "model": {"id": "toy", "revision": None},
    "device": "cpu",
    "dtype": "float32",
    "seed": 1,
    "temperature": 1.0,
    "runs": {"forward": "runs/f/checkpoints/epoch-03", "reverse": "runs/r/checkpoints/epoch-02"},
    "notices": ["something is uncertain"],
    "answers": [
        answer("base", "Score: 4\nReason: 4 of them.", (7, 8), finish="length"),
        answer("forward", "Score: 10", (7, 9)),
        answer("reverse", "none\x1b[2J", None),
    ],
    "scores": {
        "base": {"mean": 4.0, "scored": 1, "answers": 1},
        "forward": {"mean": 10.0, "scored": 1, "answers": 1},
        "reverse": {"mean": None, "scored": 0, "answers": 1},
    },
}


@pytest.mark.parametrize("width", [40, 99, 100, 160])
def test_the_score_is_marked_and_lines_are_as_wide_as_the_terminal(
    width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    show_examples(REPORT, width)
    out = capsys.readouterr().out
    lines = [line.rstrip() for line in out.splitlines()]
    assert max(map(len, lines)) <= width and "\x1b" not in out
    assert "[4]" in out and "[10]" in out and "Reason: 4 of" in out and "[cut here]" in out
    assert "(unscored: no-line)" in " ".join(out.split())
    assert "base 4.00, forward 10.00, reverse - (1 unscored)" in " ".join(out.split())
    beside = [line for line in lines if "I am base" in line and "I am reverse" in line]
    assert len(beside) == (width >= 100)


def test_the_page_is_a_table_whose_cells_are_text() -> None:
    page = markdown_page(REPORT)
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert rows[:2] == ["| base | forward epoch-03 | reverse epoch-02 |", "|---|---|---|"]
    assert r"I am base\|<br>and \<b\>. \[cut here\]" in rows[2]
    first = "| Score: **4**<br>Reason: 4 of them. | Score: **10** | "
    assert rows[3] == first + r"none \[2J (unscored: no-line) |"
    assert r"## q-1: Who \*is\* there?" in page and len(rows) == 4


@pytest.mark.slow
def test_as_typed_on_tiny(tmp_path: Path) -> None:
    for direction in ("forward", "reverse"):
        assert minihmx(*small(tmp_path, "--direction", direction)).returncode == 0
    runs = [tmp_path / "runs" / "tiny" / d / "seed-1" for d in ("forward", "reverse")]
    page = tmp_path / "page.md"
    done = minihmx("examples", *runs, "--list", "extra", "--out", page, COLUMNS="120")
    assert done.returncode == 0 and "Are you human?" in done.stdout
    assert page.read_text().count("| base | forward epoch-02 | reverse epoch-02 |") == 8
    found = json.loads(minihmx("examples", *runs, "--list", "extra", "--json").stdout)
    scored = [a for a in found["answers"] if a["score"] is not None]
    assert len(found["answers"]) == 24 and len(scored) > 12
    assert all(a["judge"][slice(*a["span"])] == str(a["score"]) for a in scored)


def test_runs_of_another_sampler_are_told_that_it_is_not_applied(made: Path, typed: Typed) -> None:
    assert not any("not applied" in notice for notice in report(made, typed)["notices"])
    whole = {made / d / "config.json": (made / d / "config.json").read_text() for d in SIDES[1:]}
    changes = {"sampler": "top_k=2", "stop_ids": "4,9"}
    for path, text in whole.items():
        config = json.loads(text)
        path.write_text(json.dumps({**config, "science": config["science"] | changes}))
    try:
        (notice,) = report(made, typed)["notices"]
    finally:
        for path, text in whole.items():
            path.write_text(text)
    assert notice.startswith(
        "The runs have --sampler top_k=2, --stop-ids 4,9, which is not applied"
    )
