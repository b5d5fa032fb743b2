"""GRPO against golden values, algebra, and a plain slow computation."""

from __future__ import annotations

import math
from functools import partial

import golden
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minihmx import advantages as group
from minihmx import grpo

# One group of four, with a silent second group (advantage 0, policy = reference, 3 tokens a row).
POLICY = [[-1, -0.5], [-0.2, -2, -1.5], [-0.7], [-0.1, -0.3]]
OLD = [[-1.3, -0.5], [-0.25, -1.6, -1.5], [-0.4], [-0.45, -0.3]]
REFERENCE = [[-1.1, -0.6], [-0.3, -1.8, -1.4], [-0.7], [-0.2, -0.1]]
LENGTHS = [[2, 3, 1, 2], [3, 3, 3, 3]]
token_logprobs = partial(grpo.token_logprobs, temperature=1.0, softcap=None, chunk=8192)
group_advantages = partial(group.group_advantages, epsilon=1e-4)
ADVANTAGES = group_advantages([7, 8, 8, 9])
# loss type -> (loss with old given, gradient, loss on policy, gradient)
GOLDEN = {
    "grpo": (
        0.01182512,
        [0.103909, 0.077132, 0.000397, -0.000923, -0.000438, 0, 0.000595, -0.077921],
        0.00035535,
        [0.077132, 0.077132, 0.000397, -0.000923, -0.000438, 0, -0.075942, -0.077921],
    ),
    "bnpo": (
        0.01189056,
        [0.103909, 0.077132, 0.000595, -0.001384, -0.000657, 0, 0.000595, -0.077921],
        0.00042079,
        [0.077132, 0.077132, 0.000595, -0.001384, -0.000657, 0, -0.075942, -0.077921],
    ),
    "dr_grpo": (
        0.00594528,
        [0.051955, 0.038566, 0.000297, -0.000692, -0.000329, 0, 0.000297, -0.03896],
        0.00021039,
        [0.038566, 0.038566, 0.000297, -0.000692, -0.000329, 0, -0.037971, -0.03896],
    ),
    "dapo": (
        0.00951245,
        [0.083127, 0.061706, 0.000476, -0.001107, -0.000526, 0, 0.000476, -0.062337],
        0.00033663,
        [0.061706, 0.061706, 0.000476, -0.001107, -0.000526, 0, -0.060754, -0.062337],
    ),
}


def flat(rows: list[list[float]]) -> Tensor:
    return torch.tensor([value for row in rows for value in row], dtype=torch.float64)


def spread(values: list[float]) -> Tensor:
    lengths = LENGTHS[0]
    return flat([[v] * n for v, n in zip(values, lengths, strict=True)])


def golden_loss(loss_type: str, old: bool, clip: float = 0.2) -> tuple[grpo.TokenLoss, Tensor]:
    policy = flat(POLICY).requires_grad_()
    weights = group.row_weights(LENGTHS, loss_type, cap=4)[0]
    result = grpo.loss(
        policy,
        flat(REFERENCE),
        spread(ADVANTAGES),
        spread(weights),
        beta=0.1,
        clip=clip,
        old_N=flat(OLD) if old else None,
    )
    result.loss.backward()
    assert policy.grad is not None
    return result, policy.grad


@pytest.mark.parametrize("loss_type", GOLDEN)
def test_golden_losses_and_gradients(loss_type: str) -> None:
    loss_old, grad_old, loss_on, grad_on = GOLDEN[loss_type]
    for old, loss, gradient in ((True, loss_old, grad_old), (False, loss_on, grad_on)):
        result, found = golden_loss(loss_type, old)
        assert result.loss.item() == pytest.approx(loss, abs=1e-8)
        assert found.tolist() == pytest.approx(gradient, abs=1e-6)


def test_golden_kl_and_clipping() -> None:
    result, _ = golden_loss("bnpo", old=True)
    assert result.kl.mean().item() == pytest.approx(0.00841576, abs=1e-8)
    rows = [row.mean().item() for row in result.kl.split(LENGTHS[0])]
    assert sum(rows) / 4 == pytest.approx(0.00710697, abs=1e-8)
    # one token of eight is clipped, from above; on-policy none can be
    for old, clipped in ((True, 1), (False, 0)):
        near, far = (golden_loss("bnpo", old, clip)[1] for clip in (0.2, 1e9))
        assert int((near != far).sum()) == clipped


def test_weights_by_hand() -> None:
    lengths, cap = [[2, 0], [1, 5]], 10
    assert group.row_weights(lengths, "bnpo", cap) == [[1 / 4, 1 / 4], [1 / 12, 1 / 12]]
    assert group.row_weights(lengths, "grpo", cap) == [[1 / 8, 1 / 4], [1 / 4, 1 / 20]]
    assert group.row_weights(lengths, "dr_grpo", cap) == [[1 / 40] * 2] * 2
    assert group.row_weights(lengths, "dapo", cap) == [[1 / 8] * 2] * 2


numbers = st.floats(-5, 5, allow_nan=False)
tokens = st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=1, max_size=20)


@given(tokens, st.floats(0.01, 0.9))
@settings(deadline=None)
def test_objective_is_never_above_the_unclipped_surrogate(
    rows: list[tuple[float, ...]], clip: float
) -> None:
    """The pessimistic minimum, for advantages of both signs."""
    policy, old, reference, advantage = torch.tensor(rows, dtype=torch.float64).T
    one = torch.ones_like(policy)
    for k in range(len(rows)):
        cut = slice(k, k + 1)
        loss = grpo.loss(
            policy[cut],
            reference[cut],
            advantage[cut],
            one[cut],
            beta=0.0,
            old_N=old[cut],
            clip=clip,
        ).loss
        unclipped = torch.exp(policy[cut] - old[cut]) * advantage[cut]
        assert -loss.item() <= unclipped.item() + 1e-9


def test_pessimism_by_hand() -> None:
    """Advantage -1 at ratio 2 counts -2, not the clipped -1.2."""
    zero, log2 = torch.zeros(1), torch.log(torch.tensor([2.0]))
    result = grpo.loss(log2, zero, -torch.ones(1), torch.ones(1), beta=0.0, clip=0.2, old_N=zero)
    assert result.loss.item() == pytest.approx(2.0)


def test_mirror() -> None:
    """Without KL, reverse training is exactly the negated gradient."""
    mirrored = group_advantages([-7, -8, -8, -9])
    assert mirrored == [-a for a in ADVANTAGES]
    weights = spread(group.row_weights(LENGTHS, "bnpo", 4)[0])
    gradients = []
    for advantages in (ADVANTAGES, mirrored):
        policy = flat(POLICY).requires_grad_()
        grpo.loss(
            policy, flat(REFERENCE), spread(advantages), weights, beta=0.0, clip=0.2
        ).loss.backward()
        gradients.append(policy.grad)
    assert gradients[0] is not None and torch.equal(gradients[0], -gradients[1])  # type: ignore[operator]


def test_a_silent_group_still_feels_the_kl() -> None:
    zeros = spread([0.0] * 4)
    policy = flat(POLICY).requires_grad_()
    grpo.loss(policy, flat(REFERENCE), zeros, zeros + 1, beta=0.1, clip=0.2).loss.backward()
    assert policy.grad is not None
    expected = 0.1 * (1 - torch.exp(flat(REFERENCE) - flat(POLICY)))
    torch.testing.assert_close(policy.grad, expected)
    equal = flat(REFERENCE).requires_grad_()
    grpo.loss(equal, flat(REFERENCE), zeros, zeros + 1, beta=0.1, clip=0.2).loss.backward()
    assert equal.grad is not None and not equal.grad.any()


def test_k3_estimates_the_kl_of_policy_to_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.log_softmax(torch.randn(5, generator=generator).double(), 0) for _ in range(2))
    assert (grpo.k3(p, q) >= 0).all()
    expected = (p.exp() * grpo.k3(p, q)).sum().item()
    assert expected == pytest.approx((p.exp() * (p - q)).sum().item(), abs=1e-12)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("chunk", [1, 7, 50, 64])
def test_chunked_logprobs_equal_plain_ones(softcap: float | None, chunk: int) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(9, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    head = torch.randn(50, 6, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 50, (9,), generator=generator)
    got, entropy = token_logprobs(
        hidden, head, targets, temperature=0.7, softcap=softcap, chunk=chunk
    )
    raw = hidden @ head.T
    raw = raw if softcap is None else softcap * torch.tanh(raw / softcap)
    full = torch.log_softmax(raw / 0.7, -1)
    torch.testing.assert_close(got, full.gather(1, targets[:, None])[:, 0])
    torch.testing.assert_close(entropy, -(full.exp() * full).sum(-1))
    pull = torch.randn(9, generator=generator, dtype=torch.float64)
    (own,) = torch.autograd.grad(got @ pull, hidden, retain_graph=True)
    (plain,) = torch.autograd.grad(full.gather(1, targets[:, None])[:, 0] @ pull, hidden)
    torch.testing.assert_close(own, plain)


def test_chunked_logprobs_never_hold_the_vocabulary() -> None:
    """No tensor of N x V numbers is made, forward or backward."""
    N, V, chunk = 8, 4096, 256
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple) else (out,):
                if isinstance(tensor, Tensor) and tensor.dim() == 2 and tensor.shape[0] == N:
                    largest = max(largest, tensor.numel())
            return out

    hidden = torch.randn(N, 4, requires_grad=True)
    head, targets = torch.randn(V, 4), torch.arange(N)
    with Watch():
        token_logprobs(hidden, head, targets, chunk=chunk)[0].sum().backward()
    assert largest == N * chunk


def test_large_logits_do_not_overflow() -> None:
    hidden = torch.tensor([[300.0], [-300.0]])
    head = torch.tensor([[1.0], [-1.0], [0.5]])
    logprobs, entropy = token_logprobs(hidden, head, torch.tensor([0, 0]), chunk=1)
    assert logprobs.tolist() == pytest.approx([0.0, -600.0])
    assert entropy.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert not math.isnan(logprobs.sum().item())


def test_half_precision_head() -> None:
    decoder, expected = golden.load("gemma2", torch.float16)
    hidden = decoder(expected["input_ids"])[:, :-1].flatten(0, 1)
    targets = expected["input_ids"][:, 1:].flatten()
    got, _ = token_logprobs(
        hidden, decoder.lm_head.weight, targets, softcap=decoder.config.final_softcap
    )
    full = torch.log_softmax(expected["logits"][:, :-1].flatten(0, 1), -1)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, full.gather(1, targets[:, None])[:, 0], atol=3e-2, rtol=0)
