"""The one generate path: sharing, noise, stops, and log-probs that training will recompute."""

from __future__ import annotations

import golden
import pytest
import torch

from minihmx.engine.draw import draw
from minihmx.engine.memory import Limit
from minihmx.engine.prefill import common_prefix, prefill, prefix_of, shared_tokens
from minihmx.engine.sampling import (
    LOOK_EVERY,
    Decoding,
    GenerationRequest,
    complete,
    generate,
)
from minihmx.errors import UserError
from minihmx.models.context import KVCache
from minihmx.models.decoder import Decoder
from minihmx.models.step import Step
from minihmx.records import Completion

PROMPTS = [[3, 14, 15, 92, 65, 35], [3, 14, 15, 89], [3, 14, 15, 92, 65, 35], [3, 14, 27]]
NAMES = [("test", row) for row in range(4)]


def sample(decoder: Decoder, prompts: list[list[int]], names: list[tuple[str, int]], **options):  # type: ignore[no-untyped-def]
    settings = dict(max_new_tokens=12, stop_ids=[7], temperature=0.8) | options
    return generate(decoder, str, prompts, noise=names, **settings)


@pytest.mark.parametrize("family", golden.FAMILIES)
def test_greedy_equals_the_reference(family: str) -> None:
    decoder, expected = golden.load(family)
    mask = expected["left.attention_mask"].bool()
    rows = [ids[keep].tolist() for ids, keep in zip(expected["left.input_ids"], mask, strict=True)]
    got = generate(decoder, str, rows, max_new_tokens=16, stop_ids=[])
    assert [completion.ids for completion in got] == expected["left.greedy16"].tolist()


@pytest.mark.parametrize("family", golden.FAMILIES)
@torch.no_grad()
def test_sampled_logprobs_equal_recomputed_ones(family: str) -> None:
    """Temperature and softcap included: the distribution stored is the one drawn from."""
    decoder, _ = golden.load(family)
    for prompt, completion in zip(PROMPTS, sample(decoder, PROMPTS, NAMES), strict=True):
        row = torch.tensor([prompt + completion.ids])
        logprobs = torch.log_softmax(decoder.logits(decoder(row)) / 0.8, -1)[0, len(prompt) - 1 :]
        again = logprobs[:-1].gather(1, row[0, len(prompt) :, None])[:, 0]
        torch.testing.assert_close(again, torch.tensor(completion.logprobs), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", golden.FAMILIES)
def test_a_row_does_not_depend_on_its_batch(family: str) -> None:
    decoder, _ = golden.load(family)
    together = sample(decoder, PROMPTS, NAMES)
    alone = [sample(decoder, [p], [n])[0] for p, n in zip(PROMPTS, NAMES, strict=True)]
    halves = sample(decoder, PROMPTS, NAMES, limit=Limit("--decode-rows", 3))
    backwards = sample(decoder, PROMPTS[::-1], NAMES[::-1])[::-1]
    for other in (alone, halves, backwards):
        assert [c.ids for c in other] == [c.ids for c in together]
    assert together[0].ids != together[2].ids  # one prompt, two samples


def test_noise_is_named_not_drawn() -> None:
    decoder, _ = golden.load("llama")
    first = sample(decoder, PROMPTS, NAMES)
    torch.manual_seed(99)
    torch.rand(5)
    assert sample(decoder, PROMPTS, NAMES) == first
    other = sample(decoder, PROMPTS, [("other", row) for row in range(4)])
    assert [c.ids for c in other] != [c.ids for c in first]


def test_stop_token_is_kept_and_ends_the_text() -> None:
    decoder, _ = golden.load("llama")
    (free,) = generate(decoder, str, PROMPTS[:1], max_new_tokens=8, stop_ids=[])
    assert free.finish_reason == "length" and len(free.ids) == 8
    stop = free.ids[3]
    end = free.ids.index(stop) + 1
    (stopped,) = generate(decoder, str, PROMPTS[:1], max_new_tokens=8, stop_ids=[299, stop])
    assert stopped == Completion(free.ids[:end], stopped.logprobs, str(free.ids[: end - 1]), "stop")
    assert len(stopped.logprobs) == end


def test_a_stop_id_inside_the_prompt_stops_nothing() -> None:
    """Masks come from lengths, never from token values."""
    decoder, _ = golden.load("qwen3")
    prompt = [7, 3, 7, 14, 7, 15]
    (got,) = generate(decoder, str, [prompt], max_new_tokens=6, stop_ids=[7])
    (free,) = generate(decoder, str, [prompt], max_new_tokens=6, stop_ids=[])
    assert got.ids == free.ids[: len(got.ids)]


def shapes_of_passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Fills with the shape of the ids of each pass through a decoder, as they come; a decoding step
    is one of a single token."""
    seen, forward, step = [], Decoder.forward, Step.__call__

    def spy_on_step(self: Step, token: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append((len(token), 1))
        return step(self, token, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Step, "__call__", spy_on_step)

    def spy(self: Decoder, ids: torch.Tensor, *rest: object, **named: object) -> torch.Tensor:
        seen.append(tuple(ids.shape))
        return forward(self, ids, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Decoder, "forward", spy)
    return seen


@pytest.mark.parametrize("family", golden.FAMILIES)
def test_the_last_layer_of_a_prefill_computes_one_token_a_row(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys of all tokens are there as before; of the states only those are, which are read."""
    monkeypatch.setattr("minihmx.engine.prefill.PASS", 4)  # so that six tokens are worth one
    decoder, _ = golden.load(family)
    prompts = [[*range(3, 12)], [*range(3, 9), 7, 2], [*range(3, 12), 4, 4, 6]]
    widths = list[torch.Size]()
    decoder.model.layers[-1].mlp.register_forward_hook(
        lambda module, given, out: widths.append(out.shape[:2])
    )
    found, caches = [], []
    for every in (True, False):
        caches.append(KVCache(decoder.config, 3, 12, decoder.dtype, decoder.device))
        with torch.inference_mode():
            found.append(prefill(decoder, prompts, caches[-1], every=every).hidden)
    # What all begin with is a pass of its own, of one row.
    assert widths == [(1, 6), (3, 6), (1, 1), (3, 1)]
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)
    assert torch.equal(caches[0].both, caches[1].both)
    ids, last = torch.tensor([[5, 6, 7], [7, 9, 11]]), torch.tensor([2, 1])
    states = []
    for decoder.checkpointing in (False, True):  # with a gradient as well
        cache = KVCache(decoder.config, 2, 3, decoder.dtype, decoder.device)
        states.append(decoder(ids, torch.arange(3).expand(2, 3), cache, 3, last=last))
    assert states[0].shape[1] == 1 and torch.equal(*states)


def test_prefix_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, _ = golden.load("llama")
    seen = shapes_of_passes(monkeypatch)
    shared = list(range(10, 40))
    prompts = [[*shared, 1], [*shared, 2, 3], [*shared, 4], [*shared, 5]]
    generate(decoder, str, prompts * 2, max_new_tokens=2, stop_ids=[])
    assert seen == [(1, 30), (4, 2), (8, 1)]  # prefix once, each prompt's rest once, then rows
    seen.clear()
    generate(decoder, str, [prompt[20:] for prompt in prompts], max_new_tokens=2, stop_ids=[])
    assert seen == [(4, 12), (4, 1)]  # for so few tokens a pass would take longer than it saves
    seen.clear()
    generate(decoder, str, [shared] * 4, max_new_tokens=2, stop_ids=[])
    assert seen == [(1, 30), (4, 1)]


@pytest.mark.parametrize("family", golden.FAMILIES)
def test_a_prefix_known_before_is_not_computed_again(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, _ = golden.load(family)
    prefix = list(range(10, 40))
    known = prefix_of(decoder, prefix)
    seen = shapes_of_passes(monkeypatch)
    few, many = [*prefix, 5, 6], [*prefix, *range(60, 140)]
    for prompts, passes in (
        ([[*prefix, 1], [*prefix, 2, 3]], [(2, 2)]),
        ([[*few, 1], [*few, 2, 3]], [(2, 4)]),  # two tokens more in common are not worth a pass
        ([[*many, 1], [*many, 2, 3]] * 2, [(1, 80), (2, 2)]),
        ([[*prefix, 1]] * 3, [(1, 1)]),
        ([prefix] * 3, [(1, 1)]),
        ([[*prefix[:9], 1], [*prefix[:9], 2]], [(2, 1)]),
        ([[1, 2], [3, 4]], [(2, 2)]),
    ):
        seen.clear()
        options = dict(max_new_tokens=4, stop_ids=[], temperature=0.0)
        names = [("known", row) for row in range(len(prompts))]
        found = sample(decoder, prompts, names, known=known, **options)  # type: ignore[arg-type]
        assert seen == [*passes, *[(len(prompts), 1)] * 3]
        plain = sample(decoder, prompts, names, **options)  # type: ignore[arg-type]
        assert [c.ids for c in found] == [c.ids for c in plain]
        for one, other in zip(found, plain, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_common_prefix_leaves_each_prompt_a_token() -> None:
    assert common_prefix([[1, 2, 3], [1, 2, 3, 4]]) == 2
    assert common_prefix([[1, 2, 3, 9], [1, 2, 4], [1, 2, 3, 4, 5]]) == 2
    assert common_prefix([[5], [6]]) == 0
    assert common_prefix([[5], [5, 6]]) == 0


def test_draw_follows_the_distribution() -> None:
    logits = torch.log(torch.tensor([0.5, 0.0, 0.125, 0.375]))
    u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    token, logprob = draw(logits.expand(4000, 4), 1.0, u)
    assert torch.bincount(token, minlength=4).tolist() == [2000, 0, 500, 1500]
    assert logprob[0].exp().item() == pytest.approx(0.5)
    hot, hot_logprob = draw(logits.expand(4000, 4), 2.0, u)
    share = torch.tensor([0.5, 0.0, 0.125, 0.375]).sqrt()
    assert torch.bincount(hot, minlength=4) / 4000 == pytest.approx(share / share.sum(), abs=1e-3)
    assert hot_logprob[0].exp().item() == pytest.approx((share / share.sum())[0].item())


def test_draw_at_the_edges_of_the_noise() -> None:
    logits = torch.full((2, 256_000), -20.0)
    logits[:, 0] = logits[:, -1] = -torch.inf
    u = torch.tensor([2.0**-54, 1 - 2.0**-54], dtype=torch.float64)
    token, logprob = draw(logits, 1.0, u)
    assert token.tolist() == [1, 255_998]
    assert torch.isfinite(logprob).all()


@pytest.mark.parametrize("vocabulary", [2, 127, 128, 129, 1000])
def test_draw_in_blocks_is_the_plain_inverse_cdf(vocabulary: int) -> None:
    """Also where the noise is exactly on an edge, or as near to it as numbers are."""
    generator = torch.Generator().manual_seed(6)
    logits = torch.randn(1, vocabulary, generator=generator) * 3
    logits[:, ::5] = -torch.inf  # never drawn
    p = torch.softmax(logits / 0.7, -1)
    edges = p.double().cumsum(-1)[0]
    u = (edges / edges[-1]).clamp(2.0**-53, 1 - 2.0**-53)
    u = torch.cat([torch.nextafter(u, torch.zeros(1).double()), u, u + 1e-9]).clamp(max=1 - 1e-16)
    token, logprob = draw(logits.expand(len(u), vocabulary), 0.7, u)
    assert logits[0, token].isfinite().all()
    torch.testing.assert_close(logprob, torch.log_softmax(logits / 0.7, -1)[0, token])
    # A sum may be rounded in its last bit, so it is the distance to the token's own edges that
    # counts.
    below = edges[token] - p[0, token]
    off = torch.maximum(below - u * edges[-1], u * edges[-1] - edges[token])
    assert off.max() < 1e-15 * vocabulary


def test_a_prompt_longer_than_the_context_is_refused() -> None:
    decoder, _ = golden.load("llama")
    with pytest.raises(UserError, match=r"505 tokens and 8 new .* context of 512"):
        generate(decoder, str, [[1] * 505], max_new_tokens=8, stop_ids=[])


# --- continuous batching --------------------------------------------------------------------------

SHOTS = list(range(20, 50))
REQUESTS = [
    GenerationRequest(
        [*SHOTS, *(rest % 290 + 3 for rest in range(i, i + 2 + i % 3))], 4 + i % 5, ("request", i)
    )
    for i in range(9)
]


def letters(ids: list[int]) -> str:
    """A text for token ids: each a word of its own."""
    return " ".join(f"w{token}" for token in ids)


def completed(decoder: Decoder, requests: list[GenerationRequest], rows: int, **options):  # type: ignore[no-untyped-def]
    how = Decoding(decoder, letters, [], **options)
    found = list(complete(how, requests, Limit("--decode-rows", rows)))
    assert sorted(index for index, _ in found) == list(range(len(requests)))
    return dict(found), [index for index, _ in found]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("family", golden.FAMILIES)
def test_a_row_is_given_to_the_next_job_and_nothing_changes(
    family: str, temperature: float
) -> None:
    """Whatever the number of rows, and however many prompt tokens go together."""
    decoder, _ = golden.load(family)
    alone = [
        generate(
            decoder,
            letters,
            [request.prompt],
            max_new_tokens=request.max_new_tokens,
            stop_ids=[],
            temperature=temperature,
            noise=[request.noise or ()],
        )[0]
        for request in REQUESTS
    ]
    assert [len(c.ids) for c in alone] == [request.max_new_tokens for request in REQUESTS]
    for rows, tokens in ((1, 8), (2, 10_000), (4, 8), (4, 10_000), (20, 40), (20, 10_000)):
        found, order = completed(
            decoder, REQUESTS, rows, temperature=temperature, prefill_tokens=tokens
        )
        assert [found[i].ids for i in range(9)] == [c.ids for c in alone], (rows, tokens)
        for i, other in enumerate(alone):
            assert found[i].logprobs == pytest.approx(other.logprobs, abs=1e-4)
        if rows == 4:
            assert order[0] == 0 and order != sorted(order)  # the short ones do not wait


def test_shapes_of_steps_and_shared_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step has all rows and one token; the worked examples go through the model once."""
    decoder, _ = golden.load("llama")
    seen = shapes_of_passes(monkeypatch)
    completed(decoder, REQUESTS, 3)
    steps = [shape for shape in seen if shape == (3, 1)]
    assert 9 + 3 <= len(steps) <= sum(request.max_new_tokens for request in REQUESTS) // 3 + 8
    rest = [shape for shape in seen if shape != (3, 1)]
    assert rest[0] == (1, 30)
    assert all(width < 30 for _, width in rest[1:]), rest


def test_a_few_shared_tokens_are_no_pass_of_their_own() -> None:
    """But where the next prompts begin with what is shared, it is kept, however it was weighed."""
    many, few = [*range(100, 140)], [1, 2, 3]
    pair = [(*few, *many, 7, 8), (*few, *many, 9, 9)]
    assert shared_tokens(pair, (), None) == (0, False)  # 43 tokens, once instead of twice
    assert shared_tokens([*pair, (*few, *many, 5)], (), None) == (43, False)
    assert shared_tokens(pair, (*few, 50, 51), None) == (43, False)
    assert shared_tokens(pair, (*few, *many, 6), None) == (43, True)


def test_rows_that_have_ended_are_left_out_by_quarters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a CPU, where nobody waits for them; every answer is what it is alone."""
    decoder, _ = golden.load("llama")
    caps = [9, 2, 3, 12, 4]
    requests = [REQUESTS[i]._replace(max_new_tokens=cap) for i, cap in enumerate(caps)]
    alone = [completed(decoder, [r], 1, temperature=0.8)[0][0] for r in requests]
    seen = shapes_of_passes(monkeypatch)
    found, _ = completed(decoder, requests, 5, temperature=0.8)
    # Of five rows one ends by the second token, two by the third, and three by the fourth; of the
    # two that are left one by the ninth. The step in which they end is still made with them.
    steps = [rows for rows, tokens in seen if tokens == 1]
    assert steps == [5] * 3 + [3] + [2] * 5 + [1] * 2
    assert [found[i].ids for i in range(5)] == [c.ids for c in alone]
    for i, other in enumerate(alone):
        assert found[i].logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_a_text_ends_its_own_row_only() -> None:
    decoder, _ = golden.load("llama")
    requests = [request._replace(max_new_tokens=40) for request in REQUESTS]
    free, _ = completed(decoder, requests, 3)
    fifth = f"w{free[2].ids[5]}"
    ends = [
        request._replace(until=(fifth,)) if i == 2 else request
        for i, request in enumerate(requests)
    ]
    found, _ = completed(decoder, ends, 3)
    assert found[2].ids == free[2].ids[: len(found[2].ids)]
    assert 6 <= len(found[2].ids) <= 5 + LOOK_EVERY and fifth in found[2].text
    assert found[2].finish_reason == "stop" and free[2].finish_reason == "length"
    assert all(found[i].ids == free[i].ids for i in range(9) if i != 2)
    both = (f"W{free[4].ids[1]}", f"w{free[4].ids[12]}")  # in any case, and only where all stand
    wanted = [
        request._replace(complete=both) if i == 4 else request for i, request in enumerate(requests)
    ]
    found, _ = completed(decoder, wanted, 3)
    assert 13 <= len(found[4].ids) <= 16 and found[4].finish_reason == "stop"


def test_out_of_memory_begins_again_in_half_as_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was finished is kept, and no more than two rows fit."""
    decoder, _ = golden.load("llama")
    whole, _ = completed(decoder, REQUESTS, 2)
    forward = Decoder.forward

    def tight(self: Decoder, ids: torch.Tensor, *rest: object, **named: object) -> torch.Tensor:
        if ids.shape[0] > 2:
            raise torch.OutOfMemoryError("too many rows")
        return forward(self, ids, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Decoder, "forward", tight)
    limit = Limit("--decode-rows", 8)
    found = dict(complete(Decoding(decoder, letters, []), REQUESTS, limit))
    assert limit.rows == 2 and "--decode-rows 2" in limit.notice
    assert {i: c.ids for i, c in found.items()} == {i: c.ids for i, c in whole.items()}
