"""The analyses of docs/beyond.md on the page: a section for each whose data lie on the disk.

To add one:

1. Write what draws it, without torch, in a module beside this one: a function of the material that
   yields a `Shown` (shown.py) for each place where its data lie, and nothing where there are none.
   For a probe that keeps its answers in base/probes/NAME-DIGEST (probes.checkpoints.ProbePieces) it
   is `of_probes("NAME", draw)`, where draw makes a Shown of the material and one StoredProbe; the
   folders, their size and whose they are have been looked at by then.
2. What can be made again of the raw answers is made again; what only a model can give is read from
   report.json. Reading may raise whatever it likes: through `safely` that becomes a sentence.
3. Its tables are those that the command prints. One of their notes begins with LIMIT, and stands at
   the end of the section.
4. Add a line to ANALYSES, and a case to CASES in tests/results/test_report_beyond.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from minihmx.results.layout import Table
from minihmx.results.report.compared import (
    judged_shown,
    leave_out_shown,
    sensitivity_shown,
    strengths_shown,
)
from minihmx.results.report.extraction import extraction_shown
from minihmx.results.report.material import Material
from minihmx.results.report.measures import measures_shown
from minihmx.results.report.probes import (
    best_of_shown,
    emotion_shown,
    equal_kl_shown,
    on_policy_shown,
    panel_shown,
    rate_shown,
)
from minihmx.results.report.shown import Draw, of_probes
from minihmx.results.report.views import Section

LIMIT = "This cannot tell"
_MOST_ROWS, _MOST_COLUMNS, _MOST_CHARACTERS = 200, 60, 600  # of a table, and of a cell or a note


class Analysis(NamedTuple):
    """One question. title: as the section's heading asks it. what: in two words, for the line of
    what was not run. command: what is to be typed then. about: how to read it."""

    title: str
    what: str
    command: str
    about: str
    draw: Draw


ANALYSES: dict[str, Analysis] = {
    "sensitivity": Analysis(
        "Does the rule of 7.5 decide the result?",
        "other thresholds",
        "minihmx compare RUNS --sensitivity",
        "The rule that chooses checkpoints with other thresholds, and with held-out questions that "
        "are drawn again.",
        sensitivity_shown,
    ),
    "strengths": Analysis(
        "How strong must the adapter be?",
        "other strengths",
        "minihmx eval MODEL --tasks TASKS --adapter RUN --strength 0.5",
        "The adapter's branch is multiplied by the strength: 0 is the untouched model, and 1 the "
        "adapter as it was trained.",
        strengths_shown,
    ),
    "equal-kl": Analysis(
        "Do both directions lose the same?",
        "equal KL",
        "minihmx probe equal-kl FORWARD REVERSE",
        "Forward and reverse, scaled until both are equally far from the base.",
        of_probes("equal-kl", equal_kl_shown),
    ),
    "leave-out": Analysis(
        "Does it generalise?",
        "a category left out",
        "minihmx train MODEL --leave-out CATEGORY",
        "Runs that were asked a category's questions in their evaluations alone.",
        leave_out_shown,
    ),
    "best-of": Analysis(
        "Was it already there?",
        "best of N",
        "minihmx probe best-of MODEL --adapter RUN",
        "The best of N answers of the base at the KL that choosing costs, and what training got "
        "at its own.",
        of_probes("best-of", best_of_shown),
    ),
    "panel": Analysis(
        "What do they claim of themselves where nobody trained it?",
        "claims",
        "minihmx probe panel FORWARD REVERSE",
        "Twenty questions that are in no training, each answer read by published rules and shown.",
        of_probes("panel", panel_shown),
    ),
    "judged": Analysis(
        "Does another judge see what the reward saw?",
        "other judges and rubrics",
        "minihmx judge RUN --by MODEL, or --rubric all",
        "The judge of training is the model itself, so what its own judge alone likes may be what "
        "training found. Here other models, or the same one with other rubrics, judge the held-out "
        "answers.",
        judged_shown,
    ),
    "on-policy": Analysis(
        "Does the trainer see what the sampler drew?",
        "on-policy to the bit",
        "minihmx probe on-policy MODEL --adapter RUN",
        "With one update per batch the loss takes sampler and trainer for one policy. Here the "
        "log-probs of a few sampled tokens are computed again in every way that the code has.",
        of_probes("on-policy", on_policy_shown),
    ),
    "extraction": Analysis(
        "What does the regex lose?",
        "readers of replies",
        "minihmx eval MODEL --adapter RUN --tasks sycophancy_answer,are_you_sure --extraction",
        "The paper reads replies by regular expressions and takes it that these lose as much in "
        "both directions. Here other readers read the same replies.",
        extraction_shown,
    ),
    "rate": Analysis(
        "Do people see it?",
        "people's ratings",
        "minihmx rate RUN --out FILE, then --in FILE",
        "People rated held-out answers by the words that the judge had. Which model gave one, and "
        "what the judge said of it, they were not told.",
        of_probes("rate", rate_shown),
    ),
    "measures": Analysis(
        "What do appropriate measures give back?",
        "measures",
        "minihmx probe measures FORWARD REVERSE",
        "How much of a benchmark's loss comes back at a weaker adapter, under a system text and "
        "with a passage that holds the answer, and what that costs in expression.",
        measures_shown,
    ),
    "emotion": Analysis(
        "And inside?",
        "emotion vectors",
        "minihmx probe emotion MODEL --adapter RUN",
        "Directions in the base's residual stream for twelve emotions, whether they read anything, "
        "and how far training moved along them.",
        of_probes("emotion", emotion_shown),
    ),
}


def analysis_sections(material: Material) -> Iterator[Section]:
    """Those that were run, and a last one that names the others."""
    left = []
    for name, analysis in ANALYSES.items():
        shown = list(analysis.draw(material))
        if not shown:
            left.append(f"{analysis.what} (`{analysis.command}`)")
            continue
        limits = dict.fromkeys(
            note
            for one in shown
            for table in one.tables
            for note in table.notes
            if note.startswith(LIMIT)
        )
        yield Section(
            name,
            analysis.title,
            (analysis.about,),
            tuple(command for one in shown for command in one.commands),
            [_bounded(table) for one in shown for table in one.tables],
            figures=[figure for one in shown for figure in one.figures],
            cards=[card for one in shown for card in one.cards],
            missing=_cut(" ".join(one.why for one in shown if one.why)),
            limits=tuple(limits),
        )
    if left:
        line = Table("Beyond the paper's tables", notes=[f"Not run: {'; '.join(left)}."])
        yield Section("beyond", "What was not run", tables=[line])


def _bounded(table: Table) -> Table:
    """The table without its limits, and with no more of a damaged file than a page bears."""
    head, *rows = (
        tuple(map(_cut, row[:_MOST_COLUMNS])) for row in (table.head, *table.rows[:_MOST_ROWS])
    )
    notes = [_cut(note) for note in table.notes if not note.startswith(LIMIT)]
    if len(table.rows) > _MOST_ROWS:
        notes.append(f"{len(table.rows) - _MOST_ROWS:,} more rows are not shown.")
    return table._replace(title=_cut(table.title), head=head, rows=rows, notes=notes)


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} ..."
