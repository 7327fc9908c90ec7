#!/usr/bin/env python3
"""A hostile client of `selfplay serve`: slow bodies, bombs of headers, 100 MB of prompt, invalid UTF-8, a thousand connections.

    selfplay serve --model DIR --read-timeout 5 &
    tests/by_hand/serve_hostile.py [ADDRESS]

Each gets a 4xx or is closed, and an honest request beside it is answered. `ulimit -n 4096` may be needed.
"""

import http.client
import json
import socket
import sys
import time

HOST = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8000").removeprefix("http://")
PLACE = (HOST.split(":")[0], int(HOST.split(":")[1]))
HEAD = f"POST /v1/completions HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"


def honest():
    began = time.time()
    connection = http.client.HTTPConnection(HOST, timeout=60)
    connection.request("POST", "/v1/completions", json.dumps({"prompt": "a b", "max_tokens": 4}),
                       {"Content-Type": "application/json"})
    status = connection.getresponse().status
    return status, time.time() - began


def raw(*parts, read=60):
    """The status of an answer; "closed" without one."""
    with socket.create_connection(PLACE, timeout=read) as stream:
        try:
            for part in parts:
                stream.sendall(part)
        except OSError:
            pass
        data = b""
        try:
            while piece := stream.recv(65536):
                data += piece
        except socket.timeout:
            return "hangs"
        except OSError:
            pass
    return int(data.split(b" ")[1]) if data.startswith(b"HTTP/1.1 ") else "closed"


wrong = 0


def check(what, got, wanted):
    global wrong
    status, seconds = honest()
    right = got in wanted and status == 200
    wrong += not right
    print(f"{'ok ' if right else 'NOT'} {what}: {got}; an honest request beside it: {status} in {seconds:.2f} s")


million = b"x" * 1_000_000
check("100 MB announced", raw((HEAD + "Content-Length: 100000000\r\n\r\n").encode(), b'{"prompt": "', *[million] * 100),
      [413, "closed"])
chunk = b"f4240\r\n" + million + b"\r\n"
check("100 MB in chunks", raw((HEAD + "Transfer-Encoding: chunked\r\n\r\n").encode(), *[chunk] * 100), [413, "closed"])
check("5,000 headers", raw(b"GET /health HTTP/1.1\r\n", *[f"X-{n}: y\r\n".encode() for n in range(5000)], b"\r\n"),
      [431, "closed"])
check("a header of 10 MB", raw(b"GET /health HTTP/1.1\r\nX: ", *[million] * 10, b"\r\n\r\n"), [431, "closed"])
check("invalid UTF-8", raw((HEAD + "Connection: close\r\nContent-Length: 16\r\n\r\n").encode(), b'{"prompt": "\xff\xc3"}'), [400])
check("no content type", raw(f"POST /v1/completions HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}".encode()),
      [415])
check("another content type", raw(HEAD.replace("application/json", "text/xml").encode(), b"Connection: close\r\nContent-Length: 2\r\n\r\n{}"),
      [415])
check("a TLS hello", raw(bytes.fromhex("16030100ca010000c60303") + b"\0" * 190), [400, "closed"])
began = time.time()
check("a body that never comes", raw((HEAD + "Content-Length: 100\r\n\r\n{").encode()), [408, "closed"])
print(f"    after {time.time() - began:.1f} s")
began = time.time()
check("a head that never ends", raw(b"GET /health HTTP/1.1\r\nX"), [408, "closed"])
print(f"    after {time.time() - began:.1f} s")

crowd = []
for _ in range(1000):
    try:
        crowd.append(socket.create_connection(PLACE, timeout=10))
    except OSError as error:
        print("    a connection was refused:", error)
        break
check(f"{len(crowd)} idle connections", "open", ["open"])
for stream in crowd:
    try:
        stream.sendall(b"GET /he")
    except OSError:
        pass
check(f"{len(crowd)} unfinished heads", "open", ["open"])
for stream in crowd:
    stream.close()
sys.exit(1 if wrong else 0)
