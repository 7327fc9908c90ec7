#!/usr/bin/env python3
"""How large a report is, and how long it takes, of a run of 20,000 prompts.

    python3 tests/by_hand/report_scale.py target/release/selfplay SMALL_RUN OUT [PROMPTS]

SMALL_RUN is a finished run of any size (`selfplay run recipes/quickstart.toml`). Its folder is copied to OUT/run and filled up: each iteration's
candidates, preferences and pairs are repeated under new prompt ids, with answers of about 300 tokens, until the iterations have PROMPTS
(20,000) in all. Then `selfplay report` is timed three times. Needs `pip install pyarrow`. Exit 1 above 2 MB or 5 s.
"""
import glob
import json
import os
import shutil
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq

SHARD = 256
WORDS = "the a model answers every prompt in five ways and the judge prefers some of them to others because they are better said ".split()


def text_of(number, words):
    return " ".join(WORDS[(number * 7 + place * (1 + number % 5)) % len(WORDS)] for place in range(words))


def fill(folder, prompts):
    shards = sorted(glob.glob(f"{folder}/candidates/*.parquet"))
    candidates = pq.read_table(shards)
    preferences = pq.read_table(sorted(glob.glob(f"{folder}/preferences/*.parquet")))
    pairs = pq.read_table(f"{folder}/pairs.parquet")
    # The sum of a file's bytes stands in its metadata.
    candidates, preferences, pairs = (table.replace_schema_metadata(None) for table in (candidates, preferences, pairs))
    rows, scores = candidates.to_pylist(), {row["prompt_id"]: row for row in preferences.to_pylist()}
    pair_of = {row["prompt_id"]: row for row in pairs.to_pylist()}
    for kind in ["candidates", "preferences"]:
        shutil.rmtree(f"{folder}/{kind}")
        os.mkdir(f"{folder}/{kind}")
    new_pairs, number = [], 0
    for shard in range((prompts + SHARD - 1) // SHARD):
        some, compared = [], []
        for _ in range(min(SHARD, prompts - shard * SHARD)):
            row = json.loads(json.dumps(rows[number % len(rows)]))
            old, new = row["prompt_id"], f"{number}"
            row["prompt_id"] = new
            pair = pair_of.get(old)
            for place, answer in enumerate(row["responses"]):
                length = 220 + (number * 31 + place * 17) % 160
                short = list(answer["ids"])
                answer["text"] = f"{answer['text']} {text_of(number + place, length)}"
                answer["ids"] = short + [(number + place + one) % 300 for one in range(length)]
                answer["logprobs"] = [-0.5 - 0.01 * (one % 90) for one in range(len(answer["ids"]))]
                if pair is not None:
                    for side in ["chosen", "rejected"]:
                        if pair[f"{side}_ids"] == short:
                            pair = dict(pair, prompt_id=new, **{f"{side}_ids": answer["ids"]})
            some.append(row)
            score = dict(scores[old], prompt_id=new)
            score.pop("candidates_digest", None)
            compared.append(score)
            if pair is not None:
                new_pairs.append(dict(pair, prompt_id=new))
            number += 1
        pq.write_table(pa.Table.from_pylist(some, schema=candidates.schema), f"{folder}/candidates/{shard:05}.parquet", compression="zstd")
        schema = preferences.schema
        if "candidates_digest" in schema.names:
            schema = schema.remove(schema.names.index("candidates_digest"))
        pq.write_table(pa.Table.from_pylist(compared, schema=schema), f"{folder}/preferences/{shard:05}.parquet", compression="zstd")
    pq.write_table(pa.Table.from_pylist(new_pairs, schema=pairs.schema), f"{folder}/pairs.parquet", compression="zstd")
    # As many steps as so many pairs give in batches of 64, twice over.
    lines = open(f"{folder}/train/metrics.jsonl").read().splitlines()
    with open(f"{folder}/train/metrics.jsonl", "w") as file:
        for step in range(1, 2 * len(new_pairs) // 64 + 2):
            file.write(json.dumps(dict(json.loads(lines[step % len(lines)]), step=step)) + "\n")


def main():
    program, small, out = sys.argv[1:4]
    prompts = int(sys.argv[4]) if len(sys.argv) > 4 else 20_000
    run, page = os.path.join(out, "run"), os.path.join(out, "large.html")
    if not os.path.exists(run):
        shutil.copytree(small, run)
        iterations = sorted(glob.glob(f"{run}/iteration_*"))
        for iteration in iterations:
            fill(iteration, prompts // len(iterations))
    size = sum(os.path.getsize(path) for path in glob.glob(f"{run}/**/*.parquet", recursive=True))
    print(f"{prompts:,} prompts, {size / 1e6:.0f} MB of Parquet")
    slowest = 0.0
    for _ in range(3):
        began = time.time()
        subprocess.run([program, "report", run, "-o", page, "--force"], check=True, stdout=subprocess.DEVNULL)
        took = time.time() - began
        slowest = max(slowest, took)
        print(f"{took:.2f} s, {os.path.getsize(page):,} bytes")
    sys.exit(1 if slowest > 5.0 or os.path.getsize(page) > 2_000_000 else 0)


if __name__ == "__main__":
    main()
