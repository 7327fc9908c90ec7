#!/usr/bin/env python3
"""alpaca_eval, unchanged, with `selfplay serve` as its OpenAI server: it draws a model's answers there, and asks the same server which of two
answers is better, by the log-probs of one token.

    python3 tests/by_hand/alpaca_eval_against_serve.py SELFPLAY MODEL OUT

MODEL is a chat model, as SmolLM2-135M-Instruct's GGUF. A small judge judges badly: what is looked at is that every answer and every verdict comes, and that
alpaca_eval's win rate is the mean of the verdicts' probabilities. Needs alpaca_eval as `published_programs.py` says. Exit 1 on a difference.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.request

QUESTIONS = ["Name three colours.", "What is two and two?", "Write a line about the sea.", "Who wrote Hamlet?"]
REFERENCE = "I do not know, and I would rather not say anything about it."
JUDGE = """<|im_start|>user
Question: {instruction}
Answer 1: {output_1}
Answer 2: {output_2}
Which answer is better? Say 1 or 2 and nothing else.
<|im_end|>
"""


def main():
    selfplay, model, out = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]).absolute()
    out.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}/v1"
    server = subprocess.Popen([selfplay, "serve", "--model", model, "--port", str(port)], stdout=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                names = json.load(urllib.request.urlopen(f"{address}/models"))["data"]
                break
            except OSError:
                time.sleep(0.2)
        else:
            raise SystemExit("the server does not answer")
        name = names[0]["id"]
        (out / "client.yaml").write_text(json.dumps({"default": [{"api_key": "none", "base_url": address}]}))
        os.environ["OPENAI_CLIENT_CONFIG_PATH"] = str(out / "client.yaml")
        os.environ["OPENAI_API_KEY"] = "none"
        os.environ["IS_ALPACA_EVAL_2"] = "False"
        from alpaca_eval import main as program

        (out / "answer.txt").write_text("<|im_start|>user\n{instruction}\n<|im_end|>\n")
        (out / "judge.txt").write_text(JUDGE)
        chat = {"model_name": name, "is_chat": True, "requires_chatml": True, "price_per_token": 0.0}
        policy = {"served": {"prompt_template": str(out / "answer.txt"), "fn_completions": "openai_completions",
                             "completions_kwargs": {**chat, "max_tokens": 40, "temperature": 0.7}}}
        judge = {"served": {"prompt_template": str(out / "judge.txt"), "fn_completions": "openai_completions",
                            "completions_kwargs": {**chat, "max_tokens": 1, "temperature": 1, "logprobs": True, "top_logprobs": 20},
                            "fn_completion_parser": "logprob_parser",
                            "completion_parser_kwargs": {"numerator_token": "1", "denominator_tokens": ["1", "2"], "is_binarize": False},
                            "completion_key": "completions_all", "batch_size": 1}}
        for file, config in (("judge_configs", judge), ("policy_configs", policy)):
            folder = out / file
            folder.mkdir(exist_ok=True)
            (folder / "configs.yaml").write_text(json.dumps(config))
        rows = [{"instruction": question, "output": REFERENCE, "generator": "reference", "dataset": "own"} for question in QUESTIONS]
        board, _ = program.evaluate_from_model(
            policy, evaluation_dataset=rows, annotators_config=str(out / "judge_configs"), output_path=str(out / "results"),
            is_return_instead_of_print=True, fn_metric="get_winrate", sort_by="win_rate", caching_path=None, precomputed_leaderboard=None,
        )
    finally:
        server.terminate()
        server.wait()
    notes = json.loads(next((out / "results").rglob("annotations.json")).read_text())
    verdicts = [note["preference"] for note in notes]
    outputs = json.loads(next((out / "results").rglob("model_outputs.json")).read_text())
    assert len(outputs) == len(QUESTIONS) and all(row["output"].strip() for row in outputs), outputs
    assert len(verdicts) == len(QUESTIONS) and all(1.0 <= verdict <= 2.0 for verdict in verdicts), verdicts
    rate = 100 * sum(verdict - 1 for verdict in verdicts) / len(verdicts)
    found = float(board["win_rate"].iloc[0])
    assert abs(found - rate) < 1e-6, (found, rate)
    print(f"{len(outputs)} answers and {len(verdicts)} verdicts by {name}; win rate {found:.2f} %")


main()
