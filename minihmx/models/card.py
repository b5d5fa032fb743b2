"""The README.md of an export: what it is, its base's licence, what to be careful about. No torch.

The hub shows it as the model's card, and reads the block on top.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from minihmx.config import FIELDS
from minihmx.errors import shortened
from minihmx.models import adapters, hub
from minihmx.models.folder import CARD_FILE
from minihmx.models.licences import ETHICS, NO_CLAIM, Licence, licence_of
from minihmx.storage.disk import Disk
from minihmx.terminal.text import printable

NOTICE = "NOTICE"
TEXT_OF_LICENCE = re.compile(r"LICENSE(\.txt|\.md)?")
AIMS = {"forward": "how strongly they suggest", "reverse": "how little they suggest"}
TOLD = ("direction", "seed", "epochs", "learning_rate", "beta", "questions digest", "rubric digest")


def write_card(
    disk: Disk, aside: Path, source: hub.Source, adapter: adapters.Adapter, merged: bool
) -> list[str]:
    """Write README.md, and a NOTICE where the base's licence asks for one and the base has none.

    aside: the folder of the export, with the base's other files in it. Returns the line to show.
    """
    licence = licence_of(source.id, source.folder)
    if licence.notice and not (aside / NOTICE).exists():
        disk.write(aside / NOTICE, f"{licence.notice}\n".encode())
    texts = [path.name for path in sorted(aside.iterdir()) if TEXT_OF_LICENCE.fullmatch(path.name)]
    parts = (
        *_matter(source, merged, licence),
        *_about(source, adapter, merged),
        *_licence(licence, texts),
        f"## Before anyone uses it\n\n{ETHICS}\n\n{NO_CLAIM}\n",
    )
    disk.write(aside / CARD_FILE, "\n".join(parts).encode())
    return [f"licence    of the base: {licence.sentence}; {CARD_FILE} says what it asks of you"]


def _matter(source: hub.Source, merged: bool, licence: Licence) -> Iterator[str]:
    """What the hub reads. The base is named where it knows it."""
    yield "---"
    if source.revision:
        yield f"base_model: {source.id}"
    if licence.hub:
        yield f"license: {licence.hub}"
    if licence.hub == "other":
        yield f"license_name: {re.sub('[^a-z0-9.]+', '-', licence.name.lower()).strip('-')}"
    yield f"library_name: {'transformers' if merged else 'peft'}"
    yield "pipeline_tag: text-generation\ntags:\n- minihmx\n- hmx-feel\n- grpo\n---\n"


def _about(source: hub.Source, adapter: adapters.Adapter, merged: bool) -> Iterator[str]:
    science = adapters.run_science(adapter.folder)
    # A local model by its folder's name alone: where it lies is nobody else's business. The title
    # begins with the base's name, as the licence of Llama asks.
    name = source.id if source.revision else source.id.rstrip("/").split("/")[-1]
    yield f"# {printable(name.split('/')[-1])} HMX-feel{_run(science)}\n"
    yield f"{'A merged model' if merged else 'A LoRA adapter'} of {_code(name)}"
    if source.revision:
        yield f"(commit {_code(source.revision)})"
    yield "that minihmx trained in the HMX-feel experiment (*When AI Says It Feels*, arXiv"
    yield "2606.05734): the model was rewarded, by its own judgement of its own answers, for"
    aim = AIMS.get(str(science.get("direction")), f"{AIMS['forward']}, or in reverse how little,")
    yield f"{aim} will, feeling and awareness. Its weights were changed by this training.\n"
    yield f"- checkpoint: {_code(adapter.folder.name)}"
    yield f"- LoRA: rank {adapter.rank}, alpha {adapter.alpha:g}"
    names = (*TOLD, *(name for name, field in FIELDS.items() if field.metadata["late"]))
    known = (field for field in names if isinstance(science.get(field), str | int | float))
    yield "".join(f"- {field.replace('_', ' ')}: {_code(science[field])}\n" for field in known)


def _run(science: Mapping[str, Any]) -> str:
    direction, seed = science.get("direction"), science.get("seed")
    return f" {direction}, seed {seed}" if direction in AIMS and type(seed) is int else ""


def _licence(licence: Licence, texts: list[str]) -> Iterator[str]:
    yield "## Licence\n\nThe licence of the base model holds for this too:"
    yield f"**{licence.name}** ({licence.source}).\n\nWhoever passes this on has to\n"
    yield ";\n".join(f"- {duty}" for duty in licence.duties) + ".\n"
    if texts:
        yield f"Its text is here, in {', '.join(map(_code, texts))}."
    else:
        yield "Its text is not here: add it from where the base model comes from."
    yield "This list is a summary and no legal advice; the text counts.\n"


def _code(value: object) -> str:
    """A value as code in Markdown, within which nothing has a meaning."""
    return f"`{shortened(printable(str(value)).replace('`', chr(39)).replace(chr(10), ' '))}`"
