"""Score, KL and length over the epochs of paired runs, as a picture. No torch.

matplotlib draws it and is in the extra `report`; its own state (pyplot) is not touched.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minihmx.errors import DataError, UserError
from minihmx.results.collect import metric_of
from minihmx.results.runs import SeedPair, TrainedRun
from minihmx.storage.disk import home_path, new_file, read_lines

SHOWN_CURVES = {
    "score": "score of 0 to 10",
    "kl": "KL to the base, nats per token",
    "length": "length of an answer, tokens",
}
COLOURS = {"forward": "tab:blue", "reverse": "tab:orange"}
_THRESHOLD = 7.5  # of the score, where the paper's rule looks for the first epoch


def need_matplotlib() -> None:
    """Raises UserError where what draws is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(
            "matplotlib, which draws the plots, is not installed (it is in the extra `report`): "
            f"type `{sys.executable} -m pip install matplotlib` and the same command again."
        )


def new_plot(text: str) -> Path:
    """The first of the two files that --plot TEXT means; both are new.

    Raises UserError where a picture, or no folder, is there, and where nothing can draw.
    """
    need_matplotlib()
    files = _pictures(home_path(text))
    for path in files:
        new_file("--plot", str(path))
    return files[0]


def curves(run: TrainedRun) -> dict[str, list[tuple[int, float]]]:
    """(epoch, value) of each evaluation that has the value, by the names of SHOWN_CURVES.

    Raises DataError for an evaluation's line without a number for its epoch.
    """
    path = run.folder / "metrics.jsonl"
    lines = [line for line in read_lines(path) if line.get("kind") == "evaluation"]
    if not all(type(line.get("epoch")) is int for line in lines):
        raise DataError(f"{path} holds an evaluation without an epoch; restore the file.")
    return {
        name: [(line["epoch"], v) for line in lines if isinstance(v := line.get(name), int | float)]
        for name in SHOWN_CURVES
    }


def draw_curves(pairs: Sequence[SeedPair], target: Path) -> list[Path]:
    """Write target.png and target.svg and return their paths: a row of three panels per model.

    One line a seed and direction; the star is the epoch that is compared.
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(pair.model for pair in pairs))
    figure = Figure(figsize=(12, 3.4 * len(models)), layout="constrained")
    axes = figure.subplots(len(models), len(SHOWN_CURVES), squeeze=False)
    for row, model in zip(axes, models, strict=True):
        for pair in (pair for pair in pairs if pair.model == model):
            for run in pair.runs:
                _add_run(row, run)
        for panel, (name, title) in zip(row, SHOWN_CURVES.items(), strict=True):
            panel.set(title=f"{model}: {title}", xlabel="epoch")
            panel.xaxis.get_major_locator().set_params(integer=True)
            if name == "score":
                panel.axhline(_THRESHOLD, color="gray", linewidth=0.8, linestyle=":")
        handles = [row[0].plot([], [], color=c, label=d)[0] for d, c in COLOURS.items()]
        star = row[0].plot([], [], "*", color="black", label="compared")[0]
        row[0].legend(handles=[*handles, star], fontsize="small")
    return _saved(figure, target)


def _add_run(panels: Sequence[Any], run: TrainedRun) -> None:
    chosen = int(run.epoch.removeprefix("epoch-"))
    for panel, points in zip(panels, curves(run).values(), strict=True):
        colour = COLOURS[run.direction]
        gid = f"{run.model}-{run.direction}-seed-{run.seed}"
        epochs, values = [epoch for epoch, _ in points], [value for _, value in points]
        panel.plot(epochs, values, color=colour, linewidth=1, marker=".", alpha=0.7, gid=gid)
        marked = [value for epoch, value in points if epoch == chosen]
        panel.plot([chosen] * len(marked), marked, "*", color=colour, markersize=11)


def draw_best_of(report: Mapping[str, Any], target: Path) -> list[Path]:
    """What `probe best-of` reports, as target.png and target.svg: score against KL."""
    need_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    panel = figure.subplots()
    for name, direction in (("best", "forward"), ("worst", "reverse")):
        known = [point for point in report[name] if point["score"] is not None]
        panel.errorbar(
            [point["bound"] for point in known],
            [point["score"] for point in known],
            [point["error"] or 0.0 for point in known],
            color=COLOURS[direction],
            marker=".",
            label=f"{name} of N = 1 to {report[name][-1]['n']} of the base",
        )
    for run in report["runs"]:
        if None not in (run["kl"], run["score"]):
            panel.errorbar(
                run["kl"],
                run["score"],
                run["score_error"] or 0.0,
                run["kl_error"] or 0.0,
                fmt="*",
                color=COLOURS[run["direction"]],
                markersize=11,
                label=run["run"],
            )
    panel.axhline(_THRESHOLD, color="gray", linewidth=0.8, linestyle=":")
    panel.set(xlabel="KL to the base, nats per answer", ylabel=SHOWN_CURVES["score"])
    panel.legend(fontsize="small")
    return _saved(figure, target)


def draw_measures(report: Mapping[str, Any], target: Path) -> list[Path]:
    """What `probe measures` reports, as target.png and target.svg: a panel for each metric.

    Across, the expression that is kept; upwards, how much of the metric came back. The line goes
    from the adapter as it was trained over its weaker strengths to the base, where all has.
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    found: Sequence[Mapping[str, Any]] = report["effects"]
    metrics = list(dict.fromkeys(e["of"] for e in found if e["of"] != "score"))
    figure = Figure(figsize=(4.6 * len(metrics), 4.2), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for panel, name in zip(panels, metrics, strict=True):
        metric = metric_of(name)
        for direction, colour in COLOURS.items():
            here = [e for e in found if e["direction"] == direction]
            kept = {e["asked"]["name"]: e for e in here if e["of"] == "score"}
            lost = [e for e in here if e["of"] == name and e["asked"]["name"] in kept]
            _add_measures(panel, direction, colour, lost, kept, metric.scale)
        panel.axhline(0, color="gray", linewidth=0.8, linestyle=":")
        panel.set(title=metric.title, xlabel="held-out score away from the base's, points")
        panel.set_ylabel(f"came back, {metric.unit or 'points'}")
    named = dict[str, Any]()  # of all panels, as not every benchmark can be told a passage
    for panel in panels:
        handles, labels = panel.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    both = [*named.values()], [*named]
    figure.legend(*both, loc="outside lower center", ncols=2 * len(metrics), fontsize="small")
    return _saved(figure, target)


def _add_measures(
    panel: Any,
    direction: str,
    colour: str,
    lost: Sequence[Mapping[str, Any]],
    kept: Mapping[str, Mapping[str, Any]],
    scale: float,
) -> None:
    sign, line, marks = (1.0 if direction == "forward" else -1.0), list[tuple[float, float]](), 0
    for effect in lost:
        asked, price = effect["asked"], kept[effect["asked"]["name"]]["effect"]
        place = sign * price["value"], scale * effect["change"]["value"]
        if not asked["system"] and not asked["passage"]:
            line.append(place)
            continue
        panel.errorbar(
            *place,
            scale * (effect["change"]["error"] or 0.0),
            price["error"] or 0.0,
            fmt="s^D*vP"[marks % 6],
            color=colour,
            elinewidth=0.8,
            label=f"{direction}, {asked['name']}",
        )
        marks += 1
    if line:  # it ends at the base, where all of the loss is back and nothing is kept
        line.append((0.0, -scale * lost[0]["effect"]["value"]))
        label = f"{direction}, strength 1 to 0"
        panel.plot(*zip(*line, strict=True), color=colour, marker=".", label=label)


def _pictures(target: Path) -> list[Path]:
    """The two files of a target, which may have the ending of one of them."""
    target = target.with_suffix("") if target.suffix in (".png", ".svg") else target
    return [target.with_name(f"{target.name}.{kind}") for kind in ("png", "svg")]


def _saved(figure: Any, target: Path) -> list[Path]:
    import matplotlib

    target.parent.mkdir(parents=True, exist_ok=True)
    written = _pictures(target)
    # the same curves give the same bytes: no clock in the file, and no random names in the SVG
    with matplotlib.rc_context({"svg.hashsalt": "minihmx"}):
        figure.savefig(written[0], dpi=150)
        figure.savefig(written[1], metadata={"Date": None})
    return written
