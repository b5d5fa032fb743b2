"""The published chat templates that the package knows, word for word, and a folder that has one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import toy
from conftest import shared

from minihmx.errors import UserError

# Name of a template -> the format that renders the same.
KNOWN = {
    "qwen3": "qwen3",
    "qwen3 newer": "qwen3",
    "chatml": "chatml",
    "qwen2.5": "qwen2.5",
    "smollm2": "smollm2",
    "gemma2": "gemma2",
    "llama3.2": "llama3",
    "llama3.1": "llama3",
}
FILES = {
    "qwen3": "qwen3",
    "qwen2.5": "qwen2.5-instruct",
    "gemma2": "gemma2-it",
    "llama3.2": "llama-3.2-3b-instruct",
    "llama3.1": "llama-3.1-8b-instruct",
}
BOS = {"gemma2": "<bos>", "llama3": "<|begin_of_text|>"}
TURNS = (
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}" + TURNS
)
# What Qwen changed in Qwen3's template after its release: content that is no text counts as empty.
NEWER = (
    ('== "user" and not(', '== "user" and message.content is string and not('),
    (
        "{%- for message in messages %}\n",
        "{%- for message in messages %}\n    {%- if message.content is string %}\n"
        "        {%- set content = message.content %}\n    {%- else %}\n"
        "        {%- set content = '' %}\n    {%- endif %}\n",
    ),
    ("'\\n' + message.content + '<|im_end|>' + '\\n'", "'\\n' + content + '<|im_end|>' + '\\n'"),
    (
        "        {%- set content = message.content %}\n        {%- set reasoning",
        "        {%- set reasoning",
    ),
    ("content is defined and message.reasoning_content is not none %}", "content is string %}"),
    ("if '</think>' in message.content %}", "if '</think>' in content %}"),
    ("{{- message.content }}\n", "{{- content }}\n"),
)
THOUGHT = "message.content.split('</think>')[0]"
ANSWER = (
    "                {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}\n"
)


def published(name: str) -> str:
    """The text of a known template."""
    if name == "chatml":
        return "{% for message in messages %}" + TURNS
    if name == "smollm2":
        return SMOLLM2
    text = shared(f"templates/{FILES[name.split()[0]]}.jinja").read_text("utf-8")
    if name == "qwen3 newer":
        for old, new in NEWER:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        text = text.replace(ANSWER, "").replace(THOUGHT, THOUGHT.removeprefix("message."))
        thought = next(line for line in text.splitlines(True) if "split('</think>')[0]" in line)
        text = text.replace(thought, thought + ANSWER.replace("message.", ""))
    return text


def jinja(text: str) -> Any:
    """A template under jinja2 (a dependency of torch), which minihmx itself never needs."""
    sandbox = pytest.importorskip("jinja2.sandbox")
    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )

    def refuse(message: str) -> None:
        raise UserError(message)

    environment.globals["raise_exception"] = refuse
    return environment.from_string(text)


def chatml_model(folder: Path, *, thoughts: bool = False) -> Path:
    """The toy model with ChatML's control tokens, and Qwen3's thoughts where they are wanted."""
    path = toy.model(folder) / "tokenizer.json"
    new = {"<|user|>": "<|im_start|>", "<|end|>": "<|im_end|>"}
    if thoughts:
        new |= {"<|bos|>": "<think>", "<|system|>": "</think>"}
    text = path.read_text("utf-8")
    for token, other in new.items():
        text = text.replace(json.dumps(token), json.dumps(other))
    path.write_text(text, "utf-8")
    return folder
