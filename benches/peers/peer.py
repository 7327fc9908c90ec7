"""The peers' side of the comparison: one workload in one process, run once per line of standard input.

    peer.py sample|train|score MODEL_DIR INPUTS.json [settings]

The protocol is that of benches/worker.rs: {"ready": true}, then for each "go" one line {"seconds", "tokens", "check"},
at "quit" {"peak_rss_bytes"}. Without settings each task is what its users write (transformers' generate as it comes,
TRL's way through a pair, one conversation after the other); the settings are what we found to make it faster.
compare.py tries them and keeps the fastest.
"""

import argparse
import json
import os
import resource
import sys
import time

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import torch.nn.functional as F
from safetensors import safe_open
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, logging

TAU = 0.1


def sample(a, inputs):
    """generate over 32 prompts at once, every row to its full length."""
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32, attn_implementation=a.attention).eval()
    ids = torch.tensor(inputs["prompts"])
    new = inputs["new_tokens"]
    # top_k=0 turns generate's default of 50 off; no end token, so that every row has all its tokens.
    options = dict(do_sample=True, temperature=inputs["temperature"], top_p=inputs["top_p"], top_k=0,
                   min_new_tokens=new, max_new_tokens=new, eos_token_id=None, pad_token_id=0)
    if a.static_cache:
        options["cache_implementation"] = "static"
    if a.compile:
        model.forward = torch.compile(model.forward)
    mask = torch.ones_like(ids)
    round_number = 0

    def once():
        nonlocal round_number
        round_number += 1
        torch.manual_seed(round_number)
        out = model.generate(ids, attention_mask=mask, **options)
        assert out.shape == (len(ids), ids.shape[1] + new), out.shape
        return dict(tokens=len(ids) * new, check={})

    return once


def train(a, inputs):
    """A DPO step: chosen and rejected in one forward pass, backward, clipping, RMSprop. Reference log-probs are given."""
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32, attn_implementation=a.attention).train()
    if a.lora:
        from peft import LoraConfig, get_peft_model

        # The same modules and rank as `[train.lora]` has without further keys; α = r.
        model = get_peft_model(model, LoraConfig(r=a.lora, lora_alpha=a.lora, target_modules="all-linear", task_type="CAUSAL_LM"))
    if a.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    kinds = {"foreach": dict(foreach=True), "loop": dict(foreach=False), "default": {}}
    optimizer = torch.optim.RMSprop([p for p in model.parameters() if p.requires_grad], lr=inputs["learning_rate"], **kinds[a.optimizer])
    pairs = inputs["pairs"]
    prompt = len(pairs[0]["prompt"])
    x = torch.tensor([p["prompt"] + p["chosen"] for p in pairs] + [p["prompt"] + p["rejected"] for p in pairs])
    reference = torch.tensor([p["reference_chosen"] for p in pairs] + [p["reference_rejected"] for p in pairs])
    mask = None if a.no_mask else torch.ones_like(x)
    run = torch.compile(model) if a.compile else model
    targets = x[:, prompt:]

    def log_probs():
        if a.logits == "all":
            logits = run(x, attention_mask=mask, use_cache=False).logits[:, prompt - 1:-1]
        else:
            logits = run(x, attention_mask=mask, use_cache=False, logits_to_keep=targets.shape[1] + 1).logits[:, :-1]
        if a.loss == "log_softmax":
            return F.log_softmax(logits.float(), -1).gather(2, targets[..., None])[..., 0].sum(1)
        losses = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), reduction="none")
        return -losses.view(targets.shape).sum(1)

    def once():
        half = len(pairs)
        delta = log_probs() - reference
        loss = -F.logsigmoid(inputs["beta"] * (delta[:half] - delta[half:])).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), inputs["max_grad_norm"])
        optimizer.step()
        return dict(tokens=x.numel(), check=dict(loss=loss.item(), grad_norm=None if a.lora else norm.item()))

    return once


def score(a, inputs):
    """Embeds every conversation of a general preference model and compares the K of each prompt."""
    model = AutoModel.from_pretrained(a.model, dtype=torch.float32, attn_implementation=a.attention).eval()
    tokenizer = AutoTokenizer.from_pretrained(a.model)
    with safe_open(os.path.join(a.model, "model.safetensors"), "pt") as f:
        value_head, prompt_head = f.get_tensor("value_head.weight"), f.get_tensor("prompt_head.weight")
    run = torch.compile(model, dynamic=True) if a.compile else model
    rows = inputs["rows"]

    def tokenise(messages):
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        return tokenizer(text, add_special_tokens=True)["input_ids"]

    def heads(hidden, last, prompt_last):
        n = torch.arange(len(last))
        v = F.normalize((hidden[n, torch.tensor(last)] @ value_head.T).double(), dim=-1)
        gate = F.softmax((hidden[n, torch.tensor(prompt_last)] @ prompt_head.T).double(), -1)
        return list(zip(v, gate))

    def conversation(row, response):
        user = {"role": "user", "content": row["prompt"]}
        ids = tokenise([user, {"role": "assistant", "content": response}])
        ids[-1] = tokenizer.eos_token_id
        return ids

    def one_at_a_time(items, ends):
        # As the published ranking script does: mask, positions and cache as they come, the value head at every token.
        out = []
        for (k, ids) in items:
            mask = torch.ones(1, len(ids), dtype=torch.long)
            hidden = run(input_ids=torch.tensor([ids]), attention_mask=mask, position_ids=mask.cumsum(-1) - 1).last_hidden_state
            values = hidden @ value_head.T
            v = F.normalize(values[:, -1].double(), dim=-1)
            out.append((v[0], F.softmax((hidden[0, ends[k]] @ prompt_head.T).double(), -1)))
        return out

    def batched(items, ends):
        order = sorted(range(len(items)), key=lambda i: -len(items[i][1]))
        out = [None] * len(items)
        while order:
            longest = len(items[order[0]][1])
            part, order = order[:max(1, a.batch_tokens // longest)], order[max(1, a.batch_tokens // longest):]
            x = torch.full((len(part), longest), tokenizer.eos_token_id)
            mask = torch.zeros_like(x)
            for row, i in enumerate(part):
                ids = items[i][1]
                x[row, :len(ids)] = torch.tensor(ids)
                mask[row, :len(ids)] = 1
            # Padding stands at the right, where causal attention never looks: the mask changes nothing but time.
            hidden = run(input_ids=x, attention_mask=None if a.no_mask else mask, use_cache=False).last_hidden_state
            found = heads(hidden, [len(items[i][1]) - 1 for i in part], [ends[items[i][0]] for i in part])
            for i, f in zip(part, found):
                out[i] = f
        return out

    def compare(group):
        v, gate = torch.stack([g[0] for g in group]), torch.stack([g[1] for g in group])
        gate = gate[0]
        even, odd = v[:, 0::2], v[:, 1::2]
        return ((gate * even) @ odd.T - (gate * odd) @ even.T) / TAU

    @torch.inference_mode()
    def once():
        ends = [len(tokenise([{"role": "user", "content": row["prompt"]}])) - 1 for row in rows]
        items = [(k, conversation(row, response)) for k, row in enumerate(rows) for response in row["responses"]]
        embedded = batched(items, ends) if a.way == "batched" else one_at_a_time(items, ends)
        scores, start = [], 0
        for row in rows:
            scores.append(compare(embedded[start:start + len(row["responses"])]).flatten())
            start += len(row["responses"])
        scores = torch.cat(scores)
        check = dict(mean_size=scores.abs().mean().item(), first=scores[1].item(), last=scores[-2].item())
        return dict(tokens=sum(len(ids) for _, ids in items), check=check)

    return once


def main():
    p = argparse.ArgumentParser()
    p.add_argument("task", choices=["sample", "train", "score"])
    p.add_argument("model")
    p.add_argument("inputs")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--attention", default="sdpa", choices=["sdpa", "eager"])
    p.add_argument("--compile", action="store_true", help="torch.compile")
    p.add_argument("--flush-denormal", action="store_true")
    p.add_argument("--no-mask", action="store_true", help="train, score: leave the mask of ones out")
    p.add_argument("--static-cache", action="store_true", help="sample")
    p.add_argument("--logits", default="all", choices=["all", "responses"], help="train: which rows have logits")
    p.add_argument("--loss", default="log_softmax", choices=["log_softmax", "cross_entropy"], help="train")
    p.add_argument("--optimizer", default="default", choices=["default", "foreach", "loop"], help="train")
    p.add_argument("--lora", type=int, help="train: PEFT's adapter of this rank over every linear module")
    p.add_argument("--checkpointing", action="store_true", help="train: recompute activations")
    p.add_argument("--way", default="single", choices=["single", "batched"], help="score")
    p.add_argument("--batch-tokens", type=int, default=4096, help="score: padded tokens of a batch")
    a = p.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(a.threads)
    if a.flush_denormal:
        torch.set_flush_denormal(True)
    inputs = json.load(open(a.inputs))[a.task]
    once = dict(sample=sample, train=train, score=score)[a.task](a, inputs)
    # What libraries print must not come between the lines of the protocol.
    out, sys.stdout = sys.stdout, sys.stderr
    say = lambda line: print(json.dumps(line), file=out, flush=True)
    say({"ready": True})
    for line in sys.stdin:
        if line.strip() == "quit":
            break
        started = time.perf_counter()
        result = once()
        say(dict(seconds=time.perf_counter() - started, **result))
    say({"peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024})


if __name__ == "__main__":
    main()
