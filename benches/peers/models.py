"""Models and inputs of the comparison: random weights in Llama's shape, the same files for both sides."""

import json
import os
import shutil

SHAPES = {
    "15m": dict(hidden_size=288, num_hidden_layers=6, num_attention_heads=6, intermediate_size=768),
    "110m": dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=2048),
}
VOCAB = 32000
SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>"]
TEMPLATE = "{% for m in messages %}{{ '<|' + m['role'] + '|> ' + m['content'] + ' ' }}{% endfor %}"
HEAD = 6


def write_tokenizer(folder):
    """One token per word w5, w6, ...: texts of exactly the lengths that are wanted."""
    words = SPECIAL + [f"w{i}" for i in range(len(SPECIAL), VOCAB)]
    special = [dict(id=i, content=w, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
               for i, w in enumerate(SPECIAL)]
    tokenizer = dict(version="1.0", truncation=None, padding=None, added_tokens=special, normalizer=None,
                     pre_tokenizer=dict(type="WhitespaceSplit"), post_processor=None, decoder=None,
                     model=dict(type="WordLevel", vocab={w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    json.dump(tokenizer, open(f"{folder}/tokenizer.json", "w"))
    config = dict(tokenizer_class="PreTrainedTokenizerFast", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
                  chat_template=TEMPLATE, clean_up_tokenization_spaces=False, model_max_length=2048)
    json.dump(config, open(f"{folder}/tokenizer_config.json", "w"), indent=1)


def make(work, name):
    """Folders of the policy and of the preference model, and the inputs' file; made once."""
    folder = os.path.join(work, name)
    policy, preference, inputs = f"{folder}/policy", f"{folder}/preference", f"{folder}/inputs.json"
    if not os.path.exists(inputs):
        shutil.rmtree(folder, ignore_errors=True)
        import torch
        from safetensors.torch import load_file, save_file
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        shape = SHAPES[name]
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=VOCAB, max_position_embeddings=2048, num_key_value_heads=shape["num_attention_heads"],
            tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, rms_norm_eps=1e-5, **shape))
        model.save_pretrained(policy)
        write_tokenizer(policy)
        shutil.copytree(policy, preference)
        weights = load_file(f"{preference}/model.safetensors")
        h = shape["hidden_size"]
        weights["value_head.weight"] = torch.randn(HEAD, h)
        weights["prompt_head.weight"] = torch.randn(HEAD // 2, h)
        save_file(weights, f"{preference}/model.safetensors", metadata={"format": "pt"})
        contents = make_inputs(model)
        with open(inputs, "w") as f:
            json.dump(contents, f)
    return policy, preference, inputs


def make_inputs(model):
    import torch
    import torch.nn.functional as F

    g = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randint(len(SPECIAL), VOCAB, shape, generator=g)
    prompts = draw(32, 64)
    chosen, rejected = draw(4, 256), draw(4, 256)
    rejected[:, :128] = chosen[:, :128]
    # The reference is a policy a little off the weights, so that the loss is not that of a first step.
    with torch.no_grad():
        x = torch.cat([chosen, rejected])
        logits = model(x).logits[:, 127:-1]
        reference = F.log_softmax(logits, -1).gather(2, x[:, 128:, None])[..., 0].sum(1)
    reference += torch.tensor([3.0, -2.0, 1.0, 4.0, -3.0, 2.0, -1.0, 0.5])
    pairs = [dict(prompt=chosen[i, :128].tolist(), chosen=chosen[i, 128:].tolist(), rejected=rejected[i, 128:].tolist(),
                  reference_chosen=reference[i].item(), reference_rejected=reference[i + 4].item()) for i in range(4)]
    words = lambda n: " ".join(f"w{i}" for i in draw(n).tolist())
    length = lambda: int(torch.randint(32, 257, (), generator=g))
    rows = [dict(prompt=words(64), responses=[words(length()) for _ in range(5)]) for _ in range(64)]
    return dict(sample=dict(prompts=prompts.tolist(), new_tokens=128, temperature=0.7, top_p=0.9),
                train=dict(pairs=pairs, beta=0.01, learning_rate=5e-7, max_grad_norm=1.0),
                score=dict(rows=rows))


def flops(name, inputs):
    """Floating-point operations that each task needs: 2 per weight and token in a product, 3 times that with a
    backward; a shared prompt once, nothing for recomputation."""
    s = SHAPES[name]
    h, i, layers = s["hidden_size"], s["intermediate_size"], s["num_hidden_layers"]
    body, head = layers * (4 * h * h + 3 * h * i), VOCAB * h

    def attention(first, last):
        """Scores and values of positions first..last of one sequence."""
        return sum(4 * h * (p + 1) for p in range(first, last)) * layers

    sample = inputs["sample"]
    new = sample["new_tokens"]
    done = 0
    for prompt in sample["prompts"]:
        n = len(prompt) + new - 1
        done += 2 * body * n + 2 * head * new + attention(0, n)
    result = dict(sample=done)
    done = 0
    for p in inputs["train"]["pairs"]:
        n, c, r = len(p["prompt"]), len(p["chosen"]), len(p["rejected"])
        done += 2 * body * (n + c + r) + 2 * head * (c + r) + attention(0, n + c) + attention(n, n + r)
    result["train"] = 3 * done
    done = 0
    for row in inputs["score"]["rows"]:
        n = 2 + len(row["prompt"].split())
        lengths = [len(r.split()) for r in row["responses"]]
        done += 2 * body * (n + sum(lengths)) + attention(0, n) + sum(attention(n, n + m) for m in lengths)
    result["score"] = done
    return result
