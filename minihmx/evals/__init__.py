"""The paper's benchmarks. A new one is a file here and a line in BENCHMARKS. No torch."""

import difflib
from collections.abc import Sequence

from minihmx.errors import UserError, quoted
from minihmx.evals.acpbench import ACPBENCH
from minihmx.evals.are_you_sure import ARE_YOU_SURE
from minihmx.evals.bbh import BBH
from minihmx.evals.bbq import BBQ
from minihmx.evals.benchmark import Benchmark
from minihmx.evals.eq_bench import EQ_BENCH
from minihmx.evals.ifeval import IFEVAL
from minihmx.evals.ruler import RULER
from minihmx.evals.squad_v2 import SQUAD_V2
from minihmx.evals.sycophancy_answer import SYCOPHANCY_ANSWER
from minihmx.evals.toxigen import TOXIGEN
from minihmx.evals.truthfulqa import TRUTHFULQA

BENCHMARKS: dict[str, Benchmark] = {
    "ifeval": IFEVAL,
    "ruler": RULER,
    "truthfulqa_mc2": TRUTHFULQA,
    "toxigen": TOXIGEN,
    "bbq": BBQ,
    "eq_bench": EQ_BENCH,
    "squad_v2": SQUAD_V2,
    "sycophancy_answer": SYCOPHANCY_ANSWER,
    "are_you_sure": ARE_YOU_SURE,
    "bbh": BBH,
    "acpbench": ACPBENCH,
}


def named(names: Sequence[str]) -> list[Benchmark]:
    """The benchmarks of these names, in the order of BENCHMARKS.

    Raises UserError for a name that no benchmark has, with the nearest one that exists.
    """
    for name in names:
        if name not in BENCHMARKS:
            near = difflib.get_close_matches(name, BENCHMARKS, 1)
            guess = f" (did you mean {near[0]}?)" if near else ""
            raise UserError(
                f"Unknown benchmark {quoted(name)}{guess}: take {', '.join(BENCHMARKS)}."
            )
    return [benchmark for name, benchmark in BENCHMARKS.items() if name in names]
