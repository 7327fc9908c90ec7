#!/usr/bin/env python3
"""Adapters of ours in PEFT, and policies of ours trained over NF4 in transformers: the same log-probs.

    pip install torch transformers peft
    python tests/by_hand/peft_opens.py MODEL_FOLDER [--bin target/release/selfplay] [--steps 4]

MODEL_FOLDER is in Hugging Face layout; pairs are drawn ids, so that no tokenizer stands between the two sides. For each kind of adapter (LoRA;
rsLoRA with ranks of its own for some modules; DoRA; PiSSA; LoRA over NF4), trained by `selfplay train` at a rate at which it moves:

1. PEFT opens `adapter/` over the base, and transformers `policy/`, no tensor missing or left over;
2. log-probs of the responses are those of `selfplay logprobs` with the same adapter or policy, within 1e-4 nats a token, in float32;
3. the adapter moves them: else nothing was compared.

A `policy/` over NF4 is the decoded base with the adapter merged; PEFT is given that adapter over the base as it was before it was coded, and so
is ours. One line for each; exit status 1 if one fails. (Last run with torch 2.15, transformers 5.23, PEFT 0.21, on a CPU.)
"""
import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-4
KINDS = {
    "lora": ["train.lora.rank=8"],
    "rslora, patterns": ["train.lora.rank=8", "train.lora.rslora=true", "train.lora.rank_pattern={down_proj = 4}"],
    "dora": ["train.lora.rank=8", "train.lora.dora=true"],
    "pissa": ["train.lora.rank=8", "train.lora.init=pissa"],
    "lora over nf4": ["train.lora.rank=8", "policy.quantize=nf4"],
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--bin", type=pathlib.Path, default=pathlib.Path("target/release/selfplay"))
    parser.add_argument("--steps", type=int, default=4)
    return parser.parse_args()


def selfplay(args, *words):
    subprocess.run([args.bin.resolve(), *words, "-q"], check=True)


def sets(keys):
    return [word for key in keys for word in ("--set", key)]


def log_probs_of(args, model, keys, rows, scratch):
    """Ours: [[per token]]."""
    made = scratch / "scored.jsonl"
    selfplay(args, "logprobs", "--model", model, "--input", rows, "--output", made, "--force", *sets(keys))
    return [json.loads(line) for line in made.read_text().splitlines()]


@torch.no_grad()
def token_log_probs(model, row):
    prompt, response = row["prompt_ids"], row["response_ids"]
    logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].double()
    return logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0].tolist()


def worst(model, rows, scored):
    return max(abs(a - b) for row, own in zip(rows, scored, strict=True)
               for a, b in zip(token_log_probs(model, row), own["token_logprobs"], strict=True))


def open_model(folder):
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    wrong = {key: sorted(map(str, value)) for key, value in info.items() if value}
    return model.eval(), wrong


def main():
    args = arguments()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="selfplay-peft-") as scratch:
        scratch = pathlib.Path(scratch)
        pairs = scratch / "pairs.jsonl"
        vocabulary = json.loads((args.model / "config.json").read_text())["vocab_size"]
        draw = random.Random(1)
        ids = lambda count: [draw.randrange(vocabulary) for _ in range(count)]
        drawn = [{"prompt_ids": ids(20 + i), "chosen_ids": ids(40), "rejected_ids": ids(30 + 3 * i)} for i in range(12)]
        pairs.write_text("".join(json.dumps(pair) + "\n" for pair in drawn))
        rows = [{"prompt_ids": pair["prompt_ids"], "response_ids": pair["chosen_ids"]} for pair in drawn]
        input_rows = scratch / "rows.jsonl"
        input_rows.write_text("".join(json.dumps(row) + "\n" for row in rows))
        base = log_probs_of(args, args.model, ["policy.dtype=f32"], input_rows, scratch)
        for name, keys in KINDS.items():
            out = scratch / name.split(",")[0].replace(" ", "-")
            common = ["train.loss=dpo", "train.learning_rate=2e-3", "train.warmup_ratio=0", f"train.max_steps={args.steps}",
                      "train.batch_size=4", "train.max_length=160", "train.max_prompt_length=80", "train.lora.merge=always",
                      "policy.dtype=f32"]
            selfplay(args, "train", "--model", args.model, "--pairs", pairs, "--output", out, *sets(common + keys))
            adapter = log_probs_of(args, args.model, ["policy.dtype=f32", f"policy.adapter={out}/adapter"], input_rows, scratch)
            policy = log_probs_of(args, out / "policy", ["policy.dtype=f32"], input_rows, scratch)
            moved = max(abs(a - b) for old, new in zip(base, adapter) for a, b in zip(old["token_logprobs"], new["token_logprobs"]))
            model, wrong = open_model(args.model)
            in_peft = worst(PeftModel.from_pretrained(model, out / "adapter").eval(), rows, adapter)
            model, amiss = open_model(out / "policy")
            in_transformers = worst(model, rows, policy)
            ok = not amiss and not wrong and in_peft <= TOLERANCE and in_transformers <= TOLERANCE and moved > 1e-2
            failed += not ok
            print(f"{'ok  ' if ok else 'FAIL'} {name}: adapter in PEFT {in_peft:.1e}, policy in transformers {in_transformers:.1e} apart; "
                  f"moved by {moved:.2f}; amiss: {amiss or wrong or 'nothing'}", flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
