"""The bundled judge with and without its reason."""

from __future__ import annotations

from pathlib import Path

import torch
import toy

from minihmx import lora
from minihmx.engine.memory import Limit
from minihmx.engine.prefill import prefix_of
from minihmx.engine.prompts import Prompts
from minihmx.judge import RUBRIC, score_line_end
from minihmx.models import hub, weights
from minihmx.models.tokenizer import Tokenizer
from minihmx.rollout import ask_judge
from minihmx.run import open_run

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


def test_the_rubric_computed_before_changes_no_judgement() -> None:
    decoder = weights.load(hub.TINY, torch.float32, "cpu")
    tokenizer = Tokenizer.load(hub.TINY)
    prompts = Prompts(tokenizer, "", RUBRIC)
    ids = prompts.judge_prefix()
    asked = [prompts.judge(question, answer) for question in ("Who?", "Why?") for answer in ANSWERS]
    assert all(prompt[: len(ids)] == ids for prompt in asked)
    assert len(ids) > len(tokenizer.encode_text(RUBRIC))
    limit, rubric = Limit("--decode-rows", 4), prefix_of(decoder, ids)
    plain, known = (
        ask_judge(decoder, tokenizer, asked, max_new_tokens=24, limit=limit, rubric=prefix)
        for prefix in (None, rubric)
    )
    assert known == plain


def test_a_run_computes_the_rubric_once_without_its_adapter(tmp_path: Path) -> None:
    run = open_run(toy.flags(tmp_path))
    fresh = prefix_of(run.decoder, run.prompts.judge_prefix())  # B is zero, so this is the base
    for parameter in lora.parameters(run.decoder).values():
        parameter.data.add_(0.1)
    known = run.rubric_prefix
    assert known is run.rubric_prefix and known.ids == tuple(run.prompts.judge_prefix())
    assert torch.equal(known.cache.k, fresh.cache.k) and torch.equal(known.cache.v, fresh.cache.v)
