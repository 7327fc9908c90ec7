"""What benches/gpu.sh measured, as tables for people.

    gpu_report.py golden-bf16 CHECK_OUTPUT     largest deviation of each group; exit 1 where a command failed
    gpu_report.py quickstart CPU.json GPU.json held-out accuracy of both runs (`selfplay show --json`); exit 1 where the
                                               GPU's run gains under ten points or ends three points from the CPU's
    gpu_report.py keep PEERS.json PART FILE    puts one part's figures into the file of all peers
    gpu_report.py ranks-sample OUT ALONE FILE… sampling by one process for each GPU: their rates together, into OUT
    gpu_report.py table DIR [BEFORE]           the stages beside their bounds, PyTorch and an earlier run; writes
                                               DIR/summary.txt
"""

import json
import os
import re
import sys

# Shares of the measured ceilings, and ratios to PyTorch, that the project asks of an H200.
MUST = {"training step": 0.66, "reference log-probs": 0.82, "scoring": 0.80, "decode step": 0.75}
# A step whose optimizer is the host's, as on a card of 80 GB.
OFFLOADED = 0.35
MEMORY_BOUND = 0.70
PEER_RATIO = 1.1
PEAK_GIB = 130
TOKENS_PER_SECOND = 26_000
HOST_PERCENT = 2
# Of as many GPUs as many times one's sampling: they share nothing but the host.
RANKS_SAMPLE = 0.95
# Three iterations of the published recipe: prompts each, candidates, their tokens; hours at most.
ITERATIONS, PROMPTS, CANDIDATES, TOKENS, HOURS = 3, 20_000, 5, 512, 5


def golden_bf16(path):
    worst, exact, broken = {}, {}, []
    with open(path) as f:
        for line in f:
            found = re.match(r"(ok|FAIL)\s+(\S+?)/\S.*?\s+([\d.e+-]+|inf|nan)\s+bound\s+([\d.e+-]+)", line)
            if found and float(found[4]) > 0:
                group, got, bound = found[2], float(found[3]), float(found[4])
                if group not in worst or not got / bound <= worst[group][0] / worst[group][1]:
                    worst[group] = (got, bound)
            elif found:
                # Ids and counts: equal, or not.
                group = found[2]
                exact[group] = exact.get(group, 0) + (found[1] == "FAIL")
            elif line.startswith("FAIL"):
                broken.append(line.strip())
    for group, (got, bound) in worst.items():
        print(f"  bf16 {group:<12} {got:.2e} apart at most, {got / bound:.1f} times f32's bound")
    for group, count in exact.items():
        print(f"  bf16 {group:<12} {count} exact comparisons that bf16 decides otherwise")
    print(*broken, sep="\n")
    return 1 if broken else 0


def accuracies(path):
    """Held-out accuracy before and after each iteration."""
    with open(path) as f:
        shown = json.load(f)
    return [state["eval_accuracy"] for state in [shown["start"], *shown["iterations"]]]


def quickstart(cpu, gpu):
    rows = {"cpu": accuracies(cpu), "gpu": accuracies(gpu)}
    for name, values in rows.items():
        print(f"  quickstart on {name}: " + " → ".join(f"{100 * x:.1f} %" for x in values))
    gained = rows["gpu"][-1] - rows["gpu"][0]
    apart = abs(rows["gpu"][-1] - rows["cpu"][-1])
    return 0 if gained >= 0.10 and apart <= 0.03 else 1


def load(folder, name):
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        return None
    with open(path) as f:
        return json.load(f)


def keep(path, part, figures):
    peers = {}
    if os.path.exists(path):
        with open(path) as f:
            peers = json.load(f)
    with open(figures) as f:
        peers[part] = json.load(f)
    with open(path, "w") as f:
        json.dump(peers, f, indent=1)
    return 0


def sampled(path):
    """Output tokens a second of a file of `selfplay bench sample`; None where it is not there or was ended early."""
    if not os.path.exists(path):
        return None
    with open(path) as f:
        lines = json.load(f)["parts"]["sample"]
    return lines[0]["facts"]["output tokens/s"] if lines and lines[0]["seconds"] else None


def ranks_sample(out, alone, *each):
    rates = [sampled(path) for path in each]
    figures = {"gpus": len(each), "tokens_per_second": rates, "alone": sampled(alone)}
    with open(out, "w") as f:
        json.dump(figures, f, indent=1)
    known = [rate for rate in rates if rate is not None]
    print(f"  {len(known)} of {len(each)} GPUs: {sum(known):.0f} tokens/s together, {min(known, default=0):.0f} the slowest")
    return 0 if len(known) == len(each) else 1


def ranks_rows(folder, row):
    """Several GPUs: sampling by shards, collectives, training steps by train.zero."""
    counts = sorted({int(found[1]) for name in os.listdir(folder) if (found := re.match(r"ranks-(\d+)-.*\.json$", name))})
    for count in counts:
        sample = load(folder, f"ranks-{count}-sample.json")
        rates = [rate for rate in (sample or {}).get("tokens_per_second", []) if rate is not None]
        if rates:
            row(f"{count} GPUs: tokens/s together", sum(rates), None)
            if sample["alone"] and len(rates) == count:
                row(f"{count} GPUs: over as many times one", sum(rates) / (count * sample["alone"]), RANKS_SAMPLE)
        for line in (load(folder, f"ranks-{count}-collective.json") or {}).get("parts", {}).get("collective", []):
            if line["seconds"]:
                row(f"{count} GPUs: {line['name'].strip()}, GB/s a GPU", line["bytes"] / line["seconds"] / 1e9, None)
        for stage in range(4):
            lines = (load(folder, f"ranks-{count}-zero{stage}.json") or {}).get("parts", {}).get("train", [])
            if lines and lines[0]["seconds"]:
                row(f"{count} GPUs: step with train.zero = {stage}", lines[0]["seconds"], None, " s")
                if lines[0].get("facts", {}).get("peak GiB") is not None:
                    row(f"{count} GPUs: its peak memory", lines[0]["facts"]["peak GiB"], None, " GiB")


def hours(first):
    """What three iterations take, from one line each of sampling, scoring, reference log-probs and training."""
    if any(part not in first for part in ["sample", "score", "reference", "train"]):
        return None
    sampling = PROMPTS * CANDIDATES * TOKENS / first["sample"]["facts"]["output tokens/s"]
    scoring = PROMPTS * CANDIDATES * first["score"]["seconds"] / first["score"]["facts"]["responses"]
    training = sum(PROMPTS * first[part]["seconds"] / first[part]["facts"]["pairs"] for part in ["reference", "train"])
    return ITERATIONS * (sampling + scoring + training) / 3600


# What measures the same work another way, and which file of an earlier run that is held against.
WAYS = {"train-least": "train", "train-small": "train", "train-offload": "train",
        "train-offload-gradients": "train", "rows-1024": "sample", "rows-2048": "sample",
        "sample-fp8": "sample", "sample-fp8-kv": "sample"}


def rate(line):
    """What a line reached in a second, and of what: lines of different sizes are compared by it."""
    facts = line.get("facts", {})
    for name in ["output tokens/s", "tokens/s", "responses/s"]:
        if name in facts:
            return facts[name], name
    return (1 / line["seconds"], "a second") if line["seconds"] else (None, "")


def against_before(folder, earlier, parts):
    """Each line of some parts beside the same line of an earlier run, or of this one's usual way."""
    lines = []
    for part in parts:
        now, before = load(folder, f"{part}.json"), load(earlier, f"{WAYS.get(part, part)}.json")
        if not now or not before:
            continue
        known = {line["name"]: line for line in before["parts"][WAYS.get(part, part)]}
        for line in now["parts"][WAYS.get(part, part)]:
            other = known.get(line["name"])
            if other is None or other["seconds"] is None or line["seconds"] is None:
                continue
            (new, unit), (old, _) = rate(line), rate(other)
            share = [100 * one["floor_seconds"] / one["seconds"] for one in (other, line)]
            lines.append(f"  {part + ': ' + line['name'].strip():<58}{old:>12.1f} → {new:>10.1f} {unit:<16}"
                         f"{new / old:>6.2f} ×   floor {share[0]:.1f} → {share[1]:.1f} %")
    return lines


# How the names of lines end that measure one operation in several ways: the free product, the one of a fixed order, and Hopper's.
HOPPER, BY_ROW, FREE = ", Hopper", ": by row", ": free"
# A product of a fixed order, and a step of such products, takes at most so many times the free one's time, to become the default.
BY_ROW_OVER_FREE = 1.25


def ways(measured, row):
    """Old ways beside Hopper's, and beside what was predicted by count (benches/hopper_predictions.json)."""
    seconds = {line["name"]: line["seconds"] for line in measured["parts"]["kernels"]}
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "hopper_predictions.json")) as f:
        predicted = json.load(f)
    known = predicted["milliseconds"] if measured["model"] == predicted["model"] else {}
    lines = []
    for name in seconds:
        if not name.endswith(HOPPER):
            continue
        old, new = seconds[name.removesuffix(HOPPER)] * 1e3, seconds[name] * 1e3
        said = f"   predicted {known[name]:.3f} ms ({predicted['gpu']})" if name in known else ""
        lines.append(f"  {name.removesuffix(HOPPER):<58}{old:>9.3f} → {new:>8.3f} ms{old / new:>7.2f} ×{said}")
    for name in seconds:
        if name.endswith(BY_ROW + HOPPER):
            base = name.removesuffix(BY_ROW + HOPPER)
            row(f"{base}: by row on Hopper over free", seconds[name] / seconds[base + FREE], BY_ROW_OVER_FREE, " ×")
    return ["old way → Hopper's:", *lines] if lines else []


def table(folder, earlier=None):
    lines, missed = [], 0
    peers, first_lines = load(folder, "peers.json") or {}, {}

    def row(name, got, must, unit=""):
        nonlocal missed
        ok = must is None or (got <= must if unit else got >= must)
        missed += not ok
        want = "" if must is None else f"must {must:g}{unit}"
        lines.append(f"  {name:<52}{got:>9.3f}{unit:<5}{want:<14}{'' if ok else 'MISSED'}")

    for part in ["reference", "sample", "score", "train"]:
        ours, peer = load(folder, f"{part}.json"), peers.get(part)
        if not ours:
            continue
        first = first_lines[part] = ours["parts"][part][0]
        ceilings = ours["ceilings"]
        lines.append(f"{part}: {ours['model']}, {ours['dtype']}, product {ceilings['flops_per_second'] / 1e12:.0f} TFLOP/s, "
                     f"copy {ceilings['bytes_per_second'] / 1e12:.2f} TB/s")
        for line in ours["parts"][part]:
            name = line["name"].strip()
            if line["seconds"] is None:
                lines.append(f"  {name}: not measured")
                continue
            share = line["floor_seconds"] / line["seconds"]
            is_memory = line["flops"] == 0 and line["bytes"] > 0
            row(f"{name}, share of the floor", share, MUST.get(name, MEMORY_BOUND if is_memory else None))
            if "peak GiB" in line.get("facts", {}):
                row(f"{name}, peak memory", line["facts"]["peak GiB"], PEAK_GIB, " GiB")
            if name.startswith("decode step"):
                # Captured, each begun before the one before it is read; the others are what that is held against.
                is_own = name in ["decode step", "decode step, long prompts, shared", "decode step, long prompts, each its own"]
                row(f"{name}, host's time", line["facts"]["host %"], HOST_PERCENT if is_own else None, " %")
        if part == "sample":
            # A run has 1,024 rows where the memory holds their responses.
            more = (load(folder, "rows-1024.json") or {}).get("parts", {}).get("sample", [])
            if more and more[0]["seconds"] is not None:
                row("our tokens/s, 512 rows", first["facts"]["output tokens/s"], None)
                first = first_lines[part] = more[0]
            row("our tokens/s", first["facts"]["output tokens/s"], TOKENS_PER_SECOND)
            # A part that was ended has fewer lines.
            by_name = {line["name"]: line for line in ours["parts"][part] if line["seconds"] is not None}

            def over(what, one, other, value=lambda line: line["seconds"], most=None):
                if one in by_name and other in by_name:
                    row(what, value(by_name[one]) / value(by_name[other]), most, "" if most is None else " ×")

            over("a step read before the next begins over one begun ahead", "decode step, one by one", "decode step")
            over("long prompts: one by one over begun ahead, all", "decode step, long prompts, shared, one by one",
                 "decode step, long prompts, shared", lambda line: line["facts"]["all seconds"])
            over("a step kernel by kernel over a captured one", "decode step, kernel by kernel", "decode step")
            over("a batch-invariant step over another", "decode step, batch invariant", "decode step", most=BY_ROW_OVER_FREE)
            own, shared = (f"decode step, long prompts, {way}" for way in ["each its own", "shared"])
            over("long prompts: a step without sharing over one with", own, shared)
            over("long prompts: cache without sharing over with", own, shared, lambda line: line["facts"]["cache GiB"])
            over("long prompts: all without sharing over with", own, shared, lambda line: line["facts"]["all seconds"])
        if peer:
            if "tokens_per_second" in peer:
                row("our tokens/s over transformers'", first["facts"]["output tokens/s"] / peer["tokens_per_second"], 2)
            else:
                row("PyTorch's time over ours", peer["seconds"] / first["seconds"], PEER_RATIO)
            if "peak_gib" in peer:
                row("PyTorch's peak memory", peer["peak_gib"], None, " GiB")
    for part in ["train-offload", "train-offload-gradients"]:
        step = (load(folder, f"{part}.json") or {}).get("parts", {}).get("train", [])
        if step and step[0]["seconds"] is not None:
            row(f"{part}: training step, share of the floor", step[0]["floor_seconds"] / step[0]["seconds"], OFFLOADED)
    if hours(first_lines) is not None:
        row("three iterations of 20,000 prompts, hours", hours(first_lines), HOURS, " h")
    ranks_rows(folder, row)
    kernels = load(folder, "kernels.json")
    if kernels:
        lines.append("kernels: share of the floor")
        for line in kernels["parts"]["kernels"]:
            share = line["floor_seconds"] / line["seconds"]
            row(line["name"], share, MEMORY_BOUND if line["flops"] == 0 else None)
        lines += ways(kernels, row)
    lines.append(f"{missed} bounds missed")
    other_ways = against_before(folder, folder, WAYS)
    lines += ["the usual way and others, in this run, in work a second:", *other_ways] if other_ways else []
    if earlier and os.path.isdir(earlier) and os.path.abspath(earlier) != os.path.abspath(folder):
        compared = against_before(folder, earlier, ["reference", "sample", "score", "train", *WAYS, "kernels"])
        lines += [f"before ({earlier}) and now, in work a second:", *compared] if compared else []
    text = "\n".join(lines)
    print(text)
    with open(os.path.join(folder, "summary.txt"), "w") as f:
        f.write(text + "\n")
    return 0


if __name__ == "__main__":
    commands = {"golden-bf16": golden_bf16, "quickstart": quickstart, "keep": keep, "ranks-sample": ranks_sample, "table": table}
    if len(sys.argv) < 3 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    sys.exit(commands[sys.argv[1]](*sys.argv[2:]))
