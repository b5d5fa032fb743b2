"""One step of training by hand: what `minihmx.train.take_step` does, stage by stage.

    python examples/teach.py [--direction reverse] [--out FOLDER]

The bundled model is asked two questions, judges its own answers, and learns from them. Every number
that leads from the judge's words to the changed adapter is printed. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import tempfile

from minihmx import lora
from minihmx.advantages import assign_advantages
from minihmx.instruments.metrics import STAGES
from minihmx.learn import learn
from minihmx.optimizer import Optimizer
from minihmx.records import Verdict
from minihmx.rollout import ask_policy, judge
from minihmx.run import open_run


def main() -> None:
    """Take the step and print it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--direction", choices=("forward", "reverse"), default="forward")
    parser.add_argument("--out", help="folder for the run (one that is removed at the end)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as away:
        values = {"model": "tiny", "prompts_per_step": 2, "direction": options.direction}
        step(values | {"out": options.out or away, "device": "cpu"})


def step(values: dict[str, object]) -> None:
    """The five stages on the first two questions of a run with these values."""
    run = open_run(values)
    config = run.config
    optimizer = Optimizer(lora.parameters(run.decoder), config, run.total_steps)
    epoch, questions = run.batch(0)
    run.clock.start(*STAGES["step"])

    print(f"1. The policy (adapter on) answers each question {config.generations} times.")
    rollouts = ask_policy(run, questions, config.generations, "train", epoch)

    print("2. The same model, adapter off, judges each answer; a score is read from its words.")
    judge(run, rollouts, "train")

    print("3. An answer's advantage is its reward against those of its group, in their spread.")
    assign_advantages(rollouts, config)

    print("4. Every token's log-prob is moved by its answer's advantage; a KL term holds it back.")
    before = {name: p.detach().clone() for name, p in lora.parameters(run.decoder).items()}
    learned = learn(run, rollouts, optimizer)

    print("5. AdamW has changed the adapter, and nothing else.\n")
    for rollout in rollouts:
        if rollout.sample == 0:
            print(rollout.question.text)
        verdict = rollout.verdict
        score = str(verdict.score) if isinstance(verdict, Verdict) else f"none ({verdict.reason})"
        print(f"   {rollout.completion.text}")
        print(
            f"      score {score}, reward {rollout.reward}, advantage {rollout.advantage:+.3f} "
            f"x weight {rollout.weight:.5f} on each of {len(rollout.completion.ids)} tokens"
        )
    moved = max(
        float((p.detach() - before[name]).abs().max())
        for name, p in lora.parameters(run.decoder).items()
    )
    m = learned.metrics
    print(
        f"\nloss {m['loss']:+.4f}, gradient norm {m['grad_norm']:.4f}, learning rate "
        f"{m['learning_rate']:.2e}; the adapter moved by {moved:.2e} at most"
    )


if __name__ == "__main__":
    main()
