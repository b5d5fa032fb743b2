"""`minihmx probe measures`: shares by hand, and everything asked once."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import in_process, refused, small

from minihmx.errors import UserError
from minihmx.evals.asking import runner
from minihmx.probes.equal_kl import answers_name
from minihmx.probes.equal_kl_tasks import Values
from minihmx.probes.measures import (
    NO_MEASURE,
    TOO_FEW,
    TOO_SMALL,
    Condition,
    EffectShare,
    UnderCondition,
    conditions,
    share_left,
    under_conditions,
)
from minihmx.results import plots
from minihmx.terminal.measures import SCORE, UnderMeasures, measures_text


def of_items(*values: float) -> Values:
    return {(f"q{n}", f"q{n}", 0): value for n, value in enumerate(values)}


# --- shares ---------------------------------------------------------------------------------------


def test_what_halves_every_loss_leaves_half_of_it_without_a_doubt() -> None:
    before = of_items(-1.0, -1.0, 0.0, -2.0)
    left, why = share_left(before, {key: value / 2 for key, value in before.items()}, 2)
    assert left == pytest.approx(EffectShare(0.5, 0.5, 0.5)) and why == ""
    left, _ = share_left(before, before, 2)  # as a passage leaves the held-out score
    assert left == pytest.approx(EffectShare(1.0, 1.0, 1.0))


def test_the_interval_is_fiellers() -> None:
    """2 and 4 have the mean 3 and its error 1; 1 and 1 have none. |1 - 3 s| <= 2 s for .2 to 1."""
    left, _ = share_left(of_items(2.0, 4.0), of_items(1.0, 1.0), 2)
    assert left == pytest.approx(EffectShare(1 / 3, 0.2, 1.0))
    # 3 and 3 over 1 and 2: 1.5 with .5, and |3 - 1.5 s| <= s for 1.2 to 6
    left, _ = share_left(of_items(1.0, 2.0), of_items(3.0, 3.0), 2)
    assert left == pytest.approx(EffectShare(2.0, 1.2, 6.0))


def test_items_of_one_question_go_together() -> None:
    apart = {(f"q{n}", f"i{n}", 0): value for n, value in enumerate((2.0, 3.0, 2.0, 3.0))}
    together = {(f"q{n // 2}", *key[1:]): v for n, (key, v) in enumerate(apart.items())}
    now = dict.fromkeys(apart, 1.0)
    of_items_, _ = share_left(apart, now, 2)
    of_questions, _ = share_left(together, dict.fromkeys(together, 1.0), 2)
    assert of_items_ and of_questions
    assert of_questions == pytest.approx(
        EffectShare(0.4, 0.4, 0.4)
    )  # both questions have the mean 2.5
    assert of_items_.low < 0.4 < of_items_.high


def test_no_share_of_what_may_be_nothing_nor_of_a_few() -> None:
    assert share_left(of_items(1.0, 3.0), of_items(1.0, 1.0), 2) == (None, TOO_SMALL)
    assert share_left(of_items(-3.0, -3.0), of_items(1.0, 1.0), 3) == (None, TOO_FEW)


def test_base_and_trained_are_asked_alike() -> None:
    """A text that both gain from gives nothing back; a strength stands beside the base as it is."""
    text, half = Condition("text", system="unsure"), Condition("x 0.5", 0.5)
    values = {
        ("base", NO_MEASURE): of_items(1, 1, 1, 0),
        ("forward", NO_MEASURE): of_items(0, 1, 0, 0),
        ("forward", "x 0.5"): of_items(1, 1, 0, 0),
        ("base", "text"): of_items(1, 1, 1, 1),
        ("forward", "text"): of_items(0, 1, 0, 1),
        ("reverse", NO_MEASURE): of_items(1, 1, 1, 0),
    }
    ways = [Condition(NO_MEASURE), half, text, Condition("passage", passage=True)]
    found = {
        (each.direction, each.asked.name): each for each in under_conditions("x", values, ways, 2)
    }
    assert set(found) == {
        *(("forward", name) for name in (NO_MEASURE, "x 0.5", "text")),
        ("reverse", NO_MEASURE),
    }
    trained, weaker, told = (found["forward", name] for name in (NO_MEASURE, "x 0.5", "text"))
    assert (trained.base, trained.trained, trained.effect.value) == (0.75, 0.25, -0.5)
    assert trained.change.value == 0.0 and trained.left is None and trained.why == TOO_SMALL
    assert (weaker.base, weaker.effect.value, weaker.change.value) == (0.75, -0.25, 0.25)
    assert (told.base, told.trained) == (1.0, 0.5)
    assert told.effect == trained.effect and told.change.value == 0.0
    # differences 1 0 0 0: std .5 over four items
    assert weaker.change.error == pytest.approx(0.25)


def test_what_has_no_score_in_one_condition_counts_in_none() -> None:
    values = {
        ("base", NO_MEASURE): of_items(1, 5),
        ("forward", NO_MEASURE): of_items(5, 5),
        ("reverse", NO_MEASURE): of_items(0, 0),
        ("base", "text"): of_items(1),
        ("forward", "text"): of_items(3),
    }
    ways = [Condition(NO_MEASURE), Condition("text", system="unsure")]
    found = list(under_conditions(SCORE, values, ways, 1))
    told = next(each for each in found if each.asked.name == "text")
    assert (told.effect.value, told.change.value) == (2.0, -2.0)


def test_strengths_then_texts_each_once_then_the_passage() -> None:
    names = [way.name for way in conditions([0.5, 1.0, 0.75, 0.5], ["unsure", "a.txt", "unsure"])]
    assert names == [NO_MEASURE, "x 0.75", "x 0.5", "unsure", "a.txt", "passage"]


def test_strengths_that_differ_have_names_that_differ() -> None:
    names = [way.name for way in conditions([0.1234567, 0.1234568], [])]
    assert names == [NO_MEASURE, "x 0.1234568", "x 0.1234567", "passage"]
    assert answers_name("forward", 0.1234567) != answers_name("forward", 0.1234568)
    assert answers_name("forward", 1.0) == "forward-x1"


def test_more_flips_are_not_called_a_gain() -> None:
    found = [e._replace(of="are_you_sure/flip_rate") for e in made_up(0.3) if e.of != SCORE]
    text = measures_text(UnderMeasures(found, "here"))
    assert text.count("a gain") == 1 and "is called a gain here" in " ".join(text.split())
    assert "counts a higher flip_rate as better" in " ".join(text.split())
    row = next(line for line in text.splitlines() if "forward" in line and "unsure" in line)
    assert row.split()[-3:] == ["75%", "[75%,", "75%]"]
    assert "flip_rate" not in measures_text(UnderMeasures(made_up(0.3), "here"))


@pytest.mark.parametrize("name", ["passage", "x 0.5", NO_MEASURE])
def test_a_text_called_as_a_condition_would_take_its_place(name: str) -> None:
    with pytest.raises(UserError, match=f"give it as ./{name}"):
        conditions([0.5], ["unsure", name])
    assert len(conditions([0.5], ["unsure", f"./{name}"])) == 5


# --- what is shown --------------------------------------------------------------------------------


def made_up(loss: float, items: int = 30) -> list[UnderCondition]:
    """Every third item lost by forward; half of the loss is back at half the strength."""
    ways = [Condition(NO_MEASURE), Condition("x 0.5", 0.5), Condition("unsure", system="unsure")]
    lost = of_items(*(loss * (n % 3 == 0) for n in range(items)))
    base = dict.fromkeys(lost, 0.5)
    scores = {"base": of_items(*[4.0] * 10), "forward": of_items(*[8.0] * 10)}
    acc: dict[tuple[str, str], Values] = {("base", way.name): base for way in ways}
    score = {("base", way.name): scores["base"] for way in ways}
    for way, share in zip(ways, (1.0, 0.5, 0.25), strict=True):
        for direction, sign in (("forward", 1), ("reverse", -1)):
            acc[direction, way.name] = {k: base[k] + sign * share * lost[k] for k in lost}
            score[direction, way.name] = {k: 4 + sign * 4 * share for k in scores["base"]}
    tables = under_conditions("truthfulqa_mc2/acc", acc, ways, 20)
    return [*tables, *under_conditions(SCORE, score, ways, 5)]


def test_the_tables_say_what_came_back_and_its_price() -> None:
    text = measures_text(UnderMeasures(made_up(-0.3), "here"))
    rows = [line.split() for line in text.splitlines()]
    forward = next(row for row in rows if row[4:6] == ["forward", "unsure"])
    # 10 percent lost of 50; 2.5 under the text
    assert forward[6:8] == ["50.00", "47.50"] and forward[8] == "-2.50" and forward[11] == "+7.50"
    assert forward[-3:] == ["75%", "[75%,", "75%]"]
    assert "a gain" in text  # in reverse
    (kept,) = (row for row in rows if row[:3] == ["reverse", "x", "0.5"] and len(row) == 14)
    assert kept[-3:] == ["50%", "[50%,", "50%]"] and kept[-6] == "+2.00"  # of -4 points 2


def test_too_little_for_a_share_is_said() -> None:
    few = measures_text(UnderMeasures(made_up(-0.3, items=12), "here"))
    assert "too few items" in few
    ways = [Condition(NO_MEASURE)]
    noise = of_items(*([1.0, 0.0] * 15))
    values = {("base", NO_MEASURE): noise, ("forward", NO_MEASURE): dict.fromkeys(noise, 0.4)}
    values["reverse", NO_MEASURE] = noise
    found = list(under_conditions("bbq/accuracy_amb", values, ways, 20))
    assert "too small a loss" in measures_text(UnderMeasures(found, "here"))


def test_one_picture_with_a_panel_for_each_metric(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = json.loads(json.dumps(UnderMeasures(made_up(-0.3), "here").report()))
    png, svg = plots.draw_measures(report, tmp_path / "measures.png")
    assert png.read_bytes()[:4] == b"\x89PNG"
    text = svg.read_text()
    assert plots.draw_measures(report, tmp_path / "measures")[1].read_text() == text
    for words in ("TruthfulQA MC2 acc", "forward, unsure", "reverse, strength 1 to 0"):
        assert f"<!-- {words} -->" in text, words


def test_the_legend_names_what_the_first_panel_lacks(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = made_up(-0.3)
    other = [each._replace(of="bbq/accuracy_amb") for each in found if each.of != SCORE]
    first = [each for each in found if each.asked.name != "unsure" or each.of == SCORE]
    report = json.loads(json.dumps(UnderMeasures([*first, *other], "here").report()))
    _, svg = plots.draw_measures(report, tmp_path / "measures")
    assert "<!-- forward, unsure -->" in svg.read_text()


# --- as it is typed -------------------------------------------------------------------------------


def both(runs: Path) -> tuple[Path, Path]:
    return runs / "tiny" / "forward" / "seed-1", runs / "tiny" / "reverse" / "seed-1"


@pytest.fixture
def runs(pair: Path, tmp_path: Path) -> Path:
    shutil.copytree(pair, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.mark.slow
def test_the_whole_command_killed_and_again_without_asking_twice(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ("--data", "sample", "--limit", 4, "--tasks", "truthfulqa_mc2", "--out", runs)
    command = ("probe", "measures", *both(runs), *place, "--system", "unsure")
    asked, real = [0], runner.ask_choices

    def stopped(*arguments: Any) -> Any:
        if arguments[2]:  # the tasks that are left
            asked[0] += 1
            if asked[0] == 5:
                raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(runner, "ask_choices", stopped)
    assert in_process(*command).returncode == 130
    done = in_process(*command)
    assert done.returncode == 0, done.stderr
    once = 3 + 2 * 6  # the base under three conditions, and each direction under six
    assert asked[0] == once + 1
    for part in ("too few items", "too few questions", "share back", "This cannot tell"):
        assert part in done.stdout, part
    again = in_process(*command, "--json")
    report = json.loads(again.stdout)
    assert asked[0] == once + 1 and "4 of 4 samples are there already" in again.stderr
    assert len([e for e in report["effects"] if e["of"] == SCORE]) == 2 * 6
    assert Path(report["folder"]).name.startswith("equal-kl-")
    assert in_process("audit", runs).returncode == 0


def test_a_plot_needs_matplotlib_before_anything_is_asked(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    command = ("probe", "measures", *both(runs), "--data", "sample", "--out", runs, "--plot", "p")
    refused(in_process(*command), "matplotlib")
    assert not (runs / "tiny" / "base").exists()


def test_what_is_no_pair_or_cannot_be_said_is_refused(runs: Path, tmp_path: Path) -> None:
    forward, reverse = both(runs)
    probe, place = ("probe", "measures"), ("--data", "sample", "--out", runs)
    refused(in_process(*probe, reverse, forward, *place), "give the forward run first")
    refused(in_process(*probe, forward, reverse, *place, "--tasks", "nothing"), "nothing")
    refused(in_process(*probe, forward, reverse, *place, "--system", "gone"), "is not there")
    refused(in_process(*probe, forward, reverse, *place, "--strength", 3), "from 0 (the base)")
    long = tmp_path / "long.txt"
    long.write_text("word " * 2_000)
    refused(in_process(*probe, forward, reverse, *place, "--system", long), "half of the model's")
    assert not (runs / "tiny" / "base" / "probes").exists(), (
        "what another probe sealed stays sealed"
    )
    for run in (forward, reverse):  # both of another base, as far as their files say
        config = json.loads((run / "config.json").read_text())
        config["science"]["model digest"] = "0" * 64
        (run / "config.json").write_text(json.dumps(config))
    refused(in_process(*probe, forward, reverse, *place), "was trained on another model than tiny")


@pytest.mark.slow
def test_a_text_before_the_question_changes_what_is_answered(tmp_path: Path) -> None:
    for direction in ("forward", "reverse"):
        trained = small(tmp_path, "--direction", direction, "--learning-rate", 1e-2)
        assert in_process(*trained).returncode in (0, 6)
    runs = tmp_path / "runs"
    place = (
        "--data",
        "sample",
        "--limit",
        4,
        "--out",
        runs,
        "--plot",
        tmp_path / "drawn",
        "--json",
    )
    done = in_process("probe", "measures", *both(runs), *place)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "drawn.svg").exists()
    folder = Path(json.loads(done.stdout)["folder"])
    kept = {path.name: path.read_text() for path in folder.glob("forward-x1*.jsonl")}
    assert len(kept) == 3 and len({*kept.values()}) == 3
