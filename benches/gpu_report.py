"""What benches/gpu.sh measured, as tables for people.

    gpu_report.py golden-bf16 CHECK_OUTPUT     largest deviation of each group; exit 1 where a command failed
    gpu_report.py quickstart CPU.json GPU.json held-out accuracy of both runs (`selfplay show --json`); exit 1 where the
                                               GPU's run gains under ten points or ends three points from the CPU's
    gpu_report.py keep PEERS.json PART FILE    puts one part's figures into the file of all peers
    gpu_report.py table DIR                    the stages beside their bounds and PyTorch; writes DIR/summary.txt
"""

import json
import os
import re
import sys

# Shares of the measured ceilings, and ratios to PyTorch, that the project asks of an H200.
MUST = {"training step": 0.40, "reference log-probs": 0.50, "scoring": 0.45, "decode step": 0.50}
MEMORY_BOUND = 0.70
PEER_RATIO = 1.1
PEAK_GIB = 130
TOKENS_PER_SECOND = 12_500
HOST_PERCENT = 10
# Three iterations of the published recipe: prompts each, candidates, their tokens; hours at most.
ITERATIONS, PROMPTS, CANDIDATES, TOKENS, HOURS = 3, 20_000, 5, 512, 12


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


def hours(first):
    """What three iterations take, from one line each of sampling, scoring, reference log-probs and training."""
    if any(part not in first for part in ["sample", "score", "reference", "train"]):
        return None
    sampling = PROMPTS * CANDIDATES * TOKENS / first["sample"]["facts"]["output tokens/s"]
    scoring = PROMPTS * CANDIDATES * first["score"]["seconds"] / first["score"]["facts"]["responses"]
    training = sum(PROMPTS * first[part]["seconds"] / first[part]["facts"]["pairs"] for part in ["reference", "train"])
    return ITERATIONS * (sampling + scoring + training) / 3600


def table(folder):
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
            share = line["floor_seconds"] / line["seconds"]
            is_memory = line["flops"] == 0 and line["bytes"] > 0
            row(f"{name}, share of the floor", share, MUST.get(name, MEMORY_BOUND if is_memory else None))
            if "peak GiB" in line.get("facts", {}):
                row(f"{name}, peak memory", line["facts"]["peak GiB"], PEAK_GIB, " GiB")
            if name == "decode step":
                row(f"{name}, host's time", line["facts"]["host %"], HOST_PERCENT, " %")
        if part == "sample":
            row("our tokens/s", first["facts"]["output tokens/s"], TOKENS_PER_SECOND)
            by_name = {line["name"]: line for line in ours["parts"][part]}
            step = by_name["decode step"]["seconds"]
            row("a step kernel by kernel over a captured one", by_name["decode step, kernel by kernel"]["seconds"] / step, None)
            row("a batch-invariant step over another", by_name["decode step, batch invariant"]["seconds"] / step, None)
            shared, own = (by_name[f"decode step, long prompts, {way}"] for way in ["shared", "each its own"])
            row("long prompts: a step without sharing over one with", own["seconds"] / shared["seconds"], None)
            row("long prompts: cache without sharing over with", own["facts"]["cache GiB"] / shared["facts"]["cache GiB"], None)
            row("long prompts: all without sharing over with", own["facts"]["all seconds"] / shared["facts"]["all seconds"], None)
        if peer:
            if "tokens_per_second" in peer:
                row("our tokens/s over transformers'", first["facts"]["output tokens/s"] / peer["tokens_per_second"], 2)
            else:
                row("PyTorch's time over ours", peer["seconds"] / first["seconds"], PEER_RATIO)
            if "peak_gib" in peer:
                row("PyTorch's peak memory", peer["peak_gib"], None, " GiB")
    if hours(first_lines) is not None:
        row("three iterations of 20,000 prompts, hours", hours(first_lines), HOURS, " h")
    kernels = load(folder, "kernels.json")
    if kernels:
        lines.append("kernels: share of the floor")
        for line in kernels["parts"]["kernels"]:
            share = line["floor_seconds"] / line["seconds"]
            row(line["name"], share, MEMORY_BOUND if line["flops"] == 0 else None)
    lines.append(f"{missed} bounds missed")
    text = "\n".join(lines)
    print(text)
    with open(os.path.join(folder, "summary.txt"), "w") as f:
        f.write(text + "\n")
    return 0


if __name__ == "__main__":
    commands = {"golden-bf16": golden_bf16, "quickstart": quickstart, "keep": keep, "table": table}
    if len(sys.argv) < 3 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    sys.exit(commands[sys.argv[1]](*sys.argv[2:]))
