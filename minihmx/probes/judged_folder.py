"""Where the verdicts of another judge, or by another rubric, stand beside a run's own. No torch.

    RUN/judged/<judge>/<rubric>-<digest>/  judge.json  rubric.txt  epoch-03.jsonl  manifest.json

The digest covers all that decides a verdict, so another judge, rubric or setting has a folder of
its own, and nothing that is there is ever replaced.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minihmx.errors import DataError
from minihmx.probes.rubrics import Rubric
from minihmx.records import Unscored, Verdict
from minihmx.storage.disk import read_lines, sha256, verify
from minihmx.storage.identity import text_digest
from minihmx.storage.run_folder import Store
from minihmx.storage.strict import read_json

JUDGED, RECORD, RUBRIC_FILE, SEAL = "judged", "judge.json", "rubric.txt", "manifest.json"
KEY = ("question", "sample")
EPOCH_FILE = re.compile(r"epoch-(\d+)\.jsonl")


def epoch_file(epoch: int) -> str:
    return f"epoch-{epoch:02d}.jsonl"


def stored_answers(run: Path, epoch: int) -> list[dict[str, Any]]:
    """The held-out answers of an epoch, as `docs/files.md` has them.

    Raises DataError where they are not there or are no answers.
    """
    path = run / "evaluations" / epoch_file(epoch)
    try:
        rows = read_lines(path)
        kept = [
            {name: row[name] for name in (*KEY, "prompt", "completion", "score")} for row in rows
        ]
    except (LookupError, TypeError, OSError):
        raise DataError(
            f"{path} is not there or holds no answers to held-out questions, so there is nothing "
            "to judge; restore it, or leave the run out."
        ) from None
    return kept


def verdict_line(
    answer: Mapping[str, Any], text: str, finish: str, verdict: Verdict | Unscored
) -> dict[str, Any]:
    """What a line of judged/ holds: whose answer, what the judge said of it, and what was read."""
    scored = verdict if isinstance(verdict, Verdict) else None
    return {
        **{name: answer[name] for name in KEY},
        "answer": text_digest(answer["completion"]),
        "judge": text,
        "judge_finish": finish,
        "score": scored.score if scored else None,
        "span": scored.span if scored else None,
        "flags": scored.flags if scored else (),
        "unscored": verdict.reason if isinstance(verdict, Unscored) else None,
    }


class JudgedFolder:
    """One judge's verdicts on one run by one rubric, to be added to."""

    def __init__(
        self,
        run: Path,
        judge: str,
        model: Mapping[str, Any],
        rubric: Rubric,
        settings: Mapping[str, Any],
    ):
        self.run, self.rubric = run, rubric
        self.identity = {
            "model": dict(model),
            "rubric": {
                "name": rubric.name,
                "digest": text_digest(rubric.text),
                "inverted": rubric.inverted,
                "criterion": rubric.criterion,
            },
            "settings": dict(settings),
        }
        decides = json.dumps([model["digest"], text_digest(rubric.text), settings], sort_keys=True)
        digest = hashlib.sha256(decides.encode()).hexdigest()
        self.folder = run / JUDGED / judge / f"{rubric.name}-{digest[:8]}"
        self.store = Store(self.folder, root=run)

    def begin(self) -> None:
        """Own the folder. Raises UserError where another process judges here."""
        self.store.lock(", and the same command judges what is left")

    def probed(self) -> dict[str, Any] | None:
        """What the judge's probe found when this folder was begun; None where it was not asked."""
        path = self.folder / RECORD
        found = read_json(path).get("probe") if path.exists() else None
        return found if isinstance(found, dict) else None

    def left(self, epochs: Iterable[int]) -> list[int]:
        """Those of a run's epochs whose verdicts are not there and sealed yet.

        Raises DataError where what was judged is not what stands in evaluations/ now, or was
        changed since.
        """
        there = sealed_epochs(self.folder)
        for epoch in there:
            verdicts_on(self.run, self.folder, epoch)
        return [epoch for epoch in epochs if epoch not in there]

    def add(
        self, epoch: int, lines: Sequence[Mapping[str, Any]], others: Mapping[str, Any]
    ) -> None:
        """Publish the verdicts of an epoch, and seal the folder again.

        others: what judge.json says beside the identity, when it is written first.
        """
        if not (self.folder / RECORD).exists():
            self.store.write_text(RUBRIC_FILE, self.rubric.text + "\n")
            self.store.write_json(RECORD, {**self.identity, **others})
        new = f".{epoch_file(epoch)}.new"
        self.store.write_lines(new, lines)
        self.store.disk.rename(self.folder / new, self.folder / epoch_file(epoch))
        epochs = sorted({*sealed_epochs(self.folder), epoch})
        names = RECORD, RUBRIC_FILE, *map(epoch_file, epochs)
        digests = {name: sha256(self.folder / name) for name in names}
        self.store.write_json(SEAL, {"sha256": digests})


def sealed_epochs(folder: Path) -> list[int]:
    """The epochs that a folder's manifest names; none where there is no manifest yet.

    Raises DataError where a file is not what the manifest says.
    """
    if not (folder / SEAL).exists():
        return []
    if problem := verify(folder, (RECORD, RUBRIC_FILE)):
        raise DataError(
            f"{folder} is not what was written ({problem}), so its verdicts mean nothing; move it "
            "away, and `minihmx judge` makes them again."
        )
    names = read_json(folder / SEAL)["sha256"]
    return sorted(int(found[1]) for name in names if (found := EPOCH_FILE.fullmatch(name)))


def verdicts_on(run: Path, folder: Path, epoch: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each held-out answer of an epoch beside its line in a folder of verdicts.

    Raises DataError where these are not the verdicts on those answers.
    """
    answers, path = stored_answers(run, epoch), folder / epoch_file(epoch)
    lines = read_lines(path)
    theirs = [(*(line.get(name) for name in KEY), line.get("answer")) for line in lines]
    own = [(*(a[name] for name in KEY), text_digest(a["completion"])) for a in answers]
    if theirs != own:
        raise DataError(
            f"{path} holds verdicts on other answers than those of {run / 'evaluations'}, as where "
            f"the run was trained again; move {folder} away, and judge again."
        )
    return list(zip(answers, lines, strict=True))
