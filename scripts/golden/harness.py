"""What lm-evaluation-harness's tasks ask, without chat and in Qwen3's real chat template."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path
from typing import Any


def template(shared: Path) -> Any:
    """The real Qwen3 template on messages, as lm-eval's model class applies it."""
    from transformers import PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "tokenizer.json"
        raw = (shared / "tokenizers" / "qwen3" / "tokenizer.json.gz").read_bytes()
        path.write_bytes(gzip.decompress(raw))
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path))  # type: ignore[no-untyped-call]
    tokenizer.chat_template = (shared / "templates" / "qwen3.jinja").read_text("utf-8")

    def apply(history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return str(
            tokenizer.apply_chat_template(
                history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                enable_thinking=False,
            )
        )

    return apply


def asked(task: Any, chat: Any = None) -> list[list[Any]]:
    """Prompt and generation settings of every row, as lm-eval hands them to a model."""
    task.build_all_requests(
        rank=0, world_size=1, apply_chat_template=chat is not None, chat_template=chat
    )
    generates = (i for i in task.instances if i.request_type == "generate_until")
    return [list(instance.args) for instance in sorted(generates, key=lambda i: i.doc_id)]
