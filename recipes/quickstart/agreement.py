#!/usr/bin/env python3
"""How far a preference model agrees with the truth, on the policy's own answers to held-out prompts.

    selfplay sample --model POLICY --prompts prompts/held_out.jsonl --output candidates.jsonl --set sample.max_new_tokens=16 --set sample.temperature=1 --set sample.top_p=1
    selfplay score --preference-model MODEL --candidates candidates.jsonl --output preferences.jsonl
    recipes/quickstart/agreement.py prompts/held_out.jsonl candidates.jsonl preferences.jsonl

Of all pairs of answers to one prompt of which one is right and one is wrong, the share in which the right one has the better score;
and the share of right answers among all. Python's standard library is enough.
"""
import json
import sys


def rows(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def main():
    prompts, candidates, preferences = (rows(path) for path in sys.argv[1:4])
    answers = {str(i): row["answer"] for i, row in enumerate(prompts)}
    scores = {row["prompt_id"]: row["scores"] for row in preferences}
    agreed = compared = right = total = 0
    for row in candidates:
        correct = [r["text"].strip() == answers[row["prompt_id"]] for r in row["responses"]]
        right, total = right + sum(correct), total + len(correct)
        table = scores[row["prompt_id"]]
        for i, good in enumerate(correct):
            for j, other in enumerate(correct):
                if good and not other:
                    compared += 1
                    agreed += table[i][j] > 0
    print(f"right answers: {right / total:.4f} of {total}; agreement with the truth: {agreed / compared:.4f} of {compared} pairs")


if __name__ == "__main__":
    main()
