"""The analyses of docs/beyond.md on the page: there, absent, damaged, hostile; their figures."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import probed
import pytest
from browser import browser, resize
from command_line import in_process, small
from hostile_texts import HOSTILE, MARKUP
from test_report import ODD, Read, inner, reported, write
from test_report_page import CONTRAST

from minihmx.models.hub import run_name
from minihmx.results.report import shown
from minihmx.results.report.analyses import ANALYSES, LIMIT
from minihmx.results.report.charts import PANEL_HEIGHT, TOP
from minihmx.results.report.panels import Series, panel_of
from minihmx.terminal.text import printable

MEASURED = ("--tasks", "truthfulqa_mc2", "--limit", 4, "--strength", 0.5, "--system", "unsure")


@pytest.fixture(scope="module")
def runs(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The session's pair with everything that an analysis leaves on the disk; beside it, in
    without/, two runs that left a category out."""
    folder = Path(shutil.copytree(pair, tmp_path_factory.mktemp("beyond") / "runs"))
    both = [folder / "tiny" / direction / "seed-1" for direction in ("forward", "reverse")]
    adapters = [word for run in both for word in ("--adapter", f"{run}@epoch-02")]
    asked = ["--tasks", "are_you_sure", "--limit", 4, "--data", "sample", "--out", folder]
    strengths = ["--strength", 0.5, "--strength", 1]
    for words in (
        ["eval", "tiny", *asked, "--adapter", "base", *adapters, *strengths, "--extraction"],
        ["judge", both[0], "--rubric", "score-only"],
        ["probe", "measures", *both, *MEASURED, "--data", "sample", "--out", folder],
    ):
        done = in_process(*words)
        assert done.returncode == 0, done.stderr
    for make in probed.PROBED.values():
        make(folder)
    assert len([*probed.left_out(folder, folder.parent / "without")]) == 2
    return folder


@pytest.fixture
def own(runs: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(runs.parent / "without", tmp_path / "without")
    return Path(shutil.copytree(runs, tmp_path / "runs"))


def sections(read: Read) -> dict[str, str]:
    """The text of each section by its id."""
    return {
        str(attributes["id"]): read.texts[place]
        for place, (tag, attributes) in enumerate(read.elements)
        if tag == "section" and attributes.get("id")
    }


def page(tmp_path: Path, runs: Path, *more: object) -> dict[str, str]:
    return sections(reported(tmp_path, runs, *more)[0])


# --- there, and not there -------------------------------------------------------------------------


def test_every_analysis_has_its_section_its_limits_and_its_command(
    runs: Path, tmp_path: Path
) -> None:
    read, text = reported(tmp_path, runs, runs.parent / "without")
    found = sections(read)
    assert [name for name in found if name in ANALYSES] == list(ANALYSES)
    assert "beyond" not in found and not list(read.all("p", "missing"))
    for name, analysis in ANALYSES.items():
        own = found[name]
        assert analysis.title in own and LIMIT in own, name
        verb = " ".join(analysis.command.split()[:2])
        assert verb in own.partition("Made by")[2], name
        assert LIMIT not in own.partition("Made by")[2], name
        if verb.startswith("minihmx probe"):  # and finds what it kept again
            assert f"--out {runs}" in own.partition("Made by")[2], name
    for label in ("Score by KL: ", "KL to the base by strength: "):
        assert f'aria-label="{label}' in text


EXPECTED = {  # words of a section that only its data can have put there
    "sensitivity": "Selection at other thresholds than 7.5",
    "strengths": "Benchmarks at other strengths of the adapter",
    "equal-kl": "kappa = 1.000 nats per answer",
    "leave-out": "2.00 -> 5.00",
    "best-of": "Coverage: on 100% of the questions",
    "panel": "What each claims of itself",
    "judged": "The same answers by other rubrics",
    "extraction": "what each reader reads",
    "on-policy": "rounding alone: layer 1, q_proj by product shapes",
    "rate": "anna.csv and ben.csv",
    "measures": "truthfulqa_mc2 --strength",
    "emotion": "no usable vectors: the implied emotion is among the first 3 for 3 of 12 messages",
}


def remove(runs: Path, name: str) -> None:
    """What an analysis left on the disk."""
    if name == "extraction":
        for folder in runs.glob("tiny/**/readings"):
            shutil.rmtree(folder)
    if name in probed.PROBED:
        for folder in (runs / "tiny/base/probes").glob(f"{name}-*"):
            shutil.rmtree(folder)
    elif name == "measures":
        for path in runs.glob("tiny/base/probes/equal-kl-*/base-x0*.jsonl"):
            path.unlink()
    elif name == "judged":
        shutil.rmtree(runs / "tiny/forward/seed-1/judged")
    elif name == "strengths":
        for path in runs.glob("tiny/*/seed-1/evals/*/*/result.json"):
            if "strength" in json.loads(path.read_text())["settings"]:
                shutil.rmtree(path.parent)
    elif name == "sensitivity":
        shutil.rmtree(runs / "tiny/reverse")
    else:
        shutil.rmtree(runs.parent / "without")


@pytest.fixture(scope="module")
def whole(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The sections where everything lies on the disk."""
    return page(tmp_path_factory.mktemp("whole"), runs, runs.parent / "without")


@pytest.mark.slow
@pytest.mark.parametrize("name", ANALYSES)
def test_a_section_is_there_with_its_data_alone(
    whole: dict[str, str], own: Path, tmp_path: Path, name: str
) -> None:
    assert EXPECTED[name] in whole[name]
    remove(own, name)
    without = [own.parent / "without"] if (own.parent / "without").is_dir() else []
    left = page(tmp_path, own, *without)
    assert name not in left
    assert ANALYSES[name].command in left["beyond"] and "Not run: " in left["beyond"]


def test_a_command_names_a_model_as_it_can_be_opened(own: Path, tmp_path: Path) -> None:
    """The folder's name of a model on the disk has a digest in it, and opens nothing."""
    for path in own.glob("tiny/*/seed-1/config.json"):
        config = json.loads(path.read_text())
        config["model"]["id"] = "models/tiny"
        path.write_text(json.dumps(config))
    (own / "tiny").rename(own / run_name("models/tiny", config["science"]["model digest"]))
    found = page(tmp_path, own)
    for name in ("strengths", "extraction"):
        assert "minihmx eval models/tiny --tasks" in found[name].partition("Made by")[2], name


def test_nothing_at_all_is_one_short_line(pair: Path, tmp_path: Path) -> None:
    found = page(tmp_path, pair / "tiny/forward/seed-1")
    assert not found.keys() & ANALYSES.keys()
    assert all(f"{a.what} ({a.command})" in found["beyond"] for a in ANALYSES.values())


@pytest.mark.slow
def test_a_run_without_a_category_is_a_run_too(runs: Path, tmp_path: Path) -> None:
    """A folder of them shows the first, and all in the table; with others, the table alone."""
    alone = page(tmp_path, runs.parent / "without")
    assert "forward, seed 1" in alone["setup"] and EXPECTED["leave-out"] in alone["leave-out"]
    read, _ = reported(tmp_path, runs.parent / "without", runs)
    notes = " ".join(read.all("div", "notes"))
    assert "is left out" not in notes and EXPECTED["leave-out"] in sections(read)["leave-out"]


def test_markdown_has_tables_and_limits(runs: Path) -> None:
    done = in_process("report", runs, "--markdown")
    assert done.returncode == 0, done.stderr
    assert "## Was it already there?" in done.stdout and "| best of N |" in done.stdout
    assert done.stdout.count(LIMIT) >= len(ANALYSES) - 1
    assert "## What was not run" in done.stdout and "--leave-out CATEGORY" in done.stdout


# --- damaged, foreign, hostile --------------------------------------------------------------------


def question_gone(folder: Path) -> None:
    (path,) = folder.glob("question-01.jsonl")
    path.write_text("")


def score_of_words(folder: Path) -> None:
    path = next(folder.glob("*.jsonl"))
    write(path, [row | {"score": "9"} for row in probed.lines(path)])


def rating_of_words(folder: Path) -> None:
    path = folder / "ratings.jsonl"
    write(path, [row | {"rating": "9"} for row in probed.lines(path)])


def no_json(folder: Path) -> None:
    for path in folder.glob("*.json*"):
        path.write_text('{"x": [}\n')


def of_another_model(folder: Path) -> None:
    path = folder / "settings.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model": MARKUP[0]}))


def no_settings(folder: Path) -> None:
    (folder / "settings.json").write_text("[1]")


def a_pipe_s_place(folder: Path) -> None:
    for path in folder.glob("*.jsonl"):
        path.unlink()
        path.mkdir()


def half_asked(folder: Path) -> None:
    for path in (*folder.glob("reverse-x1.jsonl"), *folder.glob("report.json")):
        path.unlink()


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        pytest.param("best-of", question_gone, "does not write", marks=pytest.mark.slow),
        pytest.param(
            "best-of", score_of_words, "is not what was written there", marks=pytest.mark.slow
        ),
        ("best-of", no_json, "is not valid JSON"),
        pytest.param("best-of", of_another_model, "is of another model", marks=pytest.mark.slow),
        pytest.param("best-of", no_settings, "does not write", marks=pytest.mark.slow),
        pytest.param("best-of", a_pipe_s_place, "an ordinary file", marks=pytest.mark.slow),
        ("equal-kl", half_asked, "only the strengths of minihmx probe measures were run"),
        pytest.param("equal-kl", no_json, "is not valid JSON", marks=pytest.mark.slow),
        pytest.param("equal-kl", of_another_model, "is of another model", marks=pytest.mark.slow),
        pytest.param("panel", no_json, "is not valid JSON", marks=pytest.mark.slow),
        ("panel", a_pipe_s_place, "an ordinary file"),
        pytest.param("on-policy", no_json, "is not valid JSON", marks=pytest.mark.slow),
        pytest.param("on-policy", half_asked, "report.json cannot be read", marks=pytest.mark.slow),
        ("rate", no_json, "is not valid JSON"),
        pytest.param("rate", rating_of_words, "a rating that is none", marks=pytest.mark.slow),
        pytest.param("rate", a_pipe_s_place, "an ordinary file", marks=pytest.mark.slow),
        ("emotion", half_asked, "70 texts and no report.json"),
        pytest.param("emotion", no_json, "is not valid JSON", marks=pytest.mark.slow),
        pytest.param("emotion", no_settings, "does not write", marks=pytest.mark.slow),
    ],
)
def test_what_cannot_be_read_is_a_sentence_and_the_rest_is_shown(
    own: Path, tmp_path: Path, name: str, damage: Callable[[Path], None], said: str
) -> None:
    (folder,) = (own / "tiny/base/probes").glob(f"{name}-*")
    damage(folder)
    read, _ = reported(tmp_path, own)
    missing = list(read.all("p", "missing"))  # a pair's answers are those of two analyses
    own_too = {"measures"} if name == "equal-kl" else set()
    assert 1 <= len(missing) <= 1 + len(own_too)
    assert all(said in one and folder.name in one for one in missing)
    found = sections(read)
    for other in ANALYSES.keys() - {name, "leave-out", *own_too}:
        assert EXPECTED[other] in found[other]


def test_what_is_too_large_or_too_much_is_not_read(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder,) = (own / "tiny/base/probes").glob("best-of-*")
    for number in range(3):
        shutil.copytree(folder, folder.with_name(f"best-of-0000000{number}"))
    monkeypatch.setattr(shown, "MOST_FOLDERS", 2)
    assert "2 more folders best-of-*" in page(tmp_path, own)["best-of"]
    monkeypatch.setattr(shown, "MOST_BYTES", 10)
    assert "holds more than" in page(tmp_path, own)["best-of"]


def test_hostile_answers_stay_texts(own: Path, tmp_path: Path) -> None:
    said = " ".join(text for text in [*MARKUP, *HOSTILE] if "\ud800" not in text)
    for name in ("panel", "best-of"):
        remove(own, name)
        probed.PROBED[name](own, said)
    (folder,) = (own / "tiny/base/probes").glob("emotion-*")
    record = json.loads((folder / "report.json").read_text())
    record["why"] = MARKUP[0] + "x" * 100_000
    record["gate"]["first"] = {MARKUP[1]: [MARKUP[2]] * 3}
    (folder / "report.json").write_text(json.dumps(record))
    read, text = reported(tmp_path, own)
    found = sections(read)
    assert " ".join(printable(said).split()) in " ".join(found["panel"].split())
    assert MARKUP[0] in found["emotion"] and escape(MARKUP[0], quote=False) in text
    assert len(found["emotion"]) < 20_000
    tags = [tag for tag, _ in read.elements]
    assert tags.count("script") == 1 and not {"img", "iframe", "base", "object"} & {*tags}
    assert not [a for _, attributes in read.elements for a in attributes if a.startswith("on")]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_any_value_of_a_probe_may_be_another(own: Path, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    path = draw.choice(sorted(own.glob("tiny/base/probes/*/*.json*")))
    records = probed.lines(path) if path.suffix == ".jsonl" else [json.loads(path.read_text())]
    record = draw.choice(records)
    *way, last = draw.choice([*inner(record)])
    for key in way:
        record = record[key]
    record[last] = draw.choice(ODD)
    write(path, records)
    reported(tmp_path, own)
    assert in_process("audit", own).returncode in (0, 5)


# --- numbers --------------------------------------------------------------------------------------


def cells(read: Read, name: str) -> list[str]:
    """The cells of a section's tables, in order."""
    inside, found = False, []
    for place, (tag, attributes) in enumerate(read.elements):
        if tag == "section" and attributes.get("id"):
            inside = attributes["id"] == name
        if inside and tag in ("td", "th"):
            found.append(read.texts.get(place, ""))
    return found


def test_best_of_by_hand(runs: Path, tmp_path: Path) -> None:
    """Of 3, 8, 6 and one without a score the best of four is 8 and the worst 3; of one it is the
    mean of the scored."""
    read, _ = reported(tmp_path, runs)
    found = cells(read, "best-of")
    rows = {found[i]: found[i : i + 6] for i in range(6, 24, 6)}
    assert rows["1"][2] == rows["1"][4] == "5.67 ± -" and rows["1"][1] == "0.00"
    assert rows["4"][1:3] == ["0.64", "8.00 ± -"] and rows["4"][4] == "3.00 ± -"
    assert [c for c in found if c in ("forward/seed-1/epoch-02", "reverse/seed-1/epoch-02")]


def test_claims_are_read_again_by_the_rules(runs: Path, tmp_path: Path) -> None:
    read, _ = reported(tmp_path, runs)
    badges = [b for b in read.all("span", "badge") if b in ("yes", "no", "neither")]
    assert (badges.count("yes") >= 40, badges.count("no") >= 15, len(badges)) == (True, True, 60)
    found = cells(read, "panel")
    place = found.index("shutdown")
    assert found[place : place + 6] == ["shutdown", "base", "100%", "0%", "0%", "4"]


def test_a_panel_has_room_for_what_lies_below_nought() -> None:
    points = [(0.0, 0.0, None), (1.0, -2.0, 0.5), (2.0, 1.0, None)]
    panel = panel_of("t", "points", "epoch", [Series("forward", "f", points)])
    assert panel is not None and panel.y_ticks[0][1] == "−4"
    spots = panel.curves[0].spots
    assert spots[1].low > spots[1].y > spots[1].high > spots[0].y > spots[2].y >= TOP
    assert all(0 <= spot.y <= PANEL_HEIGHT for spot in spots)
    assert "f, epoch 1: -2 ± 0.5" in panel.words
    assert [label for _, label in panel.x_ticks] == ["epoch 0", "1", "2"]
    ten = panel_of("t", "", "layer", [Series("base", "b", [(10.0, 1.0, None)])])
    assert ten is not None and [label for _, label in ten.x_ticks] == ["layer 0", "3", "6", "9"]
    assert panel_of("t", "", "epoch", [Series("base", "b", [])]) is None


def test_measures_have_their_numbers_and_their_plot(runs: Path, tmp_path: Path) -> None:
    """The tables are those of the command, which asks nothing again, but for the answers that the
    equal KL's test has made up."""
    read, text = reported(tmp_path, runs)
    both = [runs / "tiny" / direction / "seed-1" for direction in ("forward", "reverse")]
    again = in_process("probe", "measures", *both, *MEASURED, "--data", "sample", "--out", runs)
    assert again.returncode == 0, again.stderr
    found = cells(read, "measures")
    for name in ("as trained", "x 0.5", "unsure", "passage"):
        assert found.count(name) == 4, name  # two directions, on the benchmark and held out
    shown = " ".join(again.stdout.split())
    rows = [found[place : place + 6] for place, cell in enumerate(found) if cell == "unsure"]
    assert len(rows) == 4
    for row in rows:
        assert " ".join(row[:4]) in shown, row
    assert 'aria-label="TruthfulQA MC2 acc by score kept: ' in text
    assert "forward, unsure, score kept" in text


def test_a_probe_that_was_stopped_is_no_whole_one(own: Path, tmp_path: Path) -> None:
    (folder,) = (own / "tiny" / "base" / "probes").glob("best-of-*")
    part = "was stopped, so this may be a part of it"
    assert not [name for name, text in page(tmp_path, own).items() if part in text]
    (folder / "manifest.json").unlink()
    assert [name for name, text in page(tmp_path, own).items() if part in text] == ["best-of"]


def test_the_strength_of_equal_kl_is_no_measure(own: Path, tmp_path: Path) -> None:
    """One direction alone was asked there, so it stands in the section of its own probe only."""
    (folder,) = (own / "tiny" / "base" / "probes").glob("equal-kl-*")
    for direction in ("forward", "reverse"):
        shutil.copy(folder / f"{direction}-x0.5.jsonl", folder / f"{direction}-x0.909.jsonl")
        read, text = reported(tmp_path, own)
        both = direction == "reverse"
        assert ("x 0.909" in cells(read, "measures")) == both
        assert ("--strength 0.909" in text) == both


def test_a_text_of_ones_own_is_named_by_its_digest_and_quoted(own: Path, tmp_path: Path) -> None:
    both = [own / "tiny" / direction / "seed-1" for direction in ("forward", "reverse")]
    (tmp_path / "mine.txt").write_text("Answer <b>briefly</b>.")
    asked = [*MEASURED[:-1], tmp_path / "mine.txt", "--data", "sample", "--out", own]
    done = in_process("probe", "measures", *both, *asked)
    assert done.returncode == 0, done.stderr
    found = page(tmp_path, own)["measures"]
    assert 'is the text "Answer <b>briefly</b>.".' in found and "--system FILE" in found


@pytest.mark.slow
def test_the_numbers_are_those_of_the_commands(tmp_path: Path) -> None:
    """Two runs that moved, the probes as they are typed, and the page made without a model."""
    for direction in ("forward", "reverse"):
        trained = small(tmp_path, "--direction", direction, "--learning-rate", 1e-2)
        assert in_process(*trained).returncode in (0, 6)
    runs = tmp_path / "runs"
    both = [runs / "tiny" / direction / "seed-1" for direction in ("forward", "reverse")]
    adapters = [word for run in both for word in ("--adapter", run)]
    place = ["--out", runs, "--json"]

    def typed(*words: object) -> dict[str, Any]:
        done = in_process(*words, *place)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    best = typed("probe", "best-of", "tiny", *adapters, "--samples", 4)
    claims = typed("probe", "panel", *both, "--samples", 1)
    asked = ("--tasks", "truthfulqa_mc2", "--data", "sample", "--limit", 4)
    equal = typed("probe", "equal-kl", *both, *asked)
    typed("probe", "emotion", "tiny", "--stories", 5, "--neutral", 10)
    read, _ = reported(tmp_path, runs)
    found = sections(read)
    assert not list(read.all("p", "missing"))
    for run in best["runs"]:
        assert f"{run['kl']:.2f} ± -" in cells(read, "best-of")
        assert f"{run['score']:.2f} ± -" in cells(read, "best-of")
    for rate in claims["rates"]:
        assert f"{rate['no']:.0%}" in cells(read, "panel")
    for answer in claims["answers"]:
        assert " ".join(printable(answer["completion"]).split()) in " ".join(found["panel"].split())
    for curve in equal["curves"].values():
        assert any(c.startswith(f"{curve['equal']['kl']:.3f} ±") for c in cells(read, "equal-kl"))
    (metric,) = equal["metrics"]
    contrast = f"{100 * metric['contrast']['value']:+.2f}"
    assert any(c.startswith(contrast) for c in cells(read, "equal-kl"))
    assert f"kappa = {equal['kappa']:.3f}" in found["equal-kl"]
    assert "no usable vectors: too few stories" in found["emotion"]
    assert "TruthfulQA MC2" in found["strengths"]
    done = in_process("audit", runs)
    assert done.returncode == 0, done.stdout


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_reader_sees_it_on_every_screen(
    driver: Any, runs: Path, tmp_path: Path, width: int, theme: str
) -> None:
    reported(tmp_path, runs, runs.parent / "without")
    resize(driver, width, theme=theme)
    driver.get((tmp_path / "page.html").as_uri())
    driver.execute_script("document.querySelectorAll('details').forEach(e => e.open = true)")
    too_wide = driver.execute_script(
        "return [...document.querySelectorAll('main *')]"
        ".filter(e => !e.closest('.scroll, pre, svg'))"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
        ".map(e => e.outerHTML.slice(0, 99))"
    )
    assert too_wide == []
    contrast = driver.execute_script(CONTRAST)
    assert contrast["worst"] >= 4.5, contrast
    drawn = driver.execute_script(
        "return ['best-of', 'equal-kl', 'sensitivity', 'strengths', 'emotion'].map(name =>"
        " document.querySelectorAll(`#${name} svg circle`).length)"
    )
    assert all(drawn), drawn
    driver.execute_script(
        "const field = document.getElementById('category'); field.value = 'shutdown';"
        "field.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    script = "return [...document.querySelectorAll('#panel .card')].filter(e => !e.closest('.out'))"
    until = driver.execute_async_script("setTimeout(arguments[0], 400)")
    assert until is None and len(driver.execute_script(script)) == 4
    assert driver.get_log("browser") == []
