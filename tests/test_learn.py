"""Learning with each shared prompt computed once, against every row computed on its own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import golden
import pytest
import torch
import toy
from torch import Tensor

from minihmx import grpo, learn, lora
from minihmx.config import Config
from minihmx.models.attention import PROMPT_BLOCK
from minihmx.models.configs import ModelConfig
from minihmx.models.context import Packed
from minihmx.models.decoder import Decoder
from minihmx.records import Completion, Question, Rollout

# Three answers to one question, one to another, and again one to the first: a micro-batch may be
# cut anywhere. The last prompt begins as the first does, and is another all the same.
GROUPS = [0, 0, 0, 1, 0, 2]
LENGTHS = [3, 12, 1, 7, 5, 4]
FAMILIES = ("llama", "qwen3", "gemma2", "qwen2")


def decoder_of(family: str, dtype: torch.dtype = torch.float64) -> Decoder:
    """With an adapter that says something; Qwen2 is a toy, whose biases are random as well."""
    if family == "qwen2":
        torch.manual_seed(3)
        decoder = Decoder(ModelConfig.from_hf(toy.CONFIG | {"model_type": "qwen2"})).to(dtype)
        for name, parameter in decoder.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter)
    else:
        decoder, _ = golden.load(family, dtype)
    lora.attach(decoder, 4, 8, seed=1)
    with torch.no_grad():
        for parameter in lora.parameters(decoder).values():
            parameter.add_(0.02)
    return decoder


def rollouts_for(decoder: Decoder) -> list[Rollout]:
    generator = torch.Generator().manual_seed(4)

    def ids(n: int) -> list[int]:
        return torch.randint(0, decoder.config.vocab_size, (n,), generator=generator).tolist()

    first = ids(11)  # longer than the golden Gemma's window of 8
    prompts = [first, ids(4), [*first[:6], *ids(3)]]
    question = Question("q", "c", "?", "train", "ours")
    return [
        Rollout(question, i, "?", prompts[group], Completion(ids(n), [0.0] * n, "", "stop"))
        for i, (group, n) in enumerate(zip(GROUPS, LENGTHS, strict=True))
    ]


def alone(decoder: Decoder, rollouts: Sequence[Rollout]) -> tuple[Tensor, Tensor]:
    """Every row by itself, prompt and all."""
    found = []
    for rollout in rollouts:
        prompt, answer = rollout.prompt_ids, rollout.completion.ids
        hidden = decoder(torch.tensor([[*prompt, *answer[:-1]]]))[0, len(prompt) - 1 :]
        head, cap = decoder.lm_head.weight, decoder.config.final_softcap
        targets = torch.tensor(answer)
        found.append(
            grpo.token_logprobs(hidden, head, targets, temperature=1.0, softcap=cap, chunk=8192)
        )
    logprobs, entropy = zip(*found, strict=True)
    return torch.cat(logprobs), torch.cat(entropy)


def gradients(decoder: Decoder, logprobs: Tensor) -> Tensor:
    """Of a sum in which each token has a weight of its own."""
    weights = torch.linspace(-1, 2, len(logprobs), dtype=logprobs.dtype)
    decoder.zero_grad()
    (logprobs * weights).sum().backward()
    return torch.cat([p.grad.flatten() for p in lora.parameters(decoder).values()])  # type: ignore[union-attr]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_shared_prompts_change_no_value_and_no_gradient(family: str, checkpointing: bool) -> None:
    decoder = decoder_of(family)
    rollouts = rollouts_for(decoder)
    wanted, wanted_entropy = alone(decoder, rollouts)
    expected = gradients(decoder, wanted)
    decoder.checkpointing = checkpointing
    # One piece, and pieces that cut the group in two places.
    for cuts in ([0, 6], [0, 2, 4, 6]):
        pieces = [rollouts[a:b] for a, b in pairwise(cuts)]
        parts = [learn.logprobs(decoder, piece, Config()) for piece in pieces]
        logprobs, entropy = (torch.cat(part) for part in zip(*parts, strict=True))
        torch.testing.assert_close(logprobs, wanted, atol=1e-12, rtol=0)
        torch.testing.assert_close(entropy, wanted_entropy, atol=1e-12, rtol=0)
        found = gradients(decoder, logprobs)
        assert (found - expected).norm() <= 1e-12 * expected.norm()


def test_a_prompt_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens that go through the layers: three prompts, and all answers but their last."""
    decoder = decoder_of("llama")
    rollouts = rollouts_for(decoder)
    seen = []
    decoder.model.layers[0].mlp.register_forward_hook(lambda _, given, out: seen.append(out.shape))
    learn.logprobs(decoder, rollouts, Config())
    assert seen == [(1, 11 + 4 + 9 + sum(LENGTHS) - len(LENGTHS), decoder.config.hidden_size)]


def test_packed_rows_by_hand() -> None:
    """Two rows share tokens 0 and 1, and the second goes on for two more."""
    packed = Packed([[0, 1, 2], [0, 1, 3, 4]], torch.device("cpu"))
    assert packed.positions.tolist() == [[0, 1, 2, 2, 3]]
    x = torch.arange(5.0, requires_grad=True)
    apart = packed.apart(x.view(1, 5, 1, 1))
    assert apart.flatten(1).tolist() == [[0, 1, 2, 0], [0, 1, 3, 4]]
    together = packed.together(apart.flatten(2))
    assert together.flatten().tolist() == [0, 1, 2, 3, 4]
    (apart.flatten()[:7] * torch.tensor([1, 2, 3, 0, 5, 6, 7])).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [6, 8, 3, 7, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_untrained_policy_is_the_reference_in_long_answers_too(family: str) -> None:
    """To the last bit, in rows whose prefill would be computed in blocks: the KL is 0 at first."""
    decoder = decoder_of(family, torch.float32)
    for name, parameter in lora.parameters(decoder).items():
        if "lora_B" in name:
            torch.nn.init.zeros_(parameter)
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, decoder.config.vocab_size, (6 + PROMPT_BLOCK,), generator=generator)
    answer = Completion(ids[5:].tolist(), [0.0] * (PROMPT_BLOCK + 1), "", "stop")
    row = Rollout(Question("q", "c", "?", "train", "ours"), 0, "?", ids[:5].tolist(), answer)
    with torch.no_grad(), lora.adapter_off(decoder):
        reference, _ = learn.logprobs(decoder, [row], Config(model="x"))
    policy, _ = learn.logprobs(decoder, [row], Config(model="x"))
    assert policy.requires_grad and torch.equal(policy.detach(), reference)
