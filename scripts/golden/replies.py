"""Golden prompts, greedy replies and scores of the six benchmarks that ask for replies.

    pip install -e '.[bench]' wonderwords langdetect immutabledict scipy
    python ../shared/tools/real_model.py smollm2-135m SMOLLM2
    python scripts/golden/replies.py ../shared SMOLLM2 tests/evals/golden_replies.json

and, where transformers is older than 5, for the scores of SQuAD as in golden/squad_v2.py:

    python scripts/golden/replies.py ../shared --squad tests/evals/golden_replies.json

lm-evaluation-harness's own tasks and model class (HFLM.generate_until, fp32, one row at a time) ask
published items in the chat template and without it: SmolLM2-135M a few, random checkpoints with the
published tokenizers of Qwen3 and Llama 3 one of every set. "cut" are models whose context is too
short for the prompts. Only the replies' lengths are changed: they are cut at a few tokens. Of a
prompt the number of its tokens and a digest of their ids are kept. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from rows import Rows, few, made_ruler, published, sampled_ruler  # noqa: E402

DATE = "26 Jul 2024"
# Tokens of a reply.
CAPS = {"bbh": 32, "acpbench": 32, "squad_v2": 24, "ifeval": 64, "eq_bench": 48, "ruler": 24}


# --- lm-eval's side -------------------------------------------------------------------------------


def task_of(folder: Path, benchmark: str, of: str, row: dict[str, Any]) -> Any:
    """lm-eval's own task, told to read this row."""
    import lm_eval
    import squad_v2
    from lm_eval.tasks import TaskManager
    from ruler import FILES

    if benchmark == "squad_v2":
        return squad_v2.local_task([row])
    name, _, kind = of.partition("_")
    shots = "boolq_cot_2shot" if kind == "bool" else "mcq_cot_2shot"
    file = {
        "bbh": f"bbh/cot_fewshot/{of}.yaml",
        "acpbench": f"acpbench/{shots}/{'act_reach' if name == 'areach' else name}.yaml",
        "ifeval": "ifeval/ifeval.yaml",
        "eq_bench": "eq_bench/default.yaml",
        "ruler": f"ruler/{FILES.get(of, of)}.yaml",
    }[benchmark]
    data = folder / "rows.jsonl"
    data.write_text(json.dumps(row) + "\n", "utf-8")
    split = {"ifeval": "train", "eq_bench": "validation"}.get(benchmark, "test")
    changes = {
        "include": str(Path(lm_eval.__file__).parent / "tasks" / file),
        "task": "ours",
        "dataset_path": "json",
        "dataset_name": None,
        "custom_dataset": None,
        "dataset_kwargs": {"data_files": {split: str(data)}, "cache_dir": str(folder / "cache")},
    }
    path = folder / "ours.yaml"
    path.write_text(json.dumps(changes), "utf-8")
    return TaskManager(include_defaults=False).load([str(path)])["tasks"]["ours"]


def asked(model: Any, task: Any, benchmark: str, chat: bool) -> dict[str, Any]:
    """What one item's prompt is in tokens, what the model replies, and how that is scored."""
    task.build_all_requests(
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        chat_template=model.apply_chat_template if chat else None,
        tokenizer_name=model.tokenizer_name if chat else "",
    )
    (request,) = (each for each in task.instances if each.request_type == "generate_until")
    prompt, options = request.args
    cap = min(CAPS[benchmark], options.get("max_gen_toks", 256))
    request.arguments = (prompt, options | {"max_gen_toks": cap})
    given: list[Any] = []
    generate = model._model_generate

    def watched(context: Any, **how: Any) -> Any:
        given.append(context)
        return generate(context=context, **how)

    model._model_generate = watched
    (reply,) = model.generate_until([request], disable_tqdm=True)
    model._model_generate = generate
    ((ids,),) = (context.tolist() for context in given)
    found = {"tokens": len(ids), "sha256": digest(ids), "reply": reply}
    if benchmark != "squad_v2":
        request.resps = [reply]
        task._instances = [request]
        task.apply_filters()
        (said,) = request.filtered_resps.values()
        found["scores"] = task.process_results(request.doc, [said])
    return found


def digest(ids: Sequence[int]) -> str:
    return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()


def evaluate(folder: Path, rows: Rows) -> dict[str, Any]:
    """One model, in both forms: by benchmark, in the order of the rows."""
    from golden_lm_eval import harness

    model = harness(
        folder, batch_size=1, chat_template_args={"enable_thinking": False, "date_string": DATE}
    )
    sha = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    found: dict[str, Any] = {"weights": sha, "max_length": model.max_length}
    for form in ("chat", "plain"):
        found[form] = {}
        for benchmark, of_benchmark in rows.items():
            found[form][benchmark] = []
            for of, row in of_benchmark:
                with tempfile.TemporaryDirectory() as scratch:
                    task = task_of(Path(scratch), benchmark, of, row)
                    each = asked(model, task, benchmark, form == "chat")
                found[form][benchmark].append({"set": of, **each})
            print(folder.name, form, benchmark, flush=True)
    return found


# --- models ---------------------------------------------------------------------------------------


def random_model(shared: Path, folder: Path, family: str, context: int) -> None:
    """A random checkpoint with the published tokenizer and chat template of a family."""
    from golden_lm_eval import SHAPE, TOKENIZER, checkpoint

    folder.mkdir()
    kind = TOKENIZER[family]
    raw = (shared / "tokenizers" / kind / "tokenizer.json.gz").read_bytes()
    checkpoint(folder, family, raw, SHAPE | {"max_position_embeddings": context})
    template = {"qwen3": "qwen3", "llama3": "llama-3.2-3b-instruct"}[kind]
    text = (shared / "templates" / f"{template}.jinja").read_text("utf-8")
    (folder / "chat_template.jinja").write_text(text, "utf-8")


def shortened(folder: Path, into: Path, context: int) -> None:
    """The same model with a shorter context."""
    into.mkdir()
    for path in folder.resolve().iterdir():
        if path.name != "config.json":
            (into / path.name).symlink_to(path)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["max_position_embeddings"] = context
    (into / "config.json").write_text(json.dumps(config), "utf-8")


MODELS = {  # the family, "" for SmolLM2, and the context, 0 for its own
    "smollm2-135m": ("", 0),
    "smollm2-135m, cut": ("", 200),
    "qwen3": ("qwen3", 8192),
    "qwen3, cut": ("qwen3", 200),
    "llama": ("llama", 8192),
}


def model_folder(name: str, shared: Path, smollm2: Path, scratch: Path) -> Path:
    """Where the model is, or has been made."""
    family, context = MODELS[name]
    if not family and not context:
        return smollm2
    folder = scratch / name
    if family:
        random_model(shared, folder, family, context)
    else:
        shortened(smollm2, folder, context)
    return folder


def rows_of(name: str, rows: Rows, folder: Path) -> Rows:
    """What a model is asked; RULER's items at 4096 are made with its own tokenizer."""
    if MODELS[name][1] < 4096:
        return few(rows | {"ruler": sampled_ruler()})
    return rows | {"ruler": list(made_ruler(folder))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path, help="holds data/, templates/ and tokenizers/")
    parser.add_argument("smollm2", type=Path, nargs="?", help="the folder of SmolLM2-135M-Instruct")
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--models", nargs="+", default=[*MODELS], help="make these alone anew")
    parser.add_argument("--squad", type=Path, help="add the scores of SQuAD to this file")
    options = parser.parse_args()
    if options.squad:
        score_squad(options.shared, options.squad)
        return
    import langdetect
    import nltk
    from ifeval import punkt_table

    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    langdetect.DetectorFactory.seed = 0
    packages = ("lm_eval", "torch", "transformers", "tokenizers", "langdetect")
    golden: dict[str, Any] = {
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "date": DATE,
        "caps": CAPS,
        "models": dict.fromkeys(MODELS),
    }
    if options.models != [*MODELS]:
        golden["models"] |= json.loads(options.out.read_text("utf-8"))["models"]
    rows = published(options.shared)
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        nltk.data.path[:] = [str(punkt_table(scratch / "nltk"))]  # looked for, and not used
        folders = {
            name: model_folder(name, options.shared, options.smollm2, scratch)
            for name in options.models
        }
        # all of RULER's items before a task is loaded, which loads other copies of their makers
        asked_of = {name: rows_of(name, rows, folder) for name, folder in folders.items()}
        for name, folder in folders.items():
            golden["models"][name] = evaluate(folder, asked_of[name])
            write(options.out, golden)


def score_squad(shared: Path, path: Path) -> None:
    """Add what the metric of SQuAD's authors says of each reply."""
    from squad_v2 import scores

    golden, questions = json.loads(path.read_text("utf-8")), published(shared)["squad_v2"]
    golden["versions"]["transformers of squad_v2"] = importlib.metadata.version("transformers")
    for model in golden["models"].values():
        for form in ("chat", "plain"):
            for each, (_, question) in zip(model[form]["squad_v2"], questions, strict=True):
                each["scores"] = scores([(question, each["reply"])])
    write(path, golden)


def write(path: Path, golden: dict[str, Any]) -> None:
    path.write_text(json.dumps(golden, ensure_ascii=False, indent=0) + "\n", "utf-8")


if __name__ == "__main__":
    main()
