"""What a step must at least compute and move: its products, counted from shapes, and their time.

The floor of a step is the sum of

- its matrix products that are left once every prefix of tokens which rows share is computed once
  (in a judge's prompts the part before the question once a run, so no step pays for it), each at
  the rate measured for a product of that shape by the faster of the libraries that torch brings
  (see minihmx/models/products.py), and attention's at that of torch's fused causal attention; and
- the bytes of the weights, read once for each token that all rows decode together, at the rate
  at which this machine copies, where what is read and what is written both count.

By stage: `sample` and `judge` are a prefill of their prompts, then bytes. Behind a prompt only the
state of its last token is wanted, so of the last layer's other tokens the keys and values alone are
left. The head counts among the bytes, since it too is read for every token, and the policy reads
its adapter beside the weights. `reference` is a forward pass over prompts and answers, with the
head after every token that predicts one of an answer. `learn` is that with the adapter, and its
backward: a gradient to the input of every product but the first layer's q, k and v, whose input
learns nothing; two to the adapter's matrices; of attention twice as much as forward; and of the
head one product forward and one back, with nothing made twice.

Not in it, so no implementation reaches it: norms, softmax, rotation, sampling, the cache that is
read beside the weights, the optimizer, Python.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from bench_products import copy_rate, seconds

from minihmx.config import LORA_TARGETS
from minihmx.engine.prefill import common_prefix, same_tokens
from minihmx.instruments.estimate import linears, parameter_counts, trainable
from minihmx.instruments.metrics import STAGES
from minihmx.models.configs import ModelConfig
from minihmx.models.products import ROWS, has_onednn
from minihmx.records import Rollout
from minihmx.run import Run

LARGEST = 2**33  # multiplications of one product that is timed; a larger one is timed in part
BEYOND_CACHE = 2**28  # bytes of equal weights that are taken in turn, so that none stays in a cache


class Product(NamedTuple):
    """y [rows, out] of x [rows, inside] and a weight [out, inside], as in torch's linear."""

    out: int
    inside: int
    rows: int

    @property
    def flops(self) -> int:
        return 2 * self.out * self.inside * self.rows


@dataclass
class Work:
    """Products and how often each, attention's multiplications and additions, bytes of weights."""

    products: Counter[Product] = field(default_factory=Counter)
    attention: int = 0
    bytes: int = 0
    longest: int = 1  # tokens of the longest row

    @property
    def flops(self) -> int:
        return self.attention + sum(p.flops * times for p, times in self.products.items())


class Tokens(NamedTuple):
    """What is left of rows whose shared prefixes are computed once: how many tokens, how many pairs
    of a query and a key that it sees, the length of the longest row; how many different rows there
    are, and the sum of their lengths."""

    computed: int
    pairs: int
    longest: int
    rows: int
    whole: int


def left(rows: Iterable[Sequence[int]], known: int = 0) -> Tokens:
    """The distinct prefixes of the rows, those of up to `known` tokens left out.

    >>> left([[1, 5, 6], [1, 5, 7, 8], [1, 5, 6]])
    Tokens(computed=5, pairs=13, longest=4, rows=2, whole=7)

    1, 5, 6, 7 and 8 are computed once each; they see 1, 2, 3, 3 and 4 keys.
    """
    computed = pairs = longest = 0
    before: Sequence[int] = ()
    different = sorted(set(map(tuple, rows)))  # neighbours share the longest prefixes
    for row in different:
        first, last = max(same_tokens(before, row), known), len(row)
        if last > first:
            computed += last - first
            pairs += (last * (last + 1) - first * (first + 1)) // 2
        before, longest = row, max(longest, last)
    return Tokens(computed, pairs, longest, len(different), sum(map(len, different)))


# --- what products a pass has ---------------------------------------------------------------------


KEYS = ("k_proj", "v_proj")  # which later tokens need of every token


def forward(model: ModelConfig, tokens: int, asked: int | None = None) -> Counter[Product]:
    """The seven frozen products of each layer; asked: of so many tokens the state after the last
    layer is wanted, all by default."""
    found: Counter[Product] = Counter()
    for name, (inside, out) in linears(model).items():
        found[Product(out, inside, tokens)] += model.num_hidden_layers - 1
        found[Product(out, inside, tokens if asked is None or name in KEYS else asked)] += 1
    return found


def backward(model: ModelConfig, tokens: int) -> Counter[Product]:
    """The gradients of their inputs, which the first layer's q, k and v need not give."""
    found: Counter[Product] = Counter()
    for name, (inside, out) in linears(model).items():
        first = name in ("q_proj", "k_proj", "v_proj")
        found[Product(inside, out, tokens)] += model.num_hidden_layers - first
    return found


def adapter(
    model: ModelConfig,
    rank: int,
    tokens: int,
    learns: bool,
    targets: Sequence[str] = LORA_TARGETS,
    asked: int | None = None,
) -> Counter[Product]:
    """A and B of every target; learns: and the gradients of A, of B, of A x and of x; asked: as in
    `forward`."""
    found: Counter[Product] = Counter()
    layers = model.num_hidden_layers
    for name in targets:
        inside, out = linears(model)[name]
        behind = tokens if asked is None or name in KEYS else asked
        for product in (Product(rank, inside, tokens), Product(out, rank, tokens)):
            found[product] += layers - 1
            found[product._replace(rows=behind)] += 1
        if learns:
            found[Product(inside, tokens, rank)] += layers  # of A
            found[Product(rank, tokens, out)] += layers  # of B
            found[Product(rank, out, tokens)] += layers  # of A x
            first = name in ("q_proj", "k_proj", "v_proj")
            found[Product(inside, rank, tokens)] += layers - first  # of x
    return found


def attention(model: ModelConfig, pairs: int) -> int:
    """Multiplications and additions of scores and of weighted values."""
    return 4 * model.num_attention_heads * model.head_dim * model.num_hidden_layers * pairs


# --- the floor of one step ------------------------------------------------------------------------


def judge_tokens(run: Run, rollouts: Sequence[Rollout]) -> int:
    """How many tokens the judge decoded: those of its longest verdict."""
    config, encode = run.config, run.prompts.tokenizer.encode_text
    return max(
        config.judge_max_tokens if r.judge_finish == "length" else len(encode(r.judge_text)) + 1
        for r in rollouts
    )


def floor_work(run: Run, rollouts: Sequence[Rollout]) -> dict[str, Work]:
    """By stage, what is left of the step that made these rollouts."""
    model, config = run.decoder.config, run.config
    width = run.decoder.dtype.itemsize
    targets = config.lora_targets.split(",")
    body, embedding, _ = parameter_counts(model)

    def work(tokens: Tokens) -> Work:
        """The frozen products and the attention of a forward pass."""
        products = forward(model, tokens.computed)
        return Work(products, attention(model, tokens.pairs), longest=tokens.longest)

    def prefilled(tokens: Tokens) -> Work:
        """As that, but of the last layer the last token of each row alone."""
        products = forward(model, tokens.computed, tokens.rows)
        layer = attention(model, 1) // model.num_hidden_layers
        seen = attention(model, tokens.pairs) - layer * (tokens.pairs - tokens.whole)
        return Work(products, seen, longest=tokens.longest)

    def decoded(tokens: int, beside: int = 0) -> int:
        # The first token comes out of the prefill, so its head is read and its body is not.
        return width * ((tokens - 1) * (body + beside) + tokens * embedding)

    prompts = left(r.prompt_ids for r in rollouts)
    sample, rank = prefilled(prompts), config.lora_rank
    sample.products += adapter(model, rank, prompts.computed, False, targets, prompts.rows)
    longest = max(len(r.completion.ids) for r in rollouts)
    sample.bytes = decoded(longest, trainable(model, config))

    asked = [run.prompts.judge(r.question.text, r.completion.text) for r in rollouts]
    judge = prefilled(left(asked, once_a_run(run)))
    judge.bytes = decoded(judge_tokens(run, rollouts))

    # Nothing is predicted from a row's last token, and equal beginnings predict alike.
    whole = left([*r.prompt_ids, *r.completion.ids[:-1]] for r in rollouts)
    predicting = whole.computed - left(r.prompt_ids[:-1] for r in rollouts).computed
    head = Product(model.vocab_size, model.hidden_size, predicting)
    reference, learn = work(whole), work(whole)
    reference.products[head] += 1
    learn.attention *= 3  # twice as much in the backward
    learn.products += backward(model, whole.computed)
    learn.products += adapter(model, rank, whole.computed, True, targets)
    learn.products[head] += 1
    learn.products[Product(model.hidden_size, model.vocab_size, predicting)] += 1
    return dict(zip(STAGES["step"], (sample, judge, reference, learn), strict=True))


def once_a_run(run: Run) -> int:
    """How many first tokens every judge's prompt of the run has: its rubric."""
    asked = [run.prompts.judge(q.text, "") for q in (run.train_questions + run.eval_questions)]
    return common_prefix(asked) if len(asked) > 1 else 0


# --- rates of this machine ------------------------------------------------------------------------


class Place(NamedTuple):
    """Where and in what numbers the step computes."""

    device: torch.device
    dtype: torch.dtype

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, device=self.device).to(self.dtype)


@cache
def product_seconds(product: Product, place: Place) -> float:
    """One product by the faster library, with the weight as it lies or in oneDNN's own layout.

    A large one is timed in part. With few rows the weights are taken from memory and not from a
    cache, as where a token is decoded.
    """
    out, inside, rows = product
    parts = copies = 1
    while product.flops / parts > LARGEST and rows // (2 * parts) >= 64:
        parts *= 2
    if rows <= 64:
        copies = min(28, max(1, BEYOND_CACHE // (out * inside * place.dtype.itemsize)))
    x = place.random(rows // parts, inside)
    weights = [place.random(out, inside) for _ in range(copies)]
    ways: list[Callable[[], object]] = [lambda: [F.linear(x, weight) for weight in weights]]
    if place.device.type == "cpu" and has_onednn():
        apply = torch.ops.mkldnn._linear_pointwise
        packed = [torch.ops.mkldnn._reorder_linear_weight(w, ROWS) for w in weights]
        ways.append(lambda: [apply(x, weight, None, "none", [], "") for weight in weights])
        ways.append(lambda: [apply(x, weight, None, "none", [], "") for weight in packed])
    return min(map(seconds, ways)) / copies * rows / (rows // parts)


@cache
def attention_rate(heads: int, keys: int, head: int, length: int, place: Place) -> float:
    """Multiplications and additions a second of fused causal attention of this length."""
    q, k = place.random(4, heads, length, head), place.random(4, keys, length, head)
    fused, shared = F.scaled_dot_product_attention, heads != keys
    took = seconds(lambda: fused(q, k, k, is_causal=True, enable_gqa=shared))
    return 4 * 4 * heads * head * length * (length + 1) / 2 / took


@torch.inference_mode()
def products_seconds(products: Counter[Product], place: Place) -> float:
    """All of them, one after the other."""
    return sum(product_seconds(product, place) * times for product, times in products.items())


class Floor(NamedTuple):
    """Seconds of a stage's products, of its attention, and of its bytes."""

    products: float
    attention: float
    bytes: float


@torch.inference_mode()
def floor(run: Run, work: Mapping[str, Work]) -> dict[str, Floor]:
    """The work of each stage in seconds of this machine."""
    model, place = run.decoder.config, Place(run.decoder.device, run.decoder.dtype)
    heads = model.num_attention_heads, model.num_key_value_heads, model.head_dim
    return {
        stage: Floor(
            products_seconds(part.products, place),
            part.attention / attention_rate(*heads, part.longest, place),
            part.bytes / copy_rate(place.device),
        )
        for stage, part in work.items()
    }
