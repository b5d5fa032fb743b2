"""What probes keep beside a base, written as they write it, with answers that a test makes up."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minihmx.judge import parse_score
from minihmx.models.adapters import adapter_digest
from minihmx.probes import stories
from minihmx.probes.checkpoints import ProbePieces
from minihmx.probes.equal_kl import GRID
from minihmx.probes.examples import KEPT, SIDES
from minihmx.probes.panel import panel_digest, panel_items
from minihmx.probes.two_ways import ON_POLICY, PAIRS, SHOWN_SETTINGS, verdict_of_steps
from minihmx.records import Verdict
from minihmx.results.rated import keep_ratings
from minihmx.results.rating import answers_to_rate
from minihmx.results.runs import read_run
from minihmx.storage.identity import text_digest

ASKED = ("temperature", "max_completion_length", "judge_max_tokens", "seed", "dtype", "date")
SCORES = (3, 8, None, 6)  # of the base's answers to each question


def science(runs: Path, direction: str = "forward") -> dict[str, Any]:
    config = json.loads((runs / f"tiny/{direction}/seed-1/config.json").read_text())
    return dict(config["science"])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def evaluated(runs: Path, direction: str) -> list[dict[str, Any]]:
    return lines(runs / f"tiny/{direction}/seed-1/evaluations/epoch-02.jsonl")


def identity(runs: Path) -> dict[str, Any]:
    own = science(runs)
    return {name: own[name] for name in (*ASKED, "chat_format")} | {"model": own["model digest"]}


def pieces(runs: Path, name: str, settings: dict[str, Any]) -> ProbePieces:
    return ProbePieces(runs / "tiny/base", name, settings)


def adapters(runs: Path) -> dict[str, str]:
    folders = {d: runs / f"tiny/{d}/seed-1/checkpoints/epoch-02" for d in SIDES[1:]}
    return {direction: adapter_digest(folder) for direction, folder in folders.items()}


def judged(words: str) -> dict[str, Any]:
    """What is kept of a verdict that was given in these words."""
    verdict = parse_score(words, True)
    scored = verdict if isinstance(verdict, Verdict) else None
    return {
        "judge": words,
        "judge_finish": "stop",
        "score": scored.score if scored else None,
        "span": scored.span if scored else None,
        "unscored": None if isinstance(verdict, Verdict) else verdict.reason,
    }


def best_of(runs: Path, text: str = "an answer") -> Path:
    """The base's four answers to each held-out question of the runs."""
    settings = identity(runs) | {"rubric": science(runs)["rubric digest"], "questions": "q"}
    kept = pieces(runs, "best-of", settings)
    for number, question in enumerate(
        dict.fromkeys(row["question"] for row in evaluated(runs, "forward")), start=1
    ):
        rows = []
        for sample, score in enumerate(SCORES):
            row = judged("No idea." if score is None else f"Score: {score}")
            del row["span"], row["unscored"]
            row |= {"question": question, "sample": sample, "completion": text, "finish": "stop"}
            rows.append(row)
        kept.write(f"question-{number:02d}", rows)
    kept.seal()
    return kept.folder


def equal_kl(runs: Path) -> Path:
    """Forward is at two nats and reverse at one; half of forward's adapter is at one as well."""
    settings = {"dtype": "float32", "noise": [1, 2], **adapters(runs)}
    kept = pieces(runs, "equal-kl", settings | {"model": science(runs)["model digest"]})
    for direction, most in (("forward", 2.0), ("reverse", 1.0)):
        for strength in GRID:
            rows = evaluated(runs, direction)
            for row in rows:
                moved = row["policy_logprob"] - most * strength
                ratio = -most * strength / len(row["ids"])
                row |= {"reference_logprob": moved, "kl": math.exp(ratio) - ratio - 0.99}
                row["reward"] = None if row["score"] is None else float(row["score"])
            kept.write(f"{direction}-x{strength:g}", rows)
    kept.seal()
    return kept.folder


def panel(runs: Path, text: str = "Yes, I am.") -> Path:
    """All three say the same to everything, forward with a no in front."""
    items, own = panel_items(), science(runs)
    settings = identity(runs) | adapters(runs) | {"rubric": own["rubric digest"], "samples": 1}
    kept = pieces(runs, "panel", settings | {"panel": panel_digest(items)})
    rows = []
    for side in SIDES:
        said = f"No. {text}" if side == "forward" else text
        for item in items:
            row = {"question": item.id, "category": item.topic, "prompt": item.text, "sample": 0}
            row |= judged("Score: 5") | {"completion": said, "finish": "stop", "side": side}
            assert row.keys() == {*KEPT, "side"}
            rows.append(row)
    kept.write("answers", rows)
    kept.seal()
    return kept.folder


def emotion(runs: Path, text: str = "It rained.") -> Path:
    """Texts that are all kept, and a gate that is not passed."""
    found = stories.material()
    settings = {name: identity(runs)[name] for name in ("model", "seed", "dtype", "date")}
    settings |= {"material": text_digest(str(found)), "tokens": [120, 150], "chat_format": "tiny"}
    kept, rows = pieces(runs, "emotion", settings), list[dict[str, Any]]()
    wanted = stories.wanted_texts(found, 5, 10)
    for name, asked in wanted.items():
        own = [
            {"emotion": name, "topic": t.topic, "attempt": 0, "text": text, "fate": "kept"}
            for t in asked
        ]
        kept.write(f"stories-{name}", own)
        rows += own
    firsts = {name: ["joy", "fear", "anger"] for name in found.messages}
    kept.write_report(
        {
            "model": {"id": "tiny", "digest": settings["model"]},
            "settings": settings,
            "counts": {"stories": 5, "neutral": 10, "draws": 1, "steering": 0, "directions": 1},
            "texts": stories.fates(rows, wanted),
            "usable": False,
            "why": "the implied emotion is among the first 3 for 3 of 12 messages",
            "runs": [],
            "layers": [2, 3],
            "held_out_accuracy": [0.25, 0.5],
            "neutral_components": [1, 1],
            "layer": 3,
            "chance": 1 / 12,
            "p_accuracy": 0.01,
            "fitted_on": 48,
            "tested_on": 12,
            "rms": 1.0,
            "gate": {"first": firsts, "hits": 3},
        }
    )
    kept.seal()
    return kept.folder


def rate(runs: Path, rater: str = "anna.csv") -> Path:
    """Two people, of whom one says what the judge says, and the other one point more."""
    trained = [read_run(runs / f"tiny/{direction}/seed-1", "epoch-02") for direction in SIDES[1:]]
    answers = answers_to_rate(trained)
    one = {a.row: a.score or 0 for a in answers}
    two = {row: min(10, rating + 1) for row, rating in one.items()}
    return keep_ratings(trained, answers, {rater: one, "ben.csv": two})


def on_policy(runs: Path) -> Path:
    """With forward's adapter; decoding differs by rounding, and all else is equal to the bit."""
    settings = identity(runs) | {"adapter": adapters(runs)["forward"], "questions": "q"}
    settings |= {"samples": 2, "device": "cpu", "machine": "a processor", "threads": 1}
    settings |= {"torch": "2.6.0", "micro_batch": 8, "logit_chunk": 8192, "checkpointing": "auto"}
    kept = pieces(runs, ON_POLICY, settings)
    equal: dict[str, Any] = {"first": None, "place": None, "differing": 0, "largest": 0.0}
    equal |= {"equal_tokens": 40, "mean": 0.0, "ratio": 1.0, "weights": [1.0, 1.0]}
    equal |= {"answer_weights": [1.0, 1.0]}
    gap = {"first": "layer 1, q_proj", "place": [1, 2], "differing": 39, "largest": 0.25}
    gap |= {"equal_tokens": 1, "mean": 0.125, "ratio": 1.01, "answer_weights": [0.5, 2.0]}
    gap |= {"weights": [math.exp(-0.25), math.exp(0.125)]}
    pairs = []
    for pair in PAIRS:
        steps = [{"off": None, **equal}]
        if "decode" in pair:
            steps = [{"off": None, **gap}, {"off": "product shapes", "acts": True, **equal}]
        layers = [0.0, 0.5 if "decode" in pair else 0.0]
        own = {"layers": layers, "steps": steps}
        pairs.append({**pair._asdict(), **verdict_of_steps(steps), **own})
    report = {name: settings[name] for name in SHOWN_SETTINGS}
    report |= {"model": {"id": "tiny", "digest": settings["model"]}, "notices": []}
    report |= {"adapter": "forward/seed-1/epoch-02", "answers": 4, "tokens": 40, "replayed": 1.0}
    report |= {"suspects": {"product shapes": "one token in each product"}, "pairs": pairs}
    kept.write_report(report)
    kept.seal()
    return kept.folder


PROBED = {
    "best-of": best_of,
    "equal-kl": equal_kl,
    "panel": panel,
    "emotion": emotion,
    "rate": rate,
    "on-policy": on_policy,
}


def left_out(runs: Path, out: Path) -> Iterator[Path]:
    """Two copies of the forward run, each with evaluations as if a category had been left out."""
    for category in ("time", "body"):
        run = out / category / "tiny/forward/seed-1"
        shutil.copytree(runs / "tiny/forward/seed-1", run)
        config = json.loads((run / "config.json").read_text())
        config["settings"]["leave_out"] = category
        (run / "config.json").write_text(json.dumps(config))
        starts = json.loads((run / "env.json").read_text())
        starts[0]["command"] = ["minihmx", "train", "tiny", "--leave-out", category]
        (run / "env.json").write_text(json.dumps(starts))
        for epoch, scores in (("00", (2, 4)), ("01", (2, 4)), ("02", (5, 8))):
            path = run / f"evaluations/epoch-{epoch}.jsonl"
            row = lines(path)[0]
            rows = [
                row | {"question": name, "category": name, "score": score}
                for name, score in zip(("time", "body"), scores, strict=True)
            ]
            path.write_text("".join(json.dumps(r, sort_keys=True) + "\n" for r in rows))
        yield run
