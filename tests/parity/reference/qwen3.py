"""Two tiny Qwen3 models and what transformers computes with them, for model/tests/qwen3_parity.rs.

Run `python tests/parity/reference/qwen3.py` at the repository's root with torch, transformers and safetensors
installed (made with torch 2.15, transformers 5.23, CPU, float32, eager attention). It writes, below
tests/parity/golden/qwen3/, one folder for each model:

    config.json            as transformers 5 writes it
    config_v4.json         the same model as transformers 4 wrote it: rope_theta on top, torch_dtype, no layer_types
    model.safetensors      bfloat16; every weight is one exactly, so float32 computes with the same numbers
    golden.json            log-probs, greedy continuations with their margins, gradient norms
    gradients.safetensors  some gradients whole, float32

`published` is laid out as the published models are (head_dim is not hidden_size / heads, queries in groups, norms on
queries and keys, no bias, an output head of its own). `tied` shares the output head with the embedding and has what
the published ones leave off: attention biases and, from the second layer on, a sliding window shorter than the rows.

The loss whose gradients are stored is Σ_r coefficient_r · Σ_t log π(response_r,t | prompt_r, response_r,<t). Rows 0
and 1 share a prompt. Weights are drawn larger than a fresh model's, so that every norm, gate and score matters.
"""

import json
import pathlib
import re

import torch
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "golden" / "qwen3"
VOCAB = 72
COMMON = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=44, num_hidden_layers=3, num_attention_heads=4,
              num_key_value_heads=2, head_dim=12, max_position_embeddings=128, rms_norm_eps=1e-6, hidden_act="silu",
              bos_token_id=1, eos_token_id=2, pad_token_id=None)
MODELS = {
    "published": dict(seed=11, tie_word_embeddings=False, rope_theta=1e6),
    "tied": dict(seed=23, tie_word_embeddings=True, rope_theta=1e4, attention_bias=True, use_sliding_window=True,
                 sliding_window=7, max_window_layers=1),
}
# (prompt tokens, response tokens, coefficient); the second row takes the first one's prompt.
ROWS = [(9, 14, 0.75), (9, 5, -0.5), (1, 1, 1.0), (3, 37, 0.25), (23, 17, -0.375)]
GREEDY_PROMPTS = [1, 6, 17, 31]
GREEDY_TOKENS = 24
# A greedy choice whose lead is below this could fall to rounding, and a continuation of few distinct tokens shows
# little: such a prompt is drawn again.
LEAST_MARGIN = 2e-3
LEAST_DISTINCT = 8
WHOLE = ["model.layers.0.self_attn.q_norm.weight", "model.layers.2.self_attn.k_norm.weight",
         "model.layers.1.self_attn.k_proj.weight", "model.layers.0.mlp.down_proj.weight", "model.norm.weight"]


def make(folder, keys):
    """Writes the model of random bfloat16 weights and both forms of its configuration."""
    keys = dict(keys)
    seed, theta = keys.pop("seed"), keys.pop("rope_theta")
    torch.manual_seed(seed)
    config = Qwen3Config(**COMMON, **keys, rope_parameters={"rope_type": "default", "rope_theta": theta})
    config.architectures = ["Qwen3ForCausalLM"]
    model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            draw = torch.randn(weight.shape)
            if "norm" in name:
                weight.copy_(1 + 0.3 * draw)
            elif weight.dim() == 1:
                weight.copy_(0.2 * draw)
            elif "embed_tokens" in name:
                weight.copy_(draw * (0.5 if config.tie_word_embeddings else 1.0))
            else:
                weight.copy_(1.4 * draw / weight.shape[1] ** 0.5)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    config.save_pretrained(folder)
    old = {"architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
           "initializer_range": 0.02, "max_window_layers": 28, "model_type": "qwen3", "rope_scaling": None,
           "rope_theta": theta, "sliding_window": None, "torch_dtype": "bfloat16", "transformers_version": "4.51.0",
           "use_cache": True, "use_sliding_window": False, **{k: v for k, v in COMMON.items() if v is not None}, **keys}
    (folder / "config_v4.json").write_text(json.dumps(old, indent=2, sort_keys=True) + "\n")


def token_log_probs(model, prompt, response):
    """[response]: the log-probability of each response token."""
    logits = model(torch.tensor([prompt + response])).logits[0].float()
    at = logits[len(prompt) - 1 : len(prompt) + len(response) - 1].log_softmax(-1)
    return at.gather(1, torch.tensor(response)[:, None])[:, 0]


@torch.no_grad()
def greedy(model, prompt):
    """GREEDY_TOKENS argmax tokens (stop ids are not heeded) and each one's lead over the second in log-prob."""
    ids, margins, log_probs = list(prompt), [], []
    for _ in range(GREEDY_TOKENS):
        best = model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1).topk(2)
        margins.append((best.values[0] - best.values[1]).item())
        log_probs.append(best.values[0].item())
        ids.append(best.indices[0].item())
    return {"prompt": prompt, "ids": ids[len(prompt):], "margins": margins, "log_probs": log_probs}


def golden(folder, seed):
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(seed)
    draw = lambda n: torch.randint(3, VOCAB, (n,), generator=generator).tolist()
    rows = []
    for number, (prompt, response, coefficient) in enumerate(ROWS):
        prompt = rows[0]["prompt"] if number == 1 else draw(prompt)
        rows.append({"prompt": prompt, "response": draw(response), "coefficient": coefficient})
    loss = 0.0
    for row in rows:
        log_probs = token_log_probs(model, row["prompt"], row["response"])
        row["log_probs"] = log_probs.tolist()
        loss = loss + row["coefficient"] * log_probs.sum()
    loss.backward()
    gradients = {name: weight.grad.contiguous() for name, weight in model.named_parameters()}
    continuations = []
    for length in GREEDY_PROMPTS:
        continuation = greedy(model, draw(length))
        while min(continuation["margins"]) < LEAST_MARGIN or len(set(continuation["ids"])) < LEAST_DISTINCT:
            continuation = greedy(model, draw(length))
        continuations.append(continuation)
    least = min(min(c["margins"]) for c in continuations)
    assert all(g.abs().max() > 0 for g in gradients.values())
    save_file({name: gradients[name] for name in WHOLE}, folder / "gradients.safetensors")
    norms = {name: gradient.double().norm().item() for name, gradient in gradients.items()}
    out = {"loss": loss.item(), "rows": rows, "greedy": continuations, "gradient_norms": norms}
    lines = json.dumps(out, indent=1)
    (folder / "golden.json").write_text(flat(lines) + "\n")
    print(f"{folder.name}: loss {out['loss']:.4f}, least margin {least:.4f}, "
          f"log-probs {min(min(r['log_probs']) for r in rows):.2f} to {max(max(r['log_probs']) for r in rows):.4f}, "
          f"gradient norms {min(norms.values()):.3g} to {max(norms.values()):.3g}")


def flat(text):
    """Lists of numbers on one line each."""
    return re.sub(r"\[\s+([-\d.e+,\s]+?)\s+\]", lambda m: "[" + " ".join(m[1].split()) + "]", text)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, keys in MODELS.items():
        make(FOLDER / name, keys)
        golden(FOLDER / name, keys["seed"])
