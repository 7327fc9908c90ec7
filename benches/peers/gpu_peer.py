"""PyTorch's side of `selfplay bench` on a GPU: the same pairs, the same shapes, random weights, the same f32 masters.

    gpu_peer.py reference|sample|score|train [--model llama-3-8b] [--preference-model gemma-2b] [--pairs 64] [--max-tokens 1024]
                [--micro-batch-tokens 16384] [--repeats 5] [--seed 42] [--device cuda:0] --json FILE

transformers with SDPA; bf16 weights; for training: gradient checkpointing, gradients summed in f32 masters' .grad as they
arrive, RMSprop with foreach block by block (over all tensors at once its temporaries do not fit beside an 8B's state), the
head in chunks under checkpointing so that logits of a micro-batch are never whole. That is faster and smaller than what
TRL and OpenRLHF do out of the box. Lengths and ids are drawn as engine/src/bench/work.rs draws them; a prompt goes along
with each of its responses, as these libraries have it, and sequences are padded to the longest of their micro-batch.
"""

import argparse
import importlib.util
import json
import statistics
import tempfile
import time

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers import GemmaConfig, GemmaModel, LlamaConfig, LlamaForCausalLM

SHAPES = {
    "llama-3-8b": (LlamaConfig, dict(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                                     num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=8192,
                                     rope_theta=500000.0, rms_norm_eps=1e-5, tie_word_embeddings=False)),
    "llama-15m": (LlamaConfig, dict(vocab_size=32000, hidden_size=288, intermediate_size=768, num_hidden_layers=6,
                                    num_attention_heads=6, num_key_value_heads=6, max_position_embeddings=2048,
                                    tie_word_embeddings=True)),
    "gemma-2b": (GemmaConfig, dict(vocab_size=256000, hidden_size=2048, intermediate_size=16384, num_hidden_layers=18,
                                   num_attention_heads=8, num_key_value_heads=1, head_dim=256,
                                   max_position_embeddings=8192)),
    "gemma-tiny": (GemmaConfig, dict(vocab_size=32000, hidden_size=256, intermediate_size=1024, num_hidden_layers=2,
                                     num_attention_heads=4, num_key_value_heads=1, head_dim=64,
                                     max_position_embeddings=8192)),
}
HEAD_CHUNK = 2048
RESPONSES = 5


class Draw:
    """The stream of engine/src/bench/work.rs."""

    def __init__(self, seed):
        self.state = (seed * 0x9E3779B97F4A7C15 & (1 << 64) - 1) | 1

    def below(self, n):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) & (1 << 64) - 1
        return (self.state >> 33) % max(n, 1)

    def ids(self, count, vocab):
        return [self.below(vocab) for _ in range(count)]


def make_pairs(a, vocab):
    draw, most, pairs = Draw(a.seed), a.max_tokens, []
    for _ in range(a.pairs):
        lengths = [most // 2 + draw.below(most // 4 + 1) for _ in range(2)]
        prompt = draw.ids(most // 4, vocab)
        pairs.append((prompt, *(draw.ids(n, vocab) for n in lengths)))
    return pairs


def micro_batches(pairs, tokens):
    """Pairs of similar lengths together, at most `tokens` with their padding."""
    def length(pair):
        return len(pair[0]) + max(len(pair[1]), len(pair[2]))

    batches = []
    for pair in sorted(pairs, key=length):
        if batches and 2 * (len(batches[-1]) + 1) * max(map(length, [*batches[-1], pair])) <= tokens:
            batches[-1].append(pair)
        else:
            batches.append([pair])
    return batches


def pack(pairs, device):
    """Padded ids, the mask, and the places of the rows that give the responses' tokens, with these tokens."""
    rows = [prompt + response for prompt, *both in pairs for response in both]
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    places, targets, owners = [], [], []
    for i, row in enumerate(rows):
        ids[i, :len(row)] = torch.tensor(row)
        mask[i, :len(row)] = 1
        prompt = len(pairs[i // 2][0])
        places += [i * width + p for p in range(prompt - 1, len(row) - 1)]
        targets += row[prompt:]
        owners += [i] * (len(row) - prompt)
    to = lambda x: torch.as_tensor(x).to(device)
    return to(ids), to(mask), to(places), to(targets), to(owners), len(rows)


def summed_log_probs(model, packed):
    ids, mask, places, targets, owners, rows = packed
    hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.flatten(0, 1)[places]

    def chunk(x, y):
        return -F.cross_entropy(model.lm_head(x).float(), y, reduction="none")

    parts = []
    for start in range(0, len(hidden), HEAD_CHUNK):
        x, y = hidden[start:start + HEAD_CHUNK], targets[start:start + HEAD_CHUNK]
        parts.append(checkpoint(chunk, x, y, use_reentrant=False) if torch.is_grad_enabled() else chunk(x, y))
    return torch.zeros(rows, device=hidden.device).index_add(0, owners, torch.cat(parts))


def make(kind, shape, device, dtype):
    config = kind(**shape)
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = (LlamaForCausalLM if kind is LlamaConfig else GemmaModel)._from_config(config, attn_implementation="sdpa")
    torch.set_default_dtype(torch.float32)
    return model


def timed(a, work, warm_up=None):
    def sync():
        if a.device.startswith("cuda"):
            torch.cuda.synchronize()

    seconds = []
    for repeat in range(a.repeats + 1):
        sync()
        start = time.perf_counter()
        (work if repeat or warm_up is None else warm_up)()
        sync()
        if repeat:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def reference(a, dtype):
    model = make(*SHAPES[a.model], a.device, dtype).eval()
    pairs = make_pairs(a, model.config.vocab_size)
    batches = [pack(batch, a.device) for batch in micro_batches(pairs, a.micro_batch_tokens)]

    @torch.no_grad()
    def work():
        return [summed_log_probs(model, batch).tolist() for batch in batches]

    return dict(seconds=timed(a, work))


def sample(a, dtype):
    """vLLM where it is installed; transformers' continuous batching where this version has it, else generate over batches of
    equal lengths. The warm-up is a tenth of the tokens, and the work is timed once: a run is long enough."""
    a.repeats = 1
    model = make(*SHAPES[a.model], a.device, dtype).eval()
    prompt, new = a.max_tokens // 5, a.max_tokens // 2
    prompts = max(1, a.rows // RESPONSES)
    draw = Draw(a.seed)
    inputs = [draw.ids(prompt, model.config.vocab_size) for _ in range(prompts) for _ in range(RESPONSES)]
    options = lambda tokens: dict(do_sample=True, temperature=1.0, top_p=0.9, top_k=0, max_new_tokens=tokens,
                                  min_new_tokens=tokens, eos_token_id=-1, pad_token_id=0)
    ids = torch.tensor(inputs, device=a.device)

    @torch.no_grad()
    def batched(tokens):
        chosen = {**options(tokens), "eos_token_id": None}
        return model.generate(ids, attention_mask=torch.ones_like(ids), **chosen).numel()

    def continuous(tokens):
        from transformers import GenerationConfig

        config = GenerationConfig(**options(tokens))
        results = model.generate_batch(inputs, generation_config=config, progress_bar=False)
        short = [r for r in results.values() if len(r.generated_tokens) < tokens]
        assert len(results) == len(inputs) and not short, f"{len(results)} results, {len(short)} of them short"

    rates, failures = {}, {}

    def measure(name, way):
        try:
            rates[name] = len(inputs) * new / timed(a, lambda: way(new), lambda: way(max(2, new // 10)))
        except Exception as error:  # a peer's way that fails is reported, and another one counts
            failures[name] = repr(error)[:300]

    if hasattr(model, "generate_batch"):
        measure("continuous batching", continuous)
    if not rates:
        measure("generate", batched)
    transformers = max(rates.values(), default=None)
    if importlib.util.find_spec("vllm"):
        config = model.config
        del model, ids
        measure("vllm", vllm_way(config, inputs))
    assert transformers, failures
    return dict(tokens_per_second=transformers, rates=rates, failures=failures, rows=len(inputs))


def vllm_way(config, inputs):
    """vLLM on random weights of this shape: it is slower or faster by no weight's value."""
    import vllm

    torch.cuda.empty_cache()
    with tempfile.TemporaryDirectory() as folder:
        config.architectures = ["LlamaForCausalLM"]
        config.save_pretrained(folder)
        engine = vllm.LLM(folder, load_format="dummy", skip_tokenizer_init=True, dtype="bfloat16",
                          enable_prefix_caching=True, gpu_memory_utilization=0.8, max_num_seqs=len(inputs))
    prompts = [{"prompt_token_ids": one} for one in inputs]

    def way(tokens):
        chosen = vllm.SamplingParams(temperature=1.0, top_p=0.9, max_tokens=tokens, ignore_eos=True, detokenize=False)
        results = engine.generate(prompts, chosen, use_tqdm=False)
        assert all(len(result.outputs[0].token_ids) == tokens for result in results)

    return way


def score(a, dtype):
    model = make(*SHAPES[a.preference_model], a.device, dtype).eval()
    vocab, hidden = model.config.vocab_size, model.config.hidden_size
    value_head = torch.randn(6, hidden, device=a.device, dtype=dtype)
    prompt, response = a.max_tokens // 5, a.max_tokens * 11 // 16
    draw = Draw(a.seed)
    rows = []
    for _ in range((a.pairs + 1) // 2):
        shared = draw.ids(prompt, vocab)
        rows += [shared + draw.ids(response, vocab) for _ in range(RESPONSES)]
    size = max(1, a.micro_batch_tokens // (prompt + response))
    ids = torch.tensor(rows, device=a.device)

    @torch.no_grad()
    def work():
        out = []
        for batch in ids.split(size):
            last = model(input_ids=batch, use_cache=False).last_hidden_state[:, -1]
            out.append(F.normalize((last @ value_head.T).float(), dim=-1))
        return torch.cat(out).tolist()

    seconds = timed(a, work)
    return dict(seconds=seconds, responses_per_second=len(rows) / seconds)


def train(a, dtype):
    model = make(*SHAPES[a.model], a.device, dtype).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    groups, masters = [], {}
    for block in [*model.model.layers, model.model.embed_tokens, model.model.norm, model.lm_head]:
        weights = [w for w in block.parameters() if w not in masters]
        for w in weights:
            masters[w] = w.detach().float()
            masters[w].grad = torch.zeros_like(masters[w])
        if weights:
            optimizer = torch.optim.RMSprop([masters[w] for w in weights], lr=5e-7, alpha=0.99, eps=1e-8, foreach=True)
            groups.append((weights, optimizer))

    def collect(w):
        masters[w].grad.add_(w.grad)
        w.grad = None

    for w in masters:
        w.register_post_accumulate_grad_hook(collect)
    pairs = make_pairs(a, model.config.vocab_size)
    batches = [pack(batch, a.device) for batch in micro_batches(pairs, a.micro_batch_tokens)]

    def work():
        torch._foreach_zero_([m.grad for m in masters.values()])
        for batch in batches:
            delta = (summed_log_probs(model, batch) + 1000.0).view(-1, 2)
            # GPO with score 0.8, tau 0.1, beta 0.001: the cost of a loss is nothing beside the model's.
            loss = ((0.001 * (delta[:, 0] - delta[:, 1]) - 0.8) ** 2).sum() / a.pairs
            loss.backward()
        norm = torch.nn.utils.get_total_norm([m.grad for m in masters.values()], foreach=True)
        scale = torch.clamp(1.0 / (norm + 1e-6), max=1.0)
        for weights, optimizer in groups:
            torch._foreach_mul_([masters[w].grad for w in weights], scale)
            optimizer.step()
            torch._foreach_copy_([w.data for w in weights], [masters[w] for w in weights])
        assert torch.isfinite(norm), norm

    if a.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    seconds = timed(a, work)
    result = dict(seconds=seconds)
    if a.device.startswith("cuda"):
        result["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return result


def main():
    p = argparse.ArgumentParser()
    p.add_argument("part", choices=["reference", "sample", "score", "train"])
    p.add_argument("--model", default="llama-3-8b")
    p.add_argument("--preference-model", default="gemma-2b")
    p.add_argument("--pairs", type=int, default=64)
    p.add_argument("--max-tokens", type=int, default=1024)
    p.add_argument("--rows", type=int, default=512)
    p.add_argument("--micro-batch-tokens", type=int, default=16384)
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--seed", type=int, default=42)
    p.add_argument("--device", default="cuda:0")
    p.add_argument("--json", required=True)
    a = p.parse_args()
    dtype = torch.bfloat16 if a.device.startswith("cuda") else torch.float32
    result = dict(part=a.part, torch=torch.__version__, device=a.device, dtype=str(dtype))
    result.update(dict(reference=reference, sample=sample, score=score, train=train)[a.part](a, dtype))
    with open(a.json, "w") as f:
        json.dump(result, f, indent=1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
