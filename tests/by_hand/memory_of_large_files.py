#!/usr/bin/env python3
"""Peak memory of `train` (pairs, and the losses without pairs), `train-preference` and `sft` over files of different sizes: it must not grow
with the file.

    cargo build --release --bin selfplay
    tests/by_hand/memory_of_large_files.py                        # 20 and 80 MB, the quickstart's models
    tests/by_hand/memory_of_large_files.py --megabytes 10,160 --folder /tmp/large

Rows are made by a counter: pairs of about a kilobyte, with reference log-probs, so that no pass over the whole file is needed before the
first step, instructions of 200 bytes, which the model's 256 positions hold, labelled responses of messages for `kto` and `best-of-k`, and groups
of four responses in token ids with the sampler's log-probs for `grpo`. Each command makes --steps steps of 8 examples, pairs cut to 64 tokens; what it reads, makes
tokens of, checks and hashes is the whole file. Printed is the largest resident set of the process, and by how many bytes it grows for each further row.
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
    """Rows until the file has `size` bytes, groups of four whole; returns how many."""
    count = 0
    with open(path, "w") as file:
        while file.tell() < size or count % 4:
            file.write(json.dumps(row(count)) + "\n")
            count += 1
    return count


def pair(number):
    prompt, chosen, rejected = (words(3 * number + part, 50) for part in range(3))
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "ref_chosen_logps": -90.0, "ref_rejected_logps": -91.0}


def instruction(number):
    return {"prompt": words(2 * number, 8), "response": words(2 * number + 1, 16)}


def completion(number):
    said = lambda role, text: [{"role": role, "content": text}]
    prompt, response = words(2 * number, 4), words(2 * number + 1, 60)
    return {"prompt": said("user", prompt), "completion": said("assistant", response), "label": number % 3 == 0, "score": number % 7 / 7}


def member(number):
    group, place = divmod(number, 4)
    ids = lambda start, count: [3 + (start * 7919 + token * 104729) % 200 for token in range(count)]
    response = ids(1_000_000 + number, 40)
    return {
        "prompt_id": str(group),
        "prompt_ids": ids(group, 20),
        "completion_ids": response,
        "advantage": 1.5 - place,
        "logprobs": [-4.0 - token % 5 / 8 for token in range(len(response))],
    }


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
    parser.add_argument("--commands", default="train,kto,best-of-k,grpo,train-preference,sft")
    parser.add_argument("--folder", help="where files and outputs lie (absent: a temporary folder)")
    given = parser.parse_args()
    models = os.path.join(ROOT, "recipes", "quickstart")
    policy = os.path.join(models, "policy")
    # By name: the command, its section of the recipe, the flag of its rows, what makes a row, settings.
    commands = {
        "train": ("train", "train", "--pairs", pair, ["train.loss=dpo"]),
        "kto": ("train", "train", "--pairs", completion, ["train.loss=kto"]),
        "best-of-k": ("train", "train", "--pairs", completion, ["train.loss=best-of-k"]),
        "grpo": ("train", "train", "--pairs", member, ["train.loss=grpo"]),
        "train-preference": ("train-preference", "preference", "--pairs", pair, ["preference.kind=gpm", "preference.holdout=0"]),
        "sft": ("sft", "sft", "--data", instruction, []),
    }
    sizes = [int(size) for size in given.megabytes.split(",")]
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or temporary
        os.makedirs(folder, exist_ok=True)
        print("| command | " + " | ".join(f"{size} MB: rows, peak MiB, s" for size in sizes) + " | bytes a row more |")
        print("|---" * (len(sizes) + 2) + "|")
        for name in given.commands.split(","):
            command, section, flag, row, sets = commands[name]
            cells, counts, peaks = [], [], []
            for size in sizes:
                rows, output = os.path.join(folder, f"{name}-{size}.jsonl"), os.path.join(folder, f"{name}-{size}")
                count = write(rows, size * 1_000_000, row)
                shutil.rmtree(output, ignore_errors=True)
                line = [given.program, command, "--model", policy, flag, rows, "--output", output, "-q"]
                limits = [f"max_steps={given.steps}", "batch_size=8"] + {
                    "train": ["max_length=64", "max_prompt_length=32"],
                    "train-preference": ["max_length=64"],
                    "sft": ["max_length=256"],
                }[command]
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
