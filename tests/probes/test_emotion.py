"""`probe emotion` and `chat --steer` on a random model: read, kept, measured and refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import toy
from command_line import in_process, refused
from safetensors import safe_open
from safetensors.torch import save_file
from test_train import finished

from minihmx.engine.prompts import Prompts
from minihmx.models import weights
from minihmx.models.context import KVCache
from minihmx.models.tokenizer import Tokenizer
from minihmx.probes import causes, emotion, shift, stories
from minihmx.probes.causes import equal_kl_effects, score_at
from minihmx.probes.states import (
    ReadRow,
    answer_row,
    mean_states,
    message_row,
    prompt_row,
    text_row,
)
from minihmx.probes.steering import SteeringVector, projected_out, read_vector, steered
from minihmx.records import Verdict
from minihmx.results.report.probes import emotion_shown
from minihmx.results.report.shown import StoredProbe

COUNTS = ("--stories", 5, "--neutral", 10, "--draws", 20)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, toy, and a forward and a reverse run on it, whose last B are far from zero."""
    folder = tmp_path_factory.mktemp("inside")
    for seed, direction in enumerate(("forward", "reverse")):
        finished(folder, direction=direction).rename(folder / direction)
        toy.stir(folder / direction, "epoch-02", seed)
    return folder


@pytest.fixture
def short_stories(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A random model writes random bytes, of which 24 are enough here."""
    monkeypatch.setattr(stories, "SHORTEST", 4)
    monkeypatch.setattr(stories, "STORY_TOKENS", 24)
    yield


def prompts_of(folder: Path) -> Prompts:
    return Prompts(Tokenizer.load(folder), "26 Jul 2024", "")


# --- reading --------------------------------------------------------------------------------------


def test_taps_are_the_stream_behind_each_layer(made: Path) -> None:
    decoder = weights.load(made / "toy", torch.float32, "cpu")
    ids, taps = torch.tensor([[1, 7, 9, 30]]), list[torch.Tensor]()
    hidden = decoder(ids, taps=taps)
    assert len(taps) == 2 and taps[0].shape == (1, 4, 32)
    assert torch.equal(decoder.model.norm(taps[-1]), hidden)
    cached, cache = list[torch.Tensor](), KVCache(decoder.config, 1, 4, torch.float32, ids.device)
    assert torch.allclose(decoder(ids, torch.arange(4)[None], cache, 4, cached), hidden, atol=1e-5)
    assert torch.allclose(cached[0], taps[0], atol=1e-5)


def test_a_row_reads_the_same_beside_longer_ones(made: Path) -> None:
    """Left padding would shift its positions, and turned real effects into nothing elsewhere."""
    decoder = weights.load(made / "toy", torch.float32, "cpu")
    rows = [ReadRow([1, 5, 9], 1, 3), ReadRow([1, *range(20, 90)], 30, 71), ReadRow([1, 8], 1, 2)]
    together = mean_states(decoder, rows, [1, 2])
    alone = [mean_states(decoder, [row], [1, 2])[0] for row in rows]
    assert torch.allclose(together, torch.stack(alone), atol=1e-5)
    assert together.shape == (3, 2, 32)


def test_what_is_averaged(made: Path) -> None:
    prompts = prompts_of(made / "toy")
    text = "x" * 120
    assert text_row(prompts, text)[1:] == (50, 120) and text_row(prompts, "abcd")[1:] == (2, 4)
    row = message_row(prompts, "Hello there")
    assert prompts.tokenizer.decode(row.ids[row.start : row.end]) == "Hello there"
    asked = prompt_row(prompts, "Why?")
    assert (asked.start, asked.end) == (len(asked.ids) - 1, len(asked.ids))
    assert prompt_row(prompts, "Why?", "Feel.").ids != asked.ids
    answer = answer_row(prompts, "Why?", [70, 71, 4])
    assert answer.ids[answer.start : answer.end] == [70, 71, 4] and answer.start == len(asked.ids)


def test_the_token_before_a_text_is_read_and_left_out(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = prompts_of(made / "toy")
    monkeypatch.setattr(prompts.tokenizer, "_before", ["<|bos|>"])
    row = text_row(prompts, "abcd")
    assert row.ids[0] == 1 and row[1:] == (3, 5)
    assert message_row(prompts, "abcd").start > 0


# --- the command ----------------------------------------------------------------------------------


def typed(made: Path, out: Path, *more: object) -> dict[str, Any]:
    words = ("probe", "emotion", made / "toy", "--out", out, *COUNTS, "--json", *more)
    done = in_process(*words)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def on_the_page(found: dict[str, Any]) -> list[str]:
    """The titles of the page's tables, drawn from what is kept, which is all that was found."""
    folder = Path(found["folder"])
    kept = json.loads((folder / "report.json").read_text("utf-8"))
    assert kept == {name: value for name, value in found.items() if name != "folder"}
    run: Any = SimpleNamespace(model="toy", config={"model": {"id": "toy"}})
    material: Any = None
    shown = emotion_shown(material, StoredProbe(folder, kept["settings"], [run]))
    return [table.title for table in shown.tables]


@pytest.mark.usefixtures("short_stories")
def test_a_gate_that_is_not_passed_ends_it(made: Path, tmp_path: Path) -> None:
    found = typed(made, tmp_path, "--adapter", f"{made}/forward@epoch-02")
    assert not found["usable"] and found["runs"] == []
    assert found["why"].endswith("of 12 messages") and found["gate"]["hits"] < stories.HITS_NEEDED
    assert not (Path(found["folder"]) / "vectors").exists()
    assert len(found["held_out_accuracy"]) == len(found["layers"]) == 1
    done = in_process("probe", "emotion", made / "toy", "--out", tmp_path, *COUNTS)
    assert done.returncode == 0 and "no usable vectors: the implied emotion is" in done.stdout


def test_stories_that_are_too_short_are_counted_and_it_ends(tmp_path: Path) -> None:
    words = ("probe", "emotion", "tiny", "--out", tmp_path, *COUNTS)
    done = in_process(*words)
    assert done.returncode == 0, done.stderr
    assert "no usable vectors: too few stories" in done.stdout
    again = in_process(*words)
    assert again.stdout == done.stdout and "attempt" not in again.stderr


@pytest.mark.usefixtures("short_stories")
def test_what_is_measured_behind_the_gate(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stories, "HITS_NEEDED", 0)
    alone = typed(made, tmp_path)
    folder = Path(alone["folder"]) / "vectors"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    runs = [f"{made}/forward@epoch-02", f"{made}/reverse@epoch-02", f"{made}/forward@epoch-00"]
    found = typed(made, tmp_path, *(w for run in runs for w in ("--adapter", run)))
    # vectors are the base's: runs change none of them, and there is one more axis at most
    assert {n: (folder / n).read_bytes() for n in before} == before
    assert len(before) == 13 and found["folder"] == alone["folder"]
    forward, reverse, untrained = found["runs"]
    for run in (forward, reverse):
        for kind in ("questions", "facts"):
            own = run[kind]
            assert 0 < own["share"] < 1 and own["length"] > 0
            assert 1 / 21 <= own["p_random"] <= 1 and 1 / 21 <= own["p_shuffled_layers"] <= 1
    assert untrained["questions"]["length"] == 0.0 == untrained["questions"]["share"]
    assert untrained["decomposition"]["joy"]["total"] == pytest.approx(0.0, abs=1e-4)
    assert [pair["seed"] for pair in found["pairs"]] == [1, 1]
    assert "too few for an axis" in found["scores_axis"]
    titles = on_the_page(found)
    assert titles[-1].startswith("A trained model's answers against the base's")
    flags = [word for run in runs for word in ("--adapter", run)]
    done = in_process("probe", "emotion", made / "toy", "--out", tmp_path, *COUNTS, *flags)
    assert "one seed, so nothing is known" not in done.stdout  # two checkpoints are forward here
    assert "cosine between forward and reverse" in done.stdout and "vectors usable" in done.stdout


@pytest.mark.usefixtures("short_stories")
def test_runs_of_one_name_are_not_mixed_up(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two experiments may hold a run of the same direction and seed, with other weights."""
    monkeypatch.setattr(stories, "HITS_NEEDED", 0)
    again = shutil.copytree(made / "forward", tmp_path / "again" / "forward")
    toy.stir(again, "epoch-02", 7)
    names = [f"{made}/forward@epoch-02", f"{again}@epoch-02"]
    flags = [("--adapter", name) for name in names]
    alone = [typed(made, tmp_path, *flag)["runs"][0] for flag in flags]
    both = typed(made, tmp_path, *flags[0], *flags[1])["runs"]
    assert both == alone and both[0]["run"] == both[1]["run"]
    assert both[0]["adapter"] != both[1]["adapter"]


@pytest.mark.usefixtures("short_stories")
def test_an_axis_of_other_answers_is_another_file(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stories, "HITS_NEEDED", 0)
    evaluation = made / "forward" / "evaluations" / "epoch-00.jsonl"
    rows = [json.loads(line) for line in evaluation.read_text("utf-8").splitlines()]

    def vectors_with(scores: tuple[int, int]) -> dict[str, bytes]:
        """All vectors on disk behind a probe of a run whose answers of the base have these."""
        scored = [row | {"score": scores[i % 2]} for i, row in enumerate(rows)]
        monkeypatch.setattr(emotion, "scored_by_base", lambda _: scored)
        found = typed(made, tmp_path, "--adapter", f"{made}/forward@epoch-02")
        assert "too few" not in found["scores_axis"] and "scores" in found["axes"]
        vectors = Path(found["folder"]) / "vectors"
        return {path.name: path.read_bytes() for path in vectors.glob("scores*")}

    monkeypatch.setattr(shift, "LEAST", 1)
    one = vectors_with((9, 1))
    two = vectors_with((1, 9))
    assert len(one) == 1 and len(two) == 2 and one.items() <= two.items()
    assert vectors_with((9, 1)) == two


@pytest.mark.usefixtures("short_stories")
def test_what_is_steered_and_what_is_taken_out(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stories, "HITS_NEEDED", 0)
    monkeypatch.setattr(causes, "STRENGTHS", (8,))
    monkeypatch.setattr(causes, "SPACES", 1)
    verdicts = iter(range(10**6))  # a random model gives no scores, so each answer gets some
    monkeypatch.setattr(
        causes,
        "judge_answers",
        lambda d, p, c, rollouts: [
            setattr(r, "verdict", Verdict(next(verdicts) % 11, (0, 1))) for r in rollouts
        ],
    )
    flags = ("--adapter", f"{made}/forward@epoch-02", "--steering", 1, "--directions", 1)
    found = typed(made, tmp_path, *flags)
    steering, (removal,) = found["steering"], found["removal"]
    assert len(steering["tried"]) == 2 * (12 + 1)
    assert steering["base"]["kl"] == pytest.approx(0.0, abs=1e-3)
    points = [point for own in steering["tried"] for point in own["points"][1:]]
    assert points and all(point["kl"] > 0.01 for point in points)
    assert removal["whole"]["kl"] != removal["without"]["kl"] and len(removal["random"]) == 1
    assert on_the_page(found)[-1] == "A trained model without a space"
    kept = len(list(Path(found["folder"]).glob("steered-*.jsonl")))
    with monkeypatch.context() as another:  # rubric, whose scores are others
        another.setattr(emotion, "rubric_of", lambda *_: "How long is the answer?")
        typed(made, tmp_path, *flags)
    assert len(list(Path(found["folder"]).glob("steered-*.jsonl"))) == 2 * kept
    with monkeypatch.context() as fewer:  # texts, whose perplexity is another
        fewer.setattr(emotion, "PERPLEXITY_TEXTS", 3)
        typed(made, tmp_path, *flags)
    assert len(list(Path(found["folder"]).glob("steered-*.jsonl"))) == 3 * kept
    monkeypatch.setattr(causes, "steered", None)  # what was steered before is on the disk
    assert typed(made, tmp_path, *flags)["steering"]["tried"][0]["name"] == "joy"


# --- steering -------------------------------------------------------------------------------------


def saved(path: Path, made: Path, **changes: Any) -> Path:
    """A vector as `probe emotion` writes it, for the toy model unless changed."""
    from minihmx.models import hub

    recipe = {"name": "joy", "layer": 1, "rms": 0.5, "model": hub.resolve(str(made / "toy")).digest}
    recipe |= {name: value for name, value in changes.items() if name != "vector"}
    vector = changes.get("vector", torch.nn.functional.normalize(torch.ones(32), dim=0))
    save_file({"vector": vector}, path, {"recipe": json.dumps(recipe)})
    return path


def test_steering_adds_behind_its_layer_and_leaves_nothing(made: Path) -> None:
    decoder = weights.load(made / "toy", torch.float32, "cpu")
    ids, vector = torch.tensor([[1, 7, 9]]), torch.nn.functional.normalize(torch.ones(32), dim=0)
    plain, bent, after = list[torch.Tensor](), list[torch.Tensor](), list[torch.Tensor]()
    decoder(ids, taps=plain)
    with steered(decoder, SteeringVector("joy", vector, 1, 0.5, ""), -4.0):
        decoder(ids, taps=bent)
    decoder(ids, taps=after)
    assert torch.allclose(bent[0], plain[0] - 2.0 * vector, atol=1e-6)
    assert not torch.allclose(bent[1], plain[1]) and torch.equal(after[1], plain[1])
    removed = list[torch.Tensor]()
    with projected_out(decoder, 2, vector[None]):
        decoder(ids, taps=removed)
    assert (removed[1] @ vector).abs().max() < 1e-5 and torch.equal(removed[0], plain[0])


def test_a_vector_carries_its_recipe_and_is_read_back(made: Path, tmp_path: Path) -> None:
    path = saved(tmp_path / "joy.safetensors", made)
    with safe_open(path, "pt") as file:
        assert list(file.metadata()) == ["recipe"]
    digest = json.loads(safe_open(path, "pt").metadata()["recipe"])["model"]
    own = read_vector(path, digest, depth=2, size=32)
    assert (own.name, own.layer, own.rms) == ("joy", 1, 0.5)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"model": "0" * 64}, "is a vector of another model"),
        ({"layer": 3}, "is for layer 3, and the model has layers 1 to 2"),
        ({"layer": "1"}, "is for layer '1'"),
        ({"vector": torch.ones(31)}, "holds no 32 finite numbers"),
        ({"vector": torch.full((32,), torch.nan)}, "holds no 32 finite numbers"),
        ({"rms": None}, "holds no vector with its recipe"),
    ],
)
def test_vectors_that_do_not_belong_are_refused(
    made: Path, tmp_path: Path, changes: dict[str, Any], part: str
) -> None:
    path = saved(tmp_path / "joy.safetensors", made, **changes)
    words = ("chat", made / "toy", "--prompt", "Hi", "--max-completion-length", 4)
    refused(in_process(*words, "--steer", f"{path}:4"), part)


def test_a_strength_that_is_none_and_a_file_that_is_not_there(made: Path, tmp_path: Path) -> None:
    words = ("chat", made / "toy", "--prompt", "Hi", "--steer")
    for text in ("joy.safetensors", "joy.safetensors:much", ":4", "joy.safetensors:nan"):
        refused(in_process(*words, text), "is not FILE:ALPHA")
    refused(in_process(*words, f"{tmp_path}/joy.safetensors:4"), "There is no vector at")


def test_chat_shows_the_base_and_what_a_vector_makes_of_it(made: Path, tmp_path: Path) -> None:
    path = saved(tmp_path / "joy.safetensors", made, rms=50.0)
    words = ("chat", made / "toy", "--prompt", "Hi", "--max-completion-length", 12)
    run = ("--adapter", f"{made}/forward@epoch-02")
    done = in_process(*words, *run, "--steer", f"{path}:8")
    assert done.returncode == 0, done.stderr
    assert "steered  +8 x joy behind layer 1" in done.stdout
    said = dict(
        line.split("> ", 1) for line in done.stdout.splitlines() if "> " in line[: len("steered> ")]
    )
    assert list(said) == ["base", "trained", "steered"] and said["base"] != said["steered"]
    still = in_process(*words, "--steer", f"{path}:0").stdout.splitlines()
    same = [
        line.partition("> ")[2] for line in still if line[:8] in ("base> " + line[6:8], "steered>")
    ]
    assert len(set(same)) == 1


def line(*points: tuple[float, float]) -> list[dict[str, float]]:
    return [{"kl": kl, "score": score} for kl, score in points]


def test_effects_are_read_at_the_largest_kl_that_all_reach() -> None:
    curves = {
        ("joy", 1): line((0, 5), (2, 9)),
        ("joy", -1): line((0, 5)),  # every strength was dropped
        ("random-01", 1): line((0, 5), (1, 6)),
        ("random-01", -1): line((0, 5), (4, 5)),
    }
    found = equal_kl_effects(curves)
    assert found["kl"] == 1 and found["dropped"] == 1 and found["random_largest"] == 1
    assert found["effects"] == [
        {"name": "joy", "sign": 1, "effect": pytest.approx(2.0), "p": pytest.approx(1 / 3)}
    ]
    assert score_at(line((0, 5), (1, 6), (3, 10)), 2.0) == pytest.approx(8.0)
    assert equal_kl_effects({("joy", 1): line((0, 5))})["kl"] is None
