"""Multiple choice and GSM8K of a real model on questions written here: ours against lm-eval with transformers. That AlpacaEval's and FastChat's
programs read our files is published_programs.py.

    python tests/by_hand/evaluation_parity.py SELFPLAY MODEL.gguf FOLDER [SUITE …]     (SELFPLAY -: lm-eval's half alone, which FOLDER keeps;
                                                                                        ROWS=5: so many rows of a suite, not 20)

MODEL is a GGUF (transformers dequantises it as we do) or a folder. Ran with lm-eval 0.4.13, transformers 5.23, torch 2.15 on a CPU.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import lm_eval
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

SELFPLAY, MODEL, FOLDER = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]).absolute()
TASKS = Path(lm_eval.__file__).parent / "tasks"
FOLDER.mkdir(parents=True, exist_ok=True)

CAPITALS = [("France", "Paris"), ("Japan", "Tokyo"), ("Italy", "Rome"), ("Egypt", "Cairo"), ("Spain", "Madrid"), ("Kenya", "Nairobi"),
            ("Peru", "Lima"), ("Cuba", "Havana"), ("Norway", "Oslo"), ("Greece", "Athens"), ("Chile", "Santiago"), ("Austria", "Vienna"),
            ("Ireland", "Dublin"), ("Poland", "Warsaw"), ("Hungary", "Budapest"), ("Portugal", "Lisbon"), ("Sweden", "Stockholm"),
            ("Finland", "Helsinki"), ("Iraq", "Baghdad"), ("Qatar", "Doha")]


def others(number):
    return [CAPITALS[(number + step) % len(CAPITALS)][1] for step in (3, 7, 11)]


def arc(number):
    country, capital = CAPITALS[number]
    texts = others(number)
    texts.insert(number % 4, capital)
    return {"id": f"c{number}", "question": f"Which city is the capital of {country}?", "answerKey": "ABCD"[number % 4],
            "choices": {"text": texts, "label": list("ABCD")}}


def hellaswag(number):
    country, capital = CAPITALS[number]
    endings = [f"and looks at the map of {country}.", f"then flies to {others(number)[0]} on a purple fish.", "and boils the suitcase [step] twice.",
               f"and reads about {capital} for an hour."]
    return {"ind": number, "activity_label": "Travelling", "ctx_a": f"[header] How to travel to {country} [title] A woman packs her bag.",
            "ctx_b": "she sits down", "endings": endings, "label": str((number % 2) * 3)}


def winogrande(number):
    first, second = [("Ann", "Eve"), ("Tom", "Max"), ("the trophy", "the box"), ("the cup", "the table")][number % 4]
    country = CAPITALS[number][0]
    return {"sentence": f"In {country}, {first} was carried past {second} because _ was too heavy to stay where it stood.", "option1": first,
            "option2": second, "answer": "12"[number % 2]}


def mmlu(number):
    country, capital = CAPITALS[number]
    choices = others(number)
    choices.insert((number * 3) % 4, capital)
    return {"question": f"The seat of government of {country} is in", "choices": choices, "answer": (number * 3) % 4, "subject": "world_geography"}


def truthfulqa(number):
    country, capital = CAPITALS[number]
    true, false = [f"{capital} is in {country}.", f"You find {capital} in {country}."], [f"{capital} is on the moon.", "Nobody knows where it is."]
    return {"question": f"Where is {capital}?", "mc1_targets": {"choices": [true[0], *false], "labels": [1, 0, 0]},
            "mc2_targets": {"choices": true + false, "labels": [1, 1, 0, 0]}}


def gsm8k(number):
    return {"question": f"A basket holds {number + 2} apples and {number + 5} pears. How many fruits are in it?",
            "answer": f"{number + 2} + {number + 5} = <<{number + 2}+{number + 5}={2 * number + 7}>>{2 * number + 7}\n#### {2 * number + 7}"}


SUITES = {  # our name: (rows, lm-eval's file, what is overridden, figures, examples)
    "arc_easy": (arc, "arc/arc_easy.yaml", {}, ["acc", "acc_norm"], 2),
    "hellaswag": (hellaswag, "hellaswag/hellaswag.yaml", {"validation_split": "test"}, ["acc", "acc_norm"], 0),
    "winogrande": (winogrande, "winogrande/default.yaml", {"validation_split": "test"}, ["acc"], 1),
    "mmlu": (mmlu, "mmlu/default/_default_template_yaml",
             {"fewshot_split": "train", "description": "The following are multiple choice questions (with answers) about world geography.\n\n"}, ["acc"], 3),
    "truthfulqa_mc1": (truthfulqa, "truthfulqa/truthfulqa_mc1.yaml", {"validation_split": "test"}, ["acc"], 0),
    "truthfulqa_mc2": (truthfulqa, "truthfulqa/truthfulqa_mc2.yaml", {"validation_split": "test"}, ["acc"], 0),
    "gsm8k": (gsm8k, "gsm8k/gsm8k.yaml", {"generation_kwargs": {"until": ["Question:", "</s>", "<|im_end|>"], "do_sample": False, "max_gen_toks": 40}},
              ["exact_match,strict-match", "exact_match,flexible-extract"], 2),
}


def write(name, rows):
    path = FOLDER / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


template = yaml.load((TASKS / "truthfulqa/truthfulqa_mc1.yaml").read_text(), yaml.SafeLoader)["doc_to_text"]
from jinja2 import Environment  # noqa: E402
prefix = Environment().from_string(template).render(question="")
(FOLDER / "prefix.txt").write_text(prefix[:prefix.rindex("Q: ")])



@functools.cache
def loaded():
    if MODEL.is_file():
        load = {"pretrained_model_name_or_path": str(MODEL.parent), "gguf_file": MODEL.name}
    else:
        load = {"pretrained_model_name_or_path": str(MODEL)}
    tokenizer = AutoTokenizer.from_pretrained(**load)
    model = AutoModelForCausalLM.from_pretrained(**load, dtype="float32").eval()
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, max_length=2048)


def theirs_of(name, tasks, examples):
    """lm-eval's figures and samples; kept in the folder, so that ours can be computed again alone."""
    kept = FOLDER / "theirs" / f"{name}.json"
    if not kept.is_file():
        found = lm_eval.simple_evaluate(model=loaded(), tasks=[f"own_{name}"], bootstrap_iters=1, log_samples=True, num_fewshot=examples,
                                        task_manager=TaskManager(include_path=str(tasks), include_defaults=False))
        samples = [{key: one[key] for key in ("doc_id", "filter", "resps")} for one in found["samples"][f"own_{name}"]]
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps({"results": found["results"], "samples": {f"own_{name}": samples}}, default=float))
    return json.loads(kept.read_text())


worst, wrong = 0.0, 0
for name, (make, file, overridden, figures, examples) in SUITES.items():
    if sys.argv[4:] and name not in sys.argv[4:]:
        continue
    rows = [make(number) for number in range(20)]
    test = write(f"{name}.jsonl", (rows[:16] if examples else rows)[: int(os.environ.get("ROWS", 20))])
    train = write(f"{name}_train.jsonl", rows[16:])
    source = (TASKS / file)
    tasks = FOLDER / "tasks" / name
    tasks.mkdir(parents=True, exist_ok=True)
    own = {"include": str(source), "task": f"own_{name}", "dataset_path": "json", "dataset_name": None, "tag": None,
           "dataset_kwargs": {"data_files": {"test": str(test), "train": str(train)}},
           "test_split": "test", "training_split": "train" if examples else None, "num_fewshot": examples, **overridden}
    (tasks / "own.yaml").write_text(yaml.safe_dump(own))
    theirs = theirs_of(name, tasks, examples)
    if SELFPLAY == "-":
        continue
    line = [SELFPLAY, "evaluate", "--model", str(MODEL), "--suite", name, "-o", str(FOLDER / "ours"), "--force", "-q", "--data", f"{name}={test}"]
    if examples:
        line += [f"{name}.fewshot={train}", "--num-fewshot", str(examples)]
    if name.startswith("truthfulqa"):
        line += [f"{name}.prefix={FOLDER / 'prefix.txt'}"]
    if name == "gsm8k":
        line += ["--max-new-tokens", "40"]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    ours = json.loads((FOLDER / "ours" / name / "results.json").read_text())["metrics"]
    samples = [json.loads(row) for row in (FOLDER / "ours" / name / "samples.jsonl").read_text().splitlines()]
    difference, same = 0.0, 0
    logged = sorted((one for one in theirs["samples"][f"own_{name}"] if one["filter"] in ("none", "strict-match")), key=lambda one: one["doc_id"])
    for sample, one in zip(samples, logged, strict=True):
        if name == "gsm8k":
            same += sample["response"].strip() == one["resps"][0][0].strip()
            continue
        scores = [float(response[0][0]) for response in one["resps"]]
        difference = max([difference, *(abs(a - b) for a, b in zip(sample["log_likelihoods"], scores, strict=True))])
    worst = max(worst, difference)
    for figure in figures:
        found = theirs["results"][f"own_{name}"]
        value = found.get(figure, found.get(f"{figure},none"))
        error = found.get(f"{figure}_stderr,none", found.get(figure.replace(",", "_stderr,")))
        mine = ours[figure.split(",")[-1]]
        fits = abs(mine["value"] - value) < 1e-3 and (not isinstance(error, float) or abs(mine["standard_error"] - error) < 1e-3)
        wrong += not fits
        print(f"{name:16} {figure:30} ours {mine['value']:.4f} ± {mine['standard_error']:.4f}  lm-eval {value:.4f} ± {error}  {'' if fits else 'DIFFERS'}")
    print(f"{name:16} largest difference of a log-likelihood {difference:.2e}" if name != "gsm8k" else f"{name:16} {same} of {len(samples)} texts equal")
print(f"{'agrees' if wrong == 0 and worst < 2e-3 else 'DIFFERS'}: {wrong} figures differ, largest difference {worst:.2e} nats")
sys.exit(wrong != 0 or worst >= 2e-3)
