"""The trained checkpoints that a probe compares with their base, and the folder it keeps things in.

Nothing is loaded here. No torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from minihmx.config import FIELDS
from minihmx.errors import DataError, UserError
from minihmx.models import adapters
from minihmx.probes.examples import read_config_file
from minihmx.questions import load_questions, load_rubric
from minihmx.records import Question, finite
from minihmx.storage import strict
from minihmx.storage.disk import dumps, home_path, parse_lines, read_lines, sha256, verify
from minihmx.storage.identity import differences, text_digest
from minihmx.storage.run_folder import Store

if TYPE_CHECKING:
    from minihmx.engine.open import Model

NOT_FINITE = (
    "Logits of the base are not finite in {}, so its {} would be noise; try --dtype bfloat16 or "
    "float32."
)
NUMBERS = ("score", "policy_logprob", "reference_logprob")  # of an evaluation's answer


class Checkpoint(NamedTuple):
    """A run's checkpoint. values: of Config, as the run had them, but for where and how fast it
    computed. digest: of the model that it was trained on."""

    folder: Path
    direction: str
    seed: int
    values: dict[str, Any]
    digest: str

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.folder.parents[1]

    @property
    def title(self) -> str:
        """As in forward/seed-1/epoch-03."""
        return f"{self.direction}/seed-{self.seed}/{self.folder.name}"

    def answers(self, epoch: str = "") -> list[dict[str, Any]]:
        """The held-out answers of its evaluation, or of the same run's at another epoch.

        Raises UserError where there is none, DataError where it holds no answers.
        """
        path = self.run / "evaluations" / f"{epoch or self.folder.name}.jsonl"
        if not path.is_file():
            raise UserError(
                f"{path} is not there, so nothing says what {self.title} answered; name a "
                f"checkpoint that was evaluated, as {self.run}@epoch-01."
            )
        rows = read_lines(path)
        for row in rows:
            numbers = [row.get(name) for name in NUMBERS]
            if not (
                isinstance(row.get("question"), str)
                and isinstance(row.get("ids"), list)
                and all(isinstance(number, int | float | None) for number in numbers)
            ):
                raise DataError(f"{path} holds what is no answer of an evaluation; restore it.")
        return rows


def open_checkpoints(names: Sequence[str]) -> list[Checkpoint]:
    """Find each (RUN, or RUN@epoch-03). Raises UserError for one that lies in no run's folder, is
    there twice, or was trained otherwise than the first but for direction and seed."""
    found = list[Checkpoint]()
    first: dict[str, Any] = {}
    for name in names:
        folder = adapters.find_adapter(name)
        config = read_config_file(folder)
        own = config["science"]
        if differ := differences(first or own, own, {"direction", "seed"}, ("first", "here")):
            raise UserError(
                f"{name} was not trained as {names[0]} was ({differ}), so one base does not serve "
                "both; probe them by separate commands."
            )
        first = first or own
        if any(folder == other.folder for other in found):
            raise UserError(f"--adapter {name} is there twice; give each checkpoint once.")
        given = {
            name: config["settings"].get(name, "") for name in ("model", "questions", "rubric")
        }
        values = given | {name: value for name, value in own.items() if name in FIELDS}
        digest = str(own.get("model digest"))
        found.append(Checkpoint(folder, values["direction"], values["seed"], values, digest))
    return found


def base_settings(checkpoints: Sequence[Checkpoint], flags: Mapping[str, Any]) -> dict[str, Any]:
    """The values of Config to open the base with: the user's, else those of the first run."""
    return (checkpoints[0].values if checkpoints else {}) | dict(flags)


def open_base(
    checkpoints: Sequence[Checkpoint], flags: Mapping[str, Any], *, slow_dtypes: bool = False
) -> Model:
    """The base of these checkpoints, with their settings. Raises Failure (errors.py), for another
    model than they were trained on as well."""
    from minihmx.engine.open import find_model

    try:
        model = find_model(base_settings(checkpoints, flags), slow_dtypes=slow_dtypes)
    except UserError:
        # Another model may have no room for the runs' settings; that it is another is what counts.
        other = find_model(flags, slow_dtypes=slow_dtypes).source if checkpoints else None
        if other:
            refuse_other_base(checkpoints, other.id, other.digest)
        raise
    refuse_other_base(checkpoints, model.source.id, model.source.digest)
    return model


def refuse_other_base(checkpoints: Sequence[Checkpoint], model: str, digest: str) -> None:
    """Raises UserError for a checkpoint that was trained on other weights than these."""
    for checkpoint in checkpoints:
        if checkpoint.digest != digest:
            raise UserError(
                f"{checkpoint.run} was trained on another model than {model} (its digest is "
                f"{checkpoint.digest[:8]}, not {digest[:8]}), so its numbers say nothing about "
                f"this one; give {checkpoint.values['model']!r} as the model."
            )


def held_out(checkpoints: Sequence[Checkpoint], config_questions: str) -> list[Question]:
    """The held-out questions that the first run kept, else those of the config."""
    kept = checkpoints[0].run / "questions.jsonl" if checkpoints else Path()
    path = kept if kept.is_file() else home_path(config_questions) if config_questions else None
    return [question for question in load_questions(path) if question.split == "eval"]


def rubric_of(checkpoints: Sequence[Checkpoint], config_rubric: str) -> str:
    """The rubric that the first run kept, else that of the config."""
    kept = checkpoints[0].run / "rubric.txt" if checkpoints else Path()
    path = kept if kept.is_file() else home_path(config_rubric) if config_rubric else None
    return load_rubric(path)


SETTINGS, SEALED, REPORT_FILE = "settings.json", "manifest.json", "report.json"  # of a probe
WRITTEN_SO_FAR = ".written.json"  # while a probe is not sealed


def probe_folder(name: str, identity: Mapping[str, Any]) -> str:
    """What the folder of a probe with these settings is called: NAME-DIGEST."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"{name}-{digest[:8]}"


def finished_probe(base: Path, name: str, identity: Mapping[str, Any]) -> Path | None:
    """The folder of a probe with these settings that has all that was asked for; None where there
    is none yet. Nothing in it is touched. Raises DataError where a file was changed."""
    folder = base / "probes" / probe_folder(name, identity)
    if not (folder / SEALED).exists():
        return None
    if problem := verify(folder, (SETTINGS,)):
        raise _changed(folder, problem)
    return folder


def _changed(folder: Path, problem: str) -> DataError:
    return DataError(
        f"{folder} is not what was written there ({problem}), so its numbers mean nothing; move it "
        "away, to have it anew."
    )


class ProbePieces:
    """What a probe has a model write, in pieces that are whole or absent: so it may be stopped.

    The folder is DIR/MODEL/base/probes/NAME-DIGEST, where the digest is of everything that decides
    what the model writes; settings.json holds the same as text. manifest.json is there while the
    probe has all that was asked for, and has the digest of every file. While it is not there,
    .written.json has the digests of the pieces, so that none is changed meanwhile.

    Raises UserError where another process is at work there, DataError where a file was changed.
    """

    def __init__(self, base: Path, name: str, identity: Mapping[str, Any]):
        self.store = Store(base / "probes" / probe_folder(name, identity), root=base)
        self.folder = self.store.folder
        self.store.lock()
        if finished_probe(base, name, identity):
            sealed = strict.read_json(self.folder / SEALED)["sha256"]
            self._written = {n: [sealed[n]] for n in sealed if n.endswith(".jsonl")}
        else:
            self._written = self._unsealed()
        self.store.write_json(WRITTEN_SO_FAR, {"sha256": self._written})
        self.store.disk.remove(self.folder / SEALED)
        self.store.write_json(SETTINGS, dict(identity))

    def _unsealed(self) -> dict[str, list[str]]:
        """The digest of each piece that a stopped probe left; of one that was just being replaced
        either will do. A piece that is gone is written anew."""
        path, found = self.folder / WRITTEN_SO_FAR, {}
        record = strict.read_json(path) if path.exists() else {"sha256": {}}
        known = record.get("sha256") if isinstance(record, dict) else None
        if not isinstance(known, dict):
            raise _changed(self.folder, f"{WRITTEN_SO_FAR} names no files")
        for name, digests in known.items():
            if strict.is_own_name(name) and (self.folder / name).is_file():
                found[name] = [sha256(self.folder / name)]
                if not isinstance(digests, list) or found[name][0] not in digests:
                    raise _changed(self.folder, f"{name} differs from {WRITTEN_SO_FAR}")
        return found

    def read(self, name: str, needed: Sequence[str]) -> list[dict[str, Any]]:
        """The records of NAME.jsonl, none where it is absent. Raises as `checked_records` does."""
        path = self.folder / f"{name}.jsonl"
        return checked_records(path, self.store.disk.read(path), needed)

    def write(self, name: str, records: Sequence[Mapping[str, Any]]) -> None:
        """Put them in NAME.jsonl in one stroke."""
        file, text = f"{name}.jsonl", "".join(dumps(record) + "\n" for record in records)
        self._written[file] = [*self._written.get(file, ())[-1:], text_digest(text)]
        self.store.write_json(WRITTEN_SO_FAR, {"sha256": self._written})
        self.store.write_text(file, text)

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Keep in report.json what only the model could make again; null is what is not finite."""
        self.store.write_json(REPORT_FILE, _all_finite(report))

    def seal(self) -> None:
        """All that was asked for is there: write the manifest, so that a change is found."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        names = (path.relative_to(self.folder).as_posix() for path in files)
        digests = {n: sha256(self.folder / n) for n in names if strict.is_own_path(n)}
        self.store.write_json(SEALED, {"sha256": digests})
        self.store.disk.remove(self.folder / WRITTEN_SO_FAR)


def checked_records(path: Path, data: bytes, needed: Sequence[str]) -> list[dict[str, Any]]:
    """The records in the data of a probe's file. Raises DataError where one of them lacks a needed
    field, or has a score that is none."""
    records = parse_lines(path, data)
    if any(not set(needed) <= record.keys() or not _may_score(record) for record in records):
        raise DataError(f"{path} is not what was written there; remove it, to have it anew.")
    return records


def _may_score(record: Mapping[str, Any]) -> bool:
    """Whether what a record has as a score, an answer's or a mean, can be one."""
    score = record.get("score")
    return score is None or (isinstance(score, int | float) and 0 <= score <= 10)


def _all_finite(value: Any) -> Any:
    """The same plain value with None for each number that JSON does not know."""
    if isinstance(value, Mapping):
        return {key: _all_finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_all_finite(inner) for inner in value]
    return finite(value) if isinstance(value, float) else value
