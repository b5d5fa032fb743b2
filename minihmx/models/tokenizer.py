"""Text to token ids and back, such that only markup can become a control token.

The tokenizers library turns `<|im_end|>` into the control token wherever it stands, also inside an
answer that is quoted to the judge. So the tokenizer in use here is built without control tokens:
what somebody wrote is only ever text to it. Control tokens in markup are found by this module and
placed by id; each stretch between two of them, template text and content together, is encoded as
one string, as the real tokenizer does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from minihmx.errors import UserError, quoted
from minihmx.models import chat
from minihmx.models.template import AUTO, ChatFormat, choose_format
from minihmx.records import Segment
from minihmx.storage import strict

# Qwen's thinking, tool and fill-in-the-middle markers are added tokens not flagged as `special`.
# No general rule is possible: the same kind of token is ordinary text in Gemma (runs of newlines).
_MARKER = re.compile(r"<\|[^|]+\|>|</?(?:think|tool_call|tool_response)>")


class Tokenizer:
    """A tokenizer.json with a BPE model, made safe for quoting. Build it with `load`.

    vocab_size: one more than the highest id that has a text (the model may have more rows).
    chat_format: what its folder asks for; empty without one, where the control tokens decide.
    """

    def __init__(
        self,
        plain: tokenizers.Tokenizer,
        control: dict[str, int],
        size: int,
        before: Sequence[str] = (),
    ) -> None:
        self._plain = plain
        self._before = before
        self._control = control
        self._control_ids = frozenset(control.values())
        self._split = re.compile(f"({'|'.join(map(re.escape, control)) or '(?!)'})").split
        self.vocab_size = size
        self.chat_format = ChatFormat("")

    @classmethod
    def load(cls, folder: Path, chat_format: str = AUTO) -> Tokenizer:
        """Reads folder/tokenizer.json, and which chat format the folder's template is.

        chat_format: the one to take instead. Raises UserError where tokenizer.json is missing or
        unusable, or has not that format's control tokens.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            instead = " (only tokenizer.model)" if (folder / "tokenizer.model").is_file() else ""
            raise UserError(
                f"{folder} holds no tokenizer.json{instead}, the one file that minihmx reads a"
                " tokenizer from: copy it there from the model's Hugging Face page."
            )
        found = cls.from_bytes(path.read_bytes(), str(path))
        found.chat_format = choose_format(folder, found.special, chat_format)
        return found

    @classmethod
    def from_bytes(cls, raw: bytes, name: str = "tokenizer.json") -> Tokenizer:
        """As load, from the file's content; name is what an error calls it."""
        try:
            file = strict.parse(raw)
            kind = file["model"].get("type", "BPE")
            if kind == "BPE":
                before = _before_text(file.get("post_processor"))
                control = _take_out_control_tokens(file)
                before = [token for token in before if token in control]
                plain = tokenizers.Tokenizer.from_str(json.dumps(file))
                highest = max([*file["model"]["vocab"].values(), *control.values()])
        except Exception as error:  # the library raises nothing narrower than Exception
            raise UserError(
                f"{name} is damaged or no tokenizer at all ({type(error).__name__}: {error}),"
                " so the model cannot read text: download the file again."
            ) from error
        if kind != "BPE":
            raise UserError(
                f"{name} holds a tokenizer of type {kind}, and minihmx reads only the type BPE:"
                " use a model of the Qwen3, Gemma 2 or Llama 3.2 family."
            )
        return cls(plain, control, highest + 1, before)

    @property
    def special(self) -> frozenset[str]:
        """Control tokens and template markers: what content never becomes and decode leaves out."""
        return frozenset(self._control)

    @property
    def family(self) -> str:
        """The chat format. Raises UserError for a base model, which has none (models/chat.py)."""
        return self.chat_format.name or chat.family(self._control)

    def id(self, token: str) -> int | None:
        """The id of a token spelled as in tokenizer.json, None if there is no such token."""
        found: int | None = self._control.get(token, self._plain.token_to_id(token))
        return found

    def encode(self, segments: Iterable[Segment]) -> list[int]:
        """Token ids of a rendered prompt; nothing is added before or after it."""
        ids: list[int] = []
        stretch = ""
        for text, markup in segments:
            first, *rest = self._split(text) if markup else [text]
            stretch += first
            for token, following in zip(rest[::2], rest[1::2], strict=True):
                ids += [*self.encode_text(stretch), self._control[token]]
                stretch = following
        return ids + self.encode_text(stretch)

    def encode_text(self, text: str) -> list[int]:
        """Token ids of plain text: `<|im_end|>` in it is ten ordinary characters."""
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return ids

    @property
    def before_text(self) -> list[int]:
        """Control tokens that the published tokenizer puts before a text which is no chat: bos for
        Llama and Gemma, nothing for Qwen3."""
        return [self._control[token] for token in self._before]

    def count(self, text: str) -> int:
        """How many tokens the published tokenizer makes of a text, those before it included."""
        return len(self._before) + len(self.encode_text(text))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids without control tokens; ids that have no text are passed over.

        Bytes that are no UTF-8 become U+FFFD.
        """
        kept = [int(i) for i in ids if i not in self._control_ids]
        text: str = self._plain.decode(kept, skip_special_tokens=False)
        return text


def _before_text(post: Any) -> list[str]:
    """The tokens that a tokenizer.json's post-processor puts before a single text."""
    if post and post["type"] == "Sequence":
        return [token for part in post["processors"] for token in _before_text(part)]
    if not post or post["type"] != "TemplateProcessing":
        return []
    pieces = post["single"]
    text = next(i for i, piece in enumerate(pieces) if "Sequence" in piece)
    return [str(piece["SpecialToken"]["id"]) for piece in pieces[:text]]


def _take_out_control_tokens(file: dict[str, Any]) -> dict[str, int]:
    """Leaves in file (a parsed tokenizer.json) what plain text needs; returns token -> id."""
    added, model = file["added_tokens"], file["model"]
    for token in added:
        if type(token["content"]) is not str or type(token["id"]) is not int or token["id"] < 0:
            raise ValueError(
                f"no token has content {quoted(token['content'])} and id {quoted(token['id'])}"
            )
    if model.get("continuing_subword_prefix"):  # no supported family has one
        raise ValueError("continuing_subword_prefix is set")
    control = {
        token["content"]: token["id"]
        for token in added
        if token["special"] or _MARKER.fullmatch(token["content"])
    }
    ordinary = [token for token in added if token["content"] not in control]
    # The library numbers an added token by its place unless the vocabulary knows it.
    for token in ordinary:
        model["vocab"].setdefault(token["content"], token["id"])
    # Converted SentencePiece files may hold a merge that spells a control token, such as "<" "s>".
    if not control.keys().isdisjoint(model["vocab"]):
        pairs = ((m, m.split(" ") if isinstance(m, str) else m) for m in model["merges"])
        model["merges"] = [merge for merge, pair in pairs if "".join(pair) not in control]
    # Truncation would cut long prompts silently, and post-processors only add control tokens.
    file.update(added_tokens=ordinary, truncation=None, padding=None, post_processor=None)
    model["dropout"] = None  # would split the same text differently each time
    return control
