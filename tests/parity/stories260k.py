"""`selfplay` on stories260K, a real pretrained model of 260,032 parameters, against transformers. Run by hand:

    cargo build --release
    python3 tests/parity/stories260k.py --model STORIES260K/hf --golden STORIES260K/golden_transformers.json

Needs no Python package. The model is llama2.c's stories260K in Hugging Face layout (64 wide, 5 layers, 8 heads over 4
key-value heads, vocabulary 512, context 512, tied). The golden file holds, computed by transformers in float32 on CPU:
`input_ids`, `token_logprobs` (of input_ids[1:]) and `sum_logprob`, `logits_last` (after the last of them), and
`greedy_ids_200` (BOS and the 200 greedy tokens after it). Checked are

1. the greedy ids by `selfplay sample` at temperature 0;
2. the log-probs by `selfplay logprobs`, and those of all 512 tokens after input_ids, within 1e-4;
3. five candidates each for 256 prompts: their form, that they differ, that the sampler's log-probs are those of
   `selfplay logprobs` within 1e-4, and that the same command over the second half of the prompts gives the same
   candidates bit for bit.

One line for each check; exit status 1 as soon as one fails.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import time

TOLERANCE = 1e-4
OPENINGS = ["Once upon a time, there was a", "One day, a", "In the park, a", "There was once a", "Every morning, the",
            "Mom said to the", "At night, the", "The best friend of the", "On a sunny day, a", "Tom saw a",
            "Lily had a", "In a big house lived a", "The teacher smiled at the", "Long ago, a", "It was raining and the",
            "Who was the"]
HEROES = ["little girl", "boy", "dog", "cat", "bird", "fish", "bear", "rabbit", "mouse", "frog", "duck", "horse",
          "big truck", "red ball", "old man", "small tree"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, required=True, help="the model's folder")
    parser.add_argument("--golden", type=pathlib.Path, required=True, help="what transformers computed with it")
    parser.add_argument("--bin", type=pathlib.Path, default=pathlib.Path("target/release/selfplay"))
    return parser.parse_args()


def check(holds, what):
    print(("ok    " if holds else "FAIL  ") + what, flush=True)
    if not holds:
        sys.exit(1)


class Selfplay:
    """The program on JSONL rows."""

    def __init__(self, binary, model, scratch):
        self.binary, self.model, self.scratch, self.calls = binary, model, scratch, 0

    def run(self, command, flag, rows, settings=()):
        self.calls += 1
        given, made = self.scratch / f"{self.calls}_in.jsonl", self.scratch / f"{self.calls}_out.jsonl"
        given.write_text("".join(json.dumps(row) + "\n" for row in rows))
        flags = [word for setting in settings for word in ("--set", setting)]
        subprocess.run([self.binary.resolve(), command, "-q", "--model", self.model, flag, given, "--output", made, *flags],
                       check=True)
        return [json.loads(line) for line in made.read_text().splitlines()]

    def log_probs(self, rows):
        return self.run("logprobs", "--input", rows)

    def sample(self, prompts, *settings):
        return self.run("sample", "--prompts", prompts, settings)


def furthest(got, want):
    return max(abs(a - b) for a, b in zip(got, want, strict=True))


def greedy(selfplay, golden):
    first, want = golden["greedy_ids_200"][:1], golden["greedy_ids_200"][1:]
    row = selfplay.sample([{"prompt_ids": first}], "sample.temperature=0", "sample.num_samples=1",
                          f"sample.max_new_tokens={len(want)}")[0]
    got = row["responses"][0]["ids"]
    equal = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
    check(got == want, f"greedy ids: {equal} of {len(want)} equal")


def log_probs(selfplay, golden):
    ids, want = golden["input_ids"], golden["token_logprobs"]
    row = selfplay.log_probs([{"prompt_ids": ids[:1], "response_ids": ids[1:]}])[0]
    worst = furthest(row["token_logprobs"], want)
    check(worst <= TOLERANCE, f"log-probs of {len(want)} tokens: at most {worst:.1e} apart")
    apart = abs(row["logprob"] - golden["sum_logprob"])
    check(apart <= TOLERANCE * 10, f"their sum: {row['logprob']:.6f}, {apart:.1e} apart")
    logits = golden["logits_last"]
    top = max(logits)
    total = top + math.log(sum(math.exp(x - top) for x in logits))
    rows = selfplay.log_probs([{"prompt_ids": ids, "response_ids": [token]} for token in range(len(logits))])
    worst = furthest([row["logprob"] for row in rows], [x - total for x in logits])
    check(worst <= TOLERANCE, f"log-probs of all {len(logits)} tokens after {len(ids)}: at most {worst:.1e} apart")


def candidates(selfplay):
    prompts = [{"prompt_id": f"{i}-{j}", "prompt": f"{opening} {hero}"}
               for i, opening in enumerate(OPENINGS) for j, hero in enumerate(HEROES)]
    settings = ["sample.num_samples=5", "sample.max_new_tokens=64"]
    start = time.monotonic()
    rows = selfplay.sample(prompts, *settings)
    seconds = time.monotonic() - start
    check([row["prompt_id"] for row in rows] == [p["prompt_id"] for p in prompts], f"{len(rows)} prompts, in order")
    responses = [(row, response) for row in rows for response in row["responses"]]
    check(all(len(row["responses"]) == 5 for row in rows), f"{len(responses)} candidates, five each")
    form = all(1 <= len(r["ids"]) <= 64 and len(r["logprobs"]) == len(r["ids"])
               and (r["finish_reason"] == "stop" or (r["finish_reason"] == "length" and len(r["ids"]) == 64))
               and all(math.isfinite(x) and x <= 0 for x in r["logprobs"]) for _, r in responses)
    tokens = sum(len(r["ids"]) for _, r in responses)
    check(form, f"each with ids, log-probs and a finish reason; {tokens} tokens in {seconds:.1f} s with the start")
    distinct = sum(len({tuple(r["ids"]) for r in row["responses"]}) for row in rows)
    check(distinct > 0.95 * len(responses), f"{distinct} of them distinct within their prompt")
    again = selfplay.log_probs([{"prompt_ids": row["prompt_ids"], "response_ids": r["ids"]} for row, r in responses])
    worst = max(furthest(a["token_logprobs"], r["logprobs"]) for a, (_, r) in zip(again, responses, strict=True))
    check(worst <= TOLERANCE, f"sampler's log-probs and those of `selfplay logprobs`: at most {worst:.1e} apart")
    half = selfplay.sample(prompts[len(prompts) // 2 :], *settings)
    check(half == rows[len(rows) // 2 :], "the second half of the prompts alone gives the same candidates")
    print("      e.g. " + repr(rows[0]["prompt"]) + " -> " + repr(rows[0]["responses"][0]["text"]))


def main():
    args = arguments()
    golden = json.loads(args.golden.read_text())
    with tempfile.TemporaryDirectory() as scratch:
        selfplay = Selfplay(args.bin, args.model, pathlib.Path(scratch))
        greedy(selfplay, golden)
        log_probs(selfplay, golden)
        candidates(selfplay)
    print("all ok")


if __name__ == "__main__":
    main()
