#!/usr/bin/env python3
"""Ten thousand requests to `selfplay serve`, 5 % cancelled and 1 % malformed: nothing hangs, no page is lost, memory is flat.

    selfplay serve --model DIR &        # a tiny model
    tests/by_hand/serve_load.py PID [ADDRESS] [REQUESTS]

Python's standard library alone. PID is the server's: its memory is read from /proc. Leaves with 1 where something is amiss.
"""

import http.client
import json
import random
import socket
import sys
import threading
import time

PID = int(sys.argv[1])
HOST = (sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1:8000").removeprefix("http://")
REQUESTS = int(sys.argv[3]) if len(sys.argv) > 3 else 10_000
THREADS = 32
MALFORMED = ["{", '{"prompt": 3}', '{"prompt": "a", "n": -1}', '{"prompt": "a", "nonsense": 1}', "\x00"]


def resident():
    for line in open(f"/proc/{PID}/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024


def metric(name):
    connection = http.client.HTTPConnection(HOST, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


lock = threading.Lock()
counts = {"whole": 0, "streamed": 0, "cancelled": 0, "malformed": 0}
memory, problems, left = [], [], iter(range(REQUESTS))


def one(connection, number, rand):
    headers = {"Content-Type": "application/json"}
    draw = rand.random()
    body = {
        "prompt": rand.choice(["a b c", "one two", [5, 6, 7, 8]]), "max_tokens": rand.randint(1, 40),
        "n": rand.randint(1, 4), "seed": number, "stream": rand.random() < 0.3,
    }
    if draw < 0.05:
        host, port = HOST.split(":")
        with socket.create_connection((host, int(port)), timeout=60) as raw:
            text = json.dumps({**body, "max_tokens": 50, "n": 8, "ignore_eos": True})
            raw.sendall(
                f"POST /v1/completions HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(text)}\r\n\r\n{text}".encode()
            )
            if rand.random() < 0.5:
                raw.recv(64)
        return "cancelled"
    if draw < 0.06:
        connection.request("POST", "/v1/completions", rand.choice(MALFORMED), headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 400:
            problems.append(f"request {number}: malformed, status {answer.status}")
        return "malformed"
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    data = answer.read().decode()
    if answer.status != 200:
        problems.append(f"request {number}: status {answer.status}: {data[:200]}")
    elif body["stream"]:
        if not data.endswith("data: [DONE]\n\n"):
            problems.append(f"request {number}: the stream ends in {data[-80:]!r}")
    elif len(json.loads(data)["choices"]) != body["n"]:
        problems.append(f"request {number}: not {body['n']} choices")
    return "streamed" if body["stream"] else "whole"


def work(thread):
    rand = random.Random(thread)
    connection = http.client.HTTPConnection(HOST, timeout=120)
    while True:
        with lock:
            number = next(left, None)
        if number is None:
            return
        if number % (REQUESTS // 20 or 1) == 0:
            memory.append(resident())
        try:
            kind = one(connection, number, rand)
        except (OSError, http.client.HTTPException) as error:
            problems.append(f"request {number}: {error!r}")
            connection.close()
            continue
        with lock:
            counts[kind] += 1


began = time.time()
threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
seconds = time.time() - began
until = time.time() + 30
while (metric("selfplay_model_outstanding") or metric("selfplay_model_running")) and time.time() < until:
    time.sleep(0.1)
free, pages = metric("selfplay_model_free_pages"), metric("selfplay_model_pages")
print(f"{counts} in {seconds:.1f} s; aborted in their middle: {metric('selfplay_model_aborted_total'):.0f}")
print(f"pages: {free:.0f} of {pages:.0f} free; outstanding {metric('selfplay_model_outstanding'):.0f}")
print("memory (MiB):", " ".join(f"{each:.0f}" for each in memory + [resident()]))
# The first fifth fills caches and the allocator.
early, late = max(memory[: len(memory) // 5 + 1]), resident()
if free != pages:
    problems.append("pages are lost")
if metric("selfplay_model_outstanding"):
    problems.append("requests are left")
if late > early * 1.2 + 20:
    problems.append(f"memory grew from {early:.0f} to {late:.0f} MiB")
for problem in problems[:20]:
    print("NOT", problem)
sys.exit(1 if problems else 0)
