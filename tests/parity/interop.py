"""A finished run's files given to transformers, datasets and TRL. Run by hand:

    cargo build --release
    python -m venv /tmp/interop
    /tmp/interop/bin/pip install torch transformers datasets trl
    /tmp/interop/bin/python tests/parity/interop.py runs/quickstart --bin target/release/selfplay

(last run with torch 2.15, transformers 5.23, datasets 5.2, TRL 1.16, CPU). It looks at the last finished iteration,
or at --iteration N, and checks that

1. `policy/` opens with transformers, no tensor missing or left over, and gives the log-probs of `selfplay logprobs`
   on the run's own pairs within 1e-4 nats a token, both in float32;
2. every Parquet file of the iteration opens with `datasets`, with the columns that its kind has;
3. the message lists of `pairs.parquet`, rendered by transformers' chat template, give the `prompt_ids` beside them;
4. TRL's DPOTrainer takes the message lists of `pairs.parquet`, makes the same `prompt_ids` of them, and makes a step
   whose loss is ln 2, as it must be where policy and reference are the same. Where `chosen` and `rejected` are whole
   conversations, as in the reference pipeline, TRL is given them without the column `prompt`: it would put them after
   the prompt, which then stands there twice, and says nothing of it.

One line for each check; exit status 1 as soon as one fails. Nothing is written into the run folder.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from datasets import Dataset, disable_progress_bars
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, PrinterCallback
from transformers.utils.logging import disable_progress_bar

TOLERANCE = 1e-4
COLUMNS = {
    "pairs": {"prompt", "chosen", "rejected", "prompt_ids", "chosen_ids", "rejected_ids", "chosen_probs",
              "chosen_probs_win", "chosen_probs_lose", "chosen_score", "chosen_score_win", "chosen_score_lose"},
    "candidates": {"prompt_id", "prompt_ids", "responses"},
    "preferences": {"prompt_id", "scores", "probabilities", "mean_scores", "mean_probabilities"},
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=pathlib.Path, help="folder of a finished run")
    parser.add_argument("--bin", type=pathlib.Path, default=pathlib.Path("target/release/selfplay"))
    parser.add_argument("--iteration", type=int, help="default: the last one that is finished")
    parser.add_argument("--responses", type=int, default=64, help="how many responses are compared (default 64)")
    return parser.parse_args()


def check(holds, what):
    print(("ok    " if holds else "FAIL  ") + what, flush=True)
    if not holds:
        sys.exit(1)


def iteration_folder(args):
    if args.iteration is not None:
        folder = args.run / f"iteration_{args.iteration:02}"
    else:
        finished = sorted(path.parent for path in args.run.glob("iteration_*/summary.json"))
        folder = finished[-1] if finished else args.run / "iteration_01"
    check((folder / "policy" / "config.json").is_file() and (folder / "pairs.parquet").is_file(),
          f"{folder} holds policy/ and pairs.parquet")
    return folder


def open_tables(folder, scratch):
    """Opens every Parquet file with `datasets`, checks its columns, and returns the pairs."""
    def table(path):
        return Dataset.from_parquet(str(path), cache_dir=str(scratch / "datasets"))

    for kind in ["candidates", "preferences"]:
        files = sorted((folder / kind).glob("*.parquet"))
        tables = [table(path) for path in files]
        lacking = set().union(*(COLUMNS[kind] - set(t.column_names) for t in tables))
        check(bool(files) and not lacking,
              f"datasets opens {len(files)} files of {kind}/, {sum(map(len, tables))} rows, lacking {sorted(lacking)}")
    pairs = table(folder / "pairs.parquet")
    lacking = COLUMNS["pairs"] - set(pairs.column_names)
    check(len(pairs) > 0 and not lacking, f"datasets opens pairs.parquet, {len(pairs)} rows, lacking {sorted(lacking)}")
    for column in ["prompt", "chosen", "rejected"]:
        first = pairs[0][column]
        check(isinstance(first, list) and set(first[0]) == {"role", "content"}, f"{column} is a list of messages")
    return pairs


def open_policy(folder):
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    wrong = {key: sorted(map(str, value)) for key, value in info.items() if value}
    check(not wrong, f"transformers opens policy/ ({type(model).__name__}), amiss: {wrong or 'nothing'}")
    return model.eval()


@torch.no_grad()
def token_log_probs(model, prompt, response):
    logits = model(torch.tensor([prompt + response])).logits[0].float()
    at = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return at.gather(1, torch.tensor(response)[:, None])[:, 0].tolist()


def compare_log_probs(args, folder, model, pairs, scratch):
    rows = []
    for pair in pairs.select(range(min(len(pairs), (args.responses + 1) // 2))):
        for side in ["chosen_ids", "rejected_ids"]:
            if pair[side]:
                rows.append({"prompt_ids": pair["prompt_ids"], "response_ids": pair[side]})
    given, made = scratch / "rows.jsonl", scratch / "log_probs.jsonl"
    given.write_text("".join(json.dumps(row) + "\n" for row in rows))
    subprocess.run([args.bin.resolve(), "logprobs", "-q", "--model", folder / "policy", "--input", given, "--output", made],
                   check=True)
    worst, tokens = 0.0, 0
    for row in map(json.loads, made.read_text().splitlines()):
        want = token_log_probs(model, row["prompt_ids"], row["response_ids"])
        got = row["token_logprobs"]
        if len(got) != len(want) or abs(sum(got) - row["logprob"]) > TOLERANCE * max(1, len(got)):
            check(False, f"a row has {len(want)} log-probs that sum to its `logprob`: {row}")
        worst = max([worst, *(abs(a - b) for a, b in zip(got, want))])
        tokens += len(got)
    check(worst <= TOLERANCE, f"log-probs of transformers and selfplay on {len(rows)} responses, {tokens} tokens: "
                              f"at most {worst:.1e} apart")


def compare_prompts(tokenizer, pairs):
    if tokenizer.chat_template is None:
        print("      no chat template in policy/: prompts are not compared")
        return
    equal = 0
    for pair in pairs:
        ids = tokenizer.apply_chat_template(pair["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
        equal += list(ids) == pair["prompt_ids"]
    check(equal == len(pairs), f"transformers' chat template gives prompt_ids for {equal} of {len(pairs)} prompts")


def one_dpo_step(folder, tokenizer, pairs, scratch):
    from trl import DPOConfig, DPOTrainer

    templateless = tokenizer.chat_template is None
    if templateless:
        # TRL renders message lists by a template; where the policy has none, its prompts were raw text.
        tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
        print("      no chat template in policy/: TRL gets one that joins the contents")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    config = DPOConfig(output_dir=str(scratch / "trl"), max_steps=1, per_device_train_batch_size=4, use_cpu=True,
                       bf16=False, fp16=False, learning_rate=1e-4, warmup_steps=0,
                       lr_scheduler_type="constant", logging_steps=1, save_strategy="no", report_to=[],
                       disable_tqdm=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    # Dropout stays off by default in TRL, so that the first loss is that of equal policies.
    whole = all(pair[side][: len(pair["prompt"])] == pair["prompt"] for pair in pairs for side in ["chosen", "rejected"])
    messages = pairs.select_columns(["chosen", "rejected"] if whole else ["prompt", "chosen", "rejected"])
    trainer = DPOTrainer(model=model, args=config, train_dataset=messages, processing_class=tokenizer)
    equal = sum(a == b for a, b in zip(trainer.train_dataset["prompt_ids"], pairs["prompt_ids"], strict=True))
    if not templateless:
        form = "whole conversations" if whole else "prompts and responses"
        check(equal == len(pairs), f"TRL takes {form} and makes the same prompt_ids of {equal} of {len(pairs)}")
    trainer.remove_callback(PrinterCallback)
    loss = trainer.train().training_loss
    moved = sum(not torch.equal(before[name], weight.detach()) for name, weight in trainer.model.named_parameters())
    check(math.isclose(loss, math.log(2), abs_tol=1e-4) and moved > 0,
          f"TRL's DPOTrainer makes a step: loss {loss:.6f}, {moved} of {len(before)} tensors moved")


def main():
    args = arguments()
    torch.set_num_threads(2)
    disable_progress_bars()
    disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)
    folder = iteration_folder(args)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        pairs = open_tables(folder, scratch)
        model = open_policy(folder / "policy")
        compare_log_probs(args, folder, model, pairs, scratch)
        # tokenizer.json as it is: for some model types AutoTokenizer takes a pre-tokenizer of its own in its place.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "policy")
        compare_prompts(tokenizer, pairs)
        one_dpo_step(folder / "policy", tokenizer, pairs.select(range(min(len(pairs), 64))), scratch)
    print("all ok")


if __name__ == "__main__":
    main()
