"""Which chat format a folder asks for: its template by digest, else its control tokens."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import templates
from conftest import ROOT, shared
from test_chat import joined, render

from minihmx.config import CHAT_FORMATS
from minihmx.errors import UserError
from minihmx.models import template
from minihmx.models.chat import FORMATS
from minihmx.models.folder import folder_digest
from minihmx.models.template import choose_format
from minihmx.models.tokenizer import Tokenizer
from minihmx.records import Message

CHATML = FORMATS["chatml"][1]
USER, ANSWER = Message("user", " Why?\n"), Message("assistant", "So. ")
SYSTEM = Message("system", " Be brief. ")
TALKS = [
    [USER],
    [SYSTEM, USER],
    [USER, ANSWER, USER],
    [SYSTEM, USER, ANSWER, USER, ANSWER],
    [Message("system", ""), USER],
]


def test_the_flag_has_the_formats_as_choices() -> None:
    assert (template.AUTO, *FORMATS) == CHAT_FORMATS


def test_every_known_digest_is_that_of_a_published_template() -> None:
    texts = {templates.published(name).strip(): kind for name, kind in templates.KNOWN.items()}
    digests = {hashlib.sha256(text.encode()).hexdigest(): kind for text, kind in texts.items()}
    assert digests == template.KNOWN


@pytest.mark.parametrize("name", templates.KNOWN)
def test_a_known_template_renders_the_same_through_transformers(name: str) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    kind, text = templates.KNOWN[name], templates.published(name)
    for messages in TALKS:
        if kind == "gemma2" and messages[0].role == "system":
            continue
        for prompt in (True, False):
            (expected,), _ = utils.render_jinja_template(
                conversations=[[message._asdict() for message in messages]],
                chat_template=text,
                add_generation_prompt=prompt,
                bos_token=templates.BOS.get(kind, ""),
                date_string="26 Jul 2024",
                enable_thinking=False,
            )
            assert joined(render(kind, messages, generation_prompt=prompt)) == expected


@pytest.mark.parametrize("name", templates.KNOWN)
def test_a_known_template_is_recognised_wherever_it_stands(name: str, tmp_path: Path) -> None:
    kind, text = templates.KNOWN[name], templates.published(name)
    tokens = FORMATS[kind][1] | {"<think>", "</think>"}  # by which ChatML would be Qwen3's
    config, file = tmp_path / "tokenizer_config.json", tmp_path / "chat_template.jinja"
    tools = {"name": "tool_use", "template": "other"}
    for held in (text, f"\n{text}\n", [tools, {"name": "default", "template": text}]):
        config.write_text(json.dumps({"chat_template": held}))
        assert choose_format(tmp_path, tokens) == (kind, "")
    config.write_text(json.dumps({"chat_template": "{{ 'another, which the file goes before' }}"}))
    file.write_text(text, "utf-8")
    assert choose_format(tmp_path, tokens) == (kind, "")


def test_an_unknown_template_is_told_with_the_format_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(templates.published("chatml") + "{{ 'x' }}")
    name, notice = choose_format(tmp_path, CHATML)
    assert name == "chatml" and "\n" not in notice and str(tmp_path) in notice
    assert "--chat-format chatml|qwen2.5|smollm2" in notice and "not trained on" in notice
    assert choose_format(tmp_path, CHATML | {"<think>", "</think>"})[0] == "qwen3"
    assert choose_format(tmp_path, CHATML, "chatml") == ("chatml", "")  # who says so is not told
    assert choose_format(tmp_path, {"<s>"}) == ("", "")  # a base model is refused where it is asked


def test_a_known_template_whose_tokens_are_not_there_is_an_unknown_one(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(templates.published("gemma2"))
    name, notice = choose_format(tmp_path, CHATML)
    assert name == "chatml" and notice


@pytest.mark.parametrize("config", [None, {}, {"chat_template": None}, [], {"chat_template": []}])
def test_without_a_template_the_tokens_decide_without_a_word(config: Any, tmp_path: Path) -> None:
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    for name in ("qwen3", "chatml", "gemma2", "llama3", "tiny"):
        assert choose_format(tmp_path, FORMATS[name][1]) == (name, "")


def test_the_models_at_hand_stay_quiet() -> None:
    for folder, name in (
        (ROOT / "minihmx" / "tiny", "tiny"),
        (shared("weights/stories260K/hf"), ""),
    ):
        assert Tokenizer.load(folder).chat_format == (name, "")


def test_a_format_whose_control_tokens_are_not_there_is_refused(tmp_path: Path) -> None:
    for asked in FORMATS.keys() - {"chatml", "qwen2.5", "smollm2"}:
        with pytest.raises(UserError, match=f"--chat-format {asked} .*; give chatml or qwen2.5 or"):
            choose_format(tmp_path, CHATML, asked)
    for asked in ("chatml", "qwen2.5", "smollm2"):
        assert choose_format(tmp_path, CHATML, asked) == (asked, "")


def test_a_damaged_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": ')
    with pytest.raises(UserError, match=r"not valid JSON .* download the model again"):
        choose_format(tmp_path, CHATML)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    assert choose_format(tmp_path, CHATML).notice


def test_the_file_of_the_template_is_part_of_a_folder_s_digest(tmp_path: Path) -> None:
    folder = templates.chatml_model(tmp_path / "toy")
    before = folder_digest(folder)
    (folder / "chat_template.jinja").write_text(templates.published("smollm2"))
    assert folder_digest(folder) != before
    tokenizer = Tokenizer.load(folder)
    prompt = joined(render(tokenizer.family, [USER]))
    assert prompt.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert tokenizer.encode(render(tokenizer.family, [USER]))[0] == tokenizer.id("<|im_start|>")
