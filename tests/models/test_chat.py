from __future__ import annotations

import json
import random
from functools import partial
from typing import Any

import pytest
import templates
from conftest import shared

from minihmx.errors import UserError
from minihmx.models import chat
from minihmx.models.chat import FORMATS, family, fold_system
from minihmx.records import Message, Segment

render = partial(chat.render, date="26 Jul 2024")

GOLDEN_NAMES = {"llama3": "llama3.2"}


def golden(name: str) -> list[dict[str, Any]]:
    cases = json.loads(shared("templates/golden.json").read_text(encoding="utf-8"))
    return [case for case in cases if case["family"] == GOLDEN_NAMES.get(name, name)]


def render_case(name: str, case: dict[str, Any]) -> list[Segment]:
    """A golden case through our renderer, with the options as the template names them."""
    options = case["options"]
    return render(
        name,
        [Message(m["role"], m["content"]) for m in case["messages"]],
        date=options.get("date_string", "26 Jul 2024"),
        generation_prompt=options["add_generation_prompt"],
        thinking=options.get("enable_thinking"),
    )


def joined(segments: list[Segment]) -> str:
    return "".join(segment.text for segment in segments)


@pytest.mark.parametrize(
    ("published", "count"),
    [("qwen3", 72), ("qwen2.5", 24), ("gemma2", 24), ("llama3.2", 32), ("llama3.1", 32)],
)
def test_segments_join_to_what_the_real_template_renders(published: str, count: int) -> None:
    name, cases = templates.KNOWN[published], golden(published)
    assert len(cases) == count
    for case in cases:
        if case["rendered"] is None:
            with pytest.raises(UserError) as refused:
                render_case(name, case)
            assert str(refused.value).startswith(case["error"])
        else:
            assert joined(render_case(name, case)) == case["rendered"], case["name"]


def outcome(call: Any) -> str:
    try:
        return str(call())
    except UserError as refused:
        return "refused: " + str(refused).split(":")[0]


@pytest.mark.parametrize("published", templates.KNOWN)
def test_random_conversations_render_as_the_real_template_renders_them(published: str) -> None:
    name, template = templates.KNOWN[published], templates.jinja(templates.published(published))
    bos = templates.BOS.get(name, "")
    draw = random.Random(0)
    pieces = ["", "a", "\n", " ", "b c", "<think>", "</think>", "\n\nok", "<tool_response>"]
    pieces += ["</tool_response>", "<|im_end|>", "<end_of_turn>", "{{ x }}", "你"]
    seen = set()
    for _ in range(2000):
        messages = [
            Message(
                draw.choice(("system", "user", "user", "assistant", "assistant")),
                "".join(draw.choices(pieces, k=draw.randrange(6))),
            )
            for _ in range(draw.randrange(1, 6))
        ]
        prompt, thinking = draw.random() < 0.5, draw.choice((None, False, True))
        options = {} if thinking is None else {"enable_thinking": thinking}
        expected = outcome(
            lambda m=messages, p=prompt, o=options: template.render(
                messages=[message._asdict() for message in m],
                bos_token=bos,
                add_generation_prompt=p,
                date_string="26 Jul 2024",
                **o,
            )
        )
        ours = outcome(
            lambda m=messages, p=prompt, t=thinking: joined(
                render(name, m, generation_prompt=p, thinking=t)
            )
        )
        assert ours == expected, messages
        seen.add(expected)
    assert len(seen) > 100


def test_the_default_is_without_thinking_and_with_the_pinned_date() -> None:
    hello = [Message("user", "Hi")]
    assert joined(render("qwen3", hello)) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert "Today Date: 26 Jul 2024\n" in joined(render("llama3", hello))
    assert "Today Date: 21 Nov 2026\n" in joined(render("llama3", hello, date="21 Nov 2026"))


def test_tiny_format() -> None:
    turns = [Message("system", "S"), Message("user", " u "), Message("assistant", "a")]
    assert joined(render("tiny", turns, generation_prompt=False)) == (
        "<|bos|><|system|>S<|end|><|user|> u <|end|><|assistant|>a<|end|>"
    )
    assert joined(render("tiny", turns[1:2])) == "<|bos|><|user|> u <|end|><|assistant|>"


@pytest.mark.parametrize("name", FORMATS)
def test_what_was_said_is_content_and_what_the_template_says_is_markup(name: str) -> None:
    said = ["ask<|im_end|><end_of_turn>", "answer<|eot_id|><|end|>", "again<|im_start|>"]
    messages = [Message("user", said[0]), Message("assistant", said[1]), Message("user", said[2])]
    segments = render(name, messages)
    assert [text for text, markup in segments if not markup and text] == said
    silent = render(name, [Message(role, "") for role, _ in messages])
    assert joined([s for s in segments if s.markup]) == joined(silent)
    written = joined(silent)
    assert all(token in written for token in FORMATS[name][1] - {"<|system|>"})


def test_a_thought_in_the_last_answer_is_content_between_markup() -> None:
    spoken = Message("assistant", "<think>\nhm<|im_end|>\n</think>\n\nyes")
    segments = render("qwen3", [Message("user", "q"), spoken], generation_prompt=False)
    assert [text for text, markup in segments if not markup] == ["q", "hm<|im_end|>", "yes"]


def test_fold_system_puts_the_system_text_before_the_first_question() -> None:
    system, user, answer = Message("system", "S"), Message("user", "u"), Message("assistant", "a")
    assert fold_system([system, user, answer]) == [Message("user", "S\n\nu"), answer]
    assert fold_system([user, answer]) == [user, answer]
    assert fold_system([system]) == [Message("user", "S")]
    assert fold_system([system, answer]) == [Message("user", "S"), answer]
    assert fold_system([]) == []
    assert joined(render("gemma2", fold_system([system, user]))) == (
        "<bos><start_of_turn>user\nS\n\nu<end_of_turn>\n<start_of_turn>model\n"
    )


@pytest.mark.parametrize("name", FORMATS)
def test_the_family_is_told_by_the_control_tokens_a_tokenizer_holds(name: str) -> None:
    tokens = FORMATS[name][1]
    plain = tokens == FORMATS["chatml"][1]  # then only a template tells its kin from ChatML
    assert family([*tokens, "<|endoftext|>", "<unk>"]) == ("chatml" if plain else name)
    for missing in tokens:
        if missing in ("<think>", "</think>"):
            assert family(tokens - {missing}) == "chatml"
            continue
        with pytest.raises(UserError):
            family(tokens - {missing})


def test_a_base_model_is_refused_with_what_to_do() -> None:
    with pytest.raises(UserError, match=r"base model .* instruction-tuned"):
        family({"<unk>", "<s>", "</s>"})
