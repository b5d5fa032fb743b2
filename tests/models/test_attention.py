"""Attention's shortcuts give what the plain formula gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from minihmx.models import attention
from minihmx.models.attention import attend, attend_own
from minihmx.models.context import attention_mask
from minihmx.probes.suspects import attend_by_query

B, H, K, D, N = 2, 6, 2, 8, 23  # three query heads a key head


def last_tokens(T: int, window: int | None = None) -> tuple[Tensor, ...]:
    """Queries, keys, values and the mask of the last T of N tokens, in double precision."""
    torch.manual_seed(T)
    q, k, v = (torch.randn(B, heads, n, D).double() for heads, n in ((H, T), (K, N), (K, N)))
    places = torch.arange(N)[None]
    seen = attention_mask(places[:, N - T :], places, window)
    return q, k, v, seen[:, None].repeat_interleave(H // K, dim=2)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("softcap", [None, 20.0])
@pytest.mark.parametrize("T", [4, 5, 17, N])
def test_blocks_of_a_prompt_are_the_whole(
    T: int, softcap: float | None, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "PROMPT_BLOCK", 4)
    q, k, v, mask = last_tokens(T, window)
    shared = torch.randn(2, 1, K, 9, D).double().unbind()
    for common in (None, shared):
        expected = attend_by_query(q, k, v, mask, 0.35, softcap, common)
        with torch.inference_mode():
            found = attend(q, k, v, mask, 0.35, softcap, common)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_a_block_looks_at_no_key_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the scores of a prompt are never computed, and what stands in those slots is not
    even read."""
    q, k, v, mask = last_tokens(N)
    monkeypatch.setattr(attention, "PROMPT_BLOCK", 4)
    keys, partial = list[int](), attention._partial

    def counted(q: Tensor, k: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        keys.append(k.shape[2])
        return partial(q, k, *rest)

    monkeypatch.setattr(attention, "_partial", counted)
    with torch.inference_mode():
        before = attend(q, k, v, mask, 0.35, None)
        k[:, :, 12:], v[:, :, 12:] = torch.nan, torch.nan
        after = attend(q, k, v, mask, 0.35, None)
    assert keys[:6] == [4, 8, 12, 16, 20, 23]
    assert torch.equal(before[:, :12], after[:, :12]) and after[:, 12:].isnan().all()


def test_a_gradient_goes_through_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "PROMPT_BLOCK", 4)
    monkeypatch.setattr(attention, "_partial", None)  # not called
    q, k, v, mask = last_tokens(N)
    attend(q.requires_grad_(), k, v, mask, 0.35, None).sum().backward()
    assert q.grad is not None and q.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_token_by_products_or_by_the_kernel(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queries of one token; the mask as the step has it, and as the decoder has it."""
    q, k, v = (x.to(dtype) for x in last_tokens(1)[:3])
    q = q.view(B, K, H // K, D)
    seen = torch.rand(B, 1, 1, N, generator=torch.Generator().manual_seed(1)) < 0.5
    seen[..., 0] = True
    added = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, -torch.inf)
    assert attention.by_products(q) == (dtype == torch.float32)
    found = attend_own(q, k, v, added, 0.35, None)
    assert torch.equal(attend_own(q, k, v, seen, 0.35, None), found)
    monkeypatch.setattr(attention, "FEW_QUERIES", 0)
    kernel = attend_own(q, k, v, added, 0.35, None)
    torch.testing.assert_close(found, kernel, atol=1e-6, rtol=1e-5)
