#!/usr/bin/env python3
"""OpenAI's Python client against `selfplay serve`: whole, streamed, cancelled, n = 5, log-probs.

    pip install openai
    selfplay serve --model DIR &
    tests/by_hand/openai_client.py [http://127.0.0.1:8000]

Leaves with 1 at the first thing that is not as it should be.
"""

import sys
import time
import urllib.request

from openai import BadRequestError, OpenAI

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
client = OpenAI(base_url=f"{ADDRESS}/v1", api_key="none", max_retries=0)
model = client.models.list().data[0].id
messages = [{"role": "user", "content": "Tell me about rivers, in some sentences."}]


def metric(name):
    text = urllib.request.urlopen(f"{ADDRESS}/metrics").read().decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


def check(what, holds, seen):
    print(f"{'ok ' if holds else 'NOT'} {what}: {seen}")
    if not holds:
        sys.exit(1)


whole = client.chat.completions.create(model=model, messages=messages, max_tokens=40, seed=3)
text = whole.choices[0].message.content
check("an answer", bool(text) and whole.usage.completion_tokens <= 40, repr(text[:60]))

began, first, parts, usage = time.time(), None, [], None
stream = client.chat.completions.create(
    model=model, messages=messages, max_tokens=40, seed=3, stream=True, stream_options={"include_usage": True}
)
for chunk in stream:
    if chunk.choices and chunk.choices[0].delta.content:
        first = first or time.time() - began
        parts.append(chunk.choices[0].delta.content)
    usage = chunk.usage or usage
check("a stream has the same bytes", "".join(parts) == text, f"{len(parts)} parts, the first after {first:.3f} s")
check("its usage", usage == whole.usage or usage.total_tokens == whole.usage.total_tokens, usage.total_tokens)

five = client.chat.completions.create(model=model, messages=messages, max_tokens=30, seed=3, n=5, temperature=1.2)
texts = [choice.message.content for choice in five.choices]
check("n = 5", len(texts) == 5 and len(set(texts)) > 1, [one[:20] for one in texts])

aborted = metric("selfplay_model_aborted_total")
stream = client.chat.completions.create(
    model=model, messages=messages, max_tokens=400, stream=True, extra_body={"ignore_eos": True}
)
for number, _ in enumerate(stream):
    if number == 5:
        stream.close()
        break
until = time.time() + 10
while metric("selfplay_model_aborted_total") == aborted and time.time() < until:
    time.sleep(0.05)
check("a stream that is closed is aborted", metric("selfplay_model_aborted_total") == aborted + 1, "one more")
while metric("selfplay_model_running") and time.time() < until:
    time.sleep(0.05)
free, pages = metric("selfplay_model_free_pages"), metric("selfplay_model_pages")
check("its pages are free", free == pages, f"{free:.0f} of {pages:.0f}")

scored = client.chat.completions.create(
    model=model, messages=messages, max_tokens=5, logprobs=True, top_logprobs=3, temperature=0
)
content = scored.choices[0].logprobs.content
best = all(one.logprob == one.top_logprobs[0].logprob and len(one.top_logprobs) == 3 for one in content)
check("greedy tokens are the most likely", best, [(one.token, round(one.logprob, 3)) for one in content])
joined = b"".join(bytes(one.bytes) for one in content)
# SentencePiece drops the space that the first token begins with from a text.
check("their bytes are the text", joined.decode().lstrip() == scored.choices[0].message.content.lstrip(), joined)

done = client.completions.create(model=model, prompt="Once upon a time", max_tokens=10, echo=True, logprobs=1, seed=1)
rows = done.choices[0].logprobs
check("echo", done.choices[0].text.startswith("Once upon a time") and rows.token_logprobs[0] is None, rows.tokens)
stopped = client.completions.create(model=model, prompt="1 2 3 4 5 6", max_tokens=30, stop=[" 9"], temperature=0)
check("a stop text is left out", " 9" not in stopped.choices[0].text, repr(stopped.choices[0].text))

try:
    client.chat.completions.create(model=model, messages=messages, temperature=-1)
    check("a wrong request is refused", False, "it was answered")
except BadRequestError as error:
    check("a wrong request is refused", "temperature" in str(error), error.status_code)
