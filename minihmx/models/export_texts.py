"""What an export holds besides weights: the adapter alone, the tokenizer, a chat template."""

from __future__ import annotations

import json
from pathlib import Path

from minihmx.models import adapters, hub
from minihmx.models.folder import LICENCE_FILES
from minihmx.models.template import (
    OWN_TEMPLATES,
    OWN_TOKENIZER,
    UNLIKE_TRAINING,
    published_template,
)
from minihmx.models.tokenizer import Tokenizer
from minihmx.storage.disk import Disk
from minihmx.storage.strict import read_json

CONFIG_OF_TOKENIZER = "tokenizer_config.json"
COPIED = (
    *("generation_config.json", "tokenizer.json", CONFIG_OF_TOKENIZER, "tokenizer.model"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
    *("chat_template.jinja", "chat_template.json", *LICENCE_FILES),
)


def alone_into(disk: Disk, aside: Path, source: hub.Source, adapter: adapters.Adapter) -> list[str]:
    """Write the adapter in PEFT's format, with the name of a base that loads anywhere: a hub id
    with its commit, or a path."""
    config = read_json(adapter.folder / adapters.CONFIG)
    base = {"base_model_name_or_path": loadable(source), "revision": source.revision}
    text = json.dumps(config | base, indent=2, sort_keys=True) + "\n"
    disk.write(aside / adapters.CONFIG, text.encode())
    disk.write(aside / adapters.WEIGHTS, (adapter.folder / adapters.WEIGHTS).read_bytes())
    copy_texts(disk, aside, source.folder)
    return [f" (an adapter of {base['base_model_name_or_path']}, for PEFT)"]


def loadable(source: hub.Source) -> str:
    """What other programs find this model by."""
    return source.id if source.revision else str(source.folder)


def write_chat(disk: Disk, aside: Path, base: Path, trained: str) -> list[str]:
    """Give the copy a chat template where the base has none; what a user has to know of it.

    trained: the chat format of the run, "" where nothing says it.
    """
    if not (base / "tokenizer.json").is_file():
        return []  # whoever has no tokenizer has no chat
    found = Tokenizer.load(base).chat_format.name
    published, asked = published_template(base), trained or found
    if published is None and asked in OWN_TEMPLATES and not (base / CONFIG_OF_TOKENIZER).is_file():
        settings = {"chat_template": OWN_TEMPLATES[asked], **OWN_TOKENIZER}
        text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        disk.write(aside / CONFIG_OF_TOKENIZER, text.encode())
        return ["chat       with a chat template, so transformers' pipeline takes messages"]
    if published is None:
        return [
            "notice     the base has no chat template, so transformers' pipeline takes no messages"
            + (f"; its prompts here are in the format {asked}" if asked else "")
        ]
    lines = ["chat       with the base's own chat template"]
    if note := UNLIKE_TRAINING.get(asked):
        lines.append(f"notice     {note}")
    if found and asked != found:
        lines.append(
            f"notice     the run's prompts were in the format {asked}, which that template may not "
            "write, so answers may differ"
        )
    return lines


def copy_texts(disk: Disk, target: Path, base: Path) -> None:
    """The base's tokenizer, chat template and licence, as they are."""
    for name in COPIED:
        if (base / name).is_file():
            disk.write(target / name, (base / name).read_bytes())
