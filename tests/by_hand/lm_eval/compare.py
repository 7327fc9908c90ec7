#!/usr/bin/env python3
"""lm-evaluation-harness on `selfplay serve` and on transformers: the same accuracies, log-likelihoods to 1e-3.

    pip install 'lm_eval[hf,api]'
    tests/by_hand/lm_eval/compare.py --selfplay target/release/selfplay --model DIR_OR_GGUF [--limit N]

A GGUF is first converted to a folder by transformers, and both sides read that. Both tasks' data lie beside this script. Computed in f32 on both sides.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.chdir(HERE)

import lm_eval  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

TASKS = ["selfplay_facts", "selfplay_last_words"]


def folder_of(model, scratch):
    path = pathlib.Path(model).resolve()
    if path.is_dir():
        return path
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = dict(pretrained_model_name_or_path=path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype="float32")
    # transformers saves no model that came out of a GGUF, though its weights are plain numbers by now.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.save_pretrained(scratch)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    weights = {name: value.contiguous() for name, value in model.state_dict().items() if name not in tied}
    save_file(weights, os.path.join(scratch, "model.safetensors"), metadata={"format": "pt"})
    AutoTokenizer.from_pretrained(**where).save_pretrained(scratch)
    return pathlib.Path(scratch)


def rows(results):
    """Every log-likelihood by task, document and choice, and the metrics."""
    found = {}
    for task in TASKS:
        for sample in results["samples"][task]:
            for place, response in enumerate(sample["filtered_resps"]):
                value, greedy = (response[0], response[1]) if isinstance(response, (list, tuple)) else response
                found[task, sample["doc_id"], place] = (float(value), bool(greedy))
    metrics = {
        (task, name.split(",")[0]): value
        for task in TASKS
        for name, value in results["results"][task].items()
        if isinstance(value, float) and "stderr" not in name
    }
    return found, metrics


def evaluate(model, model_args, limit):
    manager = TaskManager(include_path=str(HERE))
    results = lm_eval.simple_evaluate(
        model=model, model_args=model_args, tasks=TASKS, task_manager=manager, limit=limit, batch_size=8,
        log_samples=True, bootstrap_iters=0,
    )
    return rows(results)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--selfplay", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = folder_of(options.model, scratch)
        server = subprocess.Popen(
            [options.selfplay, "serve", "--model", folder, "--name", "m", "--port", "0", "-q"],
            stdout=subprocess.PIPE, text=True,
        )
        address = server.stdout.readline().strip()
        try:
            ours, our_metrics = evaluate(
                "local-completions",
                f"model=m,base_url={address}/v1/completions,tokenizer={folder},tokenizer_backend=huggingface,num_concurrent=4,max_retries=1",
                options.limit,
            )
        finally:
            server.terminate()
            server.wait()
        theirs, their_metrics = evaluate("hf", f"pretrained={folder},dtype=float32,device=cpu", options.limit)
    worst = max(abs(ours[key][0] - theirs[key][0]) for key in theirs)
    greedy = sum(ours[key][1] != theirs[key][1] for key in theirs)
    print(f"{len(theirs)} log-likelihoods; the greatest difference {worst:.2e}; greedy differs in {greedy}")
    for key, value in their_metrics.items():
        print(f"{'ok ' if abs(our_metrics[key] - value) < 1e-3 * max(1, abs(value)) else 'NOT'} {key}: serve {our_metrics[key]:.4f}, transformers {value:.4f}")
    accuracies = all(our_metrics[key] == value for key, value in their_metrics.items() if key[1].startswith("acc"))
    sys.exit(0 if set(ours) == set(theirs) and worst < 1e-3 and accuracies and not greedy else 1)


if __name__ == "__main__":
    main()
