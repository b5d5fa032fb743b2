"""Log-likelihoods of continuations: equal to one plain forward pass per pair, however batched."""

from __future__ import annotations

import golden
import pytest
import torch

from minihmx.engine.memory import Limit
from minihmx.evals.asking.likelihood import Pair, encode_pair, loglikelihoods, padded_tokens
from minihmx.models.decoder import Decoder
from minihmx.models.tokenizer import Tokenizer
from minihmx.records import Segment

REQUESTS = [
    [Pair((3, 14, 15, 92), (65,)), Pair((3, 14, 15, 92), (65, 35, 8)), Pair((3, 14), (9, 9))],
    [Pair((3, 14, 15, 92, 6, 53, 58, 97), (9, 3, 2, 38))],
    [Pair((3,), (4, 6)), Pair((3,), (4, 7)), Pair((3,), (5,))],
]


@torch.no_grad()
def plain(decoder: Decoder, pair: Pair) -> float:
    """One forward pass over context and continuation."""
    ids = torch.tensor([[*pair.context, *pair.continuation]])
    logprobs = torch.log_softmax(decoder.logits(decoder(ids)), -1)[0, len(pair.context) - 1 : -1]
    return float(sum(row[goal] for row, goal in zip(logprobs, pair.continuation, strict=True)))


@pytest.mark.parametrize("tokens", [1, 30, 10_000])
@pytest.mark.parametrize("family", golden.FAMILIES)
def test_equal_to_one_pass_per_pair_whatever_the_batch(family: str, tokens: int) -> None:
    decoder, _ = golden.load(family)
    batches = list(loglikelihoods(decoder, REQUESTS, Limit("--batch-tokens", tokens)))
    assert len(batches) == {1: 3, 30: 3, 10_000: 1}[tokens]
    got = [value for batch in batches for request in batch for value in request]
    expected = [plain(decoder, pair) for request in REQUESTS for pair in request]
    assert got == pytest.approx(expected, abs=1e-4)


def test_many_states_are_taken_to_the_vocabulary_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, _ = golden.load("qwen3")
    whole = list(loglikelihoods(decoder, REQUESTS, Limit("", 10_000)))
    monkeypatch.setattr("minihmx.evals.asking.likelihood.STATES", 2)
    (pieces,) = loglikelihoods(decoder, REQUESTS, Limit("", 10_000))
    for got, expected in zip(pieces, whole[0], strict=True):
        assert got == pytest.approx(expected, abs=1e-5)


def test_states_that_share_a_beginning_reach_the_vocabulary_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder, _ = golden.load("llama")
    seen: list[int] = []
    logits = Decoder.logits

    def counted(self: Decoder, hidden: torch.Tensor) -> torch.Tensor:
        seen.append(len(hidden))
        return logits(self, hidden)

    monkeypatch.setattr(Decoder, "logits", counted)
    list(loglikelihoods(decoder, REQUESTS[2:], Limit("", 10_000)))
    assert seen == [2]  # behind (3) and behind (3, 4)


def test_out_of_memory_halves_the_tokens_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder, _ = golden.load("gemma2")
    whole = [row for batch in loglikelihoods(decoder, REQUESTS, Limit("", 10_000)) for row in batch]
    forward, limit = Decoder.forward, Limit("--batch-tokens", 10_000)

    def small_memory(
        self: Decoder, ids: torch.Tensor, *rest: object, **named: object
    ) -> torch.Tensor:
        if ids.shape[0] > 3:
            raise torch.OutOfMemoryError("fake")
        return forward(self, ids, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Decoder, "forward", small_memory)
    halved = [row for batch in loglikelihoods(decoder, REQUESTS, limit) for row in batch]
    for got, expected in zip(halved, whole, strict=True):
        assert got == pytest.approx(expected, abs=1e-4)
    assert limit.rows < 10_000
    assert "--batch-tokens" in limit.notice


def test_a_request_counts_as_its_rows_times_the_longest() -> None:
    assert padded_tokens(REQUESTS[:1]) == 3 * 7
    assert padded_tokens(REQUESTS[:2]) == 4 * 12


class Letters:
    """A tokenizer of one id a letter, in which "ab" is one token and bos is 0."""

    def encode(self, segments: list[Segment]) -> list[int]:
        text = "".join(segment.text for segment in segments)
        return [ord(letter) for letter in text.replace("ab", "\u0100")]

    before_text = (0,)


def encoded(context: str, continuation: str, room: int = 99, markup: bool = False) -> Pair:
    tokenizer: Tokenizer = Letters()  # type: ignore[assignment]
    return encode_pair(tokenizer, [Segment(context, markup)], continuation, room)


def ids(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


def test_both_are_encoded_together_and_split_by_the_length_of_the_contexts_encoding() -> None:
    assert encoded("x", " y") == Pair((0, *ids("x")), ids(" y"))
    # the merge swallows the context's last letter, so the split falls behind the merged token
    assert encoded("xa", "bc") == Pair((0, *ids("xa")), ids("c"))


def test_blanks_that_end_the_context_go_to_the_continuation() -> None:
    assert encoded("x \n", "y") == Pair((0, *ids("x")), ids(" \ny"))


def test_only_plain_text_begins_with_bos() -> None:
    assert encoded("x", "y", markup=True) == Pair(ids("x"), ids("y"))


def test_what_exceeds_the_context_loses_its_first_tokens_and_says_so() -> None:
    assert encoded("uvwx", "yz", room=4) == Pair(ids("wx"), ids("yz"), True)
    assert not encoded("uvwx", "yz", room=7).truncated
    with pytest.raises(ValueError, match="2 of continuation do not fit 2"):
        encoded("uvwx", "yz", room=2)


def test_an_empty_continuation_is_refused() -> None:
    with pytest.raises(ValueError, match="0 of continuation"):
        encoded("x", "")
