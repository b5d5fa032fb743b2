"""One side of a comparison, in a process of its own: minihmx's step, or TRL's with the same work.

bench_step.py --against trl starts both, lets them take their steps in turn, and compares. What is
alike: the checkpoint, the questions in their order, their prompts and the judge's to the token, the
numbers of tokens (on both sides no answer and no verdict ends before its cap), fp32, one forward
and backward over all rows, no recomputation of layers, LoRA's rank and targets, beta, loss, AdamW.
TRL's judge is a reward function that a user would write: the base, adapter switched off, through
transformers' generate. Its reference is the base as well, since beta is above 0.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from bench_floor import floor, floor_work
from bench_shapes import Shape, flags, make, open_forced, steps

from minihmx.config import LORA_TARGETS, Config
from minihmx.engine.open import find_model
from minihmx.engine.prompts import Prompts
from minihmx.instruments.clock import peak_memory
from minihmx.judge import parse_score
from minihmx.questions import batch_of, load_questions, load_rubric
from minihmx.records import Rollout, Verdict
from minihmx.run import Run, path_or_none

MOST = 1000  # steps that a side prepares for
Answer = Callable[[dict[str, Any]], None]


def asked() -> Iterator[str]:
    """What the other process asks for, line by line, until it goes away."""
    while line := sys.stdin.readline():
        yield line.strip()


def told(judged: list[list[int]], completions: list[list[int]]) -> dict[str, Any]:
    """What shows that both sides had the same work: tokens of answers, and of judges' prompts."""
    return {
        "completion tokens": sum(map(len, completions)),
        "judge prompt tokens": sum(map(len, judged)),
    }


def peak() -> float:
    """Of this process, in GiB."""
    return peak_memory(torch.device("cpu")) / 2**30


def ours(run: Run, answer: Answer) -> None:
    """A step for each line "step"; for a line "floor", at the end, the floor of the last step."""
    going, rollouts = steps(run), list[Rollout]()
    for wish in asked():
        if wish == "step":
            start = time.perf_counter()
            rollouts = next(going).rollouts
            took = time.perf_counter() - start
            judged = [run.prompts.judge(r.question.text, r.completion.text) for r in rollouts]
            work = told(judged, [r.completion.ids for r in rollouts])
            answer({**work, "seconds": took, "peak": peak()})
        else:
            stages = floor(run, floor_work(run, rollouts))
            answer({stage: sum(parts) for stage, parts in stages.items()})


def theirs(given: dict[str, Any], answer: Answer) -> None:
    """The same by TRL, from the same flags."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import GRPOTrainer

    found = find_model(given)
    config = found.config
    prompts = Prompts(found.tokenizer, config.date, load_rubric(None))
    train = [q for q in load_questions(path_or_none(config.questions)) if q.split == "train"]
    tokenizer = published_tokenizer(Path(config.model))
    frame = prompts.frame()
    rows = [
        {"prompt": f"{frame['before']}{q.text}{frame['after']}", "question": q.text}
        for step in range(MOST)
        for q in batch_of(step, train, config.prompts_per_step, config.seed)[1]
    ]
    assert tokenizer(rows[0]["prompt"])["input_ids"] == prompts.policy(rows[0]["question"])
    adapter = LoraConfig(
        r=config.lora_rank,
        lora_alpha=int(config.lora_alpha),
        lora_dropout=0.0,
        target_modules=list(LORA_TARGETS),
        task_type="CAUSAL_LM",
    )
    seen: dict[str, Any] = {}

    def reward(completion_ids: list[list[int]], question: list[str], **_: Any) -> list[float]:
        texts = [prompts.tokenizer.decode(ids) for ids in completion_ids]
        judged = [prompts.judge(*pair) for pair in zip(question, texts, strict=True)]
        seen.update(told(judged, completion_ids))
        model = trainer.accelerator.unwrap_model(trainer.model)
        verdicts = judge_by_transformers(model, tokenizer, judged, config.judge_max_tokens)
        read = [parse_score(prompts.tokenizer.decode(said), True) for said in verdicts]
        return [float(v.score) if isinstance(v, Verdict) else 0.0 for v in read]

    trainer = GRPOTrainer(
        model=config.model,
        reward_funcs=reward,
        args=arguments(config),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[turns(answer, seen)],
        peft_config=adapter,
    )
    trainer.train()


def published_tokenizer(folder: Path) -> Any:
    """The checkpoint's tokenizer as transformers has it."""
    from transformers import PreTrainedTokenizerFast

    names = {"bos_token": "<|bos|>", "eos_token": "<|end|>", "pad_token": "<|pad|>"}
    file = str(folder / "tokenizer.json")
    return PreTrainedTokenizerFast(tokenizer_file=file, **names)  # type: ignore[no-untyped-call]


def judge_by_transformers(
    model: Any, tokenizer: Any, judged: list[list[int]], cap: int
) -> list[list[int]]:
    """The base's greedy verdicts, each of `cap` tokens."""
    batch = tokenizer.pad({"input_ids": judged}, padding_side="left", return_tensors="pt")
    with torch.no_grad(), model.disable_adapter():
        said = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            do_sample=False,
            max_new_tokens=cap,
            min_new_tokens=cap,
            pad_token_id=tokenizer.pad_token_id,
        )
    verdicts: list[list[int]] = said[:, batch["input_ids"].shape[1] :].tolist()
    return verdicts


def turns(answer: Answer, seen: dict[str, Any]) -> Any:
    """Lets TRL's trainer take a step for each line "step", and tells how long it took."""
    from transformers import TrainerCallback

    wishes = asked()

    class Turns(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if next(wishes, "") != "step":
                raise SystemExit
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            answer({**seen, "seconds": time.perf_counter() - self.start, "peak": peak()})

    return Turns()


def arguments(config: Config) -> Any:
    """TRL's for the same step."""
    from trl import GRPOConfig

    cap = config.max_completion_length
    return GRPOConfig(
        output_dir=config.out,
        max_steps=MOST,
        per_device_train_batch_size=config.prompts_per_step * config.generations,
        num_generations=config.generations,
        max_completion_length=cap,
        generation_kwargs={"min_new_tokens": cap},  # no end token before
        temperature=config.temperature,
        beta=config.beta,
        loss_type=config.loss_type,
        epsilon=config.clip_epsilon,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        model_init_kwargs={"dtype": "float32"},
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        shuffle_dataset=False,
        optim="adamw_torch",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


def main() -> None:
    """side, shape, folder, threads: bench_step.py gives them."""
    side, sizes, place, threads = sys.argv[1:]
    # Only answers go to the pipe; what libraries print goes where errors do.
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(int(threads))
    shape, folder = Shape(**json.loads(sizes)), Path(place)

    def answer(found: dict[str, Any]) -> None:
        print(json.dumps(found), file=pipe, flush=True)

    given = flags(shape, folder, folder / side) | {"threads": int(threads)}
    if side == "make":
        make(folder, shape)
    elif side == "minihmx":
        ours(open_forced(given), answer)
    else:
        theirs(given, answer)


if __name__ == "__main__":
    main()
