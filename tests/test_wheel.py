"""The wheel: it holds what the package is, and trains where no checkout is."""

from __future__ import annotations

import importlib.metadata
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from command_line import env
from conftest import ROOT


def done(*words: object, **settings: object) -> str:
    """What a command prints on both streams."""
    run = subprocess.run([*map(str, words)], capture_output=True, text=True, **settings)  # type: ignore[call-overload]
    assert run.returncode == 0, run.stdout + run.stderr
    return str(run.stdout + run.stderr)


def built_by() -> str:
    """The setuptools of this environment, as a requirement."""
    try:
        return f'"setuptools=={importlib.metadata.version("setuptools")}"'
    except importlib.metadata.PackageNotFoundError:
        return "no setuptools here"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the tracked files, so that what lies about here cannot get into it."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    # Where the setuptools that pyproject.toml names is not here already, pip fetches it.
    here = ["--no-build-isolation"] if built_by() in (ROOT / "pyproject.toml").read_text() else []
    done(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *here, "-w", out, copy)
    (found,) = out.glob("*.whl")
    return found


@pytest.mark.slow
def test_it_holds_the_package_whole_and_nothing_else(wheel: Path) -> None:
    package = ROOT / "minihmx"
    files = {p.relative_to(ROOT).as_posix() for p in package.rglob("*") if p.is_file()}
    files = {name for name in files if "__pycache__" not in name}
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in held if ".dist-info/" not in name} == files
    assert any(name.endswith("licenses/LICENSE") for name in held)
    assert wheel.stat().st_size < 10_000_000


@pytest.mark.slow
def test_it_trains_the_bundled_model_in_a_folder_that_is_no_checkout(
    wheel: Path, tmp_path: Path
) -> None:
    """In an environment of its own, which only borrows torch and the like from this one."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    (own,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    away = tmp_path / "away"
    away.mkdir()
    bare = {key: value for key, value in env({}).items() if key != "PYTHONPATH"}
    where = {"cwd": away, "env": bare}
    pip = (sys.executable, "-m", "pip", f"--python={python}")
    done(*pip, "install", "-q", "--no-deps", wheel, **where)
    # A folder named in a .pth file is searched last, and its own .pth files are not read, so that
    # an editable minihmx there stays unseen.
    (own / "borrowed.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    place = done(python, "-c", "import minihmx; print(minihmx.__file__)", **where)
    assert Path(place.strip()).is_relative_to(own)
    command = python.with_name("minihmx")
    sizes = ["--epochs", 1, "--max-completion-length", 32, "--eval-samples", 1]
    out = done(command, "train", "tiny", *sizes, **where)
    assert "evaluation epoch 1 of 1" in out and "step   22/22" in out
    run = Path("runs/tiny/forward/seed-1")
    assert " differ" not in done(command, "audit", run, **where)
    assert "Table 4" in done(command, "compare", "--paper", **where)
    done(command, "report", run, **where)
    assert (away / "report.html").is_file()
