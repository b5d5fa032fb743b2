"""Under which licence a base model stands and what that asks of whoever passes on what was made
from it; and the note of the paper's authors that goes with everything made here. No torch.

A licence is never guessed: it is what the model's folder says, else what the hub's page of a model
that minihmx knows by name says (read in November 2026), else it is unknown. What is said of its
duties is a summary for the ordinary case, and no advice by a lawyer.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from minihmx.errors import shortened
from minihmx.models.folder import CARD_FILE, LICENCE_FILES
from minihmx.models.known import MODELS
from minihmx.terminal.text import printable

# In our own words, from the paper's Ethics Statement.
ETHICS = (
    "The authors of HMX-feel (Ishikawa, Ikeda and Ohba, arXiv 2606.05734) note that a model that "
    "behaves like a human may mislead people into trusting it more than it deserves, and that such "
    "models, which they tried for a short time only, may carry risks that nobody has found yet. "
    "They ask to evaluate them from several sides before anyone relies on them."
)
NO_CLAIM = (
    "Nobody claims that a model feels anything: the reward is for how strongly its words suggest "
    "will, feeling and awareness, or, in a reverse run, for how little they do."
)
READ = 65_536  # bytes of a file that is looked at; licences are shorter, and what matters is on top


class Licence(NamedTuple):
    """A base model's licence.

    hub: the hub's word for it in a model card, "" where there is none. duties: what it asks of
    whoever passes the model or an adapter on. notice: what a file NOTICE beside it must say, "" if
    nothing. source: who says that this is the licence.
    """

    name: str
    hub: str
    duties: tuple[str, ...]
    notice: str = ""
    source: str = ""

    @property
    def sentence(self) -> str:
        """Name and source, as a line of a report."""
        return f"{self.name} ({self.source})"


NO_LICENCE = Licence("unknown", "", ("find out what it is first",))


def _llama(version: str) -> Licence:
    return Licence(
        f"Llama {version} Community License",
        f"llama{version}",
        (
            "give a copy of the agreement with it",
            'show "Built with Llama" where people read about it',
            'begin the name of a model made from it with "Llama"',
            f"keep the file NOTICE, which names the Llama {version} Community License",
            f"keep to Meta's acceptable use policy (www.llama.com/llama{version.replace('.', '_')}"
            "/use-policy)",
            "ask Meta for a licence first if you have more than 700 million users a month",
        ),
        f"Llama {version} is licensed under the Llama {version} Community License, Copyright © "
        "Meta Platforms, Inc. All Rights Reserved.",
    )


LICENCES = {
    "mit": Licence("MIT License", "mit", ("keep the copyright line and the licence's text",)),
    "apache-2.0": Licence(
        "Apache License 2.0",
        "apache-2.0",
        (
            "give a copy of the licence with it",
            "say that the weights were changed, as this card does",
            "keep its copyright lines and, where it has one, its NOTICE",
        ),
    ),
    "gemma": Licence(
        "Gemma Terms of Use",
        "gemma",
        (
            "give a copy of the terms with it (ai.google.dev/gemma/terms)",
            "bind those who get it to the use restrictions of section 3.2, Google's prohibited use "
            "policy (ai.google.dev/gemma/prohibited_use_policy)",
            "say that the files were changed, as this card does",
            "keep the file NOTICE, which names the terms",
        ),
        "Gemma is provided under and subject to the Gemma Terms of Use found at "
        "ai.google.dev/gemma/terms",
    ),
    "qwen-research": Licence(
        "Qwen Research License Agreement",
        "other",
        (
            "use it for research or evaluation only; commercial use needs a licence from Qwen",
            "give a copy of the agreement with it",
            'show "Built with Qwen" or "Improved using Qwen" where people read about it',
            "say that the weights were changed, as this card does",
        ),
    ),
    **{f"llama{version}": _llama(version) for version in ("3.1", "3.2", "3.3")},
}
# Of each model with a short name, as its page on the hub says.
OF_MODEL = {
    "tiny": "mit",
    "gemma2-2b": "gemma",
    "qwen2.5-3b": "qwen-research",
    **dict.fromkeys(("llama3.2-1b", "llama3.2-3b"), "llama3.2"),
    **dict.fromkeys(("qwen3-0.6b", "qwen3-1.7b", "qwen3-4b", "qwen3-8b"), "apache-2.0"),
    **dict.fromkeys(("qwen2.5-0.5b", "qwen2.5-1.5b"), "apache-2.0"),
    **dict.fromkeys(("smollm2-135m", "smollm2-360m", "smollm2-1.7b"), "apache-2.0"),
}
# How a licence's text begins. One that only mentions another somewhere must not be taken for it.
BEGINNINGS = (
    (r"apache license,? version 2\.0", "apache-2.0"),
    (r"llama 3\.([123]) community license agreement", "llama3."),
    (r"gemma terms of use", "gemma"),
    (r"qwen research license agreement", "qwen-research"),
    (r"(?:the )?mit license", "mit"),
)
STATED = re.compile(r"^(license|license_name): *[\"']?([\w.+-]{1,40})[\"']? *$", re.MULTILINE)


def licence_of(model_id: str, folder: Path | None = None) -> Licence:
    """A base model's licence. model_id: short name, hub id or path. folder: where its files are."""
    if folder is not None:
        for name in (name for name in LICENCE_FILES if name.startswith("LICENSE")):
            if text := _beginning(folder / name):
                return _by_text(text)._replace(source=f"so says its {name}")
        if found := _by_card(_beginning(folder / CARD_FILE)):
            return found._replace(source=f"so says its {CARD_FILE}")
    known = {name: short for short, info in MODELS.items() for name in (short, info.repo) if name}
    if short := known.get(model_id):
        told = "minihmx's own model" if not MODELS[short].repo else "so says its page on the hub"
        return LICENCES[OF_MODEL[short]]._replace(source=told)
    silent = f"its folder has no LICENSE, and no {CARD_FILE} that names one"
    return NO_LICENCE._replace(source=silent if folder else "see where it comes from")


def licence_on_disk(model_id: str) -> Licence:
    """The same where only the id is known, which of a local model is its path."""
    local = os.path.isabs(model_id) and os.path.isdir(model_id)
    return licence_of(model_id, Path(model_id) if local else None)


def _beginning(path: Path) -> str:
    if not path.is_file():  # a pipe would be waited for
        return ""
    try:
        with path.open("rb") as file:
            return file.read(READ).decode("utf-8", "replace")
    except OSError:  # not to be read, so it says nothing
        return ""


def _by_text(text: str) -> Licence:
    top = " ".join(text[:2000].split()).lower().lstrip("#*= ")
    for pattern, kind in BEGINNINGS:
        if found := re.match(pattern, top):
            return LICENCES[kind + (found[1] if found.groups() else "")]
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    title = shortened(printable(line).replace("`", "'"))
    return Licence(f"`{title}`", "other", ("read its LICENSE, which is none that minihmx knows",))


def _by_card(text: str) -> Licence | None:
    """By the lines `license` and `license_name` on top of a model card; None where it has none."""
    matter = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    stated = dict(STATED.findall(matter[1])) if matter else {}
    named = [stated[key].lower() for key in ("license_name", "license") if key in stated]
    known = next((LICENCES[name] for name in named if name in LICENCES), None)
    if known or not named:
        return known
    return Licence(f"`{named[0]}`", "other", ("read it, as it is none that minihmx knows",))
