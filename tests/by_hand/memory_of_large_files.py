#!/usr/bin/env python3
"""Peak memory of `train`, `train-preference` and `sft` over files of different sizes: it must not grow with the file.

    cargo build --release --bin selfplay
    tests/by_hand/memory_of_large_files.py                        # 20 and 80 MB, the quickstart's models
    tests/by_hand/memory_of_large_files.py --megabytes 10,160 --folder /tmp/large

Rows are made by a counter: pairs of about a kilobyte, with reference log-probs, so that no pass over the whole file is needed before the
first step, and instructions of 200 bytes, which the model's 256 positions hold. Each command makes --steps steps of 8 examples, pairs cut to 64 tokens; what it
reads, makes tokens of, checks and hashes is the whole file. Printed is the largest resident set of the process, and by how many bytes it grows for each further example.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
WORDS = "amber birch cedar delta ember fjord grove heath inlet jetty knoll ledge marsh north ocean plain quartz ridge slope tidal".split()


def words(number, count):
    """`count` words that depend on `number`."""
    out = []
    for place in range(count):
        number = (number * 6364136223846793005 + 1442695040888963407 + place) % (1 << 64)
        out.append(WORDS[(number >> 33) % len(WORDS)])
    return " ".join(out)


def write(path, size, row):
    """Rows until the file has `size` bytes; returns how many."""
    count = 0
    with open(path, "w") as file:
        while file.tell() < size:
            file.write(json.dumps(row(count)) + "\n")
            count += 1
    return count


def pair(number):
    prompt, chosen, rejected = (words(3 * number + part, 50) for part in range(3))
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "ref_chosen_logps": -90.0, "ref_rejected_logps": -91.0}


def instruction(number):
    return {"prompt": words(2 * number, 8), "response": words(2 * number + 1, 16)}


def peak(command):
    """The largest resident set of a command, in bytes, and its seconds."""
    started = time.time()
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(child.pid, 0)
        if status != 0:
            errors.seek(0)
            sys.exit(f"{' '.join(command)}: {errors.read().decode()}")
    return usage.ru_maxrss * 1024, time.time() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=os.path.join(ROOT, "target", "release", "selfplay"))
    parser.add_argument("--megabytes", default="20,80")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--commands", default="train,train-preference,sft")
    parser.add_argument("--folder", help="where files and outputs lie (absent: a temporary folder)")
    given = parser.parse_args()
    models = os.path.join(ROOT, "recipes", "quickstart")
    commands = {
        "train": ("train", "--pairs", pair, os.path.join(models, "policy"), ["train.loss=dpo"]),
        "train-preference": ("preference", "--pairs", pair, os.path.join(models, "policy"), ["preference.kind=gpm", "preference.holdout=0"]),
        "sft": ("sft", "--data", instruction, os.path.join(models, "policy"), []),
    }
    sizes = [int(size) for size in given.megabytes.split(",")]
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or temporary
        os.makedirs(folder, exist_ok=True)
        print("| command | " + " | ".join(f"{size} MB: examples, peak MiB, s" for size in sizes) + " | bytes an example more |")
        print("|---" * (len(sizes) + 2) + "|")
        for name in given.commands.split(","):
            section, flag, row, model, sets = commands[name]
            cells, counts, peaks = [], [], []
            for size in sizes:
                rows, output = os.path.join(folder, f"{name}-{size}.jsonl"), os.path.join(folder, f"{name}-{size}")
                count = write(rows, size * 1_000_000, row)
                shutil.rmtree(output, ignore_errors=True)
                line = [given.program, name, "--model", model, flag, rows, "--output", output, "-q"]
                limits = [f"max_steps={given.steps}", "batch_size=8"] + {
                    "train": ["max_length=64", "max_prompt_length=32"],
                    "train-preference": ["max_length=64"],
                    "sft": ["max_length=256"],
                }[name]
                for one in [f"{section}.{limit}" for limit in limits] + sets:
                    line += ["--set", one]
                bytes_, seconds = peak(line)
                os.remove(rows)
                shutil.rmtree(output)
                cells.append(f"{count}, {bytes_ / (1 << 20):.0f}, {seconds:.0f}")
                counts.append(count)
                peaks.append(bytes_)
            more = (peaks[-1] - peaks[0]) / max(1, counts[-1] - counts[0])
            print(f"| {name} | " + " | ".join(cells) + f" | {more:.0f} |", flush=True)


if __name__ == "__main__":
    main()
