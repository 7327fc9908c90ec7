"""PairRM's shape (DeBERTa-v3-base, random weights): `selfplay score` against the same rows the way llm-blender goes through them.

    cargo build --release --bin selfplay
    ENV/bin/python benches/peers/pairrm.py --bin target/release/selfplay --work DIR [--rows 8] [--candidates 3] [--reps 3]

The peer compares every ordered pair (i, j) of all candidates separately, for a batch of rows at a time (`full_predict`), each
sequence padded to the batch's longest, by transformers' DebertaV2 in f32. Both sides have the same weights, tokens and threads and take
turns; ours is timed as a whole command, its start and the reading of the weights among it, the peer without either: that
errs for the peer. With --sort the peer's rows are sorted by length first, so that it pads less. Both sides' scores must agree.
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import time

os.environ["HF_HUB_OFFLINE"] = "1"

SHAPE = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072)
VOCAB = 32000
MARKS = ["[CLS]", "[SEP]", "[PAD]", "<unk>", "<|source|>", "<|candidate1|>", "<|candidate2|>", "<|candidate|>"]


def make(folder):
    """A PairRM-hf folder with random weights and a tokenizer of one token per word."""
    import torch
    from safetensors.torch import save_file
    from transformers import DebertaV2Config, DebertaV2Model

    os.makedirs(folder, exist_ok=True)
    torch.manual_seed(0)
    config = DebertaV2Config(vocab_size=VOCAB, max_position_embeddings=512, max_relative_positions=-1, position_buckets=256,
                             relative_attention=True, share_att_key=True, pos_att_type=["p2c", "c2p"], norm_rel_ebd="layer_norm",
                             hidden_act="gelu", position_biased_input=False, type_vocab_size=0, layer_norm_eps=1e-7, **SHAPE)
    model = DebertaV2Model(config)
    weights = {f"pretrained_model.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    h = SHAPE["hidden_size"]
    weights.update({"head_layer.1.weight": torch.randn(h, 2 * h) * 0.05, "head_layer.1.bias": torch.zeros(h),
                    "head_layer.4.weight": torch.randn(1, h) * 0.2, "head_layer.4.bias": torch.zeros(1)})
    save_file(weights, f"{folder}/model.safetensors", metadata={"format": "pt"})
    text = dict(config.to_dict(), model_type="deberta-v2", n_tasks=1)
    json.dump(text, open(f"{folder}/config.json", "w"), default=str)
    words = MARKS + [f"w{i}" for i in range(len(MARKS), VOCAB)]
    ids = {word: i for i, word in enumerate(words)}
    added = [dict(id=i, content=w, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
             for i, w in enumerate(MARKS)]
    single = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
              {"SpecialToken": {"id": "[SEP]", "type_id": 0}}]
    special = {w: dict(id=w, ids=[ids[w]], tokens=[w]) for w in ("[CLS]", "[SEP]")}
    json.dump(dict(version="1.0", truncation=None, padding=None, added_tokens=added, normalizer=None,
                   pre_tokenizer=dict(type="WhitespaceSplit"), decoder=None,
                   post_processor=dict(type="TemplateProcessing", single=single, pair=single, special_tokens=special),
                   model=dict(type="WordLevel", vocab=ids, unk_token="<unk>")), open(f"{folder}/tokenizer.json", "w"))
    json.dump(dict(cls_token="[CLS]", sep_token="[SEP]", unk_token="<unk>", pad_token="[PAD]"),
              open(f"{folder}/tokenizer_config.json", "w"))


def make_rows(count, candidates):
    """Prompts of 16 to 160 words, answers of 24 to 256: the lengths of a chat's answers differ by as much."""
    draw = random.Random(1)
    words = lambda low, high: [draw.randrange(len(MARKS), VOCAB) for _ in range(draw.randint(low, high))]
    return [dict(prompt=words(16, 160), responses=[words(24, 256) for _ in range(candidates)]) for _ in range(count)]


def sentence(ids):
    return " ".join(f"w{i}" for i in ids)


class Peer:
    """llm-blender's way."""

    def __init__(self, folder, threads):
        import torch
        from safetensors.torch import load_file
        from transformers import DebertaV2Config, DebertaV2Model

        torch.set_num_threads(threads)
        weights = load_file(f"{folder}/model.safetensors")
        self.model = DebertaV2Model(DebertaV2Config.from_pretrained(folder)).eval()
        prefix = "pretrained_model."
        self.model.load_state_dict({n[len(prefix):]: t for n, t in weights.items() if n.startswith(prefix)})
        self.head = [weights[f"head_layer.{n}"] for n in ("1.weight", "1.bias", "4.weight", "4.bias")]

    def scores(self, rows, batch, sort):
        """s of each row's pairs, and the tokens that were computed with padding."""
        import torch

        cls, sep, pad, source, first, second = (MARKS.index(m) for m in ("[CLS]", "[SEP]", "[PAD]", "<|source|>", "<|candidate1|>", "<|candidate2|>"))
        part = lambda mark, ids: [cls, mark, *ids, sep]
        order = list(range(len(rows)))
        if sort:
            order.sort(key=lambda n: len(rows[n]["prompt"]) + 2 * max(map(len, rows[n]["responses"])))
        k, tokens = len(rows[0]["responses"]), 0
        logits = torch.zeros(len(rows), k, k, dtype=torch.float64)
        w1, b1, w2, b2 = self.head
        with torch.inference_mode():
            for start in range(0, len(rows), batch):
                some = order[start:start + batch]
                for i in range(k):
                    for j in range(k):
                        if i == j:
                            continue
                        sequences, marks = [], []
                        for n in some:
                            parts = [part(source, rows[n]["prompt"]), part(first, rows[n]["responses"][i]), part(second, rows[n]["responses"][j])]
                            marks.append([1, len(parts[0]) + 1, len(parts[0]) + len(parts[1]) + 1])
                            sequences.append(sum(parts, []))
                        width = max(map(len, sequences))
                        tokens += width * len(sequences)
                        ids = torch.tensor([s + [pad] * (width - len(s)) for s in sequences])
                        mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sequences])
                        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
                        at = hidden[torch.arange(len(some))[:, None], torch.tensor(marks)]
                        head = lambda c: torch.tanh(torch.cat([at[:, 0], at[:, c]], -1) @ w1.T + b1) @ w2.T + b2
                        logits[some, i, j] = (head(1) - head(2)).mean(-1).double()
        return ((logits - logits.transpose(1, 2)) / 2).tolist(), tokens


def ours(bin_, folder, work, threads):
    """Scores and seconds of the whole command, wall and CPU."""
    out = f"{work}/ours.jsonl"
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([bin_, "score", "--preference-model", folder, "--candidates", f"{work}/candidates.jsonl", "--output", out, "--force", "-q",
                    "--set", "score.kind=pair-ranker"], check=True, env=dict(os.environ, RAYON_NUM_THREADS=str(threads)))
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return [json.loads(line)["scores"] for line in open(out)], seconds, cpu


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--bin", required=True)
    a.add_argument("--work", required=True)
    a.add_argument("--rows", type=int, default=8)
    a.add_argument("--candidates", type=int, default=3)
    a.add_argument("--batch", type=int, default=8)
    a.add_argument("--reps", type=int, default=3)
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--sort", action="store_true")
    a = a.parse_args()
    folder = f"{a.work}/ranker"
    if not os.path.exists(f"{folder}/tokenizer_config.json"):
        make(folder)
    rows = make_rows(a.rows, a.candidates)
    with open(f"{a.work}/candidates.jsonl", "w") as f:
        for n, row in enumerate(rows):
            print(json.dumps(dict(prompt_id=str(n), prompt=sentence(row["prompt"]),
                                  responses=[dict(text=sentence(r)) for r in row["responses"]])), file=f)
    peer = Peer(folder, a.threads)
    peer.scores(rows[:1], 1, False)
    times = {"ours": [], "peer": []}
    for rep in range(a.reps):
        own, wall, cpu = ours(os.path.abspath(a.bin), folder, a.work, a.threads)
        times["ours"].append((wall, cpu))
        start, before = time.perf_counter(), time.process_time()
        theirs, tokens = peer.scores(rows, a.batch, a.sort)
        times["peer"].append((time.perf_counter() - start, time.process_time() - before))
        print(f"{rep}: ours {wall:.2f} s ({cpu:.2f} CPU), peer {times['peer'][-1][0]:.2f} s ({times['peer'][-1][1]:.2f} CPU)", flush=True)
    worst = max(abs(x - y) for one, two in zip(own, theirs) for r, s in zip(one, two) for x, y in zip(r, s))
    size = statistics.mean(abs(x) for one in theirs for r in one for x in r if x)
    plain = sum((len(r["prompt"]) + 9) * a.candidates * (a.candidates - 1) + 2 * (a.candidates - 1) * sum(map(len, r["responses"])) for r in rows)
    middle = {side: [statistics.median(t[n] for t in runs) for n in (0, 1)] for side, runs in times.items()}
    print(json.dumps(dict(rows=a.rows, candidates=a.candidates, tokens=plain, tokens_with_padding=tokens, wall_ratio=middle["peer"][0] / middle["ours"][0],
                          cpu_ratio=middle["peer"][1] / middle["ours"][1], medians=middle, largest_difference=worst, mean_size=size)))
    assert worst < 1e-3 * max(1.0, size), "the sides disagree"


if __name__ == "__main__":
    main()
