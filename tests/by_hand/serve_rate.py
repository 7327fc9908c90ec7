#!/usr/bin/env python3
"""Tokens per second of a server at some clients, against our offline sampler on the same requests.

    tests/by_hand/serve_rate.py --selfplay target/release/selfplay --model DIR [--clients 32] [--requests 256] [--tokens 128]
    tests/by_hand/serve_rate.py --peer http://127.0.0.1:8001 --peer-model NAME …       # another server alone, of the same model

The peers: llama.cpp's server (`pip install 'llama-cpp-python[server]'`, then `python -m llama_cpp.server --model FILE.gguf --port 8001`; or its own
`llama-server -m FILE.gguf --parallel 32 --port 8001`) and transformers' (`transformers serve --port 8001`). Every response has just --tokens tokens (ignore_eos;
for peers without that field, what they give is counted by their `usage`). Python's standard library alone.
"""

import argparse
import http.client
import json
import os
import pathlib
import resource
import subprocess
import tempfile
import threading
import time

parser = argparse.ArgumentParser()
parser.add_argument("--selfplay")
parser.add_argument("--model")
parser.add_argument("--peer")
parser.add_argument("--peer-model")
parser.add_argument("--clients", type=int, default=32)
parser.add_argument("--requests", type=int, default=256)
parser.add_argument("--tokens", type=int, default=128)
parser.add_argument("--rounds", type=int, default=3)
options = parser.parse_args()

TOPICS = ["a river", "an old house", "the sea", "a small dog", "snow", "a lost key", "the moon", "a loud bird"]
PROMPTS = [f"Tell a story about {TOPICS[n % 8]} and {TOPICS[(n // 8) % 8]}, number {n}." for n in range(options.requests)]


def served(host, model):
    """Seconds and tokens of all requests by the clients."""
    left, lock, tokens = iter(enumerate(PROMPTS)), threading.Lock(), [0]

    def client():
        connection = http.client.HTTPConnection(host, timeout=600)
        while True:
            with lock:
                number, prompt = next(left, (None, None))
            if number is None:
                return
            body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": options.tokens,
                    "temperature": 1.0, "top_p": 1.0, "seed": number}
            if options.selfplay:
                body["ignore_eos"] = True
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            answer = json.loads(connection.getresponse().read())
            with lock:
                tokens[0] += answer["usage"]["completion_tokens"]

    began = time.time()
    threads = [threading.Thread(target=client) for _ in range(options.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.time() - began, tokens[0]


def cpu_of(process):
    """Seconds of processor time that a process has used (Linux)."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_of_children():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if options.peer:
    for _ in range(options.rounds):
        seconds, tokens = served(options.peer.removeprefix("http://"), options.peer_model)
        print(f"{options.peer}: {tokens} tokens in {seconds:.1f} s: {tokens / seconds:.0f} tokens/s")
    raise SystemExit

with tempfile.TemporaryDirectory() as folder:
    prompts = pathlib.Path(folder, "prompts.jsonl")
    rows = [json.dumps({"prompt_id": str(n), "prompt": prompt}) for n, prompt in enumerate(PROMPTS)]
    prompts.write_text("\n".join(rows) + "\n")
    sets = [f"sample.max_new_tokens={options.tokens}", "sample.num_samples=1", "sample.temperature=1.0", "sample.top_p=1.0",
            f"sample.max_batch_rows={options.clients}"]
    sets = [part for one in sets for part in ("--set", one)]
    server = subprocess.Popen(
        [options.selfplay, "serve", "--model", options.model, "--name", "m", "--port", "0", "-q", *sets],
        stdout=subprocess.PIPE, text=True,
    )
    host = server.stdout.readline().strip().removeprefix("http://")
    try:
        for number in range(options.rounds):
            before = cpu_of(server)
            seconds, tokens = served(host, "m")
            server_cpu = cpu_of(server) - before
            output = pathlib.Path(folder, f"{number}.jsonl")
            began, before = time.time(), cpu_of_children()
            subprocess.run(
                [options.selfplay, "sample", "--model", options.model, "--prompts", prompts, "--output", output, "-v", *sets],
                check=True, stderr=subprocess.DEVNULL,
            )
            # With loading and writing: what the sampler itself takes is told by -v. Responses may end early here.
            whole = time.time() - began
            offline_cpu = cpu_of_children() - before
            drawn = sum(len(r["ids"]) for line in output.open() for r in json.loads(line)["responses"])
            print(f"served: {tokens} tokens in {seconds:.2f} s: {tokens / seconds:.0f} tokens/s; offline, with loading: "
                  f"{drawn} in {whole:.2f} s: {drawn / whole:.0f} tokens/s; ratio {tokens / seconds / (drawn / whole):.2f}; "
                  f"by processor time {tokens / server_cpu:.0f} and {drawn / offline_cpu:.0f} tokens/s: {tokens / server_cpu / (drawn / offline_cpu):.2f}")
    finally:
        server.terminate()
        server.wait()
