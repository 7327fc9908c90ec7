#!/usr/bin/env python3
"""Preference models that `train-preference` wrote, scored by the GPM authors' own inference code: the scores that `selfplay score` gives.

    python3 tests/by_hand/authors_score_ours.py SELFPLAY REWARD_MODEL_PY OUT

REWARD_MODEL_PY is LLM-Alignment/scripts/RMs/reward_model.py of general-preference/general-preference-model. It names CUDA and imports deepspeed, which only
its training needs: the one becomes the CPU, the other is left out. A GPM of dimension 2 and of 4 without a prompt head, of 4 with one, and Bradley-Terry
are trained over the quickstart's policy for some steps.
Its texts have no begin token, where the code that they publish with their models has two (the template's and the tokenizer's), as ours: they are put before the texts here. Needs torch, transformers and peft. Exit 1 where a score differs by more than 1e-4 of the largest.
"""

import json
import pathlib
import subprocess
import sys
import types

KINDS = {"gpm-2": ("gpm", 2, False), "gpm-4": ("gpm", 4, False), "gpm-4-prompt": ("gpm", 4, True), "bradley-terry": ("bradley-terry", 1, False)}
PROMPTS = ["Add 2 and 3.", "Add 20 and 31.", "Add 9 and 9 and one more."]
ANSWERS = [["5", "17", "twelve"], ["51", "50", "7"], ["19", "18", "I do not know"]]


def authors(path):
    """Their module, on a CPU."""
    source = pathlib.Path(path).read_text().replace('.to("cuda")', '.to("cpu")')
    for line in ("import deepspeed", "from transformers.deepspeed import HfDeepSpeedConfig"):
        source = source.replace(f"{line}\n", "")
    module = types.ModuleType("reward_model")
    exec(compile(source, path, "exec"), module.__dict__)
    return module


def main():
    selfplay, path, out = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
    out.mkdir(parents=True, exist_ok=True)
    import torch
    import transformers

    theirs = authors(path)
    pairs = [{"prompt": f"Add {n % 50} and {n % 7}.", "chosen": str(n % 50 + n % 7), "rejected": str(n % 50 + n % 7 + 1)} for n in range(200)]
    (out / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    rows = [{"prompt": prompt, "responses": [{"text": answer} for answer in answers]} for prompt, answers in zip(PROMPTS, ANSWERS)]
    (out / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    policy = pathlib.Path(__file__).resolve().parents[2] / "recipes/quickstart/policy"
    # Their loader makes the weights bf16 or keeps them; a head of transformers' own base class may be said to be missing.
    transformers.logging.set_verbosity_error()
    wrong = 0
    for name, (kind, dimension, prompt_head) in KINDS.items():
        trained = out / name
        keys = ["preference.learning_rate=1e-3", f"preference.kind={kind}"]
        keys += [f"preference.dim={dimension}", f"preference.prompt_head={str(prompt_head).lower()}"] if kind == "gpm" else []
        subprocess.run([selfplay, "train-preference", "--model", policy, "--pairs", out / "pairs.jsonl", "--output", trained, "--force", "-q",
                        *[word for key in keys for word in ("--set", key)]], check=True)
        model = trained / "preference_model"
        subprocess.run([selfplay, "score", "--preference-model", model, "--candidates", out / "candidates.jsonl", "--output", out / f"{name}.jsonl",
                        "--force", "-q", "--set", f"score.kind={kind}", "--set", "score.tau=1"], check=True)
        ours = torch.tensor([json.loads(line)["scores"] for line in (out / f"{name}.jsonl").read_text().splitlines()])
        judge = theirs.CustomPairPreferenceModel(
            str(model), bf16=False, is_general_preference=kind == "gpm", value_head_dim=dimension, add_prompt_head=prompt_head, tau=1, device="cpu")
        judge.model.float()
        begin, texts_only = 2 * judge.tokenizer.bos_token, judge.format_input
        judge.format_input = lambda batches: texts_only([[begin + text for text in batch] for batch in batches])
        found = torch.stack([judge.pair_wise_scores([prompt], [answers])[0] for prompt, answers in zip(PROMPTS, ANSWERS)])
        apart, largest = (found - ours).abs().max().item(), ours.abs().max().item()
        wrong += apart > 1e-4 * largest
        print(f"{name}: largest score {largest:.4f}, theirs differ by {apart:.1e} at most")
    return int(wrong > 0)


sys.exit(main())
