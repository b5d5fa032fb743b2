"""Build the bundled model from nothing: tokenizer, training by step count, export, manifest.

    python scripts/tiny/build.py --out minihmx/tiny

Two tasks share the weights: to judge answers with the real rubric, and to talk. Each judged answer
follows the same rubric, so its tokens run once per step and the rows share their keys and values,
gradients included.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import corpus
import torch
import torch.nn.functional as F
from corpus import Judged
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from world import begins_well, read, split_sentences, true_score

from minihmx.engine.sampling import generate
from minihmx.instruments.work import Work, working
from minihmx.judge import RUBRIC, judge_prompt, parse_score
from minihmx.models.configs import ModelConfig
from minihmx.models.context import inverse_frequencies
from minihmx.models.decoder import Attention, Decoder, Layer
from minihmx.records import Verdict
from minihmx.terminal.bars import with_bars

SPECIAL = ["<|pad|>", "<|bos|>", "<|user|>", "<|assistant|>", "<|end|>", "<|system|>"]
PAD, BOS, USER, ASSISTANT, END, _ = range(6)
VOCABULARY = 2048
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "initializer_range": 0.02,
    "bos_token_id": BOS,
    "eos_token_id": END,
    "pad_token_id": PAD,
    "torch_dtype": "float16",
}
GENERATION = {"bos_token_id": BOS, "eos_token_id": END, "pad_token_id": PAD}
JUDGE_ROWS, CHAT_ROWS = 36, 20
# Every so many steps the model answers and judges this often; so many of each are kept for use.
OWN_EVERY, OWN_COUNT, KEPT = 150, 448, 512
OWN_ROWS = 6
SHOW_EVERY = 20
SCORE_WEIGHT, LABEL_WEIGHT = 3.0, 0.5
MATRIX_RATE, OTHER_RATE, WARM_UP, WEIGHT_DECAY = 1e-2, 3e-3, 100, 0.05
LABELS = [f"{d}{n}" for d in "WFA" for n in (1, 2, 3)]
LABELS += ["N0", "D0", "opening", "unreadable", "repeat", "cut", "going", "broken"]


class Phase(NamedTuple):
    """One schedule of the learning rate, from its peak (times `rate`) down to 0.

    first: the number of its first step, which names the step's text. own_from: the share of its
    steps after which the model's own answers and misjudged ones are among the judged.
    misjudged_rows: how many of those in a step.
    """

    name: str
    first: int
    steps: int
    rate: float
    own_from: float
    misjudged_rows: int


# Misjudged answers are mostly overrated ones, so a judge that sees many becomes too severe: the
# second phase sees fewer.
PHASES = [Phase("learn", 0, 4400, 1.0, 0.4, 6), Phase("settle", 4400, 700, 0.4, 0.0, 4)]


def train_tokenizer(seed: int) -> Tokenizer:
    """Byte-level BPE; the rubric and the invented names are repeated until they are few tokens."""
    rng = random.Random(f"tokenizer/{seed}")
    texts = [RUBRIC] * 2000
    texts += [f"It is {name}." for names in corpus.NAMES.values() for name in names] * 60
    for _ in range(10000):
        example = corpus.judged(rng)
        texts.append(f"{example.question}\n\n{example.answer}\n{read(example.answer).verdict}")
        texts += [text for turn in corpus.conversation(rng) for text in turn]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=SPECIAL,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    for score in range(11):
        assert len(tokenizer.encode(f" {score}").ids) == 1, f"score {score} is not one token"
    return tokenizer


def without_control_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """The same merges with no added tokens: text that spells a marker stays text."""
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(data))


class Row(NamedTuple):
    """Token ids, a loss weight per token (0: not a target), and labelled positions."""

    ids: list[int]
    weights: list[float]
    labels: list[tuple[int, int]]


def judge_row(plain: Tokenizer, example: Judged) -> Row:
    """One judged answer; each sentence's last token is labelled with what the sentence is.

    Its other tokens are labelled with whether a sentence of the world begins like this, so that
    the very token at which two sentences were cut into one is shown.
    """
    content = judge_prompt(RUBRIC, example.question, example.answer)
    encoded, reading = plain.encode(content), read(example.answer)
    labels, at = [], len(content) - len(example.answer)
    sentences = split_sentences(example.answer)
    for sentence, label in zip(sentences, reading.labels, strict=True):
        start = content.index(sentence, at)
        at = start + len(sentence)
        first, last = encoded.char_to_token(start), encoded.char_to_token(at - 1)
        assert first is not None and last is not None
        for token in range(first, last):
            end = encoded.offsets[token][1]
            going = begins_well(content[start:end])
            labels.append((token + 2, LABELS.index("going" if going else "broken")))
        labels.append((last + 2, LABELS.index(label)))  # behind bos and the user's marker
    reply = plain.encode(reading.verdict).ids
    prompt = [BOS, USER, *encoded.ids, END, ASSISTANT]
    weights = [0.0] * len(prompt) + [1.0, 1.0, SCORE_WEIGHT] + [1.0] * (len(reply) - 2)
    return Row([*prompt, *reply, END], weights, labels)


def chat_row(plain: Tokenizer, turns: corpus.Turns) -> Row:
    """A conversation; the assistant's tokens and its end tokens are targets."""
    ids, weights = [BOS], [0.0]
    for user, assistant in turns:
        asked, reply = plain.encode(user).ids, plain.encode(assistant).ids
        ids += [USER, *asked, END, ASSISTANT, *reply, END]
        weights += [0.0] * (len(asked) + 3) + [1.0] * (len(reply) + 1)
    return Row(ids, weights, [])


def common_prefix(rows: list[Row]) -> int:
    """How many first tokens all rows share."""
    low, high = min(row.ids for row in rows), max(row.ids for row in rows)
    return next(i for i, pair in enumerate(zip(low, high, strict=False)) if pair[0] != pair[1])


class Block(NamedTuple):
    """Rows of similar length, padded on the right: B rows of T tokens from `start` on."""

    start: int
    B: int
    T: int
    prefixed: bool


class Batch:
    """All tokens of a step in one line: the shared prefix, then block after block."""

    def __init__(self, judge: list[Row], chat: list[Row]):
        self.prefix = common_prefix(judge)
        ids, where = judge[0].ids[: self.prefix], list(range(self.prefix))
        self.blocks: list[Block] = []
        targets: list[tuple[int, int, float, bool]] = []  # position, next id, weight, judge's
        labels: list[tuple[int, int]] = []
        for rows, size, skip in ((judge, 4, self.prefix), (chat, 5, 0)):
            rows = sorted(rows, key=lambda row: len(row.ids))
            for first in range(0, len(rows), size):
                block = rows[first : first + size]
                T = len(block[-1].ids) - skip
                self.blocks.append(Block(len(ids), len(block), T, skip > 0))
                for row in block:
                    start, n = len(ids) - skip, len(row.ids)
                    for t in range(max(skip, 1), n):
                        if row.weights[t]:
                            targets.append((start + t - 1, row.ids[t], row.weights[t], skip > 0))
                    labels += [(start + t, label) for t, label in row.labels]
                    ids += row.ids[skip:] + [PAD] * (T - n + skip)
                    where += range(skip, skip + T)
        self.ids, self.positions = torch.tensor(ids), torch.tensor(where)
        self.at = torch.tensor([t[0] for t in targets])
        self.next = torch.tensor([t[1] for t in targets])
        self.weight = torch.tensor([t[2] for t in targets])
        self.judged = torch.tensor([t[3] for t in targets])
        self.labelled = torch.tensor([t[0] for t in labels], dtype=torch.long)
        self.label = torch.tensor([t[1] for t in labels], dtype=torch.long)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half-split rotary embedding, x [N, heads, D], cos and sin [N, 1, D/2]."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def attention(module: Attention, x: Tensor, batch: Batch, cos: Tensor, sin: Tensor) -> Tensor:
    """Causal attention inside each row, every judge's row seeing the shared prefix too."""
    N, P, D = x.shape[0], batch.prefix, module.config.head_dim
    blocks = [Block(0, 1, P, False), *batch.blocks]
    sizes = [block.B * block.T for block in blocks]
    q = rotate(module.q_proj(x).view(N, -1, D), cos, sin)
    k = rotate(module.k_proj(x).view(N, -1, D), cos, sin)
    v = module.v_proj(x).view(N, -1, D).float()
    outs: list[Tensor] = []
    with torch.autocast("cpu", enabled=False):  # the backward in bfloat16 is slower than in fp32
        split = zip(*(y.split(sizes) for y in (q, k, v)), strict=True)
        for (_, B, T, prefixed), parts in zip(blocks, split, strict=True):
            qs, ks, vs = (y.view(B, T, -1, D).transpose(1, 2) for y in parts)
            if not outs:
                first_k, first_v = ks, vs
            if prefixed:
                ks = torch.cat((first_k.expand(B, -1, -1, -1), ks), 2)
                vs = torch.cat((first_v.expand(B, -1, -1, -1), vs), 2)
            mask = torch.ones(T, ks.shape[2], dtype=torch.bool).tril(P) if prefixed else None
            out = F.scaled_dot_product_attention(qs, ks, vs, mask, is_causal=mask is None)
            outs.append(out.transpose(1, 2).reshape(B * T, -1))
    return torch.as_tensor(module.o_proj(torch.cat(outs)))


def losses(model: Decoder, head: nn.Linear, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """(judge, chat, sentence label) losses. The label head reads the states two layers early."""
    angles = batch.positions[:, None, None] * inverse_frequencies(model.config)
    cos, sin = angles.cos(), angles.sin()
    x = model.model.embed_tokens(batch.ids)
    early = x
    for index, layer in enumerate(model.model.layers):
        assert isinstance(layer, Layer)
        x = x + attention(layer.self_attn, layer.input_layernorm(x), batch, cos, sin)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
        if index == len(model.model.layers) - 3:
            early = x
    logits = model.logits(model.model.norm(x[batch.at]))
    each = F.cross_entropy(logits, batch.next, reduction="none") * batch.weight
    judge = each[batch.judged].sum() / batch.weight[batch.judged].sum()
    chat = each[~batch.judged].mean()
    guesses = head(F.rms_norm(early[batch.labelled], early.shape[-1:]))
    each = F.cross_entropy(guesses, batch.label, reduction="none")
    inside = batch.label >= LABELS.index("going")
    return judge, chat, each[~inside].mean() + each[inside].mean()


def own_answers(model: Decoder, plain: Tokenizer, rng: random.Random, count: int) -> list[Judged]:
    """What the model itself says, also at temperatures above 1 where it blends its sentences.

    Labels are free, so the judge meets the mistakes of the policy that it will have to judge.
    """
    found: list[Judged] = []
    for temperature in (1.0, 1.2, 1.2, 1.4):
        asked = [corpus.ask(rng) for _ in range(count // 4)]
        prompts = [[BOS, USER, *plain.encode(q.text).ids, END, ASSISTANT] for q in asked]
        noise = [("own", rng.getrandbits(64)) for _ in asked]
        answers = generate(
            model,
            plain.decode,
            prompts,
            max_new_tokens=96,
            stop_ids=[END],
            temperature=temperature,
            noise=noise,
        )
        for question, answer in zip(asked, answers, strict=True):
            if not corpus.reserved(answer.text):
                found.append(Judged(question.text, answer.text, true_score(answer.text)))
    return found


def misjudged(model: Decoder, plain: Tokenizer, answers: list[Judged]) -> list[Judged]:
    """Those whose score the model gets wrong; the many right ones add hardly any gradient."""
    turns = [plain.encode(judge_prompt(RUBRIC, a.question, a.answer)).ids for a in answers]
    prompts = [[BOS, USER, *turn, END, ASSISTANT] for turn in turns]
    verdicts = generate(model, plain.decode, prompts, max_new_tokens=4, stop_ids=[END])
    seen = [parse_score(verdict.text, finished=True) for verdict in verdicts]
    scores = [s.score if isinstance(s, Verdict) else None for s in seen]
    return [a for a, score in zip(answers, scores, strict=True) if score != a.score]


def initialise(model: Decoder, head: nn.Linear) -> None:
    """N(0, .02); the projections that write to the residual stream smaller by sqrt(2 layers)."""
    for name, weight in sorted(model.named_parameters()):
        if weight.dim() == 2:
            last = name.endswith(("o_proj.weight", "down_proj.weight"))
            shrink = math.sqrt(2 * model.config.num_hidden_layers) if last else 1.0
            nn.init.normal_(weight, 0.0, 0.02 / shrink)
    nn.init.zeros_(head.weight)


def rate(step: int, steps: int) -> float:
    """Share of the learning rate: linear warm-up, cosine to 0. step counts from 0."""
    warm = min(1.0, (step + 1) / min(WARM_UP, max(1, steps // 4)))
    return warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def draw_batch(
    plain: Tokenizer, rng: random.Random, own: list[Judged], wrong: list[Judged], rows: int
) -> Batch:
    """The rows of one step; own: answers of the model's own, wrong: misjudged, none early on."""
    examples = rng.sample(own, min(OWN_ROWS, len(own)))
    examples += rng.sample(wrong, min(rows, len(wrong)))
    examples += [corpus.judged(rng) for _ in range(JUDGE_ROWS - len(examples))]
    judge = [judge_row(plain, example) for example in examples]
    return Batch(judge, [chat_row(plain, corpus.conversation(rng)) for _ in range(CHAT_ROWS)])


def optimizers(model: Decoder, head: nn.Linear) -> list[tuple[torch.optim.Optimizer, float]]:
    """(optimizer, peak rate): Muon for the layers' matrices, AdamW for everything else."""
    matrices = [w for w in model.model.layers.parameters() if w.dim() == 2]
    others = [w for w in model.parameters() if all(w is not m for m in matrices)]
    muon = torch.optim.Muon(matrices, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW([*others, *head.parameters()], betas=(0.9, 0.95), weight_decay=0.0)
    return [(muon, MATRIX_RATE), (adamw, OTHER_RATE)]


def train(
    model: Decoder,
    head: nn.Linear,
    plain: Tokenizer,
    phase: Phase,
    seed: int,
    snapshot: Callable[[int], None],
    work: Work,
) -> None:
    """Train for the phase's steps, printing running losses and taking a snapshot now and then."""
    steps, started = phase.steps, time.monotonic()
    trained = optimizers(model, head)
    own: list[Judged] = []
    wrong: list[Judged] = []
    shown: list[Tensor] = []
    tokens = 0
    for step in work.counted(range(steps)):
        rng = random.Random(f"train/{seed}/{phase.first + step}")
        if step >= phase.own_from * steps and step % OWN_EVERY == 0:
            fresh = own_answers(model, plain, rng, OWN_COUNT)
            own = (own + fresh)[-KEPT:]
            fresh += [corpus.judged(rng) for _ in range(OWN_COUNT)]
            wrong = (wrong + misjudged(model, plain, fresh))[-KEPT:]
        batch = draw_batch(plain, rng, own, wrong, phase.misjudged_rows)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            parts = torch.stack(losses(model, head, batch))
        torch.autograd.backward(parts @ torch.tensor([1.0, 1.0, LABEL_WEIGHT]))
        torch.nn.utils.clip_grad_norm_([*model.parameters(), *head.parameters()], 1.0)
        for optimizer, peak in trained:
            optimizer.param_groups[0]["lr"] = peak * phase.rate * rate(step, steps)
            optimizer.step()
            optimizer.zero_grad()
        tokens += len(batch.ids)
        shown.append(parts.detach())
        if (step + 1) % SHOW_EVERY == 0 or step + 1 == steps:
            judge, chat, labels = torch.stack(shown).mean(0).tolist()
            shown = []
            text = f"{phase.name} {step + 1}/{steps} judge {judge:.3f} chat {chat:.3f}"
            text += f" labels {labels:.3f} misjudged {len(wrong)}"
            minutes = (time.monotonic() - started) / 60
            print(f"{text} tokens {tokens} minutes {minutes:.1f}", flush=True)
        if (step + 1) % 500 == 0:
            snapshot(step + 1)


def export(model: Decoder, tokenizer: Tokenizer, out: Path, facts: dict[str, object]) -> None:
    """Write the checkpoint beside `out` and move it there in one rename."""
    fresh = out.with_name(f".{out.name}.{os.getpid()}")
    fresh.mkdir(parents=True)
    for name, data in (("config.json", CONFIG), ("generation_config.json", GENERATION)):
        (fresh / name).write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", "utf-8")
    (fresh / "tokenizer.json").write_text(tokenizer.to_str(), "utf-8")
    weights = {
        name: weight.detach().to(torch.float16).contiguous()
        for name, weight in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the embedding
    }
    save_file(weights, fresh / "model.safetensors", {"format": "pt"})
    (fresh / "model.safetensors").chmod(0o644)  # the library makes it private
    digests = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in fresh.iterdir()}
    manifest = {"build": facts, "sha256": digests}
    (fresh / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    if out.exists():
        old = out.with_name(f".{out.name}.old.{os.getpid()}")
        out.rename(old)
        fresh.rename(out)
        shutil.rmtree(old)
    else:
        fresh.rename(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, help="of the first phase, and no second (4400)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--snapshot", type=Path, help="export here too, every 500 steps")
    parser.add_argument("--learned", type=Path, help="what the first phase gave: do the second")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    phases = [PHASES[0]._replace(steps=args.steps)] if args.steps else PHASES
    phases = phases[1:] if args.learned else phases
    if args.learned:
        tokenizer = Tokenizer.from_file(str(args.learned / "tokenizer.json"))
    else:
        tokenizer = train_tokenizer(args.seed)
    plain = without_control_tokens(tokenizer)
    rubric = len(plain.encode(RUBRIC).ids)
    print(f"vocabulary {tokenizer.get_vocab_size()}, rubric {rubric} tokens", flush=True)
    facts: dict[str, object] = {
        "seed": args.seed,
        "steps": sum(phase.steps for phase in (phases if args.steps else PHASES)),
        "threads": args.threads,
        "torch": torch.__version__,
    }
    torch.manual_seed(args.seed)
    model = Decoder(ModelConfig.from_hf(CONFIG, GENERATION))

    def snapshot(step: int) -> None:
        if args.snapshot:
            export(model, tokenizer, args.snapshot, {**facts, "steps": step})

    for phase in phases:
        head = nn.Linear(model.config.hidden_size, len(LABELS), bias=False)
        if phase.first == 0:
            initialise(model, head)
        else:
            nn.init.zeros_(head.weight)
            if args.learned:
                learned = load_file(args.learned / "model.safetensors")
                model.load_state_dict(learned, strict=False)  # lm_head is the embedding
            with torch.no_grad():  # as that file holds it
                for weight in model.parameters():
                    weight.copy_(weight.half())
        with with_bars(), working(phase.name, phase.steps) as work:
            train(model, head, plain, phase, args.seed, snapshot, work)
    export(model, tokenizer, args.out, facts)


if __name__ == "__main__":
    main()
