"""What a test lets several processes of torchrun do, and one process alone, to be compared.

    python -m torch.distributed.run --standalone --nproc-per-node 2 rank_cases.py FOLDER

Each rank runs every case, and leaves FOLDER/CASE-of-WORLD-RANK.pt, where `of` the cases is one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import toy

from minihmx import lora, train
from minihmx.advantages import assign_advantages
from minihmx.engine import ranks
from minihmx.engine.memory import take_notices
from minihmx.judge import reward
from minihmx.learn import learn
from minihmx.models import weights
from minihmx.models.decoder import Decoder
from minihmx.optimizer import Optimizer
from minihmx.records import Completion, Rollout, Verdict
from minihmx.run import Run, open_run

SEVERAL = ("--standalone", "--nproc-per-node")


def liking(run: Run, rollouts: Sequence[Rollout], phase: str) -> None:
    """A judge that likes half of all token ids."""
    for rollout in rollouts:
        score = min(10, sum(i % 4 < 2 for i in rollout.completion.ids))
        rollout.verdict = Verdict(score, (7, 8))
        rollout.judge_text, rollout.judge_finish = f"Score: {score}", "stop"
        rollout.reward = reward(rollout.verdict, run.config.direction)


def stored(run: Run, rows: int) -> list[Rollout]:
    """The same answers in every process, of one group to each question."""
    generator, found = torch.Generator().manual_seed(1), []
    for i in range(rows):
        question = run.train_questions[i // run.config.generations]
        ids = torch.randint(6, 262, (3 + i * 5 % 11,), generator=generator).tolist()
        completion = Completion(ids, [-5.0] * len(ids), "", "length")
        prompt = run.prompts.policy(question.text)
        found.append(Rollout(question, i, question.text, prompt, completion))
    liking(run, found, "train")
    assign_advantages(found, run.config)
    return found


def update(
    folder: Path, dtype: torch.dtype, rows: int = 8, scaled: bool = False, **flags: object
) -> dict[str, Tensor]:
    """Two updates from stored answers: the gradients, the adapter, the metrics."""
    with mock.patch.dict(weights.DTYPES, {"float32": dtype}):
        run = open_run(toy.flags(folder, dtype="float32", learning_rate=1e-4, **flags))
    parameters = lora.parameters(run.decoder)
    config = replace(run.config, dtype="float16") if scaled else run.config
    optimizer = Optimizer(parameters, config, run.total_steps)
    if scaled:
        spoil_large_scales(optimizer)
    found: dict[str, Tensor] = {}
    for number in range(2):
        learned = learn(run, stored(run, rows), optimizer)
        assert not learned.outcome.failed
        found |= {f"{number}.{name}": p.grad.clone() for name, p in parameters.items()}
        found |= {
            f"{number}.{name}": torch.tensor(value, dtype=torch.float64)
            for name, value in learned.metrics.items()
        }
    adapter = {f"adapter.{name}": p.detach().clone() for name, p in parameters.items()}
    left = torch.tensor(
        [run.micro_limit.rows, len(ranks.tell(take_notices(run.decode_limit, run.micro_limit)))]
    )
    return found | adapter | {"rows and notices": left}


def spoil_large_scales(optimizer: Optimizer) -> None:
    """The last rank's gradient overflows while the scale is above 2 ** 14."""
    backward = optimizer.backward

    def spoilt(loss: Tensor) -> None:
        backward(loss)
        if optimizer.scale > 2.0**14 and ranks.rank() == ranks.world() - 1:
            for parameter in optimizer.parameters.values():
                assert parameter.grad is not None
                parameter.grad += torch.inf

    optimizer.backward = spoilt  # type: ignore[method-assign]


def short_of_memory(folder: Path) -> dict[str, Tensor]:
    """More than two rows at once do not fit on the last rank, in the backward or before it."""
    forward = Decoder.forward

    def small(self: Decoder, ids: Tensor, *rest: Any, **named: Any) -> Tensor:
        rows = len(named["packed"].rows if "packed" in named else ids)
        if rows > 2 and ranks.rank() == ranks.world() - 1:
            raise torch.OutOfMemoryError
        return forward(self, ids, *rest, **named)

    with mock.patch.object(Decoder, "forward", small):
        return update(folder, torch.float64, rows=12)


def epochs(folder: Path) -> dict[str, Tensor]:
    """A whole run in float64; what is on the disk is compared."""
    with mock.patch.dict(weights.DTYPES, {"float32": torch.float64}):
        run = open_run(toy.flags(folder, dtype="float32"))
    with mock.patch.object(train, "judge", liking):
        for _ in train.train(run):
            pass
    adapter = {name: p.detach().clone() for name, p in lora.parameters(run.decoder).items()}
    return {"ended": torch.tensor(1.0)} | adapter


CASES: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    "float32": lambda folder: update(folder, torch.float32),
    "float64": lambda folder: update(folder, torch.float64),
    "two iterations": lambda folder: update(folder, torch.float64, iterations=2, amax="on"),
    "a rank without rows": lambda folder: update(
        folder, torch.float64, rows=2, generations=2, prompts_per_step=1
    ),
    "overflow": lambda folder: update(folder, torch.float64, scaled=True),
    "memory": short_of_memory,
    "epochs": epochs,
}


def main(folder: Path, names: Sequence[str]) -> None:
    """Run the cases, each in a folder of its own."""
    torch.set_num_threads(1)
    for name in names:
        own = folder / f"{name} of {ranks.world()}"
        if ranks.rank() == 0:
            toy.flags(own)  # the model and the questions are written once
        ranks.share(None)
        with mock.patch.multiple(toy, model=lambda path: path, questions=lambda path: path):
            found = CASES[name](own)
        save_file(found, own / f"rank-{ranks.rank()}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
