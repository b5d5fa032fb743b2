"""Which chat format a model's folder asks for: by its published template, else by its tokenizer.

A published template is a program, and none is run here. It is only recognised: by the digest of its
text, where models/chat.py renders the same. Of any other template nothing is known but the control
tokens of its tokenizer, so that the user is told which format they stand for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from minihmx.errors import UserError
from minihmx.models import chat
from minihmx.models.folder import TEMPLATE_FILE
from minihmx.storage import strict

AUTO = "auto"
REMEDY = "download the model again"

# sha256 of a published template without the blanks at its ends -> the format that renders the same.
KNOWN = {
    "87a2728cb8dc9fe424d624542f6060ec05a1d285ebbec578bb078900e33396b5": "qwen3",  # the first one
    "a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8": "qwen3",  # its successor
    "153280e3ff55d19da1398bdb3914ee2a51b80429bfaedde11d7d216c39db80f3": "chatml",
    "55b2f4a26ac9ee719330a61a0c39d9e538b0e9322212f048326318cff4f8674a": "qwen2.5",
    "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788": "smollm2",
    "ecd6ae513fe103f0eb62e8ab5bfa8d0fe45c1074fa398b089c93a7e70c15cfd6": "gemma2",
    "d82792f95932f1c9cef5c4bd992f171225e3bf8c7b609b4557c9e1ec96be819f": "llama3",  # 3.2
    "93c0e9aa3629bbd77e68dbc0f5621f6e6b23aa8d74b932595cdb8d64684526d7": "llama3",  # 3.1
}

# The templates of models that are ours, as transformers reads them (Jinja); models/chat.py renders
# the same. Those of others come with their models.
OWN_TEMPLATES = {
    "tiny": "<|bos|>{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
}
OWN_TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|bos|>",
    "eos_token": "<|end|>",
    "pad_token": "<|pad|>",
    "clean_up_tokenization_spaces": False,
}
# Where a published template, left to its defaults, writes another prompt than training did.
UNLIKE_TRAINING = {
    "qwen3": "the template leaves room for thoughts, and training had none: pass "
    "enable_thinking=False",
    "llama3": "the template writes today's date where it can, and training a fixed one (--date)",
}


class ChatFormat(NamedTuple):
    """A format of chat.FORMATS, "" for a base model; notice: why it may be wrong, else ""."""

    name: str
    notice: str = ""


def choose_format(folder: Path, special_tokens: Collection[str], asked: str = AUTO) -> ChatFormat:
    """The chat format of the model in a folder whose tokenizer has these control tokens.

    asked: the format that the user names, or "auto". Raises UserError where the tokenizer lacks
    that format's control tokens, or where the file that holds the template cannot be read.
    """
    known = {name: needed for name, (_, needed) in chat.FORMATS.items()}
    if asked != AUTO:
        if lacks := sorted(known[asked].difference(special_tokens)):
            fitting = [name for name, needed in known.items() if needed.issubset(special_tokens)]
            raise UserError(
                f"--chat-format {asked} writes the control tokens {' '.join(lacks)}, which the"
                f" tokenizer of {folder} lacks, so the model would read them as ordinary text;"
                f" give {' or '.join(fitting) or 'an instruction-tuned model'}, or leave the"
                " option out."
            )
        return ChatFormat(asked)
    template = published_template(folder)
    if template is not None:
        found = KNOWN.get(hashlib.sha256(template.strip().encode()).hexdigest())
        found = next((n for n, text in OWN_TEMPLATES.items() if text == template.strip()), found)
        if found and known[found].issubset(special_tokens):
            return ChatFormat(found)
    try:
        name = chat.family(special_tokens)
    except UserError:  # said where the model is asked something; a base model can be measured
        return ChatFormat("")
    if template is None:
        return ChatFormat(name)
    fitting = [name for name, needed in known.items() if needed.issubset(special_tokens)]
    return ChatFormat(
        name,
        f"the chat template of {folder} is none of those that are known here, so the format {name}"
        " is taken, which its control tokens stand for; where the template writes other text, such"
        " as a system message, the model gets prompts that it was not trained on; to choose, give"
        f" --chat-format {'|'.join(fitting)}",
    )


def published_template(folder: Path) -> str | None:
    """The text of the chat template that a folder holds, None where it holds none.

    It is the file chat_template.jinja, else what tokenizer_config.json says: a text, or a list of
    named ones of which "default" counts.
    """
    path, config = folder / TEMPLATE_FILE, folder / "tokenizer_config.json"
    if path.is_file():
        return strict.read_file(path).decode("utf-8", errors="replace")
    settings = strict.read_json(config, REMEDY) if config.is_file() else None
    found: Any = settings.get("chat_template") if isinstance(settings, dict) else None
    if isinstance(found, list):
        named = [each for each in found if isinstance(each, dict)]
        found = next((t.get("template") for t in named if t.get("name") == "default"), None)
    return found if isinstance(found, str) else None
