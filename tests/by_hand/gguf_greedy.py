#!/usr/bin/env python3
"""Greedy answers of a GGUF file, id for id what transformers makes of the same file.

    pip install torch transformers gguf
    python tests/by_hand/gguf_greedy.py MODEL.gguf QUESTIONS.jsonl [--bin target/release/selfplay] [--prompts 20] [--tokens 64]

QUESTIONS are MT-bench's (`turns`; the first one is asked) or rows with `prompt`. transformers opens the file by `gguf_file=`, in float32, with
the tokenizer, template and settings that it makes of the metadata itself. Checked for each prompt:

1. the prompt's ids are the same: rendered by the file's chat template, or as it stands where the file has none;
2. every id of ours is the most likely one of transformers' given the ids before it, or a tie: its logit is less than MARGIN below;
3. the answer ends where transformers ends one: at an end token of the file, or at the limit;
4. log-probs are within LOG_PROB of transformers'.

As each id is judged after our own ids, nothing behind a tie is lost. One line for each prompt; exit status 1 if one differs.
(Last run with torch 2.15, transformers 5.23, gguf 0.19, on a CPU.)
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

MARGIN = 1e-3
LOG_PROB = 1e-3


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("questions", type=pathlib.Path)
    parser.add_argument("--bin", type=pathlib.Path, default=pathlib.Path("target/release/selfplay"))
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=64)
    return parser.parse_args()


def questions(args):
    rows = [json.loads(line) for line in args.questions.read_text().splitlines() if line.strip()]
    texts = [row["turns"][0] if "turns" in row else row["prompt"] for row in rows]
    # Evenly over the file, whose rows are sorted by category.
    step = max(1, len(texts) // args.prompts)
    return texts[::step][: args.prompts]


def answers(args, texts, scratch):
    prompts, made = scratch / "prompts.jsonl", scratch / "candidates.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    settings = {"num_samples": 1, "temperature": 0, "max_new_tokens": args.tokens}
    command = [args.bin.resolve(), "sample", "-q", "--model", args.model, "--prompts", prompts, "--output", made]
    for key, value in settings.items():
        command += ["--set", f"sample.{key}={value}"]
    subprocess.run(command, check=True)
    return [json.loads(line) for line in made.read_text().splitlines()]


def prompt_ids(tokenizer, text):
    if not tokenizer.chat_template:
        return tokenizer(text)["input_ids"]
    message = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    return tokenizer(rendered, add_special_tokens=False)["input_ids"]


@torch.no_grad()
def logits_of(model, prompt, response):
    return model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].double()


def end_tokens(model, tokenizer):
    found = {tokenizer.eos_token_id}
    for one in [model.config.eos_token_id, model.generation_config.eos_token_id]:
        found.update(one if isinstance(one, list) else [one])
    return found - {None}


def main():
    args = arguments()
    texts = questions(args)
    with tempfile.TemporaryDirectory(prefix="selfplay-greedy-") as scratch:
        rows = answers(args, texts, pathlib.Path(scratch))
    folder, file = str(args.model.resolve().parent), args.model.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
    ends = end_tokens(model, tokenizer)
    wrong = tokens = ties = 0
    worst = 0.0
    for number, (text, row) in enumerate(zip(texts, rows, strict=True)):
        problems = []
        theirs, response = prompt_ids(tokenizer, text), row["responses"][0]
        ours, ids = row["prompt_ids"], response["ids"]
        if theirs != ours:
            at = next((k for k, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
            problems.append(f"prompt ids part at {at}: {ours[at:at + 4]}, theirs {theirs[at:at + 4]}")
        logits = logits_of(model, ours, ids)
        mine = logits.gather(1, torch.tensor(ids)[:, None])[:, 0]
        behind = logits.max(-1).values - mine
        ties += int((behind > 0).sum())
        if float(behind.max()) >= MARGIN:
            at = int((behind >= MARGIN).nonzero()[0])
            top = int(logits[at].argmax())
            problems.append(f"id {at} is {ids[at]}, theirs {top} by {float(behind[at]):.4f}")
        apart = float((logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]
                       - torch.tensor(response["logprobs"], dtype=torch.double)).abs().max())
        worst = max(worst, apart)
        if apart > LOG_PROB:
            problems.append(f"log-probs are {apart:.2e} apart")
        stopped = [k for k, token in enumerate(ids) if token in ends]
        expected = [len(ids) - 1] if response["finish_reason"] == "stop" else []
        if stopped != expected or not expected and len(ids) != args.tokens:
            problems.append(f"ends by {response['finish_reason']} after {len(ids)} ids; end tokens stand at {stopped}")
        tokens += len(ids)
        wrong += bool(problems)
        print(f"{number:3} {len(ours):4} + {len(ids):3} ids  {'; '.join(problems) or 'the same'}", flush=True)
    print(f"{file}: {len(rows) - wrong} of {len(rows)} the same, {tokens} ids, {ties} of them by a tie, log-probs at most {worst:.1e} apart")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
