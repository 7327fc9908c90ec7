#!/usr/bin/env python3
"""AlpacaEval's and FastChat's own programs over files that `selfplay evaluate` wrote: they read them, and find the figures that we found.

    python3 tests/by_hand/published_programs.py SELFPLAY MODEL PREFERENCE_MODEL OUT [--alpaca FILE] [--mt-bench FOLDER]

With the models of recipes/quickstart this takes seconds. --alpaca is a file of outputs in AlpacaEval's form (else a few rows written here),
--mt-bench a folder with mt_bench_question.jsonl, mt_bench_reference_answer_gpt-4.jsonl and judge_prompts.jsonl (else questions written here, and our
own wordings). MT-bench's judge is a server in this script that says what a hash of the question says: what is compared is who reads what.

Needs alpaca_eval 0.6.6 and fschat 0.2.36, which want old versions of others:
    python3 -m venv ENV && ENV/bin/pip install --no-deps alpaca_eval==0.6.6 fschat==0.2.36
    ENV/bin/pip install 'pandas<3' patsy fire python-dotenv tiktoken scikit-learn datasets huggingface_hub openai 'anthropic<1' shortuuid
fastchat.model needs torch and old transformers; of it only a name is used here, and it is stood in for where it can't be imported.
Exit 1 on a difference.
"""

import argparse
import glob
import http.server
import io
import json
import pathlib
import re
import subprocess
import sys
import threading
import types
import zlib
from contextlib import redirect_stdout

parser = argparse.ArgumentParser()
for name in ["selfplay", "model", "preference_model", "out"]:
    parser.add_argument(name)
parser.add_argument("--alpaca")
parser.add_argument("--mt-bench")
parser.add_argument("--limit", default="12")
options = parser.parse_args()
OUT = pathlib.Path(options.out).absolute()
OUT.mkdir(parents=True, exist_ok=True)
WRONG = []


def same(what, mine, theirs, tolerance=1e-9):
    holds = abs(mine - theirs) <= tolerance
    print(f"{what}: ours {mine:.10g}, theirs {theirs:.10g}: {'equal' if holds else 'DIFFERENT'}")
    if not holds:
        WRONG.append(what)


def holds(what, condition):
    print(f"{what}: {'holds' if condition else 'DOES NOT HOLD'}")
    if not condition:
        WRONG.append(what)


class Judge(http.server.BaseHTTPRequestHandler):
    """OpenAI's chat interface: a rating or a verdict by a hash of what is asked; some have neither."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = "\n".join(turn["content"] for turn in body["messages"])
        number = zlib.crc32(asked.encode())
        pair = "[[A]]" in asked
        says = ["[[A]]", "[[B]]", "[[C]]", "none"][number % 4] if pair else f"Rating: [[{number % 10 + 1}]]" if number % 11 else "No rating."
        answer = {"id": "x", "object": "chat.completion", "model": "judge", "created": 0, "usage": {"prompt_tokens": 1, "completion_tokens": 1},
                  "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": f"It says something. {says}"}}]}
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.send_error(404)

    def log_message(self, *_):
        pass


def evaluate(suite, data, folder, more):
    line = [options.selfplay, "evaluate", "--model", options.model, "--suite", suite, "--data", *data, "-o", folder, "--limit", options.limit,
            "--max-new-tokens", "24", "--force", "-q", "--json", *more]
    told = subprocess.run([str(part) for part in line], check=True, stdout=subprocess.PIPE, text=True).stdout
    results = json.loads(told)["results"][0]
    return {name: average["value"] for name, average in results["metrics"].items()}, results


def find(folder, name):
    found = glob.glob(f"{folder}/**/{name}", recursive=True)
    if len(found) != 1:
        raise SystemExit(f"{folder}: {len(found)} files {name}")
    return pathlib.Path(found[0])


def write_lines(name, rows):
    (OUT / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return OUT / name


def alpaca():
    import alpaca_eval
    import pandas
    from alpaca_eval import metrics, utils

    file = options.alpaca
    if not file:
        rows = [{"instruction": f"Add {n} and {n * 3 % 7}.", "output": "." if n % 3 else f"It is {n}{' exactly' * (n % 4)}.", "generator": "baseline",
                 "dataset": "written_here"} for n in range(12)]
        file = OUT / "baseline.json"
        file.write_text(json.dumps(rows))
    figures, results = evaluate("alpaca_eval", [f"alpaca_eval={file}"], OUT / "alpaca", ["--preference-model", options.preference_model])
    error = results["metrics"]["win_rate"]["standard_error"]
    folder = find(OUT / "alpaca", "annotations.json").parent
    found = metrics.get_winrate(pandas.read_json(folder / "annotations.json"))
    same("alpaca_eval's win rate of our annotations", figures["win_rate"], found["win_rate"])
    same("its standard error", error, found["standard_error"])
    same("its discrete win rate", figures["discrete_win_rate"], found["discrete_win_rate"])

    # Their annotator over our outputs: the longer answer wins, whatever order it is shown in.
    (OUT / "prompt.txt").write_text("{instruction}\n@@@\n{output_1}\n@@@\n{output_2}\n@@@")
    (OUT / "configs.yaml").write_text(
        "longer:\n  prompt_template: " + str(OUT / "prompt.txt") + "\n  fn_completions: longer\n  completions_kwargs: {}\n"
        "  fn_completion_parser: regex_parser\n  completion_parser_kwargs:\n    outputs_to_match:\n      1: 'first'\n      2: 'second'\n  batch_size: 1\n")

    def longer(prompts, **_):
        parts = [prompt.split("\n@@@") for prompt in prompts]
        said = ["first" if len(one[1]) >= len(one[2]) else "second" for one in parts]
        return {"completions": said, "price_per_example": [0.0] * len(said), "time_per_example": [0.0] * len(said)}

    base = sys.modules["alpaca_eval.annotators.base"]
    base.get_fn_completions = lambda _: longer
    for old in glob.glob(str(OUT / "annotations_seed*")):
        pathlib.Path(old).unlink()
    outputs = folder / "model_outputs.json"
    rows = json.loads(outputs.read_text())
    baseline = utils.load_or_convert_to_dataframe(file)[: len(rows)]
    given = str(outputs)
    if all(row["output"].strip().lstrip("-").isdigit() for row in rows):
        print("every answer is a number, which pandas makes integers of a file: the rows are handed over")
        given = pandas.DataFrame(rows)
    board, annotated = alpaca_eval.evaluate(
        model_outputs=given, reference_outputs=baseline, annotators_config=str(OUT / "configs.yaml"), precomputed_leaderboard=None,
        fn_metric="get_winrate", sort_by="win_rate", output_path=str(OUT / "theirs"), is_return_instead_of_print=True, caching_path=None)
    name = utils.get_generator_name(None, utils.load_or_convert_to_dataframe(str(outputs)))
    theirs = board.loc[name]
    holds(f"alpaca_eval annotates all {len(baseline)} of our outputs, under the name {name!r}", len(annotated) == len(baseline) == theirs["n_total"])
    written = find(OUT / "theirs", "annotations.json")
    told = subprocess.run([options.selfplay, "winrate", "--annotations", written, "--json"], check=True, stdout=subprocess.PIPE, text=True).stdout
    ours = json.loads(told)
    for key in ["win_rate", "standard_error", "discrete_win_rate"]:
        same(f"selfplay winrate of alpaca_eval's annotations, {key}", ours[key], float(theirs[key]))


def fastchat_common():
    """fastchat.llm_judge.common; of fastchat.model, which needs other versions of transformers, only names."""
    try:
        from fastchat.llm_judge import common
    except Exception as error:  # noqa: BLE001: whatever its imports raise
        print(f"fastchat.model does not import here ({error}): stood in for")
        for name in [name for name in sys.modules if name.startswith("fastchat.")]:
            del sys.modules[name]
        for name, attributes in {"fastchat.model": {"get_conversation_template": None, "load_model": None},
                                 "fastchat.model.model_adapter": {"get_conversation_template": None, "ANTHROPIC_MODEL_LIST": (), "OPENAI_MODEL_LIST": ()}}.items():
            module = types.ModuleType(name)
            module.__dict__.update(attributes)
            sys.modules[name] = module
        from fastchat.llm_judge import common
    return common


def shown(file, arguments):
    """What FastChat's show_result prints, as numbers by the first word of a line."""
    from fastchat.llm_judge import show_result

    args = argparse.Namespace(bench_name="mt_bench", input_file=str(file), judge_model="judge", model_list=None, baseline_model=None, **arguments)
    text = io.StringIO()
    with redirect_stdout(text):
        (show_result.display_result_single if arguments["mode"] == "single" else show_result.display_result_pairwise)(args)
    return text.getvalue()


def mt_bench():
    common = fastchat_common()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    judge = ["--set", "score.kind=judge", "--set", f"score.endpoint=http://127.0.0.1:{server.server_port}/v1", "--set", "score.model=judge"]
    if options.mt_bench:
        at = pathlib.Path(options.mt_bench)
        questions, references = at / "mt_bench_question.jsonl", at / "mt_bench_reference_answer_gpt-4.jsonl"
        data = [f"mt_bench={questions}", f"mt_bench.references={references}", f"mt_bench.prompts={at / 'judge_prompts.jsonl'}"]
    else:
        kinds = ["writing", "math", "reasoning", "stem", "humanities", "coding"]
        questions = write_lines("questions.jsonl", [{"question_id": 81 + n, "category": kinds[n % 6], "turns": [f"Add {n} and 2.", "And 3 more?"]}
                                                    for n in range(12)])
        references = write_lines("references.jsonl", [{"question_id": 81 + n, "answer_id": f"r{n}", "model_id": "gpt-4", "tstamp": 0.0,
                                                       "choices": [{"index": 0, "turns": [str(n + 2), str(n + 5)]}]} for n in range(12)])
        data = [f"mt_bench={questions}", f"mt_bench.references={references}"]
    figures, _ = evaluate("mt_bench", data, OUT / "single", judge)
    judgments = find(OUT / "single", "model_judgment_single.jsonl")
    answers = OUT / "answers"
    answers.mkdir(exist_ok=True)
    rows = [json.loads(line) for line in find(OUT / "single", "model_answer.jsonl").read_text().splitlines()]
    model = rows[0]["model_id"]
    # FastChat names a model by its file.
    write_lines("answers/m.jsonl", rows)
    read = common.load_model_answers(str(answers))
    asked = common.load_questions(str(questions), None, len(rows))
    holds(f"FastChat reads our answers of {model!r}, both turns", all(len(read["m"][one["question_id"]]["choices"][0]["turns"]) == len(one["turns"]) for one in asked))
    reference = {"gpt-4": {row["question_id"]: row for row in map(json.loads, references.read_text().splitlines())}}
    wording = common.Judge("gpt-4", {}, ref_based=True)
    common.check_data(asked, read, reference, ["m"], {"math": wording})
    single = common.load_single_model_judgments(str(judgments))
    holds("FastChat reads our judgements", sum(map(len, single.values())) > 0 and all(key[1] == model for games in single.values() for key in games))
    text = shown(judgments, {"mode": "single"})
    print(text)
    numbers = [float(value) for value in re.findall(r"(\d+\.\d+)\s*$", text, re.M)]
    for key, theirs in zip(["turn_1", "turn_2", "average"], numbers, strict=True):
        same(f"show_result's {key}", figures[key], theirs, 1e-5)
    # Their pattern of a rating, over the judge's texts.
    for line in judgments.read_text().splitlines():
        row = json.loads(line)
        match = re.search(common.one_score_pattern, row["judgment"]) or re.search(common.one_score_pattern_backup, row["judgment"])
        if (float(match.groups()[0]) if match else -1) != row["score"]:
            holds(f"the rating of {row['question_id']}, turn {row['turn']}", False)

    other = [{**row, "model_id": "other", "choices": [{"index": 0, "turns": [f"{turn} surely" for turn in row["choices"][0]["turns"]]}]} for row in rows]
    baseline = write_lines("other.jsonl", other)
    figures, _ = evaluate("mt_bench", [*data, f"mt_bench.baseline={baseline}"], OUT / "pair", judge)
    judgments = find(OUT / "pair", "model_judgment_pair.jsonl")
    games = common.load_pairwise_model_judgments(str(judgments))
    holds("FastChat reads our pairwise judgements", sum(map(len, games.values())) > 0)
    text = shown(judgments, {"mode": "pairwise-all"})
    print(text)
    line = next(line for line in text.splitlines() if line.split() and line.split()[0] == model.split()[0] and len(line.split()) > 6)
    same("show_result's win_rate_adjusted", figures["win_rate_adjusted"], float(line.split()[-1]), 1e-5)
    server.shutdown()


alpaca()
mt_bench()
print("all equal" if not WRONG else f"wrong: {WRONG}")
sys.exit(1 if WRONG else 0)
