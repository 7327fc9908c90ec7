#!/usr/bin/env python3
"""Seconds from `selfplay resume` to the first sampled token on disk, on a CPU, for one or several builds of the program in turn.

    python3 tests/by_hand/resume_first_token.py BINARY [BINARY …] --tokenizer DIR [--chat-template FILE] [--layers 40]
        [--prompts 20000] [--rounds 5] [--work DIR]

Writes a policy and a reward model of random bf16 weights (hidden size 1,024, the tokenizer and chat template of DIR), begins a run whose
shards are one prompt with two answers of one token, kills it after the first shard, and from then on resumes it until the next shard is there, kills it
again, and so on. The files are in the page cache. Prints the median of each binary, its rounds, the best, and the processors' seconds. The standard library is enough.
"""
import argparse
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

HIDDEN, INNER, HEADS, KV_HEADS, HEAD = 1024, 2816, 16, 4, 64


def config(vocab, layers, is_reward):
    name = "LlamaForSequenceClassification" if is_reward else "LlamaForCausalLM"
    return {
        "architectures": [name], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": layers,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD, "vocab_size": vocab, "hidden_act": "silu",
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": True,
        "torch_dtype": "bfloat16", "bos_token_id": 128000, "eos_token_id": 128009, **({"num_labels": 1} if is_reward else {}),
    }


def tensors(vocab, layers, is_reward):
    yield "model.embed_tokens.weight", [vocab, HIDDEN]
    for layer in range(layers):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", [HIDDEN]
        yield f"{at}.self_attn.q_proj.weight", [HEADS * HEAD, HIDDEN]
        yield f"{at}.self_attn.k_proj.weight", [KV_HEADS * HEAD, HIDDEN]
        yield f"{at}.self_attn.v_proj.weight", [KV_HEADS * HEAD, HIDDEN]
        yield f"{at}.self_attn.o_proj.weight", [HIDDEN, HEADS * HEAD]
        yield f"{at}.post_attention_layernorm.weight", [HIDDEN]
        yield f"{at}.mlp.gate_proj.weight", [INNER, HIDDEN]
        yield f"{at}.mlp.up_proj.weight", [INNER, HIDDEN]
        yield f"{at}.mlp.down_proj.weight", [HIDDEN, INNER]
    yield "model.norm.weight", [HIDDEN]
    if is_reward:
        yield "score.weight", [1, HIDDEN]


def random_bf16(count):
    """Numbers between 2^-7 and 2^-6 of either sign."""
    table = bytes((byte & 0x80) | 0x3C for byte in range(256))
    numbers = bytearray(2 * count)
    numbers[0::2] = os.urandom(count)
    numbers[1::2] = os.urandom(count).translate(table)
    return bytes(numbers)


def write_model(folder, arguments, is_reward):
    tokenizer, vocab, layers = arguments.tokenizer, arguments.vocab, arguments.layers
    os.makedirs(folder)
    if arguments.chat_template:
        shutil.copy(arguments.chat_template, f"{folder}/chat_template.jinja")
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]:
        if os.path.exists(f"{tokenizer}/{name}"):
            shutil.copy(f"{tokenizer}/{name}", folder)
    with open(f"{folder}/config.json", "w") as file:
        json.dump(config(vocab, layers, is_reward), file)
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors(vocab, layers, is_reward):
        begin, end = end, end + 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    block = random_bf16(1 << 22)
    with open(f"{folder}/model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        left = end
        while left > 0:
            left -= file.write(block[:left])
    return end


def write_prompts(path, count):
    chosen = random.Random(0)
    words = [chosen.choice("bcdfghlmnprst") + chosen.choice("aeiou") + chosen.choice("bcdlmnrst") + chosen.choice(["", "e", "ing", "ed"])
             for _ in range(5000)]
    with open(path, "w") as file:
        for row in range(count):
            # The rows that are answered here are short: what is measured is the way there.
            length = 1 if row < 200 else 120
            file.write(json.dumps({"prompt_id": str(row), "prompt": f"{row} " + " ".join(chosen.choices(words, k=length))}) + "\n")


def sampled(run):
    try:
        with open(f"{run}/events.jsonl") as file:
            return sum('"sampled"' in line for line in file)
    except FileNotFoundError:
        return 0


def until_next_shard(command, run):
    """Seconds until one more shard is on disk, and the processor's; the program is killed then."""
    before, log = sampled(run), open(f"{os.path.dirname(run)}/log.txt", "a")
    start = time.monotonic()
    program = subprocess.Popen(command, stdout=log, stderr=log)
    while sampled(run) == before:
        if program.poll() is not None:
            sys.exit(f"{' '.join(command)}: ended with {program.returncode}, see {log.name}")
        time.sleep(0.005)
    seconds = time.monotonic() - start
    program.send_signal(signal.SIGKILL)
    _, _, used = os.wait4(program.pid, 0)
    return seconds, used.ru_utime + used.ru_stime


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", nargs="+")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--chat-template", help="a Jinja file, where DIR has none")
    parser.add_argument("--vocab", type=int, default=128256)
    parser.add_argument("--layers", type=int, default=40)
    parser.add_argument("--prompts", type=int, default=20000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work")
    arguments = parser.parse_args()
    work = os.path.abspath(arguments.work or tempfile.mkdtemp())
    models = {"policy": False, "reward": True}
    for name, is_reward in models.items():
        if not os.path.exists(f"{work}/{name}"):
            size = write_model(f"{work}/{name}", arguments, is_reward)
            print(f"{name}: {size / 1e9:.2f} GB", flush=True)
    write_prompts(f"{work}/prompts.jsonl", arguments.prompts)
    with open(f"{work}/recipe.toml", "w") as file:
        file.write(f"""
name = "resume"
iterations = 1
[policy]
model = "{work}/policy"
[prompts]
splits = ["{work}/prompts.jsonl"]
[sample]
num_samples = 2
max_new_tokens = 1
shard_prompts = 1
[score]
model = "{work}/reward"
[eval]
max_prompts = 1
""")
    run = f"{work}/run"
    shutil.rmtree(run, ignore_errors=True)
    first = until_next_shard([arguments.binary[0], "run", f"{work}/recipe.toml", "-o", run], run)
    print(f"run, to its first shard: {first[0]:.2f} s", flush=True)
    seconds = {binary: [] for binary in arguments.binary}
    for _ in range(arguments.rounds):
        for binary in arguments.binary:
            seconds[binary].append(until_next_shard([binary, "resume", run], run))
    for binary, found in seconds.items():
        wall, cpu = (sorted(one[kind] for one in found) for kind in (0, 1))
        middle = len(found) // 2
        print(f"{binary}: {wall[middle]:.2f} s ({', '.join(f'{one[0]:.2f}' for one in found)}), best {wall[0]:.2f}; {cpu[middle]:.2f} s of processors")


if __name__ == "__main__":
    main()
