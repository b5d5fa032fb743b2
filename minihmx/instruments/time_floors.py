"""The least time that a step takes, from config.json alone. Pure arithmetic, as in estimate.py."""

from __future__ import annotations

from minihmx.config import Config
from minihmx.instruments.estimate import Workload, kv_bytes, parameter_counts, trainable, width
from minihmx.instruments.gpus import Speed, gpu_speed
from minihmx.models.configs import ModelConfig


def floors(
    model: ModelConfig, config: Config, work: Workload, on: Speed | None = None
) -> dict[str, float]:
    """The least seconds by stage, and the least hours of the run. on: an RTX 4090 if None.

    A decoding step reads every weight once, however many rows there are, and each row's cache, so
    memory bandwidth bounds it. Learning is bounded by its FLOPs for each parameter and token: 2 in
    the forward pass, 2 in its recomputation, 2 in the backward pass (frozen weights need gradients
    of their inputs only), and 2 for the reference.
    """
    _, bandwidth, speed = on or gpu_speed("RTX 4090")
    body, embedding, _ = parameter_counts(model)
    n, cap = trainable(model, config), config.max_completion_length
    passes = (6 if config.checkpointing == "on" else 4) * config.iterations

    def generate(rows: int) -> tuple[float, float]:
        sample = cap * decode_bytes(model, rows, work.prompt + cap // 2, n, config.dtype)
        judged = work.judge + cap + config.judge_max_tokens // 2
        judge = config.judge_max_tokens * decode_bytes(model, rows, judged, 0, config.dtype)
        prefill = 2 * body * rows * (cap + work.prompt // 2)
        return sample / bandwidth, judge / bandwidth + prefill / speed

    def multiply(rows: int, of_body: int, of_head: int, of_adapter: int) -> float:
        tokens = rows * (work.prompt + cap)
        flops = tokens * (of_body * body + of_adapter * n) + rows * cap * of_head * embedding
        return flops / speed

    rows, held_out = config.prompts_per_step * config.generations, work.held_out
    sample, judge = generate(rows)
    learn = multiply(rows, 2 + passes, 2 + 6 * config.iterations, passes + 2 * config.iterations)
    evaluation = sum(generate(held_out * config.eval_samples))
    evaluation += multiply(held_out * config.eval_samples, 4, 4, 2)
    step, steps = sample + judge + learn, config.epochs * (work.train // config.prompts_per_step)
    hours = (steps * step + (config.epochs + 1) * evaluation) / 3600
    return {
        "sample": sample,
        "judge": judge,
        "learn": learn,
        "step": step,
        "evaluation": evaluation,
        "steps": steps,
        "run hours": hours,
    }


def decode_bytes(
    model: ModelConfig, rows: int, length: int, adapter: int = 0, dtype: str = "float16"
) -> int:
    """Bytes read from memory for one token of every row: weights, adapter, caches of `length`."""
    # The head is read as a whole, but only a few rows of the embedding.
    body, embedding, _ = parameter_counts(model)
    return width(dtype) * (body + embedding + adapter) + rows * length * kv_bytes(model, dtype)
