#!/usr/bin/env python3
"""Cycles that people's preferences really have: what a general preference model learns of them, and a ranking cannot.

    python3 tests/by_hand/real_cycles.py target/release/selfplay PANDALM_TESTSET.json AUTHORS_CYCLE.jsonl [SEEDS]     # 5

PANDALM_TESTSET is PandaLM's test set as it is published: among its 381 triads one goes in a circle, by all annotators (bloom > cerebras >
llama > bloom). AUTHORS_CYCLE is the GPM authors' A > B > C > D > A. The quickstart's policy is trained on each by itself, with each kind of
head, and measured on the same pairs (cut at the policy's positions): it is asked what the kinds can hold, not what they generalise. A ranking gets 2 of 3 and 3 of 4.
At a rate of 1e-3 all vectors of a GPM became one in three of five seeds (a loss of ln 2): hence 2e-4.
The standard library is enough; exit 1 where GPM or HRC misses a pair, or Bradley-Terry beats a ranking.
"""
import json
import os
import subprocess
import sys
import tempfile

KINDS = {"bradley-terry": [], "gpm": ["preference.tau=1"], "hrc": ["preference.tau=1"]}


def main():
    selfplay, testset, authors = (os.path.abspath(path) for path in sys.argv[1:4])
    seeds = int(sys.argv[4]) if len(sys.argv) > 4 else 5
    recipes = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../recipes/quickstart")
    wrong = False
    with tempfile.TemporaryDirectory() as folder:
        def run(*line):
            return subprocess.run([selfplay, *line], cwd=folder, check=True, capture_output=True, text=True).stdout

        def measure(model, pairs, *sets):
            flags = [word for key in sets for word in ("--set", key)]
            return json.loads(run("eval-preference", "--preference-model", model, "--pairs", pairs, "--json", "-q", *flags))

        found = measure(f"{recipes}/preference_model", testset)["cycles"]
        print(f"PandaLM: {found['triads']} triads, {found['cyclic_by_labels']} in a circle by all annotators' majority")
        wrong |= found["cyclic_by_labels"] != 1
        sets = {"authors": [(row["instruction"], row["chosen"], row["reject"]) for row in map(json.loads, open(authors))]}
        circle = {("bloom-7b", "cerebras-gpt-6.7B"), ("cerebras-gpt-6.7B", "llama-7b"), ("llama-7b", "bloom-7b")}
        sets["pandalm"] = []
        for row in json.load(open(testset)):
            models = row["cmp_key"].split("_")
            if row["instruction"].startswith("You can easily make your holidays more eco-friendly") and set(models) <= {m for pair in circle for m in pair}:
                texts = dict(zip(models, (row["response1"], row["response2"])))
                winner, loser = models if row["annotator1"] in (1, "1") else models[::-1]
                assert (winner, loser) in circle, row["cmp_key"]
                sets["pandalm"].append((row["instruction"], texts[winner], texts[loser]))
        for name, pairs in sets.items():
            with open(f"{folder}/{name}.jsonl", "w") as file:
                for prompt, chosen, rejected in pairs:
                    print(json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected}), file=file)
            ranking = (len(pairs) - 1) / len(pairs)
            for kind, keys in KINDS.items():
                rates = []
                for seed in range(1, seeds + 1):
                    out = f"{name}-{kind}-{seed}"
                    line = [f"preference.kind={kind}", "preference.optimizer=adamw", "preference.learning_rate=2e-4", f"preference.batch_size={len(pairs)}",
                            "preference.epochs=200", "preference.holdout=0", "preference.max_length=256", f"seed={seed}", *keys]
                    flags = [word for key in line for word in ("--set", key)]
                    run("train-preference", "--model", f"{recipes}/policy", "--pairs", f"{name}.jsonl", "--output", out, "-q", *flags)
                    own = [f"score.kind={kind}", *(key.replace("preference.", "score.") for key in keys)]
                    rates.append(measure(f"{out}/preference_model", f"{name}.jsonl", *own)["accuracy"]["rate"])
                right = [rate * len(pairs) for rate in rates]
                print(f"{name}: {kind}: {min(right):g}..{max(right):g} of {len(pairs)} over {seeds} seeds ({' '.join(f'{one:g}' for one in right)})", flush=True)
                wrong |= any(rate > ranking + 1e-9 if kind == "bradley-terry" else rate < 1 for rate in rates)
    sys.exit(wrong)


main()
