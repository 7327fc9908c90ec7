#!/usr/bin/env python3
"""How the time of `selfplay score` grows with the number K of candidates, for a kind that embeds each response.

    python3 tests/by_hand/scoring_by_candidates.py target/release/selfplay [PREFERENCE_MODEL] [ROWS]

The CPU seconds of whole commands for K = 2, 4, 8, 16, 32, less those of one row of two (start, reading the model); the best of three.
Linear: twice the candidates take twice the time (the prompt, which is paid once, makes it a little less). Pairs would make it four
times. Exit 1 where it is nearer to that. The standard library is enough.
"""
import json
import os
import random
import resource
import subprocess
import sys
import tempfile

SIZES = [2, 4, 8, 16, 32]
REPETITIONS = 3


def cpu_seconds(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    selfplay = os.path.abspath(sys.argv[1])
    model = os.path.abspath(sys.argv[2]) if len(sys.argv) > 2 else os.path.join(os.path.dirname(__file__), "../../recipes/quickstart/preference_model")
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 300
    draw = random.Random(0)
    text = lambda size: "".join(draw.choice("abcdefgh 0123456789") for _ in range(size)).strip() or "a"
    with tempfile.TemporaryDirectory() as folder:
        def seconds(k, rows):
            name = f"{folder}/{k}_{rows}.jsonl"
            with open(name, "w") as file:
                for number in range(rows):
                    responses = [{"text": text(40)} for _ in range(k)]
                    print(json.dumps({"prompt_id": str(number), "prompt": text(30), "responses": responses}), file=file)
            line = [selfplay, "score", "--preference-model", model, "--candidates", name, "--output", f"{name}.out.jsonl", "--force", "-q"]
            return min(cpu_seconds(line) for _ in range(REPETITIONS))

        start = seconds(2, 1)
        found = {k: seconds(k, count) - start for k in SIZES}
    wrong = False
    print(f"{count} prompts; start {start:.2f} CPU s\n K   CPU s   per candidate   against half as many")
    for k in SIZES:
        ratio = found[k] / found[k // 2] if k // 2 in found else None
        # Halfway between two and four times, of what can be told from the start's noise.
        wrong |= ratio is not None and found[k] > 1.0 and ratio > 3.0
        print(f"{k:2}  {found[k]:6.2f}  {1e3 * found[k] / k / count:10.3f} ms   {'' if ratio is None else f'{ratio:.2f}'}")
    sys.exit(wrong)


main()
