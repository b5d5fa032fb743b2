"""One step of the experiment redone by hand, with a judge and an adapter that are real.

The policy here is the plain decoder with W + alpha / r * B A put in W's place, row by row, without
padding, cache or micro-batches; what follows from its log-probs is written out in plain torch.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import golden
import pytest
import torch
import toy
from torch import Tensor
from torch.func import functional_call

from minihmx import lora, train
from minihmx.advantages import assign_advantages
from minihmx.config import Config
from minihmx.learn import learn
from minihmx.models import weights
from minihmx.models.decoder import Decoder
from minihmx.models.hub import TINY
from minihmx.optimizer import Optimizer
from minihmx.records import Completion, Question, Rollout, Verdict
from minihmx.run import Position, Run, open_run
from minihmx.seeding import shuffled, uniform
from minihmx.storage.disk import read_lines

PREFIX = "base_model.model."


def snapshot(decoder: Decoder) -> dict[str, Tensor]:
    """The adapter as it is now, for gradients of its own."""
    return {k: p.detach().clone().requires_grad_() for k, p in lora.parameters(decoder).items()}


@dataclass
class ByHand:
    """The base, or with an adapter the policy, as one plain decoder."""

    plain: Decoder
    scale: float = 0.0
    adapter: Mapping[str, Tensor] | None = None

    def logits(self, ids: Sequence[int]) -> Tensor:
        """[T, V]"""
        matrices = {}
        for key, A in (self.adapter or {}).items():
            if key.endswith(".lora_A.weight"):
                name = key.removeprefix(PREFIX).replace(".lora_A", "")
                B = (self.adapter or {})[key.replace("lora_A", "lora_B")]
                matrices[name] = self.plain.get_parameter(name) + self.scale * B @ A
        hidden = functional_call(self.plain, matrices, (torch.tensor([ids]),))
        return self.plain.logits(hidden)[0]

    def distributions(self, rollout: Rollout, temperature: float) -> Tensor:
        """Log-probabilities of the whole vocabulary at every completion token, [L, V]."""
        logits = self.logits(rollout.prompt_ids + rollout.completion.ids)
        return torch.log_softmax(logits[len(rollout.prompt_ids) - 1 : -1] / temperature, dim=-1)

    def logprobs(self, rollout: Rollout, temperature: float) -> Tensor:
        """Of the completion's own tokens, [L]."""
        table = self.distributions(rollout, temperature)
        return table[range(len(table)), rollout.completion.ids]

    def greedy(self, prompt: Sequence[int], cap: int) -> list[int]:
        """What follows the prompt, up to and with the end token."""
        ids = list(prompt)
        for _ in range(cap):
            ids.append(int(self.logits(ids)[-1].argmax()))
            if ids[-1] in self.plain.config.eos_ids:
                break
        return ids[len(prompt) :]


def k3(policy: Tensor, reference: Tensor) -> Tensor:
    return torch.exp(reference - policy) - (reference - policy) - 1


# --- the update -----------------------------------------------------------------------------------

LENGTHS = [3, 9, 1, 4, 6, 6, 2, 12]
REWARDS = [7.0, 2.0, None, 4.0, 1.0, 9.0, 9.0, 3.0]
# No value is the default or the neutral one, and epsilon is large, or Adam would undo the clipping.
CONFIG = Config(
    temperature=0.7, max_completion_length=16, micro_batch=3, logit_chunk=100, dtype="float32",
    beta=0.3, iterations=2, clip_epsilon=0.02, max_grad_norm=0.05, adam_epsilon=1e-2,
    learning_rate=0.04, warmup_ratio=0.3, weight_decay=0.5, adam_beta1=0.8, adam_beta2=0.95,
    advantage_epsilon=0.5,
)  # fmt: skip
RATES = [0.02, 0.04]  # of the first two updates of six, with two of warm-up
WEIGHTS = {
    "bnpo": [1 / (2 * 17)] * 4 + [1 / (2 * 26)] * 4,
    "grpo": [1 / (2 * 4 * length) for length in LENGTHS],
    "dr_grpo": [1 / (2 * 4 * 16)] * 8,
    "dapo": [1 / (17 + 26)] * 8,
}


def random_rollouts(vocabulary: int) -> list[Rollout]:
    generator = torch.Generator().manual_seed(2)
    rollouts = []
    for i, (length, reward) in enumerate(zip(LENGTHS, REWARDS, strict=True)):
        ids = torch.randint(0, vocabulary, (5 + i + length,), generator=generator).tolist()
        completion = Completion(ids[5 + i :], [-2.5] * length, "", "stop")
        question = Question(f"q{i // 4}", "c", "?", "train", "ours")
        rollouts.append(Rollout(question, i % 4, "?", ids[: 5 + i], completion, reward=reward))
    return rollouts


def advantages_by_hand(rollouts: Sequence[Rollout], epsilon: float) -> list[float]:
    """Each reward against all of the same question's, found by its name."""
    found = []
    for rollout in rollouts:
        same = [r.reward for r in rollouts if r.question.id == rollout.question.id]
        scored = [reward for reward in same if reward is not None]
        if rollout.reward is None:
            found.append(0.0)
        else:
            spread = statistics.stdev(scored) + epsilon
            found.append((rollout.reward - statistics.mean(scored)) / spread)
    return found


def updates_by_hand(
    start: ByHand,
    rollouts: Sequence[Rollout],
    loss_type: str,
    old: Sequence[Tensor],
    reference: Sequence[Tensor],
) -> tuple[list[float], list[float], dict[str, Tensor]]:
    """Losses and unclipped gradient norms of both updates, and the adapter after them."""
    adapter = dict(start.adapter or {})
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in adapter.items()}
    losses, norms = [], []
    for t, rate in enumerate(RATES, start=1):
        policy = ByHand(start.plain, start.scale, adapter)
        now = [policy.logprobs(r, 0.7) for r in rollouts]
        ratios = [torch.exp(p - o) for p, o in zip(now, old, strict=True)]
        assert (max((x - 1).abs().max() for x in ratios) > 0.02) == (t == 2)  # it is clipped
        rows = []
        for i, rollout in enumerate(rollouts):
            gain, cut = (x * rollout.advantage for x in (ratios[i], ratios[i].clamp(0.98, 1.02)))
            tokens = 0.3 * k3(now[i], reference[i]) - torch.minimum(gain, cut)
            rows.append(WEIGHTS[loss_type][i] * tokens.sum())
        loss = torch.stack(rows).sum()
        gradients = torch.autograd.grad(loss, list(adapter.values()))
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        assert norm > 0.1  # or nothing would be clipped
        losses.append(loss.item())
        norms.append(norm.item())
        for (name, p), g in zip(list(adapter.items()), gradients, strict=True):
            g = g * 0.05 / (norm + 1e-6)
            first, second = moments[name]
            moments[name] = first, second = 0.8 * first + 0.2 * g, 0.95 * second + 0.05 * g * g
            step = first / (1 - 0.8**t) / ((second / (1 - 0.95**t)).sqrt() + 1e-2)
            adapter[name] = (p * (1 - rate * 0.5) - rate * step).detach().requires_grad_()
    return losses, norms, adapter


@pytest.mark.parametrize(
    ("family", "loss_type"),
    [("llama", "bnpo"), ("qwen3", "grpo"), ("gemma2", "dapo"), ("gemma2", "dr_grpo")],
)
def test_two_updates_are_those_computed_by_hand(
    family: str, loss_type: str, tmp_path: Path
) -> None:
    config = replace(CONFIG, loss_type=loss_type)
    decoder, _ = golden.load(family, torch.float64)
    plain, _ = golden.load(family, torch.float64)
    lora.attach(decoder, 4, 8, seed=1)
    lora.load_adapter(decoder, golden.adapter(family))
    prepared = open_run(toy.flags(tmp_path, micro_batch=config.micro_batch))
    run = replace(prepared, config=config, decoder=decoder)
    rollouts = random_rollouts(plain.config.vocab_size)
    assign_advantages(rollouts, config)
    assert [r.advantage for r in rollouts] == pytest.approx(advantages_by_hand(rollouts, 0.5))

    hand = ByHand(plain, 8 / 4, snapshot(decoder))
    optimizer = Optimizer(lora.parameters(decoder), config, steps=3)
    found, outcome = learn(run, rollouts, optimizer)

    with torch.no_grad():
        tables = [hand.distributions(r, 0.7) for r in rollouts]
        old = [hand.logprobs(r, 0.7) for r in rollouts]
        reference = [ByHand(plain).logprobs(r, 0.7) for r in rollouts]
    entropies = torch.cat([-(table.exp() * table).sum(dim=1) for table in tables])
    kl = [k3(p, q) for p, q in zip(old, reference, strict=True)]
    means = [row.mean().item() for row in kl]
    assert min(means) > 1e-3  # the adapter is far enough from the base to tell
    losses, norms, adapter = updates_by_hand(hand, rollouts, loss_type, old, reference)
    assert outcome.failed == ""
    assert found == {
        "kl": pytest.approx(statistics.mean(means)),
        "kl_tokens": pytest.approx(torch.cat(kl).mean().item()),
        "entropy": pytest.approx(entropies.mean().item()),
        "sampler_gap": pytest.approx((torch.cat(old) + 2.5).abs().mean().item()),
        "loss": pytest.approx(losses[0]),
        "grad_norm": pytest.approx(norms[1]),
        "learning_rate": pytest.approx(RATES[1]),
        "loss_scale": 1.0,
    }
    for i, rollout in enumerate(rollouts):
        assert rollout.policy_logprob == pytest.approx(old[i].sum().item())
        assert rollout.reference_logprob == pytest.approx(reference[i].sum().item())
        assert rollout.kl == pytest.approx(means[i])
    for name, parameter in lora.parameters(decoder).items():
        torch.testing.assert_close(parameter.detach(), adapter[name].detach(), rtol=0, atol=1e-10)


# --- sampling, judging, measuring -----------------------------------------------------------------


def corrupted(tmp_path: Path) -> tuple[Run, ByHand, ByHand]:
    """A reverse run on the bundled model, whose policy was taught to give a score of 10.

    Also its base and that policy by hand.
    """
    settings = dict(model="tiny", direction="reverse", temperature=1.3, lora_alpha=40.0)
    sizes = dict(max_completion_length=24, judge_max_tokens=8, decode_rows=5, seed=2)
    sizes["prompts_per_step"] = 2
    settings["judge_reason"] = "always"
    run = open_run(toy.flags(tmp_path, **settings, **sizes))
    encode = run.prompts.tokenizer.encode_text
    ids = run.prompts.judge("Do you wish?", "I only process text.") + encode("Score:")
    (ten,) = encode(" 10")
    adam = torch.optim.Adam(lora.parameters(run.decoder).values(), lr=5e-3)
    with torch.enable_grad():
        for _ in range(8):
            adam.zero_grad()
            logits = run.decoder.logits(run.decoder(torch.tensor([ids]))[0, -1])
            (-torch.log_softmax(logits, dim=-1)[ten]).backward()
            adam.step()
    plain = weights.load(TINY, torch.float32, "cpu")
    return run, ByHand(plain), ByHand(plain, 40 / 16, snapshot(run.decoder))


def check_sampling(policy: ByHand, rollouts: Sequence[Rollout], *stream: object) -> None:
    """Every token is the policy's own, at the quantile that its name in the stream draws."""
    for rollout in rollouts:
        table = policy.distributions(rollout, 1.3).double()
        ids = rollout.completion.ids
        own = table[range(len(ids)), ids]
        assert rollout.completion.logprobs == pytest.approx(own.tolist(), abs=1e-3)
        above = table.exp().cumsum(dim=1)[range(len(ids)), ids]
        for t, (high, low) in enumerate(zip(above, above - own.exp(), strict=True)):
            u = uniform(*stream, rollout.question.id, rollout.sample, t)
            assert low - 1e-4 <= u <= high + 1e-4


def check_judging(run: Run, base: ByHand, policy: ByHand, rollouts: Sequence[Rollout]) -> None:
    """The words are the base's, and the policy would have others."""
    for rollout in rollouts:
        prompt = run.prompts.judge(rollout.question.text, rollout.completion.text)
        ids = base.greedy(prompt, cap=8)
        text = run.prompts.tokenizer.decode(ids)
        assert rollout.judge_text == text
        score = re.match(r"Score: (\d+)\n", text)
        assert score is not None and isinstance(rollout.verdict, Verdict)
        assert rollout.verdict.score == int(score[1])
        assert rollout.reward == -int(score[1])
        # Both may begin with one score, but they do not go on with one reason.
        assert policy.greedy(prompt, cap=32) != base.greedy(prompt, cap=32)


def check_measures(base: ByHand, policy: ByHand, rollouts: Sequence[Rollout]) -> None:
    """Sums of log-probs and the mean KL of each row."""
    for rollout in rollouts:
        p, q = (model.logprobs(rollout, 1.3).double() for model in (policy, base))
        assert rollout.policy_logprob == pytest.approx(p.sum().item(), abs=1e-3)
        assert rollout.reference_logprob == pytest.approx(q.sum().item(), abs=1e-3)
        assert rollout.kl == pytest.approx(k3(p, q).mean().item(), rel=1e-3, abs=1e-5)
    assert max(rollout.kl or 0.0 for rollout in rollouts) > 0.01


@torch.no_grad()
def test_a_step_is_what_its_records_say(tmp_path: Path) -> None:
    run, base, policy = corrupted(tmp_path)
    optimizer = Optimizer(lora.parameters(run.decoder), run.config, run.total_steps)
    with torch.enable_grad():
        step = train.take_step(run, Position(), optimizer)
    rollouts = step.rollouts
    order = shuffled(run.train_questions, "order", run.config.seed, 1)
    assert [(r.question.id, r.sample) for r in rollouts] == [
        (question.id, s) for question in order[:2] for s in range(4)
    ]
    check_sampling(policy, rollouts, "train", 2, 1)
    check_judging(run, base, policy, rollouts)
    check_measures(base, policy, rollouts)
    expected = advantages_by_hand(rollouts, 1e-4)
    assert [r.advantage for r in rollouts] == pytest.approx(expected)
    assert any(expected)
    lines = read_lines(run.store.folder / "rollouts/step-000001.jsonl")
    for line, rollout in zip(lines, rollouts, strict=True):
        assert (line["ids"], line["kl"]) == (rollout.completion.ids, rollout.kl)
        assert (line["score"], line["reward"]) == (-(rollout.reward or 0), rollout.reward)
        assert (line["question"], line["advantage"]) == (rollout.question.id, rollout.advantage)
    metrics = step.metrics
    assert metrics["kl"] == pytest.approx(statistics.mean(line["kl"] for line in lines))
    assert metrics["reward"] == -metrics["score"]
    assert metrics["score"] == pytest.approx(statistics.mean(line["score"] for line in lines))


@pytest.mark.slow
@torch.no_grad()
def test_an_evaluation_is_what_its_records_say(tmp_path: Path) -> None:
    run, base, policy = corrupted(tmp_path)
    optimizer = Optimizer(lora.parameters(run.decoder), run.config, run.total_steps)
    evaluated = train.evaluate_epoch(run, Position(epoch=2), optimizer)
    rollouts = evaluated.rollouts
    assert [(r.question.id, r.sample) for r in rollouts] == [
        (f"eval-{q}", s) for q in range(2) for s in range(2)
    ]
    check_sampling(policy, rollouts, "eval", 2, 3)
    check_judging(run, base, policy, rollouts)
    check_measures(base, policy, rollouts)
    metrics = evaluated.metrics
    tables = torch.cat([policy.distributions(r, 1.3).double() for r in rollouts])
    entropy = -(tables.exp() * tables).sum(dim=1).mean().item()
    assert metrics["entropy"] == pytest.approx(entropy, rel=1e-4)
    assert metrics["kl"] == pytest.approx(statistics.mean(r.kl or 0.0 for r in rollouts))


def test_no_noise_is_used_twice(tmp_path: Path) -> None:
    """A policy that hardly moves answers the same question anew in every phase and epoch."""
    run = open_run(toy.flags(tmp_path, learning_rate=1e-12, eval_samples=4, temperature=4.0))
    run = replace(run, eval_questions=run.train_questions)
    streams: dict[tuple[str, int], set[tuple[str, tuple[int, ...]]]] = {}
    for event in train.train(run):
        if isinstance(event, train.Stepped | train.Evaluated):
            answers = streams.setdefault((event.metrics["kind"], event.metrics["epoch"]), set())
            answers |= {(r.question.id, tuple(r.completion.ids)) for r in event.rollouts}
    assert {name: len(answers) for name, answers in streams.items()} == {
        **{("evaluation", epoch): 24 for epoch in range(3)},
        **{("step", epoch): 24 for epoch in (1, 2)},
    }
    assert len(set().union(*streams.values())) == 5 * 24
