#!/usr/bin/env python3
"""KTO of `selfplay train` against TRL's KTOTrainer: loss, gradient and weights of the same steps on the same rows.

    cargo build --release --bin selfplay
    target/release/selfplay run recipes/quickstart.toml -o /tmp/kto --set train.loss=kto --set iterations=1 --set prompts.max_prompts=400
    python -m venv /tmp/trl && /tmp/trl/bin/pip install torch transformers datasets trl pyarrow
    /tmp/trl/bin/python tests/by_hand/kto_against_trl.py /tmp/kto/iteration_01/unpaired.parquet recipes/quickstart/policy

(last run with torch 2.15, transformers 5.23, TRL 1.16, CPU). Both make --steps steps of --batch rows in the file's order, in float32 and
at a constant rate. TRL takes y' from the neighbour in its batch and this project from the row half of the data further on: TRL is given
this project's, by a trainer that leaves its data set as it is. Exit 1 where a difference is above its bound.
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

import pyarrow.parquet as parquet
import torch
from datasets import Dataset, disable_progress_bars
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, PrinterCallback, ProgressCallback
from transformers.utils.logging import disable_progress_bar
from trl import KTOConfig, KTOTrainer

ROOT = pathlib.Path(__file__).resolve().parents[2]
RATE = 5e-5


class AsItIs(KTOTrainer):
    """TRL's trainer over rows that have y' already; keeps the first gradient as it is before clipping."""

    first_gradient = None

    def _prepare_dataset(self, dataset, *_):
        return dataset

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        if self.first_gradient is None:
            self.first_gradient = {name: one.grad.clone() for name, one in self.model.named_parameters()}
        return loss


def other_prompts(rows):
    """The y' of each row, as `trainer/src/objectives/completions/unpaired.rs` picks it."""
    count = len(rows)
    for place, row in enumerate(rows):
        others = (rows[(place + count // 2 + step) % count] for step in range(count))
        yield next(other["completion_ids"] for other in others if other["prompt_ids"] != row["prompt_ids"])


def ours(given, rows, policy, folder):
    table = folder / "rows.jsonl"
    with open(table, "w") as file:
        for row in rows:
            file.write(json.dumps({name: row[name] for name in ("prompt_id", "prompt_ids", "completion_ids", "label")}) + "\n")
    sets = {
        "train.loss": "kto", "train.beta": given.beta, "train.optimizer": given.optimizer, "train.learning_rate": RATE,
        "train.lr_schedule": "constant", "train.warmup_ratio": 0, "train.batch_size": given.batch, "train.max_steps": given.steps,
        "train.shuffle": "false", "train.max_length": 256, "train.max_prompt_length": 200, "train.save_initial_gradients": "true",
        "train.desirable_weight": given.desirable, "train.undesirable_weight": given.undesirable, "policy.dtype": "f32",
    }
    line = [given.program, "train", "--model", policy, "--pairs", table, "--output", folder / "out", "-q"]
    for key, value in sets.items():
        line += ["--set", f"{key}={value}"]
    subprocess.run([str(word) for word in line], check=True)
    steps = [json.loads(line) for line in open(folder / "out" / "metrics.jsonl")]
    return steps, load_file(folder / "out" / "gradients_step_1.safetensors"), load_file(folder / "out" / "policy" / "model.safetensors")


def theirs(given, rows, policy, folder):
    def model():
        return AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32, attn_implementation="eager")

    dataset = Dataset.from_list([
        {"prompt_ids": row["prompt_ids"], "completion_ids": row["completion_ids"], "KL_completion_ids": other, "label": row["label"]}
        for row, other in zip(rows, other_prompts(rows))
    ])
    arguments = KTOConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=given.batch, max_steps=given.steps, learning_rate=RATE,
        lr_scheduler_type="constant", warmup_steps=0, beta=given.beta, desirable_weight=given.desirable, undesirable_weight=given.undesirable,
        optim={"rmsprop": "rmsprop", "adamw": "adamw_torch"}[given.optimizer], adam_epsilon=1e-8, weight_decay=0.0, max_grad_norm=1.0,
        logging_steps=1, report_to=[], save_strategy="no", bf16=False, use_cpu=True, gradient_checkpointing=False, max_length=None,
        train_sampling_strategy="sequential", remove_unused_columns=False, disable_tqdm=True,
    )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(policy)
    trainer = AsItIs(model=model(), ref_model=model(), args=arguments, train_dataset=dataset, processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.train()
    steps = [line for line in trainer.state.log_history if "loss" in line]
    return steps, trainer.first_gradient, {name: one.detach() for name, one in trainer.model.named_parameters()}


def distance(ours, theirs):
    """‖ours − theirs‖ / ‖theirs‖ over all tensors that TRL's model has."""
    apart = sum(float((ours[name].double() - theirs[name].double()).square().sum()) for name in theirs)
    return (apart / sum(float(one.double().square().sum()) for one in theirs.values())) ** 0.5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=pathlib.Path, help="unpaired.parquet of an iteration")
    parser.add_argument("policy", help="the folder that the iteration started from")
    parser.add_argument("--program", default=str(ROOT / "target" / "release" / "selfplay"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--desirable", type=float, default=1.0)
    parser.add_argument("--undesirable", type=float, default=1.0)
    parser.add_argument("--optimizer", default="rmsprop", choices=["rmsprop", "adamw"])
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    disable_progress_bars()
    disable_progress_bar()
    rows = parquet.read_table(given.rows, columns=["prompt_id", "prompt_ids", "completion_ids", "label"]).slice(0, given.steps * given.batch).to_pylist()
    if len(rows) < given.steps * given.batch:
        sys.exit(f"{given.rows}: {len(rows)} rows, {given.steps * given.batch} are wanted")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        our_steps, our_gradient, our_weights = ours(given, rows, given.policy, folder)
        trl_steps, trl_gradient, trl_weights = theirs(given, rows, given.policy, folder)
        start = AutoModelForCausalLM.from_pretrained(given.policy, dtype=torch.float32)
        start = {name: one.detach() for name, one in start.named_parameters()}
    print(f"{given.steps} steps of {given.batch} rows, beta {given.beta}, {given.optimizer}, weights {given.desirable} and {given.undesirable}")
    print("step  loss: ours, TRL           gradient norm: ours, TRL     z0: ours, TRL")
    worst = 0.0
    for mine, other in zip(our_steps, trl_steps):
        worst = max(worst, abs(mine["loss"] - other["loss"]))
        z0 = max(0.0, mine["reward_rejected"] / given.beta)
        print(f"{mine['step']:4}  {mine['loss']:.7f}  {other['loss']:.7f}    {mine['grad_norm']:.6f}  {float(other['grad_norm']):.6f}    {z0:.5f}  {other['kl']:.5f}")
    moved = distance({name: our_weights[name] - start[name] for name in start}, {name: trl_weights[name] - start[name] for name in start})
    figures = {
        "largest difference of a loss": (worst, 2e-4),
        "first gradient, |ours - TRL| / |TRL|": (distance(our_gradient, trl_gradient), 1e-4),
        "weights after the last step, |ours - TRL| / |TRL|": (distance(our_weights, trl_weights), 1e-3),
        "what they moved by, |ours - TRL| / |TRL|": (moved, 0.05),
    }
    wrong = len(our_steps) != given.steps or len(trl_steps) != given.steps
    for what, (value, bound) in figures.items():
        print(f"{what}: {value:.2e} (bound {bound:g})")
        wrong |= not value <= bound
    sys.exit(wrong)


if __name__ == "__main__":
    main()
