"""Values of a run from a file: TOML with a line for each field, or the config.json of another run.

A file stands for flags: its values are checked as theirs are, and a flag that is typed goes before
it. A run's config.json names the file as the source of the values that came from it. Paths in the
file are read as if they were typed on the command line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from minihmx import __version__
from minihmx.config import FIELDS
from minihmx.errors import UserError, nearest, quoted
from minihmx.storage import strict
from minihmx.storage.disk import home_path

if sys.version_info >= (3, 11):
    import tomllib
else:  # the same library, under the name that it had before Python took it in
    import tomli as tomllib

VALUE_KINDS = {int: "whole number", float: "number", str: "text in quotes"}
# The digests in config.json, and for each the flags with which a run may be given another content.
DIGESTS = {
    "model digest": ("model", "revision"),
    "questions digest": ("questions",),
    "rubric digest": ("rubric",),
}


class ConfigFile(NamedTuple):
    """Fields and their values. digests: of model, questions and rubric, from a run's config.json;
    empty for a TOML file."""

    path: Path
    values: dict[str, Any]
    digests: dict[str, str]

    @property
    def source(self) -> str:
        """The words with which config.json names this file as the source of a value."""
        return f"file {self.path}"

    def without(self, left_out: Mapping[str, str]) -> ConfigFile:
        """The file without the fields that a command of several runs sets itself.

        left_out: each such field, and what a user gives instead of it. A run's config.json always
        has them, so there they are passed over. Raises UserError for a TOML file that has one.
        """
        for name in self.values.keys() & left_out.keys() if self.path.suffix != ".json" else ():
            raise UserError(
                f"{self.path} has {name}, which is of one run alone, and here there are several; "
                f"take that line out, and give {left_out[name]}."
            )
        kept = {name: value for name, value in self.values.items() if name not in left_out}
        return self._replace(values=kept)

    def check_same_files(self, own: Mapping[str, Any], flags: Mapping[str, Any]) -> None:
        """Raises UserError if the new run would read a model, questions or a rubric with another
        content than the run of this config.json, and no flag asks for that. own: the fields of the
        new run's fingerprint."""
        for name, fields in DIGESTS.items():
            there, what = self.digests.get(name), fields[0]
            if there is not None and there != own[name] and not flags.keys() & set(fields):
                copy = {"questions": "questions.jsonl", "rubric": "rubric.txt"}.get(what)
                remedy = f"--{what} {self.path.with_name(copy)}" if copy else "--revision, or MODEL"
                raise UserError(
                    f"{self.path} is of a run whose {what} had another content ({name} "
                    f"{there[:8]} there, {own[name][:8]} here), so this would be another "
                    f"experiment; give {remedy}."
                )


def read_values(text: str) -> ConfigFile:
    """The file that --config names. Raises UserError if it is no config, naming the line or the
    field that is wrong."""
    path = home_path(text)
    try:
        data = strict.read_file(path)
        as_json = path.suffix == ".json"
        found = strict.parse(data) if as_json else tomllib.loads(data.decode("utf-8-sig"))
    except OSError as error:
        raise UserError(
            f"The config file {path} cannot be read ({error.strerror}); give a TOML file, or the "
            "config.json of a run."
        ) from None
    except RecursionError:
        raise UserError(f"{path} is nested too deep; a config is one field a line.") from None
    except ValueError as error:
        kind = "JSON" if as_json else "TOML"
        raise UserError(
            f"{path} is not valid {kind} ({error}); a TOML file has a line for each value, such as "
            "`epochs = 2`, and text stands in quotes."
        ) from None
    if not as_json:
        return ConfigFile(path, _checked(path, found), {})
    found = found if isinstance(found, dict) else {}
    science, settings = found.get("science"), found.get("settings")
    if not isinstance(science, dict) or not isinstance(settings, dict):
        raise UserError(f"{path} is no config.json of a run; give one, or a TOML file (.toml).")
    digests = {name: str(science[name]) for name in DIGESTS if name in science}
    values = {name: value for name, value in science.items() if name not in DIGESTS}
    return ConfigFile(path, _checked(path, values | settings), digests)


def merge_flags(
    flags: Mapping[str, Any], file: ConfigFile | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """The file's values with the flags before them, and the source of what came from the file."""
    values = file.values if file else {}
    left = values.keys() - flags.keys()
    return values | dict(flags), dict.fromkeys(left, file.source if file else "")


def _checked(path: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    """The values, each of its field's type. Raises UserError for a field that there is not."""
    values = {}
    for name, value in found.items():
        if name not in FIELDS:
            there = "`minihmx train --help` lists them, with _ for -."
            what = "a table, and a config has none" if isinstance(value, dict) else "no field"
            hint = nearest(name.replace("-", "_"), FIELDS, there)
            if path.suffix == ".json":  # nobody typed it
                what += f" that minihmx {__version__} has"
                hint = (
                    "another version made that run (env.json beside it says which); install that "
                    "one, or give the values that you want in a TOML file."
                )
            raise UserError(f"{path}: {quoted(name)} is {what}; {hint}")
        default = FIELDS[name].default
        kind = type(default)
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise UserError(
                f"{path}: {name} = {quoted(value)} is no {VALUE_KINDS[kind]}; write it as in "
                f"`{name} = {json.dumps(default)}`."
            )
        values[name] = kind(value)
    return values
