"""The files of a run, found and checked for being whole, for `minihmx explain`. No torch."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minihmx.config import FIELDS
from minihmx.errors import DataError, UserError, quoted
from minihmx.judge import judge_prompt
from minihmx.storage.disk import home_path, read_lines
from minihmx.storage.identity import text_digest
from minihmx.storage.strict import read_file, read_json

_NUMBER, _TEXT = (int, float), (str,)
_PERHAPS = (*_NUMBER, type(None))
ANSWER_FIELDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("question", "category", "prompt", "completion", "finish"), _TEXT),
    **dict.fromkeys(("judge", "judge_finish"), _TEXT),
    **{"sample": (int,), "ids": (list,), "flags": (list,), "span": (list, type(None))},
    **{"score": (int, type(None)), "unscored": (str, type(None))},
    **dict.fromkeys(("reward", "group_mean", "group_std", "advantage"), _PERHAPS),
    **dict.fromkeys(("policy_logprob", "reference_logprob", "kl"), _PERHAPS),
}
LATE: dict[str, Any] = {name: f.default for name, f in FIELDS.items() if f.metadata["late"]}
SCIENCE_FIELDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("direction", "loss_type"), _TEXT),
    **dict.fromkeys(("seed", "generations", "max_completion_length", "eval_samples"), (int,)),
    **dict.fromkeys(("beta", "advantage_epsilon", "max_grad_norm"), _NUMBER),
    **{name: (type(default),) for name, default in LATE.items()},
}


@dataclass(frozen=True)
class Evidence:
    """A run's folder. science: the fields of its experiment, with the defaults of those that its
    config.json leaves out. frame: the chat template's text around one user turn. rubric: the words
    that the judge was told. Both are None if an older version kept none.
    """

    folder: Path
    science: Mapping[str, Any]
    frame: Mapping[str, Any] | None
    rubric: str | None

    def judge_prompt(self, answer: Mapping[str, Any]) -> str | None:
        """The judge's whole prompt about an answer, markup included; None if a part is not kept."""
        if self.rubric is None:
            return None
        return self.framed(judge_prompt(self.rubric, answer["prompt"], answer["completion"]))

    def rubric_differs(self) -> bool:
        """Whether rubric.txt has changed: config.json holds the digest of the run's own rubric."""
        digest = self.science.get("rubric digest")  # older versions kept none
        if digest is None or self.rubric is None:
            return False
        return bool(text_digest(self.rubric.rstrip("\n")) != digest)

    def framed(self, content: str) -> str | None:
        """A user turn as the chat template renders it; None if the template's text is not kept."""
        if self.frame is None:
            return None
        content = content.strip() if self.frame["strips"] else content
        return f"{self.frame['before']}{content}{self.frame['after']}"

    def missing(self) -> list[str]:
        """The files that are not there because an older version did not write them yet."""
        kept = {"prompts.json": self.frame, "rubric.txt": self.rubric}
        return [name for name, value in kept.items() if value is None]


def open_evidence(folder: Path) -> Evidence:
    """The evidence in a run's folder. Raises Failure if it is no run's folder, or is damaged."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no config.json, so it has no steps and no epochs.")
    config = read_json(path)
    science = config.get("science") if isinstance(config, dict) else None
    science = LATE | science if isinstance(science, dict) else {}
    if (
        not _has(science, SCIENCE_FIELDS)
        or any(
            science[name] not in (FIELDS[name].metadata["choices"] or [science[name]])
            for name in SCIENCE_FIELDS
        )
        or min(science["generations"], science["eval_samples"]) < 1
    ):
        raise DataError(f"{path} is no whole config of a run; restore it from a copy.")
    frame = rubric = None
    if (folder / "prompts.json").exists():
        frame = read_json(folder / "prompts.json")
        kinds = {"before": _TEXT, "after": _TEXT, "strips": (bool,)}
        if not isinstance(frame, dict) or not _has(frame, kinds):
            raise DataError(f"{folder / 'prompts.json'} is damaged; restore it from a copy.")
    if (folder / "rubric.txt").exists():
        try:
            rubric = read_file(folder / "rubric.txt").decode().removesuffix("\n")
        except UnicodeDecodeError:
            raise DataError(f"{folder / 'rubric.txt'} is damaged (it is not UTF-8).") from None
    return Evidence(folder, science, frame, rubric)


def run_folder(text: str) -> Path:
    """The folder of this path. Raises UserError unless it holds a run or evaluations."""
    folder = home_path(text)
    if not os.path.isdir(folder) or not any(
        (folder / n).exists() for n in ("config.json", "evals")
    ):
        raise UserError(
            f"There is no run at {folder} (no config.json, no evals/); give a folder that "
            "`minihmx train` made, as runs/tiny/forward/seed-1."
        )
    return folder


def read_answers(evidence: Evidence, name: str) -> list[dict[str, Any]]:
    """The answers in a file of rollouts/ or evaluations/, checked to have every field.

    Raises DataError naming the file, and the line if one is damaged, for a file that is not whole.
    """
    path, science = evidence.folder / name, evidence.science
    rows = science["generations" if name.startswith("rollouts") else "eval_samples"]
    lines = read_lines(path)
    for number, line in enumerate(lines, start=1):
        missing = _lacking(line, ANSWER_FIELDS)
        if not missing and not sound_span(line["span"]):
            missing = ["span"]
        if missing:
            raise DataError(
                f"{path}, line {number}: its {', '.join(missing)} is missing or of another type, "
                "so this is no whole record of an answer; restore the file from a copy."
            )
    groups = {
        tuple(ln["question"] for ln in lines[i : i + rows]) for i in range(0, len(lines), rows)
    }
    if not lines or any(len(group) != rows or len(set(group)) != 1 for group in groups):
        raise DataError(
            f"{path}: its {len(lines)} lines are not {rows} answers to each question, so some are "
            "lost or added; restore the file from a copy."
        )
    return lines


def metrics_line(evidence: Evidence, kind: str, number: int) -> tuple[int, dict[str, Any]]:
    """(line number, line) of metrics.jsonl about a step, or about the evaluation after an epoch.

    Raises DataError if there is no such line.
    """
    path, key = evidence.folder / "metrics.jsonl", "step" if kind == "step" else "epoch"
    for place, line in enumerate(read_lines(path) if path.exists() else [], start=1):
        if line.get("kind") == kind and line.get(key) == number:
            return place, line
    raise DataError(
        f"{path} has no line for {kind} {number}, although its answers are there; restore the file "
        "from a copy."
    )


# --- what there is -------------------------------------------------------------------------------


def numbered(folder: Path, pattern: str) -> list[int]:
    """The numbers in the names of a run's files, such as 17 in rollouts/step-000017.jsonl."""
    found = (re.fullmatch(r"\w+-(\d+)(?:\.jsonl)?", path.name) for path in folder.glob(pattern))
    return sorted(int(match[1]) for match in found if match)


def span_of(numbers: list[int], one: str) -> str:
    """ "steps 1 to 88", "epoch 0", "no steps"; with gaps, that there are some."""
    if not numbers:
        return f"no {one}s"
    if len(numbers) == 1:
        return f"{one} {numbers[0]}"
    gaps = "" if len(numbers) == numbers[-1] - numbers[0] + 1 else ", with gaps"
    return f"{one}s {numbers[0]} to {numbers[-1]}{gaps}"


def what_there_is(folder: Path) -> str:
    """The steps, epochs and benchmarks that a folder holds, in words."""
    steps, epochs = numbered(folder, "rollouts/step-*"), numbered(folder, "evaluations/epoch-*")
    evaluated = sorted(path.name for path in folder.glob("evals/*") if any(path.iterdir()))
    benchmarks = f"the benchmarks {', '.join(evaluated)}" if evaluated else "no benchmarks"
    return f"{span_of(steps, 'step')}, {span_of(epochs, 'epoch')} and {benchmarks}"


def not_there(what: str, word: object, known: Collection[str], where: object) -> UserError:
    """The UserError for a name that `where` does not hold, with the nearest or the first names."""
    near = difflib.get_close_matches(str(word), known, 3) or [*known][:3]
    return UserError(
        f"{where} has no {what} {quoted(str(word))}; among its {len(known)} are {', '.join(near)}."
    )


def sound_span(span: Any) -> bool:
    """Whether this is None, or [start, end) of a text."""
    whole = isinstance(span, list | tuple) and [*map(type, span)] == [int, int]
    return span is None or (whole and 0 <= span[0] <= span[1])


def _has(record: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]]) -> bool:
    return not _lacking(record, kinds)


def _lacking(record: Mapping[str, Any], kinds: Mapping[str, Iterable[type]]) -> list[str]:
    return [n for n, types in kinds.items() if n not in record or type(record[n]) not in types]
