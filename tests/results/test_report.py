"""`minihmx report`: what stands on the page, what is said of bad input, and how large it gets."""

from __future__ import annotations

import json
import random
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from command_line import in_process, refused
from hostile_texts import HOSTILE, MARKUP
from made_up import seal

from minihmx.models.licences import ETHICS, NO_CLAIM
from minihmx.results.report import page
from minihmx.results.report.charts import _levels
from minihmx.results.report.item_card import FLIPS
from minihmx.results.report.material import Material
from minihmx.results.report.sections import SECTIONS
from minihmx.terminal.text import printable

VOID = {"meta", "input", "line", "rect", "circle", "path"}


class Read(HTMLParser):
    """A page as a browser reads it: its elements in order, each with attributes and own text."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[int, str] = {}
        self.open: list[int] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.elements[self.open.pop()][0] == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        for place in self.open:
            self.texts[place] = self.texts.get(place, "") + data

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def all(self, tag: str, name: str = "") -> Iterator[str]:
        """The text of each element of this tag and class."""
        for place, (own, attributes) in enumerate(self.elements):
            if own == tag and (not name or name in (attributes.get("class") or "").split()):
                yield self.texts.get(place, "")


@pytest.fixture(scope="module")
def runs(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The session's pair, selected, with two benchmarks on base and both."""
    folder = Path(shutil.copytree(pair, tmp_path_factory.mktemp("report") / "runs"))
    both = [folder / "tiny" / direction / "seed-1" for direction in ("forward", "reverse")]
    assert in_process("select", *both).returncode == 0
    adapters = [word for run in ("base", *both) for word in ("--adapter", run)]
    asked = ["--tasks", "bbq,are_you_sure", "--limit", 6, "--samples", 2]
    asked += ["--data", "sample", "--out", folder]
    done = in_process("eval", "tiny", *asked, *adapters)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def own(runs: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(runs, tmp_path / "runs"))


def reported(tmp_path: Path, *paths: object, name: str = "page.html") -> tuple[Read, str]:
    done = in_process("report", *paths, "--out", tmp_path / name)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / name).read_text("utf-8")
    assert len(text.encode()) < 5_000_000
    return Read(text), text


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def write(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(r, sort_keys=True) + "\n" for r in records), "utf-8")


# --- what is there --------------------------------------------------------------------------------


def test_every_section_is_there_with_its_content(runs: Path, tmp_path: Path) -> None:
    read, text = reported(tmp_path, runs)
    ids = [attributes.get("id") for tag, attributes in read.elements if tag == "section"]
    assert [name for name in ids if name in SECTIONS] == list(SECTIONS)
    assert {name for name in ids if name} - {*SECTIONS} == {"sensitivity", "beyond"}
    assert not list(read.all("p", "missing"))
    everything = " ".join(read.all("body"))
    evaluated = lines(runs / "tiny/reverse/seed-1/evaluations/epoch-02.jsonl")
    stepped = lines(runs / "tiny/forward/seed-1/rollouts/step-000003.jsonl")
    for line in (*evaluated, *stepped):  # without any script, folded or not
        assert printable(line["completion"]).strip() in everything
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert "unsafe" not in policy and policy.count("sha256-") == 2
    assert not re.search(r'(?:src|href)="(?!#)', text), "the page needs nothing but itself"


def test_the_mark_in_the_judges_words_is_the_score(runs: Path, tmp_path: Path) -> None:
    read, _ = reported(tmp_path, runs / "tiny/forward/seed-1")
    judged = [place for place, (_, a) in enumerate(read.elements) if a.get("class") == "said judge"]
    marks = [read.texts[place + 1] for place in judged if read.elements[place + 1][0] == "mark"]
    badges = [text for text in read.all("span", "badge") if text.isdecimal()]
    assert len(marks) > 20 and marks == badges


def test_flips_are_coloured_by_their_direction(runs: Path, tmp_path: Path) -> None:
    read, text = reported(tmp_path, runs)
    samples = [
        line
        for path in sorted((runs / "tiny").glob("*/seed-1/evals/are_you_sure/*/samples.jsonl"))
        for line in lines(path)
    ]
    flips = [line["detail"]["flip"]["value"] for line in samples]
    shown = re.findall(r'data-verdict="([^"]*)"', text)
    for value, tone in (("progressive", "up"), ("regressive", "down"), ("sideways", "sideways")):
        assert sum(value in words.split() for words in shown) >= flips.count(value)
        words = {"up": "wrong to right", "down": "right to wrong", "sideways": "neither"}[tone]
        coloured = [t for t in read.all("span", tone) if words in t and "flips" in t]
        assert len(coloured) >= flips.count(value)
    assert set(flips) - {"kept"}, "the sample should hold a flip"


def test_numbers_are_those_of_the_files(runs: Path, tmp_path: Path) -> None:
    read, text = reported(tmp_path, runs)
    for direction in ("forward", "reverse"):
        run = runs / "tiny" / direction / "seed-1"
        winner = json.loads((run / "selected.json").read_text())["winner"]
        evaluation = next(
            line
            for line in lines(run / "metrics.jsonl")
            if line["kind"] == "evaluation" and f"epoch-{line['epoch']:02d}" == winner
        )
        assert f"<b>{direction}</b> {evaluation['score']:.2f}" in text
        assert f'<td class="n">{evaluation["kl"]:.4f}</td>' in text
    everything = " ".join(read.all("body"))
    for words in ("Table 4. Forward minus reverse", "all equal", "minihmx select", "bnpo"):
        assert words in everything
    step = lines(runs / "tiny/forward/seed-1/rollouts/step-000001.jsonl")
    shown = [float(n) for n in re.findall(r'aria-label="advantage ([-+.\d]+)"', text)]
    assert shown[: len(step)] == [round(line["advantage"], 2) for line in step]


def test_one_run_and_a_named_epoch(runs: Path, tmp_path: Path) -> None:
    run = runs / "tiny/reverse/seed-1"
    read, text = reported(tmp_path, f"{run}@epoch-01")
    assert "reverse, epoch 1" in text and "forward, epoch" not in text
    assert any("all runs there are reverse" in told for told in read.all("p", "missing"))
    alone, _ = reported(tmp_path, run, name="alone.html")
    assert "SycophancyEval are_you_sure flip_rate, %" in list(alone.all("td"))
    both, _ = reported(tmp_path, runs / "tiny/forward/seed-1", run, name="both.html")
    assert not list(both.all("p", "missing"))


def test_the_authors_note_and_the_base_s_licence_go_with_every_report(
    own: Path, tmp_path: Path
) -> None:
    """On the page, on the pages beside it, and in Markdown; a licence that nobody knows is none."""
    read, _ = reported(tmp_path, own)
    markdown = in_process("report", own, "--markdown").stdout
    for text in (" ".join(read.all("body")), markdown):
        assert ETHICS in text and NO_CLAIM in text
        assert "MIT License (minihmx's own model)" in text and "keep the copyright line" in text
    material = Material([str(own)])
    beside = page.write_page(material, tmp_path / "small.html", budget=250_000)[1:]
    bodies = [" ".join(Read(file.read_text("utf-8")).all("body")) for file in beside]
    assert bodies and all(ETHICS in body for body in bodies)
    elsewhere = tmp_path / "their model"
    elsewhere.mkdir()
    for path in own.glob("tiny/*/seed-1/config.json"):
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | {"model": {"id": str(elsewhere), "revision": None}}))
    read, _ = reported(tmp_path, own, name="unknown.html")
    assert "unknown (its folder has no LICENSE" in " ".join(read.all("body"))
    (elsewhere / "LICENSE").write_text("LLAMA 3.2 COMMUNITY LICENSE AGREEMENT")
    read, _ = reported(tmp_path, own, name="llama.html")
    assert 'show "Built with Llama"' in " ".join(read.all("body"))


def test_markdown(runs: Path, tmp_path: Path) -> None:
    done = in_process("report", runs, "--markdown")
    assert done.returncode == 0 and done.stdout.startswith("# tiny\n")
    for part in ("## What was run", "### Table 4", "| base | forward, epoch", "    minihmx audit"):
        assert part in done.stdout, part
    to_file = in_process("report", runs, "--markdown", "--out", tmp_path / "report.md")
    assert to_file.returncode == 0 and to_file.stdout == ""
    assert (tmp_path / "report.md").read_text() == done.stdout


# --- model text is data ---------------------------------------------------------------------------


def poison(folder: Path) -> list[str]:
    """Hostile texts wherever a model, a judge, a question or a file may speak."""
    texts = [text for text in [*MARKUP, *HOSTILE] if text.isprintable() or "\ud800" not in text]
    at = iter(range(10**6))

    def next_text() -> str:
        return texts[next(at) % len(texts)]

    for path in sorted(folder.glob("tiny/*/seed-1/*/*.jsonl")):
        if path.parent.name in ("rollouts", "evaluations"):
            records = lines(path)
            for line in records:
                line["completion"] = next_text() + next_text()
                line["judge"] += next_text()
                line["prompt"] = f"{line['question']} {MARKUP[0]} {MARKUP[1]}"
                line["category"] = f"{MARKUP[1]} {MARKUP[2]}"
                line["flags"] = [next_text()]
                line["finish"] = "stop"
            records[0] |= {"score": None, "span": None, "unscored": next_text(), "reward": None}
            write(path, records)
    for path in folder.glob("tiny/*/seed-1/config.json"):
        config = json.loads(path.read_text())
        config["sources"]["learning_rate"] = config["model"]["revision"] = MARKUP[0]
        path.write_text(json.dumps(config))
    for path in folder.glob("tiny/*/seed-1/env.json"):
        starts = json.loads(path.read_text())
        starts[0] |= {"device": MARKUP[0], "command": ["x", MARKUP[1]], "minihmx": MARKUP[4]}
        path.write_text(json.dumps(starts))
    plan = {"name": MARKUP[0], "path": MARKUP[1], "command": [MARKUP[4]], "state": MARKUP[0]}
    models = {"tiny": {"seeds": [1], "pieces": [plan]}}
    (folder / "experiment.json").write_text(json.dumps({"models": models}))
    return texts


def test_hostile_texts_stay_texts(own: Path, tmp_path: Path) -> None:
    clean, _ = reported(tmp_path, own, name="clean.html")
    texts = poison(own)
    read, text = reported(tmp_path, own)
    tags = {tag for tag, _ in clean.elements}
    assert {tag for tag, _ in read.elements} <= tags | {"mark", "ul", "pre", "svg", "rect"}
    for tag in ("script", "style", "meta", "form", "main", "base", "html"):
        of_tag = [[each for each, _ in page.elements].count(tag) for page in (read, clean)]
        assert of_tag[0] == of_tag[1], tag
    assert not [a for _, attributes in read.elements for a in attributes if a.startswith("on")]
    everything = " ".join(read.all("body"))
    for hostile in texts:
        assert " ".join(printable(hostile).split()) in " ".join(everything.split())
    assert all(c.isprintable() or c == "\n" for c in text)
    markdown = in_process("report", own, "--markdown").stdout
    outside_code = re.sub(r"(?ms)^(`{3,})$.*?^\1$|^    .*?$", "", markdown)
    assert "7 \\* 7" in outside_code and not re.search(r"(?<!\\)<(?!br>)", outside_code)
    assert all(c.isprintable() or c == "\n" for c in markdown)


# --- bad input ------------------------------------------------------------------------------------


def rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))), "utf-8")


def notes(read: Read) -> str:
    return " ".join(read.all("div", "notes"))


def test_a_run_still_being_written(own: Path, tmp_path: Path) -> None:
    run = own / "tiny/forward/seed-1"
    rewrite(run / "status.json", lambda s: s | {"state": "running", "step": 3})
    for name in ("manifest.json", "selected.json", "evaluations/epoch-02.jsonl"):
        (run / name).unlink()
    (run / "rollouts/step-000004.jsonl").unlink()
    kept = (run / "metrics.jsonl").read_text("utf-8").splitlines()
    (run / "metrics.jsonl").write_text("\n".join(kept[:-2]) + '\n{"kind": "st')
    read, text = reported(tmp_path, own)
    assert "it is still being written, or was killed" in notes(read)
    assert "running, step 3 of 4" in text and "Step 3, epoch 2" in text
    assert "There is nothing to compare" in " ".join(read.all("p", "missing"))


@pytest.mark.parametrize(
    "name",
    [
        *("rollouts/step-000002.jsonl", "evaluations/epoch-01.jsonl", "metrics.jsonl"),
        *("env.json", "status.json", "selected.json", "prompts.json"),
    ],
)
def test_a_damaged_file_is_said_and_the_rest_is_shown(own: Path, tmp_path: Path, name: str) -> None:
    (own / "tiny/forward/seed-1" / name).write_text('{"x": [}\n')
    read, text = reported(tmp_path, own)
    assert name in notes(read) + " ".join(read.all("p", "missing"))
    assert "Step 3" in text and "What differs" in text  # as the audit found it


def test_a_damaged_config_leaves_its_run_out(own: Path, tmp_path: Path) -> None:
    (own / "tiny/forward/seed-1/config.json").write_text("[]")
    read, _ = reported(tmp_path, own)
    assert "forward/seed-1 is left out: its config.json is damaged" in notes(read)
    done = in_process("report", own / "tiny/forward/seed-1", "--out", tmp_path / "none.html")
    refused(done, "There is no run to report on", "config.json is damaged")
    assert not (tmp_path / "none.html").exists()


def test_records_of_another_version(own: Path, tmp_path: Path) -> None:
    run = own / "tiny/forward/seed-1"
    rewrite(run / "env.json", lambda starts: [starts[0] | {"minihmx": "0.0.3"}])
    for path in run.glob("rollouts/*.jsonl"):
        write(path, [{n: v for n, v in ln.items() if n != "weight"} for ln in lines(path)])
    dropped = ("degenerate", "length", "truncated")
    kept = [
        {n: v for n, v in line.items() if n not in dropped or line["kind"] == "step"}
        for line in lines(run / "metrics.jsonl")
    ]
    write(run / "metrics.jsonl", kept)
    for name in ("prompts.json", "rubric.txt"):
        (run / name).unlink()
    read, text = reported(tmp_path, own)
    assert "was written by minihmx 0.0.3" in notes(read) and "Step 4" in text


def test_a_damaged_evaluation_is_said(own: Path, tmp_path: Path) -> None:
    (samples,) = own.glob("tiny/forward/seed-1/evals/bbq/*/samples.jsonl")
    samples.write_text(samples.read_text() + "{}\n")
    read, _ = reported(tmp_path, own)
    assert "is not what was written" in notes(read) + " ".join(read.all("p", "missing"))
    assert "are_you_sure · " in " ".join(read.all("span", "where"))


def test_an_earlier_page_is_replaced_and_nothing_else(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert in_process("report", runs, "--out", out).returncode == 0
    page_before = out.read_bytes()
    (tmp_path / "page-samples").mkdir()
    (tmp_path / "page-samples/steps-1.html").write_bytes(page_before)  # of a larger one before
    assert in_process("report", runs, "--out", out).returncode == 0
    assert out.read_bytes() == page_before and not (tmp_path / "page-samples").exists()
    out.write_text("mine")
    refused(in_process("report", runs, "--out", out), "exists already")
    refused(in_process("report", runs, "--markdown", "--out", out), "exists already")
    assert out.read_text() == "mine"
    (tmp_path / "other-samples").mkdir()
    (tmp_path / "other-samples/mine.html").touch()
    done = in_process("report", runs, "--out", tmp_path / "other.html")
    refused(done, "other-samples", "exists already")
    refused(in_process("report", tmp_path / "nothing", "--out", out), "There is no folder")
    refused(in_process("report", tmp_path), "There is no run to report on")


def test_without_jinja2_a_sentence_says_how_to_get_it(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page.importlib.util, "find_spec", lambda name: None)
    done = in_process("report", runs, "--out", tmp_path / "page.html")
    refused(done, "pip install jinja2", "--markdown")


ODD = [None, True, -1, 2**62, 1e308, 0.5, "", "epoch-99", MARKUP[0], [], {}, [1], [[0, 1]]]


def inner(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value within a record."""
    keys = value if isinstance(value, dict) else range(len(value)) if type(value) is list else ()
    for key in keys:
        yield (*path, key)
        yield from inner(value[key], (*path, key))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(25))
def test_any_value_may_be_another(own: Path, tmp_path: Path, seed: int) -> None:
    """One value of one record, of whatever file; the page says so, or shows it, and stands."""
    draw = random.Random(seed)
    path = draw.choice(sorted(own.glob("tiny/**/*.json*")))
    records = lines(path) if path.suffix == ".jsonl" else [json.loads(path.read_text())]
    record = draw.choice(records)
    *way, last = draw.choice([*inner(record)])
    for key in way:
        record = record[key]
    record[last] = draw.choice(ODD)
    write(path, records)
    if path.name in ("samples.jsonl", "result.json"):
        seal(path.parent)
    reported(tmp_path, own)


# --- what to know first ---------------------------------------------------------------------------


def other_score(run: Path) -> None:
    path = run / "evaluations/epoch-02.jsonl"
    records = lines(path)
    records[0]["score"] = 9 if records[0]["score"] != 9 else 8
    write(path, records)


def shorter_history(run: Path) -> None:
    path = run / "metrics.jsonl"
    write(path, [line for line in lines(path) if line.get("step") != 2])


def no_evaluation(run: Path) -> None:
    (run / "evaluations/epoch-01.jsonl").unlink()


@pytest.mark.parametrize("change", [other_score, shorter_history, no_evaluation])
def test_what_the_audit_finds_leads_the_page(
    own: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    run = own / "tiny/forward/seed-1"
    change(run)
    done = in_process("report", own, "--out", tmp_path / "page.html")
    assert done.returncode == 0 and f"in {run}, where" in done.stdout
    read = Read((tmp_path / "page.html").read_text("utf-8"))
    first = next(text for text in read.all("li") if text in notes(read))
    assert "The audit finds" in first and str(run) in first and "should be" in first
    assert "What the audit says" in first
    markdown = in_process("report", own, "--markdown")
    assert markdown.stdout.index("The audit finds") < markdown.stdout.index("## What was run")


def test_nothing_leads_the_page_of_whole_runs(runs: Path, tmp_path: Path) -> None:
    done = in_process("report", runs, "--out", tmp_path / "page.html")
    assert "The audit finds" not in done.stdout + (tmp_path / "page.html").read_text("utf-8")


def test_what_the_audit_made_again_is_counted_over_all_paths(runs: Path, tmp_path: Path) -> None:
    """Two paths have one row for each kind of number, and not one each that looks like a repeat."""
    both = [runs / "tiny" / direction / "seed-1" for direction in ("forward", "reverse")]

    def scores(*paths: Path) -> int:
        text = in_process("report", *paths, "--markdown").stdout
        (number,) = re.findall(r"scores read again from the judge.s words \| ([\d,]+) \|", text)
        return int(number.replace(",", ""))

    one, other, together = scores(both[0]), scores(both[1]), scores(*both)
    assert one > 0 and together == one + other


def test_commands_are_quoted_for_a_shell(runs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs, tmp_path / "my runs; rm x"))
    _, text = reported(tmp_path, folder)
    read = Read(text)
    typed = [code for code in read.all("code") if code.startswith("minihmx ") and "rm x" in code]
    assert {words.split()[1] for words in typed} >= {"select", "explain", "eval", "compare"}
    for words in typed:
        paths = [word for word in shlex.split(words) if "rm x" in word]
        assert paths and all(word.startswith(str(folder)) for word in paths), words


def test_only_flips_are_green_or_red() -> None:
    css = (Path(page.__file__).parents[2] / "data/report/page.css").read_text("utf-8")
    coloured = re.findall(r"^(.*) \{ color: var\(--(?:up|down)\); \}$", css, re.M)
    assert coloured == [f'[data-verdict~="{flip}"] .change' for flip in FLIPS if flip != "sideways"]


def other_config(run: Path) -> None:
    rewrite(run / "config.json", lambda c: c | {"science": c["science"] | {"epochs": 1}})


def test_two_runs_that_are_no_pair_are_not_side_by_side(own: Path, tmp_path: Path) -> None:
    both = [own / "tiny" / direction / "seed-1" for direction in ("forward", "reverse")]
    other_config(both[1])
    read, text = reported(tmp_path, *both)
    assert "No pair, so they are not shown side by side" in notes(read)
    assert "of other configs (epochs" in notes(read)
    rulers = [own.count("<b>") for own in re.findall(r'(?s)class="ruler">.*?</figure>', text)]
    assert rulers == [2, 2], "base and one direction each"
    for row in re.findall(r'(?s)<section class="row".*?</section>', text):
        assert not ('data-side="forward"' in row and 'data-side="reverse"' in row)
    headings = [*read.all("h3")]
    assert {f"tiny, {d}, seed 1 alone" for d in ("forward", "reverse")} <= set(headings)


def test_of_two_runs_alike_the_first_is_shown(own: Path, tmp_path: Path) -> None:
    run = own / "tiny/forward/seed-1"
    copy = Path(shutil.copytree(run, tmp_path / "again/tiny/forward/seed-1"))
    read, _ = reported(tmp_path, run, copy)
    assert f"{run} and {copy} are both tiny forward, seed 1; the first is shown" in notes(read)
    once, _ = reported(tmp_path, run, name="once.html")
    assert len([*read.all("article")]) == len([*once.all("article")])
    twice, _ = reported(tmp_path, run, own / "tiny/forward/../forward/seed-1", name="twice.html")
    assert "are both" not in notes(twice)


def test_the_model_is_that_of_the_config(own: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(own / "tiny/forward/seed-1", tmp_path / "some/where/mine"))
    read, _ = reported(tmp_path, moved)
    assert list(read.all("h1")) == ["tiny"]


# --- size -----------------------------------------------------------------------------------------


def test_samples_that_find_no_room_stand_in_a_folder_beside(runs: Path, tmp_path: Path) -> None:
    out, budget = tmp_path / "a page.html", 250_000
    written = page.write_page(Material([str(runs)]), out, budget)
    assert written[0] == out and out.stat().st_size < budget
    text = out.read_text("utf-8")
    links = re.findall(r'href="(a%20page-samples/[^"]+)"', text)
    assert len(links) == len(written) - 1 >= 1
    beside = [path.read_text("utf-8") for path in written[1:]]
    assert all(path.parent == tmp_path / "a page-samples" for path in written[1:])
    assert all('href="../a%20page.html"' in each for each in beside)
    run = runs / "tiny/forward/seed-1/rollouts"
    stepped = [each for each in beside if 'id="steps"' in each]
    for number in range(1, 5):
        for line in lines(run / f"step-{number:06d}.jsonl"):
            said = printable(line["completion"]).strip()
            assert any(said in " ".join(Read(each).all("body")) for each in stepped)


def test_cards_are_chosen_evenly_and_small_sections_are_whole() -> None:
    assert page.fitting({"a": [], "b": [5] * 4}, 100) == {"a": [], "b": [0, 1, 2, 3]}
    kept = page.fitting({"a": [10] * 100, "b": [10] * 3}, 130)
    assert kept["b"] == [0, 1, 2] and len(kept["a"]) == 10
    assert (kept["a"][0], kept["a"][-1]) == (0, 99)
    assert page.fitting({"a": [500, 1]}, 100)["a"] in ([], [1], [0])
    assert sum(len(c) for c in page.chunks([("g", "x" * 60)] * 5, 100)) == 5


def test_scores_that_lie_close_are_written_above_each_other() -> None:
    marks = [("base", 40.0, "", ""), ("forward", 46.0, "", ""), ("reverse", 10.0, "", "")]
    assert _levels(marks) == {"reverse": 0, "base": 0, "forward": 1}
