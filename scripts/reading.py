"""The numbers of docs/reading.md: one real step of `tiny`, made by the package's own functions.

    python scripts/reading.py            # write the numbers into the page
    python scripts/reading.py --check    # exit code 1 if the page differs from a fresh run

The page holds blocks between `<!-- made by scripts/reading.py: NAME -->` and `<!-- end -->`. Only
what stands in these blocks is written; the sentences around them are written by hand.

Another processor rounds otherwise, and after a few updates a rounding may decide which token is
drawn. So a digest of all tokens and verdicts up to this step stands with the numbers, and a page is
compared only with a run that has the same digest.
"""

from __future__ import annotations

import argparse
import math
import platform
import re
import tempfile
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

import torch
from followed import STEP, WEIGHT, Answer, Followed, follow

from minihmx.config import Config
from minihmx.judge import judge_prompt
from minihmx.models import chat
from minihmx.records import Message
from minihmx.seeding import uniform

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reading.md"
# The four answers to this question are short. One of them is shown token by token.
QUESTION, SHOWN = "time-06", 2
MARKED = re.compile(r"(<!-- made by scripts/reading\.py: (\w+) -->\n)(.*?)(<!-- end -->)", re.S)
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]\d+)?")
# How far a decimal may be off: so many units of its last digit, or this share of itself.
UNITS, SHARE = 2, 5e-4


# --- the blocks -----------------------------------------------------------------------------------


def blocks(followed: Followed) -> dict[str, str]:
    """The text of each block by its name."""
    groups, config = followed.groups, followed.run.config
    group = next(g for g in groups if g[0].rollout.question.id == QUESTION)
    return {
        "made": machine(followed),
        **dict(asked(followed, group)),
        **dict(taught(config, group)),
        "tokens": tokens(followed, group[SHOWN - 1]),
        "loss": loss(followed, config.beta),
        **dict(updated(followed, group)),
    }


def table(heads: str, rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; heads are separated by ` | `."""
    names = heads.split(" | ")
    lines = [names, ["---"] * len(names), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def fixed(value: float, digits: int) -> str:
    """So many decimals, and no minus sign in front of a zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def machine(followed: Followed) -> str:
    """What the numbers were made on."""
    kind = torch.backends.cpu.get_cpu_capability()
    version, dtype = torch.__version__.partition("+")[0], followed.run.config.dtype
    return (
        f"Processor: {platform.machine()} with {kind}; torch {version}, {dtype}, one thread.\n"
        f"Digest of all tokens and verdicts of steps 1 to {STEP}: `{followed.digest}`.\n"
    )


def asked(followed: Followed, group: Sequence[Answer]) -> Iterator[tuple[str, str]]:
    """Question, answers and verdicts."""
    prompts, question = followed.run.prompts, group[0].rollout.question
    turn = [Message("user", question.text)]
    prompt = "".join(s.text for s in chat.render(prompts.tokenizer.family, turn, date=prompts.date))
    lines = (files("minihmx") / "data" / "questions.jsonl").read_text("utf-8").splitlines()
    line = next(line for line in lines if f'"{QUESTION}"' in line)
    yield "question", f"```\n{line}\n```\n"
    names = ("train", followed.run.config.seed, followed.metrics["epoch"], QUESTION, 0, 0)
    yield (
        "prompt",
        f"```\n{prompt}\n```\n\nThese are {len(group[0].rollout.prompt_ids)} tokens. The first "
        f"token of answer 1 is drawn with the number that `sha256`\nmakes "
        f"of `{'/'.join(map(str, names))}`: {uniform(*names):.6f}.\n",
    )
    answers, verdicts = [], []
    for i, answer in enumerate(group, start=1):
        rollout, ended = answer.rollout, answer.rollout.completion
        answers.append([i, ended.text, len(ended.ids), f"`{ended.finish_reason}`"])
        record = rollout.line()
        words = record["judge"].replace("\n", "⏎")
        verdicts.append([i, words, list(record["span"]), record["score"], f"{rollout.reward:g}"])
    yield "answers", table("answer | text | tokens | ended by", answers)
    told = judge_prompt("", question.text, group[SHOWN - 1].rollout.completion.text).lstrip()
    yield "judged", f"```\n{told}\n```\n"
    yield "verdicts", table("answer | the judge's words | span | score | reward", verdicts)


def taught(config: Config, group: Sequence[Answer]) -> Iterator[tuple[str, str]]:
    """Advantages and weights."""
    centre, spread = group[0].rollout.group_mean, group[0].rollout.group_std
    assert centre is not None and spread is not None
    rewards = [answer.rollout.reward or 0.0 for answer in group]
    squares = " + ".join(fixed((reward - centre) ** 2, 4) for reward in rewards)
    rows = [
        [i, f"{reward:g}", fixed(reward - centre, 4), fixed(answer.rollout.advantage, 5)]
        for i, (reward, answer) in enumerate(zip(rewards, group, strict=True), start=1)
    ]
    yield (
        "advantages",
        f"mean = ({' + '.join(f'{r:g}' for r in rewards)}) / {len(rewards)} = {centre:.4f}\n\n"
        f"std = sqrt(({squares}) / {len(rewards) - 1}) = {spread:.6f}\n\n"
        + table("answer | reward | reward - mean | advantage", rows)
        + f"\nAnswer 1: {rows[0][2]} / ({spread:.6f} + {config.advantage_epsilon:g}) = {rows[0][3]}"
        "\n",
    )
    lengths = [len(answer.k3) for answer in group]
    yield (
        "weight",
        f"{' + '.join(map(str, lengths))} = {sum(lengths)} tokens, so "
        f"w = 1 / ({config.prompts_per_step} x {sum(lengths)}) = {group[0].weight:.8f}\n",
    )


def tokens(followed: Followed, answer: Answer) -> str:
    """One answer token by token, and the token with the largest k3 worked out."""
    beta, decode = followed.run.config.beta, followed.run.prompts.tokenizer.decode
    advantage, weight = answer.rollout.advantage, answer.weight
    # The token that ends an answer is markup and has no text of its own.
    pieces = [decode([token]) for token in answer.rollout.completion.ids]
    names = [f"`{piece}`" if piece else "end of answer" for piece in pieces]
    rows = []
    columns = zip(names, answer.policy, answer.reference, answer.k3, strict=True)
    for name, policy, reference, k3 in columns:
        term = fixed(weight * (beta * k3 - advantage), 8)
        rows.append([name, fixed(policy, 5), fixed(reference, 5), fixed(k3, 6), term])
    sums = [sum(column) for column in (answer.policy, answer.reference, answer.k3)]
    total = weight * (beta * sums[2] - advantage * len(rows))
    digits = zip([*sums, total], (5, 5, 6, 8), strict=True)
    rows.append(["sum", *(fixed(value, n) for value, n in digits)])
    largest = max(range(len(pieces)), key=lambda i: answer.k3[i])
    name, old, base, k3_shown, term = rows[largest]
    d = answer.reference[largest] - answer.policy[largest]
    slope = weight * (beta * (1 - math.exp(d)) - advantage)
    push = f"({beta:g} x ({fixed(1 - math.exp(d), 5)}) - ({fixed(advantage, 5)}))"
    return (
        table("token | policy | reference | k3 | term of the loss", rows)
        + f"\nThe token {name}: d = {base} - ({old}) = {fixed(d, 5)}, "
        f"`k3 = exp(d) - d - 1` = {k3_shown},\n"
        f"term = {weight:.8f} x ({beta:g} x {k3_shown} - ({fixed(advantage, 5)})) = {term},\n"
        f"slope = {weight:.8f} x {push} = {fixed(slope, 8)}\n"
    )


def loss(followed: Followed, beta: float) -> str:
    """Each group's share of the loss, and their sum, which is the step's."""
    rows = []
    for group in followed.groups:
        surrogate = sum(-a.weight * a.rollout.advantage * len(a.k3) for a in group)
        kl = sum(a.weight * beta * sum(a.k3) for a in group)
        numbers = [fixed(surrogate, 6), fixed(kl, 8), fixed(surrogate + kl, 6)]
        scores = " ".join(str(a.score) for a in group)
        lengths = " ".join(str(len(a.k3)) for a in group)
        means = " ".join(fixed(a.rollout.kl or 0.0, 6) for a in group)
        rows.append([f"`{group[0].rollout.question.id}`", scores, lengths, means, *numbers])
    heads = "question | scores | tokens | mean k3 of each answer | advantage part | KL part | sum"
    return table(heads, rows) + f"\nLoss of the step: {fixed(followed.metrics['loss'], 6)}\n"


def updated(followed: Followed, group: Sequence[Answer]) -> Iterator[tuple[str, str]]:
    """Gradient, learning rate, one number of the adapter, and what the update changed."""
    metrics, config, total = followed.metrics, followed.run.config, followed.run.total_steps
    yield (
        "update",
        f"Gradient norm {metrics['grad_norm']:.6f}, to be clipped above {config.max_grad_norm:g}."
        f"\nUpdates in the whole run {total}, of them warm-up "
        f"{math.ceil(total * config.warmup_ratio)}; peak rate {config.learning_rate:g}; rate of "
        f"this update {metrics['learning_rate']:.6f}.\n",
    )
    before, after = followed.before, followed.after
    rows = [
        ["value", f"{before.value:.6e}", f"{after.value:.6e}"],
        ["gradient g", "", f"{after.gradient:.6e}"],
        ["first moment m", f"{before.first:.6e}", f"{after.first:.6e}"],
        ["second moment v", f"{before.second:.6e}", f"{after.second:.6e}"],
    ]
    place = WEIGHT.removeprefix("base_model.model.")
    heads = "number | before | with this update"
    yield "adam", f"`{place}[0, 0]`:\n\n{table(heads, rows)}"
    changes = []
    for i, answer in enumerate(group, start=1):
        old, new = sum(answer.policy), sum(answer.after)
        numbers = [fixed(old, 4), fixed(new, 4), fixed(new - old, 4)]
        changes.append([i, fixed(answer.rollout.advantage, 5), *numbers])
    heads = "answer | advantage | log-prob before | log-prob after | change"
    yield "after", table(heads, changes)


# --- the page -------------------------------------------------------------------------------------


def written(page: str) -> dict[str, str]:
    """The blocks that stand in a page."""
    return {name: text for _, name, text, _ in MARKED.findall(page)}


def spliced(page: str, made: dict[str, str]) -> str:
    """The page with these blocks in the places of its own."""
    return MARKED.sub(lambda found: found[1] + made[found[2]] + found[4], page)


def differences(page: dict[str, str], made: dict[str, str]) -> list[str]:
    """A sentence for each block that is missing, or differs by more than rounding."""
    found = [f"The page has no block {name!r}." for name in made.keys() - page.keys()]
    found += [f"The script makes no block {name!r}." for name in page.keys() - made.keys()]
    for name in (page.keys() & made.keys()) - {"made"}:
        old, new = page[name], made[name]
        if NUMBER.sub("#", old) != NUMBER.sub("#", new):
            found.append(f"The words of block {name!r} are not those of a fresh run.")
            continue
        pairs = zip(NUMBER.findall(old), NUMBER.findall(new), strict=True)
        off = [f"{a} (a fresh run gives {b})" for a, b in pairs if not near(a, b)]
        if off:
            found.append(f"Block {name!r} holds {', '.join(off)}.")
    return sorted(found)


def near(a: str, b: str) -> bool:
    """Whether two numbers mean the same, up to rounding; whole numbers have to be equal."""
    if a == b or not any(mark in a + b for mark in ".e"):
        return a == b
    mantissa, _, exponent = b.partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return abs(float(a) - float(b)) <= 1.001 * max(UNITS * unit, SHARE * abs(float(b)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write or check the numbers of docs/reading.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; compare")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        followed = follow(Path(folder))
    made, page = blocks(followed), PAGE.read_text("utf-8")
    if not options.check:
        PAGE.write_text(spliced(page, made), "utf-8")
        return
    if followed.digest not in written(page).get("made", ""):
        raise SystemExit(
            f"This machine drew other tokens (digest {followed.digest}) than the one that made "
            "docs/reading.md, so their numbers cannot be compared."
        )
    found = differences(written(page), made)
    if found:
        raise SystemExit("\n".join([*found, "scripts/reading.py writes the page anew."]))
    print("docs/reading.md holds what a fresh run gives.")


if __name__ == "__main__":
    main()
