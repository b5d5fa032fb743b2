"""The verb `report`: one page of what stands on disk, to be opened in a browser or on a website."""

from __future__ import annotations

import argparse
import sys

from minihmx.storage.disk import Disk, new_file
from minihmx.terminal.text import printable, show

PAGE = "report.html"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What is reported on, and where the page goes."""
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a run's folder, a forward and a reverse one, or the folder of an experiment (runs/); "
        "a run's selected epoch is shown, else its last, or RUN@epoch-03",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help=f"a new file, or an earlier page, which is replaced ({PAGE}; with --markdown the "
        "terminal). What a page under 5 MB has no room for goes to a folder beside it, "
        "report-samples",
    )
    parser.add_argument(
        "--markdown", action="store_true", help="Markdown for a README instead of a page"
    )


def run(options: argparse.Namespace) -> int:
    """Read, then write the page; of what is there, only an earlier page is replaced."""
    from minihmx.results.report.first import alerts
    from minihmx.results.report.markdown import markdown_report
    from minihmx.results.report.material import Material
    from minihmx.results.report.page import need_jinja2, own_place, samples_folder, write_page

    if not options.markdown:
        need_jinja2()
    material = Material(options.paths)
    if options.markdown:
        out = new_file("--out", options.out) if options.out is not None else None
        text = markdown_report(material)
        if out:
            Disk().write(out, text.encode())
            print(f"written to {out}", file=sys.stderr)
        else:
            show(text.rstrip("\n"))
        for alert in alerts(material):
            print(printable(alert), file=sys.stderr)
        return 0
    out = own_place(options.out if options.out is not None else PAGE)
    print("reading, and auditing what is read ...", file=sys.stderr)
    page, *beside = write_page(material, out)
    print(f"written to {page} ({page.stat().st_size / 1e6:.1f} MB); open it in a browser")
    for alert in alerts(material):
        show(printable(alert))
    if beside:
        print(f"what found no room is in {samples_folder(out)} ({len(beside)} pages)")
    return 0
