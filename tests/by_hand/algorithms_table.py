#!/usr/bin/env python3
"""Runs the quickstart with several algorithms over several seeds, and prints what a checker says of the answers as a Markdown table.

    cargo build --release --bin selfplay
    tests/by_hand/algorithms_table.py                       # GPO, GPRL, KTO twice, best-of-K, online IPO; seeds 42, 43, 44
    tests/by_hand/algorithms_table.py --seeds 42 --algorithms gpo,gprl,grpo --folder /tmp/table

A figure is the share of right answers among the held-out prompts, in percent: at the start, then after each iteration, the mean over
the seeds and, with several, the standard deviation (n - 1). Runs lie in --folder, one that is finished is not run again. Hyperparameters are
the quickstart's, and nothing was tuned but KTO's β (1, 5, 10 at one seed): the table says that each learns, not which is best.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))

ALGORITHMS = {
    "gpo": ("GPO, best and worst", []),
    "gprl": ("GPRL", ["train.loss=gprl", "score.advantages=per-axis"]),
    "kto": ("KTO, β 1", ["train.loss=kto"]),
    "kto-10": ("KTO, β 10", ["train.loss=kto", "train.beta=10"]),
    "kto-margin": ("KTO, β 10, weighed by margin", ["train.loss=kto", "train.beta=10", "train.pair_weight=margin"]),
    "best-of-k": ("best of 5, SFT", ["train.loss=best-of-k"]),
    "online-ipo": ("online IPO, whole table", ["train.loss=online-ipo", "pair.rule=all"]),
    "grpo": ("GRPO", ["train.loss=grpo"]),
    "margin": ("GPO, all pairs by margin", ["pair.rule=all-above-margin", "train.pair_weight=margin"]),
    "inpo": ("INPO, history of 2", ["train.loss=inpo", "train.eta=0.5", "train.history=2"]),
    "dpo": ("DPO", ["train.loss=dpo", "train.beta=0.1"]),
}


def show(program, folder):
    return json.loads(subprocess.run([program, "show", folder, "--json"], check=True, capture_output=True).stdout)


def run(program, folder, sets, seed):
    """The truth of a run at its start and after each iteration, and its seconds."""
    recipe = os.path.join(ROOT, "recipes", "quickstart.toml")
    started = time.time()
    if os.path.isfile(os.path.join(folder, "manifest.json")):
        command = [program, "resume", folder, "-q"]
    else:
        command = [program, "run", recipe, "-o", folder, "-q", "--set", f"seed={seed}"]
        for one in sets:
            command += ["--set", one]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    seconds = time.time() - started
    shown = show(program, folder)
    truth = [shown["start"]["eval_accuracy"]] + [one["eval_accuracy"] for one in shown["iterations"]]
    return truth, seconds


def cell(values):
    text = f"{100 * statistics.mean(values):.1f}"
    return text + (f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=os.path.join(ROOT, "target", "release", "selfplay"))
    parser.add_argument("--seeds", default="42,43,44")
    parser.add_argument("--algorithms", default="gpo,gprl,kto,kto-10,best-of-k,online-ipo", help=", ".join(ALGORITHMS))
    parser.add_argument("--folder", help="where the runs lie (absent: a temporary folder)")
    given = parser.parse_args()
    names = given.algorithms.split(",")
    for name in names:
        if name not in ALGORITHMS:
            parser.error(f"{name}: one of {', '.join(ALGORITHMS)} is wanted")
    seeds = [int(seed) for seed in given.seeds.split(",")]
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or temporary
        os.makedirs(folder, exist_ok=True)
        rows = []
        for name in names:
            title, sets = ALGORITHMS[name]
            runs = []
            for seed in seeds:
                truth, seconds = run(given.program, os.path.join(folder, f"{name}-{seed}"), sets, seed)
                print(f"{name}, seed {seed}: {truth}, {seconds:.0f} s", file=sys.stderr, flush=True)
                runs.append(truth)
            rows.append([title] + [cell(column) for column in zip(*runs)])
    count = len(rows[0]) - 2
    print(f"| algorithm (seeds {', '.join(map(str, seeds))}) | start | " + " | ".join(f"iteration {n + 1}" for n in range(count)) + " |")
    print("|---" * (count + 2) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
