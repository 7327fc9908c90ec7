#!/usr/bin/env bash
# Makes the quickstart's prompts, policy and preference model in FOLDER, from nothing but this repository.
set -eu
folder=${1:?usage: recipes/quickstart/make.sh FOLDER}
cd "$(dirname "$0")/../.."
cargo build --release
cargo run --release -p selfplay --example quickstart_data -- "$folder"
selfplay=target/release/selfplay

"$selfplay" sft --model "random:$folder/init" --data "$folder/sft.jsonl" --output "$folder/sft" \
    --set policy.dtype=bf16 --set sft.optimizer=adamw --set sft.learning_rate=2e-3 --set sft.lr_schedule=cosine --set sft.batch_size=128 \
    --set sft.warmup_ratio=0.02 --set sft.epochs=2 --set sft.weight_decay=0.01 --set sft.adam_beta2=0.98 --set sft.recompute=false

"$selfplay" train-preference --model "$folder/sft/policy" --pairs "$folder/preference.jsonl" --output "$folder/preference" \
    --set policy.dtype=bf16 --set preference.kind=gpm --set preference.dim=4 --set preference.prompt_head=true --set preference.optimizer=adamw \
    --set preference.learning_rate=1e-4 --set preference.lr_schedule=cosine --set preference.batch_size=64 --set preference.epochs=1 \
    --set preference.recompute=false
