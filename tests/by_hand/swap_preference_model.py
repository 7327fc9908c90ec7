#!/usr/bin/env python3
"""Another preference model on the same candidates: what `branch` costs, and what `compare` says.

    python3 tests/by_hand/swap_preference_model.py target/release/selfplay FOLDER [--set KEY=VALUE …]

Runs one iteration of the quickstart with its general preference model, trains a Bradley-Terry model on right and wrong answers of the
quickstart's policy, branches from the candidates with it (which must take less than two seconds), resumes, and compares. The standard
library is enough; exit 1 where the branch took longer, or where `compare` has no agreement of the two.
"""
import json
import os
import subprocess
import sys
import time

BOUND = 2.0


def main():
    selfplay, folder, sets = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2]), sys.argv[3:]
    recipes = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../recipes")
    os.makedirs(folder, exist_ok=True)

    def run(*line):
        start = time.perf_counter()
        done = subprocess.run([selfplay, *line], cwd=folder, check=True, capture_output=True, text=True)
        return done.stdout, time.perf_counter() - start

    run("run", f"{recipes}/quickstart.toml", "-o", "gpm", "-q", "--set", "iterations=1", *sets)
    policy = f"{recipes}/quickstart/policy"
    run("sample", "--model", policy, "--prompts", f"{recipes}/quickstart/prompts/held_out.jsonl", "--output", "answers.jsonl", "-q",
        "--set", "sample.num_samples=5", "--set", "sample.max_new_tokens=16", "--set", "sample.temperature=1")
    with open(f"{recipes}/quickstart/prompts/held_out.jsonl") as file:
        right = {row["prompt"]: row["answer"] for row in map(json.loads, file)}
    with open(f"{folder}/answers.jsonl") as file, open(f"{folder}/labels.jsonl", "w") as labels:
        for row in map(json.loads, file):
            texts = {response["text"] for response in row["responses"]}
            wrong = sorted(texts - {right[row["prompt"]]})
            if wrong:
                print(json.dumps({"prompt": row["prompt"], "chosen": right[row["prompt"]], "rejected": wrong[0]}), file=labels)
    run("train-preference", "--model", policy, "--pairs", "labels.jsonl", "--output", "bt", "-q", "--set", "preference.kind=bradley-terry",
        "--set", "preference.optimizer=adamw", "--set", "preference.learning_rate=1e-4", "--set", "preference.batch_size=64")
    other = ["--set", "score.kind=bradley-terry", "--set", "score.model=bt/preference_model", "--set", "score.tau=1"]
    _, seconds = run("branch", "gpm", "--from", "iteration_01/candidates", "-o", "swapped", "-q", *other)
    run("resume", "swapped", "-q")
    text, _ = run("compare", "gpm", "swapped")
    print(text)
    agreement = json.loads(run("compare", "gpm", "swapped", "--json")[0])["agreement"]
    print(f"branch took {seconds:.2f} s; agreement: {json.dumps(agreement)}")
    sys.exit(seconds > BOUND or len(agreement) != 1 or agreement[0]["changed"] == 0)


main()
