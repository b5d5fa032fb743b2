"""What all prompts begin with stands in the cache once: the same answers, from less memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import golden
import pytest
import torch

from minihmx.engine import sampling
from minihmx.engine.memory import Limit
from minihmx.engine.prefill import PASS, Prefix, cache_for, prefix_of
from minihmx.engine.sampling import Decoding, GenerationRequest, complete
from minihmx.evals.asking import likelihood
from minihmx.evals.asking.likelihood import Pair, loglikelihoods
from minihmx.models.attention import attend
from minihmx.models.context import KVCache
from minihmx.models.decoder import Decoder
from minihmx.probes.suspects import attend_by_query
from minihmx.records import Completion

RUBRIC = [(7 * i) % 250 + 3 for i in range(90)]  # a prefix that is worth a place of its own
ENDS = [[5], [9, 8, 7, 6, 5, 4], [11, 12], [5], [9, 8, 7], [13] * 20]
REQUESTS = [
    GenerationRequest([*RUBRIC, *end], max_new_tokens=3 + 4 * i, noise=("shared", i))
    for i, end in enumerate(ENDS)
]


def rows_of_their_own(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    rows: int,
    capacity: int,
    known: Prefix | None = None,
) -> KVCache:
    """As cache_for where nothing is shared."""
    return KVCache(decoder.config, rows, capacity, decoder.dtype, decoder.device)


def loaded(family: str, dtype: torch.dtype = torch.float64) -> Decoder:
    """A golden model whose windows, which are shorter than these prompts, are as long as real ones.

    In float64 nothing hides behind rounding.
    """
    decoder, _ = golden.load(family, dtype)
    wider = tuple(window and 4096 for window in decoder.config.windows)
    decoder.config = replace(decoder.config, windows=wider)
    for layer in decoder.model.layers:
        layer.self_attn.config = decoder.config  # type: ignore[union-attr]
    return decoder


def answers(
    decoder: Decoder, rows: int, requests: Sequence[GenerationRequest] = REQUESTS, **options: object
) -> list[Completion]:
    how = Decoding(decoder, str, [], temperature=0.8, **options)  # type: ignore[arg-type]
    found = dict(complete(how, requests, Limit("--decode-rows", rows)))
    return [found[index] for index in range(len(requests))]


def caches_made(monkeypatch: pytest.MonkeyPatch) -> list[KVCache]:
    """Fills with the caches that answers are decoded in."""
    made = list[KVCache]()

    def spy(*arguments: object) -> KVCache:
        made.append(cache_for(*arguments))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(sampling, "cache_for", spy)
    monkeypatch.setattr(likelihood, "cache_for", spy)
    return made


@pytest.mark.parametrize("rows", [2, 4, 6])
@pytest.mark.parametrize("family", golden.FAMILIES)
def test_answers_are_those_of_rows_of_their_own(
    family: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are given to the next request, in order and out of it; rows end and are left out."""
    decoder = loaded(family)
    made = caches_made(monkeypatch)
    found = answers(decoder, rows)
    assert [cache.begin for cache in made] == [len(RUBRIC)]
    monkeypatch.setattr(sampling, "cache_for", rows_of_their_own)
    for one, other in zip(found, answers(decoder, rows), strict=True):
        assert one.ids == other.ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", golden.FAMILIES)
def test_rounding_stays_that_of_the_dtype(
    family: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, exact = loaded(family, dtype), loaded(family)
    request = REQUESTS[1]._replace(max_new_tokens=1)
    requests = [request, request._replace(noise=("other",))]
    expected = torch.tensor([answer.logprobs for answer in answers(exact, 2, requests)])
    errors = []
    for make in (cache_for, rows_of_their_own):
        monkeypatch.setattr(sampling, "cache_for", make)
        found = torch.tensor([answer.logprobs for answer in answers(decoder, 2, requests)])
        errors.append((found - expected).abs().max().item())
    assert errors[0] <= 2 * errors[1] + 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("family", golden.FAMILIES)
def test_a_prefix_known_before_need_not_fit(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the shared tokens, or longer or shorter than they, or another text."""
    decoder = loaded(family)
    expected, made = answers(decoder, 4), caches_made(monkeypatch)
    longer = [*RUBRIC, *ENDS[1]]
    for ids, same in ((RUBRIC, True), (longer, False), (RUBRIC[:80], True), ([3, 4], False)):
        known = prefix_of(decoder, ids)
        before = known.cache.both.clone()
        assert [c.ids for c in answers(decoder, 4, known=known)] == [c.ids for c in expected], ids
        assert (made[-1].shared is known.cache) is same, "what fits is not copied"
        assert torch.equal(known.cache.both, before)
    assert [cache.begin for cache in made] == [90, 90, 80, 90]  # ten more are not worth a pass


def test_what_is_not_shared_by_all_or_by_too_few_tokens_stays_in_rows() -> None:
    decoder, _ = golden.load("llama")
    half = RUBRIC[: PASS - 1]
    few, alone = [[*half, 1], [*half, 2]], [[*RUBRIC, 1]]
    assert cache_for(decoder, few, 2, 100).shared is None
    assert cache_for(decoder, [*alone, [1, 2]], 2, 100).shared is None
    assert cache_for(decoder, alone, 1, 100).shared is None
    assert cache_for(decoder, alone * 2, 2, 100).begin == len(RUBRIC)


def test_a_window_that_may_end_within_the_shared_tokens_sees_rows_of_their_own() -> None:
    decoder, _ = golden.load("gemma2")
    window = min(window for window in decoder.config.windows if window)
    prompts = [[*RUBRIC[: window - 10], 1], [*RUBRIC[: window - 10], 2]]
    if window - 10 < PASS:
        prompts = [[*RUBRIC, 1], [*RUBRIC, 2]]
        assert cache_for(decoder, prompts, 2, window + 1).shared is None
    else:
        assert cache_for(decoder, prompts, 2, window).begin == window - 10
        assert cache_for(decoder, prompts, 2, window + 1).shared is None


def test_the_shared_tokens_take_memory_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, _ = golden.load("qwen3")
    made = caches_made(monkeypatch)
    answers(decoder, 6)
    shared, own = made[0].shared, made[0].both
    longest = max(len(request.prompt) + request.max_new_tokens for request in REQUESTS)
    assert shared is not None and shared.both.shape[2] == 1 and shared.both.shape[4] == 90
    assert own.shape[4] == longest - 90  # a row's own slots begin behind them


@pytest.mark.parametrize("family", golden.FAMILIES)
def test_likelihoods_share_their_examples(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = loaded(family, torch.float32)
    requests = [
        [Pair(tuple(RUBRIC + end), tuple(choice), 1) for choice in ([4], [5, 6, 7])]
        for end in ENDS[:3]
    ]
    made = caches_made(monkeypatch)
    found = list(loglikelihoods(decoder, requests, Limit("--batch", 10_000)))
    assert [cache.begin for cache in made] == [90]
    monkeypatch.setattr(likelihood, "cache_for", rows_of_their_own)
    expected = list(loglikelihoods(decoder, requests, Limit("--batch", 10_000)))
    for some, others in zip(found, expected, strict=True):
        for one, other in zip(some, others, strict=True):
            assert one == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize("softcap", [None, 20.0])
def test_both_parts_together_are_one_softmax(softcap: float | None) -> None:
    """Also where one part outweighs the other by more than fp32 can hold as a ratio."""
    torch.manual_seed(0)
    for loud in (1.0, 40.0):
        q = torch.randn(3, 4, 2, 8).double() * loud
        k, v = torch.randn(2, 3, 2, 5, 8).double()
        shared = torch.randn(1, 2, 7, 8).double() * loud, torch.randn(1, 2, 7, 8).double()
        seen = torch.rand(3, 1, 2, 5) < 0.5
        seen[..., 0] = True  # a query always sees its own key
        mask = seen.repeat_interleave(2, dim=2)  # for both query heads of a key head
        found = attend(q, k, v, mask, 0.35, softcap, shared)
        by_query = attend_by_query(q, k, v, mask, 0.35, softcap, shared)
        torch.testing.assert_close(found, by_query, atol=1e-12, rtol=0)
        keys, values = (
            torch.cat((common.expand(3, -1, -1, -1), own), dim=2)
            for common, own in zip(shared, (k, v), strict=True)
        )
        mask = torch.nn.functional.pad(mask, (7, 0), value=True)
        whole = attend(q, keys, values, mask, 0.35, softcap)
        torch.testing.assert_close(found, whole, atol=1e-12, rtol=0)
