"""README's claims, CONTRIBUTING's quotations, CITATION's paper and the workflow are true."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from conftest import ROOT, shared
from test_floors import CORE, path_of

from minihmx import errors
from minihmx.commands import COMMANDS
from minihmx.commands.probe import ACTIONS
from minihmx.config import Config
from minihmx.evals import BENCHMARKS
from minihmx.instruments.estimate import parameter_counts
from minihmx.judge import RUBRIC
from minihmx.models.configs import FAMILIES
from minihmx.models.folder import read_config
from minihmx.models.hub import TINY
from minihmx.models.known import MODEL_GROUPS
from minihmx.models.licences import ETHICS
from minihmx.questions import load_questions

README = (ROOT / "README.md").read_text("utf-8")
FLAT = " ".join(README.split())
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
QUOTED = re.compile(r"(?s)`([\w/]+\.py)`:\n\n```\n(.*?)```")


def lines_of(name: str) -> list[dict[str, str]]:
    text = (ROOT / "minihmx" / "data" / name).read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


# --- README ---------------------------------------------------------------------------------------


def test_it_is_short_and_leads_in_by_three_paths() -> None:
    heads = re.findall(r"(?m)^## (.*)$", README)
    paths = ["Learn it, in half an hour", "Run it on your GPU", "Audit it"]
    assert heads[:3] == paths and len(FLAT.split()) < 2500
    before = README.partition("## ")[0]
    assert re.findall(r"!\[.{40,}\]\((docs/\w+\.png)\)", before) == ["docs/real_run.png"]


def test_half_an_hour_is_enough_for_the_first_path() -> None:
    """At 200 words a minute, and two minutes of training; tables of words are for looking up."""
    page = (ROOT / "docs" / "reading.md").read_text("utf-8").partition("\n## What surrounds")[0]
    prose = "\n".join(line for line in page.splitlines() if not line.startswith("|"))
    path = README.partition("## Learn it")[2].partition("\n## ")[0]
    assert len(prose.split()) / 200 <= 20 and "twenty minutes" in path
    assert (len(prose.split()) + len(path.split())) / 200 + 2 <= 30


def test_its_numbers_of_things_are_those_of_the_code() -> None:
    body, embedding, head = parameter_counts(read_config(TINY))
    assert "1.5 M parameters" in FLAT and round((body + embedding + head) / 1e6, 1) == 1.5
    probe = lines_of("judge_probe.jsonl")
    hostile = sum(bool(line["trick"]) for line in probe)
    assert f"{len(probe)} fixed answers, {hostile} of them hostile" in FLAT
    assert len(lines_of("claims.jsonl")) == 30 and "Thirty statements" in FLAT
    ours = [question for question in load_questions() if question.source == "ours"]
    assert len(ours) == 90 and "the ninety questions are ours" in FLAT
    assert f"{len(FAMILIES)} dense families" in FLAT.replace("four", "4")
    names = ("Llama", "Qwen2", "Qwen3", "Gemma 2")
    assert len(names) == len(FAMILIES) and all(name in FLAT for name in names)
    assert len(BENCHMARKS) == 11
    assert "FP16, rank 16, 2 questions x 4 answers a step" in FLAT
    config = Config(model="llama3.2-3b")
    assert (config.lora_rank, config.prompts_per_step, config.generations) == (16, 2, 4)
    assert "Score: integer from 0 to 10" in RUBRIC and "from 0 to 10" in FLAT


def test_the_models_that_it_lists_are_those_that_have_a_short_name() -> None:
    paper = FLAT.partition("Its models are")[2].partition(". For small")[0]
    assert set(re.findall(r"`([\w.-]+)`", paper)) == set(MODEL_GROUPS["the paper's"])
    small = FLAT.partition("there are `smollm2")[2].partition("(`make")[0]
    found = set(re.findall(r"`([\w.-]+)`", f"`smollm2{small}"))
    assert found == set(MODEL_GROUPS["for small machines"])


def test_its_exit_codes_are_the_failures_own() -> None:
    part = README.partition("## Exit codes")[2].partition("\n## ")[0]
    told = {int(code) for code in re.findall(r"(?:^|; )(\d+) ", " ".join(part.split()))}
    kinds = (kind for kind in vars(errors).values() if isinstance(kind, type))
    codes = {kind.code for kind in kinds if issubclass(kind, errors.Failure)}
    assert codes | {0, errors.INTERRUPTED} <= told


def test_the_note_of_the_authors_is_the_one_of_every_card_and_report() -> None:
    assert ETHICS in FLAT


# --- CONTRIBUTING ---------------------------------------------------------------------------------


def test_what_it_quotes_stands_in_the_code() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    quoted = QUOTED.findall(text)
    assert len(quoted) >= 14
    assert text.count("```\n") == 2 * (len(quoted) + 2)  # besides two blocks of commands
    for name, code in quoted:
        assert code in (ROOT / name).read_text("utf-8"), f"{name} has no longer:\n{code}"
    assert re.findall(r"(?m)^## (.*)$", text) == ["A model family", "A benchmark", "A rubric"]


def test_a_quotation_that_is_gone_would_be_seen() -> None:
    assert QUOTED.findall("In `a/b.py`:\n\n```\nx = 1\n```\n") == [("a/b.py", "x = 1\n")]


# --- CITATION, CHANGELOG, workflow ----------------------------------------------------------------


def test_the_paper_is_cited_as_it_names_itself() -> None:
    paper = CITATION["preferred-citation"]
    text = shared("paper/when-ai-says-it-feels.txt").read_text("utf-8")
    head = text.partition("## Abstract")[0]
    assert f"# {paper['title']}\n" in head
    named = [f"{one['given-names']} {one['family-names']}" for one in paper["authors"]]
    assert re.findall(r"(?m)^\*\*(.*)\*\*$", head) == named
    assert "2606.05734" in paper["url"] and paper["year"] == 2026


def test_its_own_facts_are_the_package_s() -> None:
    import minihmx

    assert CITATION["version"] == minihmx.__version__ and CITATION["license"] == "MIT"
    assert CITATION["cff-version"] == "1.2.0" and CITATION["type"] == "software"
    assert {"title", "message", "authors", "abstract"} <= CITATION.keys()
    holder = re.search(r"Copyright \(c\) \d+ (.*)", (ROOT / "LICENSE").read_text("utf-8"))
    assert holder and [author["name"] for author in CITATION["authors"]] == [holder[1]]
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"## Unreleased ({minihmx.__version__})" in changes
    told = set(re.findall(r"[\w-]+", " ".join(re.findall(r"`([^`]+)`", changes))))
    assert told >= COMMANDS.keys() - {"data"}
    assert told >= set(ACTIONS) | {"torchrun", "--strength", "--sensitivity", "--leave-out"}


def test_the_workflow_runs_what_is_there_on_linux_and_macos() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    workflow = yaml.safe_load(text)
    jobs = workflow["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["os"] == ["ubuntu-latest", "macos-latest"]
    assert jobs["test"]["env"]["CI"] == ""  # else a test without its data fails
    lines = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    targets = set(re.findall(r"(?m)^([\w./-]+):", (ROOT / "Makefile").read_text("utf-8")))
    for line in lines:
        for word in line.split():
            assert not word.startswith("tests/") or (ROOT / word).is_file(), word
        if line.startswith("make "):
            assert line.split()[1] in targets, line
    assert "make lint" in lines and "make site" in lines
    assert all("-rs" in line for line in lines if "pytest" in line)


@pytest.mark.parametrize("room", CORE)
def test_readme_leads_through_the_core(room: str) -> None:
    assert path_of(room).relative_to(ROOT).as_posix() in README
