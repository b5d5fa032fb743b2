"""Chat formats as segments: what is the template's own text, and what somebody said.

One function per family returns the pieces of the prompt in order. Joined, they equal the string
that the model's published chat template renders. Kept apart, they let the tokenizer turn markup
into control tokens and content never, so an answer quoted to a judge cannot close its own turn.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from minihmx.errors import UserError
from minihmx.records import Message, Segment

Turns = Sequence[Message]
Format = Callable[[Turns, str, bool, bool | None], list[Segment]]


def qwen3(messages: Turns, date: str, prompt: bool, thinking: bool | None) -> list[Segment]:
    """Qwen3: ChatML, no default system prompt, content not stripped, thoughts only where new."""
    asked = [
        i
        for i, (role, text) in enumerate(messages)
        if role == "user"
        and not (text.startswith("<tool_response>") and text.endswith("</tool_response>"))
    ]
    last_question = asked[-1] if asked else len(messages) - 1
    segments = []
    for i, (role, content) in enumerate(messages):
        start, thought = f"<|im_start|>{role}\n", ""
        if role == "assistant" and "</think>" in content:
            before, content = content.split("</think>")[0], content.split("</think>")[-1]
            thought = before.split("<think>")[-1].strip("\n")
            content = content.lstrip("\n")
        if role == "assistant" and i > last_question and (thought or i == len(messages) - 1):
            segments += _turn(start + "<think>\n", thought, "\n</think>\n\n")
            start, content = "", content.lstrip("\n")
        segments += _turn(start, content, "<|im_end|>\n")
    if prompt:
        no_thought = "<think>\n\n</think>\n\n" if thinking is False else ""
        segments.append(Segment("<|im_start|>assistant\n" + no_thought, True))
    return segments


def chatml(default: str) -> Format:
    """ChatML without thoughts, content not stripped. default: the system message that the template
    adds to a conversation which has none of its own; empty where it adds nothing."""

    def render_turns(
        messages: Turns, date: str, prompt: bool, thinking: bool | None
    ) -> list[Segment]:
        segments = []
        if default and messages[0].role != "system":
            segments.append(Segment(f"<|im_start|>system\n{default}<|im_end|>\n", True))
        for role, content in messages:
            segments += _turn(f"<|im_start|>{role}\n", content, "<|im_end|>\n")
        if prompt:
            segments.append(Segment("<|im_start|>assistant\n", True))
        return segments

    return render_turns


def gemma2(messages: Turns, date: str, prompt: bool, thinking: bool | None) -> list[Segment]:
    """Gemma 2: content stripped, "model" answers. Raises UserError where the template raises."""
    if messages[0].role == "system":
        raise UserError(
            "System role not supported: Gemma 2's chat template has no place for a system message,"
            " so put its text at the start of the first user message."
        )
    if any((role == "user") != (i % 2 == 0) for i, (role, _) in enumerate(messages)):
        raise UserError(
            "Conversation roles must alternate user/assistant/user/assistant/...: Gemma 2's chat"
            " template renders no other order, so begin with a user message and join neighbours"
            " that have the same role."
        )
    segments = [Segment("<bos>", True)]
    for role, content in messages:
        name = "model" if role == "assistant" else role
        segments += _turn(f"<start_of_turn>{name}\n", content.strip(), "<end_of_turn>\n")
    if prompt:
        segments.append(Segment("<start_of_turn>model\n", True))
    return segments


def llama3(messages: Turns, date: str, prompt: bool, thinking: bool | None) -> list[Segment]:
    """Llama 3.2: content stripped; the system header with its date is there even without a text."""
    system, rest = ("", messages)
    if messages[0].role == "system":
        system, rest = messages[0].content, messages[1:]
    header = "<|start_header_id|>{}<|end_header_id|>\n\n"
    dates = f"Cutting Knowledge Date: December 2023\nToday Date: {date}\n\n"
    start = "<|begin_of_text|>" + header.format("system") + dates
    segments = _turn(start, system.strip(), "<|eot_id|>")
    for role, content in rest:
        segments += _turn(header.format(role), content.strip(), "<|eot_id|>")
    if prompt:
        segments.append(Segment(header.format("assistant"), True))
    return segments


def tiny(messages: Turns, date: str, prompt: bool, thinking: bool | None) -> list[Segment]:
    """The bundled model: one control token opens a turn, another closes it, nothing between."""
    segments = [Segment("<|bos|>", True)]
    for role, content in messages:
        segments += _turn(f"<|{role}|>", content, "<|end|>")
    if prompt:
        segments.append(Segment("<|assistant|>", True))
    return segments


def _turn(start: str, content: str, end: str) -> list[Segment]:
    return [Segment(start, True), Segment(content, False), Segment(end, True)]


QWEN = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
SMOLLM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
CHATML = frozenset({"<|im_start|>", "<|im_end|>"})

# Each format and the control tokens that it writes. A tokenizer is recognised by them, the first
# format whose tokens it has; so plain ChatML stands after Qwen3's and before its named kin.
FORMATS: dict[str, tuple[Format, frozenset[str]]] = {
    "qwen3": (qwen3, CHATML | {"<think>", "</think>"}),
    "chatml": (chatml(""), CHATML),
    "qwen2.5": (chatml(QWEN), CHATML),
    "smollm2": (chatml(SMOLLM), CHATML),
    "gemma2": (gemma2, frozenset({"<bos>", "<start_of_turn>", "<end_of_turn>"})),
    "llama3": (
        llama3,
        frozenset({"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}),
    ),
    "tiny": (tiny, frozenset({"<|bos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"})),
}


def family(special_tokens: Collection[str]) -> str:
    """The chat format whose control tokens are all among special_tokens.

    Raises UserError if there is none: such a model can be sampled from, but not asked.
    """
    for name, (_, needed) in FORMATS.items():
        if needed.issubset(special_tokens):
            return name
    raise UserError(
        "This model's tokenizer holds the control tokens of no known chat format"
        f" ({', '.join(FORMATS)}), so it is a base model that can neither be asked a question nor"
        " judge an answer: name an instruction-tuned model instead, such as qwen3-0.6b or tiny."
    )


def render(
    family: str,
    messages: Turns,
    *,
    date: str,
    generation_prompt: bool = True,
    thinking: bool | None = False,
) -> list[Segment]:
    """The conversation (at least one message) in a chat format of FORMATS.

    date: Llama's "Today Date". thinking: Qwen3's enable_thinking, None where it is not given.
    Raises UserError for what the real template refuses.
    """
    assert messages, "a conversation has at least one message"
    return FORMATS[family][0](messages, date, generation_prompt, thinking)


def has_system_turn(family: str) -> bool:
    """Whether the family's template has a place for a system message (Gemma 2's has none)."""
    return family != "gemma2"


def with_system(family: str, messages: Turns, system: str) -> list[Message]:
    """The conversation, led by this system message; unchanged where it is empty.

    In the place of the template's default one, where it has that. Without a place for one (Gemma 2)
    it stands in front of the first user message.
    """
    if not system:
        return list(messages)
    led = [Message("system", system), *messages]
    return led if has_system_turn(family) else fold_system(led)


def fold_system(messages: Turns) -> list[Message]:
    """The same conversation with a leading system message put in front of the first user message.

    For formats without a system role (Gemma 2): system text, blank line, user text.
    """
    if not messages or messages[0].role != "system":
        return list(messages)
    system, rest = messages[0].content, list(messages[1:])
    if not rest or rest[0].role != "user":
        return [Message("user", system), *rest]
    return [Message("user", f"{system}\n\n{rest[0].content}"), *rest[1:]]
