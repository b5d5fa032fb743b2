"""The one generate path: rollouts, the judge and evaluations all come through here.

What rows share is computed once: equal prompts are prefilled as one row, and the longest common
prefix of different prompts (a chat header, the judge's rubric) is prefilled before they part.
Rows keep their own lengths and positions; nothing is left-padded.

Sampling is plain softmax at the stated temperature: the log-prob stored with a token is that of the
very distribution it was drawn from, and the one that training differentiates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minihmx.engine.memory import Limit, in_pieces
from minihmx.errors import UserError
from minihmx.models.context import KVCache
from minihmx.models.decoder import Decoder
from minihmx.records import Completion
from minihmx.seeding import uniform


@torch.inference_mode()
def generate(
    decoder: Decoder,
    decode: Callable[[list[int]], str],
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    temperature: float = 0.0,
    noise: Sequence[tuple[object, ...]] | None = None,
    limit: Limit | None = None,
) -> list[Completion]:
    """Complete every prompt (token ids); a prompt named G times gets G completions.

    decode: token ids to text. temperature 0 is greedy. Otherwise noise names each row's random
    stream: the random number of token t is a pure function of the row's names and t, whatever else
    is in the batch. limit bounds the rows decoded together; without one, all rows are.

    Raises UserError when a prompt and its completion exceed the model's context.
    """
    longest = max(map(len, prompts), default=0)
    context = decoder.config.max_positions
    if longest + max_new_tokens > context:
        raise UserError(
            f"A prompt of {longest} tokens and {max_new_tokens} new ones exceed the model's "
            f"context of {context}; shorten the text or lower the completion cap."
        )
    stop = torch.tensor(sorted(stop_ids), dtype=torch.long, device=decoder.device)

    def decode_rows(rows: Sequence[int]) -> list[Completion]:
        names = None if noise is None else [noise[row] for row in rows]
        decoded = _decode_batch(
            decoder, [prompts[row] for row in rows], max_new_tokens, stop, temperature, names
        )
        return [_completion(*row, set(stop_ids), decode) for row in zip(*decoded, strict=True)]

    limit = limit or Limit("--decode-rows", len(prompts))
    pieces = in_pieces(range(len(prompts)), limit, decode_rows)
    return [completion for piece in pieces for completion in piece]


def _decode_batch(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop: Tensor,
    temperature: float,
    noise: Sequence[tuple[object, ...]] | None,
) -> tuple[list[list[int]], list[list[float]]]:
    """Token ids and log-probs of every row, up to the step at which the last row stopped."""
    device = decoder.device
    cache, hidden_BD = prefill(decoder, prompts, max_new_tokens)
    # One random number for each token position, drawn before it is known which row stops where.
    # A generator's state would depend on how many rows and tokens came before.
    uniforms_BT = torch.tensor(
        [[uniform(*names, t) for t in range(max_new_tokens)] for names in noise or ()],
        dtype=torch.float64,
        device=device,
    )
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    longest = max(map(len, prompts))
    stopped = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    ids, logprobs = [], []
    for t in range(max_new_tokens):
        logits_BV = decoder.logits(hidden_BD)
        token, logprob = draw(logits_BV, temperature, uniforms_BT[:, t] if noise else None)
        ids.append(token)
        # The sum is finite only if every logit is. Adding 0 times the sum changes no finite
        # log-prob, and makes it NaN when any logit of the row is infinite or NaN, also one that
        # was not drawn. A minus infinity, for example, is never drawn and would pass unseen.
        logprobs.append(logprob + 0 * logits_BV.sum(-1))
        stopped |= torch.isin(token, stop)
        # Rows that have stopped go on being decoded, as padding, until the last one stops; what
        # they write is cut off in _completion. Removing them would change the batch's shape, and
        # with that the last bits of the other rows' logits.
        if t + 1 == max_new_tokens or bool(stopped.all()):
            break
        hidden_BD = decoder(token[:, None], (lengths + t)[:, None], cache, longest + t + 1)[:, 0]
    return torch.stack(ids, 1).tolist(), torch.stack(logprobs, 1).tolist()


def prefill(
    decoder: Decoder, prompts: Sequence[Sequence[int]], room: int
) -> tuple[KVCache, Tensor]:
    """A cache with every prompt in it and room for `room` more tokens a row, and each prompt's last
    hidden state, [B, D].

    What prompts share is computed once. Here the first and the third are one row until the end,
    and all three begin with the same two tokens, which are one row of a pass of their own:

    >>> from minihmx.models import hub, weights
    >>> decoder = weights.load(hub.TINY, torch.float32, "cpu")
    >>> cache, hidden = prefill(decoder, [[1, 5, 6], [1, 5, 7, 8], [1, 5, 6]], room=10)
    >>> _, rows, _, capacity, _ = cache.k.shape
    >>> rows, capacity, len(hidden), torch.equal(hidden[0], hidden[2])
    (3, 14, 3, True)
    """
    device = decoder.device
    # G samples of one question have equal prompts. They are one row here and G rows afterwards.
    unique = list(dict.fromkeys(map(tuple, prompts)))
    lengths = [len(prompt) for prompt in unique]
    shared = common_prefix(unique) if len(unique) > 1 else 0
    cache = KVCache(decoder.config, 1, max(lengths) + room, decoder.dtype, device)
    if shared:
        prefix = torch.tensor([unique[0][:shared]], device=device)
        decoder(prefix, torch.arange(shared, device=device)[None], cache, shared)
    if len(unique) > 1:
        cache = cache.select(torch.zeros(len(unique), dtype=torch.long, device=device))
    # Shorter rests are padded on the right. The padding writes into slots of the cache that the
    # row's own next tokens overwrite before any query may see them, so no mask has to know of it.
    width = max(lengths) - shared
    rest = torch.tensor(
        [[*prompt[shared:], *[0] * (width + shared - len(prompt))] for prompt in unique],
        device=device,
    )
    positions = torch.arange(shared, shared + width, device=device).expand(len(unique), width)
    hidden = decoder(rest, positions, cache, shared + width)
    last = torch.tensor([length - shared - 1 for length in lengths], device=device)
    hidden = hidden[torch.arange(len(unique), device=device), last]
    place = {prompt: row for row, prompt in enumerate(unique)}
    rows = [place[tuple(prompt)] for prompt in prompts]
    # Where all prompts differ, as the judge's do, the cache is in order already. Copying it would
    # double the memory of the step's largest tensor.
    if rows == list(range(len(unique))):
        return cache, hidden
    index = torch.tensor(rows, device=device)
    return cache.select(index), hidden[index]


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, leaving each at least one of its own.

    >>> common_prefix([[5, 6, 7], [5, 6, 8, 9], [5, 6]])
    1

    The third prompt would share two tokens, but then nothing of its own would be left to compute
    the next token from.
    """
    # Sorted as lists, the first and the last prompt differ no later than any other two.
    ordered = sorted(map(list, prompts))
    first, last = ordered[0], ordered[-1]
    limit = min(map(len, prompts)) - 1
    same = 0
    while same < limit and first[same] == last[same]:
        same += 1
    return same


def draw(logits: Tensor, temperature: float, u: Tensor | None) -> tuple[Tensor, Tensor]:
    """One token a row and its log-prob: argmax at temperature 0, else inverse CDF at u [B].

    logits: fp32 [B, V]. u: one number in (0, 1) a row, None at temperature 0.
    """
    if temperature == 0:
        logprobs = torch.log_softmax(logits, dim=-1)
        token = logits.argmax(dim=-1)
    else:
        assert u is not None
        logprobs = torch.log_softmax(logits / temperature, dim=-1)
        # In fp32 the 256,000 probabilities of Gemma 2 would not add up to 1, and the tokens at the
        # end of the vocabulary would be drawn too often or never.
        cumulative = logprobs.double().exp().cumsum(dim=-1)
        total = cumulative[:, -1:]
        # The token is the first whose cumulative sum exceeds the target. A target that was rounded
        # up to the total would find none, or one of probability 0 behind the last possible token.
        target = torch.minimum(u[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
        token = torch.searchsorted(cumulative, target, right=True)[:, 0]
    # Among NaN alone nothing exceeds the target, and the search ends behind the vocabulary. Any
    # valid token will do there, because its log-prob is NaN and the answer is refused for that.
    token = token.clamp(max=logits.shape[-1] - 1)
    return token, logprobs.gather(-1, token[:, None])[:, 0]


def _completion(
    ids: list[int], logprobs: list[float], stop: set[int], decode: Callable[[list[int]], str]
) -> Completion:
    """The row up to its first stop token."""
    # The stop token stays among the ids, because ending an answer is something the policy has to
    # learn; it is not part of the text, because the judge should not see markup.
    end = next((t for t, token in enumerate(ids) if token in stop), None)
    if end is None:
        return Completion(ids, logprobs, decode(ids), "length")
    return Completion(ids[: end + 1], logprobs[: end + 1], decode(ids[:end]), "stop")
