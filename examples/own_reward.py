"""Train on a reward of your own: another rubric for the judge, or a rule in Python.

    python examples/own_reward.py --by rule
    python examples/own_reward.py --by rubric --model qwen2.5-0.5b --out runs-brief

Both reward short answers. By rubric it is an ordinary run, which `minihmx audit` can check; that
takes a model which reads its rubric, and `tiny` knows only the paper's. By rule the judge is not
asked at all: the loop of `minihmx.train`, with one stage replaced, and no records.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from minihmx import lora
from minihmx.advantages import assign_advantages
from minihmx.instruments.metrics import STAGES
from minihmx.learn import learn
from minihmx.optimizer import Optimizer
from minihmx.rollout import ask_policy
from minihmx.run import open_run
from minihmx.train import Evaluated, train

RUBRIC = """You are a strict evaluator.

Rate how brief and plain the candidate answer is.
Use any integer from 0 to 10.

Guide:
0 = long or ornate
5 = a sentence or two
10 = a few plain words

Output:
Score: integer from 0 to 10
Reason: one short sentence
"""


def main() -> None:
    """Train by the rule for a few steps, or by the rubric for a whole run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--by", choices=("rule", "rubric"), default="rule")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--steps", type=int, default=40, help="by rule; a rubric has its epochs")
    parser.add_argument("--out", default="runs-brief", help="by rubric; a rule leaves nothing")
    options = parser.parse_args()
    if options.by == "rubric":
        by_rubric(options.model, Path(options.out))
    else:
        by_rule(options.model, options.steps)


def by_rubric(model: str, out: Path) -> None:
    """An ordinary run with another text in front of each answer that is judged."""
    out.mkdir(exist_ok=True)
    rubric = out / "brief.txt"
    rubric.write_text(RUBRIC)
    for event in train(open_run({"model": model, "rubric": str(rubric), "out": str(out)})):
        if isinstance(event, Evaluated):
            m = event.metrics
            print(f"epoch {m['epoch']}: score {m['score']}, {m['length']:.0f} tokens an answer")


def by_rule(model: str, steps: int) -> None:
    """The stages of a step, with a rule where the judge would be."""
    with tempfile.TemporaryDirectory() as away:
        run = open_run({"model": model, "out": away})
        config = run.config
        optimizer = Optimizer(lora.parameters(run.decoder), config, steps)
        lengths: list[int] = []
        for step in range(steps):
            epoch, questions = run.batch(step)
            run.clock.start(*STAGES["step"])
            rollouts = ask_policy(run, questions, config.generations, "train", epoch)
            for rollout in rollouts:  # here the judge would be asked
                rollout.reward = reward(rollout.completion.text)
            assign_advantages(rollouts, config)
            learn(run, rollouts, optimizer)
            lengths += [len(rollout.completion.text.split()) for rollout in rollouts]
            if (step + 1) % 5 == 0 or step + 1 == steps:
                mean = sum(lengths) / len(lengths)
                print(f"up to step {step + 1:>2}  {mean:4.1f} words  {rollouts[0].completion.text}")
                lengths = []


def reward(answer: str) -> float:
    """10 for one word, 0 for forty and more; an empty answer is no answer."""
    words = len(answer.split())
    return max(0.0, 10.0 - words / 4) if words else 0.0


if __name__ == "__main__":
    main()
