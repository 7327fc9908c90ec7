"""Pairs in hh-rlhf's layout, divided into pairs to train on and pairs held out, by the first question of the conversation.

    python3 split.py FOLDER SHARE FILE...     writes FOLDER/train.jsonl and FOLDER/held_out.jsonl

A conversation's first question decides by its hash, so that no question is in both, the order of the files changes nothing, and more
data leave what was held out where it was. Rows that no preference can be read from (replies alike, no reply) are held out of neither:
`selfplay train-preference` leaves them out and says how many; `eval-preference` refuses them, so they are not written here.
"""

import hashlib
import json
import os
import sys

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


def question(text):
    """The first thing that was asked."""
    return text.split(HUMAN, 1)[1].split(ASSISTANT, 1)[0].strip()


def is_comparison(row):
    """Two replies, both there, that differ, to the same conversation."""
    parts = [row[side].rpartition(ASSISTANT) for side in ("chosen", "rejected")]
    (before, _, chosen), (other, _, rejected) = parts
    return before == other and chosen.strip() and rejected.strip() and chosen.strip() != rejected.strip()


def is_held_out(row, share):
    digest = hashlib.sha256(question(row["chosen"]).encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def main():
    folder, share, files = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
    os.makedirs(folder, exist_ok=True)
    counts = {"train": 0, "held_out": 0, "left out": 0}
    with open(f"{folder}/train.jsonl", "w") as train, open(f"{folder}/held_out.jsonl", "w") as held_out:
        for name in files:
            for line in open(name, encoding="utf-8"):
                row = json.loads(line)
                if not is_comparison(row):
                    counts["left out"] += 1
                    continue
                part = "held_out" if is_held_out(row, share) else "train"
                counts[part] += 1
                print(json.dumps({side: row[side] for side in ("chosen", "rejected")}, ensure_ascii=False),
                      file=held_out if part == "held_out" else train)
    print(json.dumps(counts))


main()
