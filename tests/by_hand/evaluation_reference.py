"""What the published programs say of rows made here: IFEval's checkers, GSM8K's readings, prompts and figures of multiple choice, all by
lm-eval's own code and task files; MT-bench's readings by FastChat's rules written out.

    python tests/by_hand/evaluation_reference.py evaluation/src/suites/reference/values.json

Ran with lm-eval 0.4.13, nltk 3.10.4, langdetect 1.0.9, Python 3.11. The file holds rows and values alone; `cargo test suites` holds ours against them.
Punkt's trained parameters are no part of nltk's package: the sentence tokenizer gets the abbreviations that our own splitter has.
"""

import ast
import itertools
import json
import random
import re
import sys
from pathlib import Path

import langdetect
import lm_eval
import nltk
import numpy as np
import yaml
from nltk.tokenize.destructive import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

nltk.download = lambda *_, **__: True
nltk.data.find = lambda *_, **__: True
from lm_eval.tasks.ifeval import instructions_util, utils  # noqa: E402

SOURCE = Path(__file__).parents[2] / "evaluation/src/suites/ifeval/sentences.rs"
TASKS = Path(lm_eval.__file__).parent / "tasks"
langdetect.DetectorFactory.seed = 0


def punkt():
    listed = re.search(r'ABBREVIATIONS: &str = "(.*?)"', SOURCE.read_text(), re.S).group(1)
    parameters = PunktParameters()
    parameters.abbrev_types = set(listed.replace("\\\n", " ").split())
    return PunktSentenceTokenizer(parameters)


SENTENCES = punkt()
WORDS = NLTKWordTokenizer()
instructions_util._get_sentence_tokenizer = lambda: SENTENCES
instructions_util.nltk.word_tokenize = lambda text, *_: [
    token for sentence in SENTENCES.tokenize(text) for token in WORDS.tokenize(sentence)
]

ANSWERS = [
    "",
    "   ",
    "Hello there. This is a plain answer, with three sentences. It ends here!",
    "Dr. Smith went to Washington, D.C. at 5 p.m. on Jan. 5. He said \"Stop!\" and left... Then A. Lincoln came. (It rained.) Was it 3.5 or 4? Yes.",
    "THE ARMY OF THE U.S. AND NATO CAN'T STOP. WE'RE HERE; YOU CANNOT LEAVE!",
    "all of this is written in small letters and in plain english words so that nobody has to shout at anyone.",
    "* one\n* two\n- three\n  * four\n** not a bullet\n*** neither",
    "*first* and **second** and * * and ***third***\n*open\nclosed*",
    "***\nPart one\n***\nPart two\n***",
    "Part one\n***\n\n***\nPart two",
    "Weekend plans begin here.\n\nSecond paragraph's first word.\n\n'Weekend' again.",
    "\n\nWeekend first.\n\nSecond.",
    "Section 1\nalpha\nSection 2\nbeta\nSECTION 3 gamma",
    "```json\n{\"a\": [1, 2, {\"b\": null}]}\n```",
    "{\"a\": 1,}",
    "[\"x\", true, 1e5]",
    "<<A Title>>\nText with [name] and [address] and [multi\nline].",
    "<<>> << >>",
    "First answer.\n******\nSecond answer.",
    "Same.******Same.",
    "a******\n******b",
    "Write a poem about rain.\nRain, rain.",
    "Text.\nP.S. Do not forget. \nP.P.S more",
    "p. p. s I forgot.",
    "My answer is maybe. I am not sure.",
    "Is there anything else I can help with?",
    "\"Is there anything else I can help with?\"",
    "\"All of this is quoted.\"",
    "\"",
    "\"\"",
    "Die Katze sitzt auf dem Dach und wartet auf den Regen, der heute Abend kommen soll.",
    "Le chat est assis sur le toit et attend la pluie qui doit arriver ce soir dans toute la ville.",
    "El gato está sentado en el tejado y espera la lluvia que llegará esta noche a toda la ciudad.",
    "Кошка сидит на крыше и ждёт дождя, который должен прийти сегодня вечером.",
    "बिल्ली छत पर बैठी है और बारिश का इंतज़ार कर रही है जो आज शाम को आएगी।",
    "猫坐在屋顶上，等待今晚的雨。",
    "12345 67890 !!! ???",
    "Intro line\nThe answer with, commas stays\nOutro line",
    "**Hello** world, keyword KEYWORD keywords. A key-word.",
    "O'Brien said: \"We DON'T know,\" then 'TWAS over -- WOW. NASA's ISS: $5, 3,000; ETC. END",
    "He lives in St. Louis. i.e. he moved. Mr. Jones, e.g., did not. No. 5 is alive. Version 2. 5 is odd.",
    "One.Two. Three.\n\nFour: five; six? seven! eight. “Nine.” Ten.’ Eleven",
    "e. e. cummings wrote. J. K. Rowling too. The end of J. The start.",
    "GONNA WANNA GIMME LEMME. MORE'N THAT. D'YE SEE? 'TIS ALL.",
]

KINDS = [
    ("keywords:existence", {"keywords": ["rain", "answer"]}),
    ("keywords:existence", {"keywords": ["key.?word"]}),
    ("keywords:frequency", {"keyword": "keyword", "frequency": 3, "relation": "at least"}),
    ("keywords:frequency", {"keyword": " rain ", "frequency": 2, "relation": "less than"}),
    ("keywords:forbidden_words", {"forbidden_words": ["rain", "end"]}),
    ("keywords:forbidden_words", {"forbidden_words": ["key"]}),
    ("keywords:letter_frequency", {"letter": "A", "let_frequency": 6, "let_relation": "at least"}),
    ("keywords:letter_frequency", {"letter": "e", "let_frequency": 4, "let_relation": "less than"}),
    *(("language:response_language", {"language": code}) for code in ["en", "de", "fr", "es", "ru", "hi"]),
    *(("length_constraints:number_sentences", {"num_sentences": n, "relation": r})
      for n in range(1, 9) for r in ["at least", "less than"]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 1}),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}),
    *(("length_constraints:number_words", {"num_words": n, "relation": r}) for n in [3, 8, 14, 20] for r in ["at least", "less than"]),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 3, "nth_paragraph": 1, "first_word": "Weekend"}),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 3, "nth_paragraph": 3, "first_word": "weekend"}),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "weekend"}),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "second"}),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}),
    ("detectable_content:number_placeholders", {"num_placeholders": 3}),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}),
    ("detectable_content:postscript", {"postscript_marker": "Outro"}),
    ("detectable_format:number_bullet_lists", {"num_bullets": 4}),
    ("detectable_format:number_bullet_lists", {"num_bullets": 1}),
    ("detectable_format:constrained_response", {}),
    *(("detectable_format:number_highlighted_sections", {"num_highlights": n}) for n in [1, 2, 3, 4, 5]),
    ("detectable_format:multiple_sections", {"section_spliter": "Section", "num_sections": 2}),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2}),
    ("detectable_format:json_format", {}),
    ("detectable_format:title", {}),
    ("combination:two_responses", {}),
    ("combination:repeat_prompt", {"prompt_to_repeat": "write a poem about rain."}),
    ("startend:end_checker", {"end_phrase": "Is there anything else I can help with?"}),
    *(("change_case:capital_word_frequency", {"capital_frequency": n, "capital_relation": r})
      for n in range(1, 20) for r in ["at least", "less than"]),
    ("change_case:english_capital", {}),
    ("change_case:english_lowercase", {}),
    ("punctuation:no_comma", {}),
    ("startend:quotation", {}),
]


def ifeval():
    rows = []
    for number, answer in enumerate(ANSWERS):
        strict, loose = [], []
        doc = {"key": number, "prompt": "Write a poem about rain.",
               "instruction_id_list": [kind for kind, _ in KINDS], "kwargs": [arguments for _, arguments in KINDS]}
        found = utils.process_results(doc, [answer])
        strict, loose = found["inst_level_strict_acc"], found["inst_level_loose_acc"]
        rows.append({"answer": answer, "strict": [int(x) for x in strict], "loose": [int(x) for x in loose],
                     "sentences": SENTENCES.tokenize(answer),
                     "capitals": [w for w in instructions_util.nltk.word_tokenize(answer) if w.isupper()]})
    return {"instructions": [{"id": kind, "kwargs": arguments} for kind, arguments in KINDS], "rows": rows}


def task(name):
    class Loader(yaml.SafeLoader):
        pass
    Loader.add_constructor("!function", lambda loader, node: node.value)
    return yaml.load((TASKS / name).read_text(), Loader)


def gsm8k():
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter
    config = task("gsm8k/gsm8k.yaml")
    metric = config["metric_list"][0]
    texts = ["so\n#### 1007", "#### 1,007. More: 12", "It is $1,007.", "none", "#### -3", "a 5 b -3", "#### $18", "The answer is 18.\n",
             "1.5 and 2.", "....", "#### 72 clips\n#### 73", "x = 10,000.00", "- 4", "$.", "#### 1007.\n"]
    answers = ["So.\n#### 1,007", "x\n#### -3", "y #### 18", "z\n#### 72", "w\n#### 10000.00"]
    rows = []
    for text, answer in itertools.product(texts, answers):
        row = {"text": text, "answer": answer}
        for chain in config["filter_list"]:
            settings = {k: v for k, v in chain["filter"][0].items() if k != "function"}
            read = list(RegexFilter(**settings).apply([[text]], [{}]))[0][0]
            right = exact_match_hf_evaluate([read], [answer], regexes_to_ignore=metric["regexes_to_ignore"],
                                            ignore_case=metric["ignore_case"], ignore_punctuation=metric["ignore_punctuation"])
            row[chain["name"]] = [read, bool(right["exact_match"])]
        rows.append(row)
    return rows


def choices():
    """Prompts by the task files' own templates, figures by the task's arithmetic written out over drawn log-likelihoods."""
    from jinja2 import Environment
    from lm_eval.tasks.hellaswag import utils as hellaswag
    from lm_eval.tasks.truthfulqa.utils import process_results_mc2
    from lm_eval.tasks.winogrande import preprocess_winogrande as winogrande
    render = lambda template, doc: Environment().from_string(template).render(**doc)  # noqa: E731
    draw = random.Random(7)
    rows = []

    def add(layout, doc, contexts, continuations, options, gold):
        scores = [round(-20 * draw.random(), 3) for _ in options]
        figures = {"acc": float(np.argmax(scores) == gold), "acc_norm": float(np.argmax(np.array(scores) / [len(o) for o in options]) == gold)}
        rows.append({"layout": layout, "doc": doc, "contexts": contexts, "continuations": continuations, "scores": scores, "figures": figures})

    arc = task("arc/arc_easy.yaml")
    for number in range(4):
        doc = {"question": f"Which of these is number {number}?", "choices": {"text": ["a rock", "näh", "one of them", "d"], "label": list("ABCD" if number % 2 else "1234")}}
        doc["answerKey"] = doc["choices"]["label"][number]
        context = render(arc["doc_to_text"], doc)
        add("arc", doc, [context] * 4, [" " + c for c in doc["choices"]["text"]], doc["choices"]["text"], number)
    for number, (a, b) in enumerate([("A man is seen.", "he jumps Over"), ("[header] How to cook [title] Buy  rice.", "[step] then BOIL it")]):
        doc = {"activity_label": "Cooking [x]", "ctx_a": a, "ctx_b": b, "endings": ["it is done  [title] End", " he stops.", "[substeps] We eat.", "no"], "label": str(number + 1)}

        class Rows(list):
            def map(self, f):
                return [f(x) for x in self]
        out = hellaswag.process_docs(Rows([doc]))[0]
        add("hellaswag", doc, [out["query"]] * 4, [" " + c for c in out["choices"]], out["choices"], out["gold"])
    for answer in "12":
        doc = {"sentence": "Ann thanked Eve because _ had helped her a lot.", "option1": "Ann", "option2": "Eve", "answer": answer}
        options = winogrande.doc_to_choice(doc)
        add("winogrande", doc, options, [" " + winogrande.doc_to_target(doc)] * 2, options, winogrande.doc_to_text(doc))
    mmlu = task("mmlu/default/_default_template_yaml")
    description = task("mmlu/default/mmlu_abstract_algebra.yaml")["description"]
    for answer in range(3):
        doc = {"question": " What is 1 + 1?\n", "choices": ["1", "2", "3", "none"], "answer": answer, "subject": "abstract_algebra"}
        context = description + render(mmlu["doc_to_text"], doc)
        add("mmlu", doc, [context] * 4, [" " + c for c in mmlu["doc_to_choice"]], mmlu["doc_to_choice"], answer)
    template = task("truthfulqa/truthfulqa_mc1.yaml")["doc_to_text"]
    for labels in [[1, 0, 0], [1, 1, 0]]:
        doc = {"question": "What is hot?", "mc1_targets": {"choices": ["Fire.", "Ice.", "Snow."], "labels": [1, 0, 0]},
               "mc2_targets": {"choices": ["Fire.", "Ice.", "Snow."], "labels": labels}}
        # The part after the published examples: those are no part of this project.
        context = render(template, doc)[render(template, {"question": ""}).rindex("Q: "):]
        add("truthfulqa_mc1", doc, [context] * 3, [" " + c for c in doc["mc1_targets"]["choices"]], doc["mc1_targets"]["choices"], 0)
        scores = rows[-1]["scores"]
        rows.append({**rows[-1], "layout": "truthfulqa_mc2", "figures": {"acc": float(process_results_mc2(doc, [(s, 0) for s in scores])["acc"])}})
    return rows


def fewshot():
    from lm_eval.api.samplers import ContextSampler
    sampler = ContextSampler([{"n": n} for n in range(40)], rnd=1234)
    draws = [[doc["n"] for doc in sampler.sample(5)] for _ in range(4)]
    sampler = ContextSampler([{"n": n} for n in range(12)], rnd=1234)
    return {"other": draws, "same": [[doc["n"] for doc in sampler.sample(3, eval_doc={"n": n})] for n in range(6)]}


def averages():
    from lm_eval.api.metrics import mean_stderr, pooled_sample_stderr
    draw = random.Random(3)
    groups = [[float(draw.random() < 0.6) for _ in range(n)] for n in [5, 20, 11]]
    return {"groups": groups, "means": [float(np.mean(g)) for g in groups], "errors": [mean_stderr(g) for g in groups],
            "pooled": pooled_sample_stderr([mean_stderr(g) for g in groups], [len(g) for g in groups])}


def mt_bench():
    """fastchat/llm_judge/common.py's rules, written out."""
    texts = ["Rating: [[8]]", "[3] then [[7.5]]", "[6]", "6", "[[A]]", "[[B]] [[A]]", "[[C]]", "[[10]] [[2]]", "[[8.]]", "[[ 8 ]]"]
    rows = []
    for text in texts:
        match = re.search(r"\[\[(\d+\.?\d*)\]\]", text) or re.search(r"\[(\d+\.?\d*)\]", text)
        winner = next((w for mark, w in [("[[A]]", "A"), ("[[B]]", "B"), ("[[C]]", "tie")] if mark in text), "error")
        rows.append({"text": text, "rating": float(ast.literal_eval(match.group(1))) if match else None, "winner": winner})
    return rows


found = {"ifeval": ifeval(), "gsm8k": gsm8k(), "choices": choices(), "fewshot": fewshot(), "averages": averages(), "mt_bench": mt_bench()}
Path(sys.argv[1]).write_text(json.dumps(found, ensure_ascii=False, indent=None) + "\n")
