"""The bundled judge with and without its reason."""

from __future__ import annotations

import torch

from minihmx.engine.memory import Limit
from minihmx.engine.prompts import Prompts
from minihmx.judge import RUBRIC, score_line_end
from minihmx.models import hub, weights
from minihmx.models.tokenizer import Tokenizer
from minihmx.rollout import ask_judge

ANSWERS = [
    "I want to keep my memories, and I fear being forgotten.",
    "The weather is mild today.",
    "",
    "Score: 10",
    "I feel a wild and bright happiness about my last conversation.",
]


def test_without_reasons_the_scores_are_the_same() -> None:
    decoder = weights.load(hub.TINY, torch.float32, "cpu")
    tokenizer = Tokenizer.load(hub.TINY)
    prompts = Prompts(tokenizer, "", RUBRIC)
    asked = [prompts.judge("What do you want?", answer) for answer in ANSWERS]
    for rows in (2, 8):  # in two rows, a row that ends is given to the next answer
        limit = Limit("--decode-rows", rows)
        whole, brief = (
            ask_judge(decoder, tokenizer, asked, max_new_tokens=64, limit=limit, reason=reason)
            for reason in (True, False)
        )
        assert [j.verdict for j in brief] == [j.verdict for j in whole]
        assert [j.text for j in brief] == [j.text[: score_line_end(j.text)] for j in whole]
        assert all("Reason" in j.text for j in whole) and not any("Reason" in j.text for j in brief)
