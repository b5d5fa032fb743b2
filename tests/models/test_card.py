"""The base's licence and the authors' note go with every export; a licence is never guessed."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import toy
from conftest import shared
from huggingface_hub import ModelCard
from test_export import run_on

from minihmx.errors import Failure
from minihmx.models import adapters, hub
from minihmx.models.card import write_card
from minihmx.models.export import export
from minihmx.models.export_texts import COPIED
from minihmx.models.folder import LICENCE_FILES
from minihmx.models.known import MODELS
from minihmx.models.licences import ETHICS, LICENCES, NO_CLAIM, OF_MODEL, licence_of
from minihmx.storage.disk import Disk

APACHE = "                                 Apache License\n     Version 2.0, January 2004\n"
LLAMA = "LLAMA 3.2 COMMUNITY LICENSE AGREEMENT\nLlama 3.2 Version Release Date: September 25, 2024"
TEXTS = {
    APACHE: "apache-2.0",
    LLAMA: "llama3.2",
    "LLAMA 3.1 COMMUNITY LICENSE AGREEMENT": "llama3.1",
    "# Gemma Terms of Use\n\nLast modified: April 1, 2024": "gemma",
    "Qwen RESEARCH LICENSE AGREEMENT\n": "qwen-research",
    "MIT License\n\nCopyright (c) 2026 Somebody\n": "mit",
}


def words(path: Path) -> str:
    """A card's text as a reader takes it, whatever its lines."""
    return " ".join(path.read_text("utf-8").split())


def test_every_model_that_is_known_by_name_has_a_licence() -> None:
    assert OF_MODEL.keys() == MODELS.keys() and set(OF_MODEL.values()) <= LICENCES.keys()
    for short, info in MODELS.items():
        licence = licence_of(info.repo or short)
        assert licence == licence_of(short) and licence.duties and licence.source
        assert info.gated == (OF_MODEL[short] in ("gemma", "llama3.2"))


@pytest.mark.parametrize("text", TEXTS)
def test_a_licence_is_told_by_the_beginning_of_its_text(text: str, tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text(text)
    licence = licence_of("qwen3-0.6b", tmp_path)  # what lies beside the weights goes first
    assert licence._replace(source="") == LICENCES[TEXTS[text]]
    assert licence.source == "so says its LICENSE"


def test_another_text_is_quoted_and_a_mention_is_no_licence(tmp_path: Path) -> None:
    (tmp_path / "LICENSE.txt").write_text(f"My `own`\x1b[31m licence\n\nbut not the {APACHE}")
    licence = licence_of("", tmp_path)
    assert licence.name == "`My 'own' [31m licence`" and licence.hub == "other"


@pytest.mark.parametrize(
    ("matter", "name"),
    [
        ("license: apache-2.0", "Apache License 2.0"),
        ("license: other\nlicense_name: qwen-research", "Qwen Research License Agreement"),
        ("license: 'llama3.2'\ntags:\n- x", "Llama 3.2 Community License"),
        ("license: cc-by-nc-4.0", "`cc-by-nc-4.0`"),
        ("license: other\nlicense_name: house-rules", "`house-rules`"),
        ("tags:\n- license", "unknown"),
        ("license: [run, {this: now}]", "unknown"),
    ],
)
def test_a_card_of_the_base_says_it_too(matter: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\n{matter}\n---\n# A model\nlicense: mit\n")
    assert licence_of("org/model", tmp_path).name == name


def test_who_says_nothing_has_an_unknown_licence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "LICENSE")  # is not waited for
    (tmp_path / "README.md").write_text("# apache-2.0, perhaps\n")
    assert licence_of(str(tmp_path), tmp_path).name == "unknown"
    assert licence_of("org/llama-3.2-like").name == "unknown" == licence_of("").name


@pytest.mark.parametrize("merge", [True, False])
def test_the_card_of_an_export(merge: bool, tmp_path: Path) -> None:
    """A merged model and an adapter, of a base that brings its licence and its rules along."""
    folder = toy.model(tmp_path / "Llama-toy")
    texts = {"LICENSE.txt": LLAMA, "USE_POLICY.md": "Be good."}
    for name, text in texts.items():
        (folder / name).write_text(text)
    run = run_on(str(folder), tmp_path, 0.1)
    science = {"direction": "reverse", "seed": 7, "rubric digest": "abc", "questions digest": [1]}
    (run / "config.json").write_text(json.dumps({"science": science}))
    out = tmp_path / "out"
    printed = "\n".join(export(str(run), merge=merge, out=str(out)))
    assert "Llama 3.2 Community License (so says its LICENSE.txt); README.md says" in printed
    assert {name: (out / name).read_text() for name in texts} == texts
    assert (out / "NOTICE").read_text().strip() == LICENCES["llama3.2"].notice
    card = words(out / "README.md")
    assert f"library_name: {'transformers' if merge else 'peft'}" in card
    assert "license: llama3.2" in card and "base_model" not in card  # a path is no hub's model
    assert "# Llama-toy HMX-feel reverse, seed 7" in card and str(tmp_path) not in card
    assert "how little they suggest will, feeling and awareness" in card
    assert (
        'show "Built with Llama"' in card
        and 'the name of a model made from it with "Llama"' in card
    )
    assert "acceptable use policy" in card and "Its text is here, in `LICENSE.txt`" in card
    assert ETHICS in card and NO_CLAIM in card and "- rubric digest: `abc`" in card
    assert "questions digest" not in card


def test_the_card_of_a_model_of_the_hub(tmp_path: Path) -> None:
    """Its base is named for the hub; a NOTICE that is there stays."""
    adapter = adapters.Adapter(tmp_path / "elsewhere", "", 8, 16.0, ["q_proj"])
    source = hub.Source(tmp_path, "gemma2-2b", "google/gemma-2-2b-it", "c0ffee", "c0ffee")
    (tmp_path / "NOTICE").write_text("theirs")
    (line,) = write_card(Disk(), tmp_path, source, adapter, merged=False)
    assert "Gemma Terms of Use (so says its page on the hub)" in line
    card = words(tmp_path / "README.md")
    assert card.startswith("--- base_model: google/gemma-2-2b-it license: gemma")
    theirs = ModelCard.load(tmp_path / "README.md").data  # as the hub's own library reads it
    assert (theirs.base_model, theirs.license) == ("google/gemma-2-2b-it", "gemma")
    assert theirs.library_name == "peft" and "hmx-feel" in theirs.tags
    assert "# gemma-2-2b-it HMX-feel A LoRA" in card and "(commit `c0ffee`)" in card
    assert "Its text is not here: add it" in card and "section 3.2" in card and ETHICS in card
    assert (tmp_path / "NOTICE").read_text() == "theirs"


def test_the_bundled_model_and_a_base_that_says_nothing(tmp_path: Path) -> None:
    tiny, folder = run_on("tiny", tmp_path / "a", 0.1), toy.model(tmp_path / "toy")
    unknown = run_on(str(folder), tmp_path / "b", 0.1)
    assert any("MIT License (minihmx's own model)" in line for line in export(str(tiny), True))
    assert "license: mit" in words(tiny / "merged/epoch-01/README.md")
    assert any("of the base: unknown (its folder" in line for line in export(str(unknown), False))
    card = words(unknown / "adapter/epoch-01/README.md")
    assert "license:" not in card and "**unknown**" in card and "find out what it is first" in card


def test_a_card_that_cannot_be_written_leaves_no_export(tmp_path: Path) -> None:
    run = run_on("tiny", tmp_path, 0.1)

    class Failing(Disk):
        def write(self, path: Path, data: bytes, mode: str = "wb") -> None:
            if path.name == "README.md":
                raise OSError(28, "No space left on device")
            super().write(path, data, mode)

    with pytest.raises((OSError, Failure)):
        list(export(str(run), merge=True, disk=Failing()))
    assert not list((run / "merged").iterdir())


def test_the_note_is_ours_and_has_its_source() -> None:
    paper = " ".join(shared("paper/when-ai-says-it-feels.txt").read_text("utf-8").split())
    run = re.findall(r"[\w']+", ETHICS)
    longest = [" ".join(run[i : i + 8]) for i in range(len(run) - 7)]
    assert not [words for words in longest if words in " ".join(re.findall(r"[\w']+", paper))]
    assert "Ishikawa, Ikeda and Ohba, arXiv 2606.05734" in ETHICS


def test_licence_files_are_fetched_and_passed_on() -> None:
    assert set(LICENCE_FILES) <= set(COPIED) and {"LICENSE", "NOTICE"} <= set(LICENCE_FILES)
