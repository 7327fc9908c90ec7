#!/usr/bin/env python3
"""Whether answers keep the constraint of their prompt: the preference model and the checker of recipes/smollm2-135m.toml.

Reads a row a line, {"prompt": ..., "responses": [...], "constraint": {...}}, and answers a line for each: {"scores": [...], "right": [...]}.

right    the constraint is kept and there is an answer
scores   1 for a constraint that is kept, up to 0.6 for one that is nearly kept, less a little for an answer that is empty, of a few
         letters, or the same words over and over

Python's standard library is enough.
"""
import json
import re
import sys


def words_of(text):
    return re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text)


def lines_of(text):
    return [line for line in text.strip().splitlines() if line.strip()]


def near(difference, scale):
    """1 where nothing is missing, towards 0 the more is."""
    return max(0.0, 1.0 - difference / scale)


def count_of(text, word):
    return len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE))


def share_of_letters(text, wanted):
    letters = [letter for letter in text if letter.isalpha()]
    return sum(map(wanted, letters)) / len(letters) if letters else 0.0


def kept(constraint, text):
    """From 0 to 1: how far the constraint is kept; 1 alone is all of it."""
    kind = constraint["kind"]
    if kind == "all":
        parts = [kept(part, text) for part in constraint["of"]]
        return sum(parts) / len(parts)
    if kind == "max_words":
        return near(max(0, len(words_of(text)) - constraint["n"]), 2 * constraint["n"])
    if kind == "include":
        return float(count_of(text, constraint["word"]) > 0)
    if kind == "repeat":
        return min(1.0, count_of(text, constraint["word"]) / constraint["n"])
    if kind == "avoid":
        return near(count_of(text, constraint["word"]), 4)
    if kind == "lower_case":
        return share_of_letters(text, str.islower)
    if kind == "upper_case":
        return share_of_letters(text, str.isupper)
    if kind == "no_commas":
        return near(text.count(","), 4)
    if kind == "lines":
        return near(abs(len(lines_of(text)) - constraint["n"]), constraint["n"])
    if kind == "bullets":
        lines = lines_of(text)
        bullets = sum(line.startswith("- ") for line in lines)
        return near(abs(bullets - constraint["n"]) + len(lines) - bullets, 2 * constraint["n"])
    if kind == "start_with":
        return agreement(text.strip(), constraint["text"])
    if kind == "end_with":
        return agreement(text.strip()[::-1], constraint["text"][::-1])
    if kind == "json":
        return kept_as_json(text.strip(), constraint["keys"])
    sys.exit(f"check.py: no such kind of constraint: {kind!r}")


def agreement(text, wanted):
    """The share of `wanted` that `text` begins with."""
    same = 0
    while same < min(len(text), len(wanted)) and text[same] == wanted[same]:
        same += 1
    return same / len(wanted)


def kept_as_json(text, keys):
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        found = sum(f'"{key}"' in text for key in keys) / len(keys)
        return 0.3 * text.startswith("{") + 0.2 * text.endswith("}") + 0.3 * found
    if not isinstance(value, dict):
        return 0.2
    if sorted(value) == sorted(keys):
        return 1.0
    return 0.8 + 0.15 * sum(key in value for key in keys) / len(keys)


def emptiness(text):
    """From 0 to 0.5: what an answer loses that says nothing."""
    words = [word.lower() for word in words_of(text)]
    if not words:
        return 0.5
    loss = 0.2 if len(words) < 3 else 0.0
    repeated = 1.0 - len(set(words)) / len(words)
    return loss + 0.3 * max(0.0, repeated - 0.5) / 0.5


def judge(constraint, text):
    share = kept(constraint, text)
    right = share == 1.0 and bool(text.strip())
    return right, (1.0 if right else 0.6 * min(share, 0.99)) - emptiness(text)


def main():
    for line in sys.stdin:
        row = json.loads(line)
        judged = [judge(row["constraint"], text) for text in row["responses"]]
        answer = {"prompt_id": row["prompt_id"], "scores": [score for _, score in judged], "right": [right for right, _ in judged]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
