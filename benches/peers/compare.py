"""Both sides in one alternating run: speed as ratios of medians, peak memory, share of the machine's own GEMM rate.

    cargo bench -p selfplay --bench worker --no-run
    python3 -m venv ENV && ENV/bin/pip install -r benches/peers/requirements.txt
    ENV/bin/python benches/peers/compare.py --work DIR [--models 15m 110m] [--tasks sample train score] [--reps 5]

Every repetition runs each contestant of a task once, one after the other, all of them loaded and waiting for their turn.
The peer takes part twice: as it comes, and with the settings of VARIANTS that were fastest when tried first (--tuned takes
them from an earlier run's results.json). A ratio is the peer's better median over ours. Other processes' share of the
CPU is measured beside every run; a median with more than 5 % of it is marked (the CPU seconds of a contestant itself
suffer less from such company).
"""

import argparse
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

import models

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
THREADS = 2

# Settings that may make the peer faster: tried one by one; the fastest is the tuned peer.
VARIANTS = {
    "sample": {
        "default": [],
        "eager attention": ["--attention", "eager"],
        "static cache": ["--static-cache"],
        "flush denormals": ["--flush-denormal"],
        "static cache, compiled": ["--static-cache", "--compile"],
    },
    "train": {
        "default": [],
        "no mask": ["--no-mask"],
        "response logits": ["--no-mask", "--logits", "responses"],
        "response logits, cross entropy": ["--no-mask", "--logits", "responses", "--loss", "cross_entropy"],
        "response logits, cross entropy, foreach":
            ["--no-mask", "--logits", "responses", "--loss", "cross_entropy", "--optimizer", "foreach"],
        "response logits, eager": ["--no-mask", "--logits", "responses", "--loss", "cross_entropy", "--attention", "eager"],
        "response logits, compiled": ["--no-mask", "--logits", "responses", "--loss", "cross_entropy", "--compile"],
    },
    "adapter": {
        "default": ["--lora", "16"],
        "no mask": ["--lora", "16", "--no-mask"],
        "response logits": ["--lora", "16", "--no-mask", "--logits", "responses"],
        "response logits, cross entropy": ["--lora", "16", "--no-mask", "--logits", "responses", "--loss", "cross_entropy"],
    },
    "score": {
        "default": ["--way", "batched"],
        "no mask": ["--way", "batched", "--no-mask"],
        "no mask, 1024": ["--way", "batched", "--no-mask", "--batch-tokens", "1024"],
        "no mask, 2048": ["--way", "batched", "--no-mask", "--batch-tokens", "2048"],
        "no mask, 16384": ["--way", "batched", "--no-mask", "--batch-tokens", "16384"],
    },
}
# Contestants besides the default and the tuned peer. Ours are (name, options).
OURS = {"sample": {"ours": [], "ours, four bits": ["--quantize"]},
        "adapter": {"ours": ["--lora", "16"], "ours, four bits": ["--lora", "16", "--quantize"]},
        "train": {"ours": [], "ours, recompute": ["--recompute"]}, "score": {"ours": []}}
PEERS = {"sample": {}, "train": {}, "adapter": {}, "score": {"one at a time": ["--way", "single"]}}
# (our contestant, peers of which the fastest counts, what must be reached at each size)
BOUNDS = {
    "sample": [("ours", ["default", "tuned"], {"15m": 6.0, "110m": 3.5})],
    "train": [("ours", ["default", "tuned"], {"15m": 1.1, "110m": 1.1}),
              ("ours, recompute", ["default", "tuned"], {"15m": 0.85, "110m": 0.85})],
    "adapter": [("ours", ["default", "tuned"], {"15m": 1.0, "110m": 1.3}),
                ("ours, four bits", ["ours"], {"15m": 0.7, "110m": 0.7})],
    "score": [("ours", ["default", "tuned"], {"15m": 1.3, "110m": 1.3}), ("ours", ["one at a time"], {"15m": 3.0, "110m": 3.0})],
}
MEMORY_BOUND = 0.6
# The workers' task, where another name is for a task with other settings.
WORK = {"adapter": "train"}
# Relative differences that rounding explains.
TOLERANCE = {"loss": 1e-3, "grad_norm": 1e-2, "mean_size": 1e-2, "first": 1e-2, "last": 1e-2}


def machine_ticks():
    values = [int(x) for x in open("/proc/stat").readline().split()[1:9]]
    return sum(values), values[3] + values[4]


def process_ticks(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


class Contestant:
    """A child process that works when told to."""

    def __init__(self, name, command):
        env = dict(os.environ, OMP_NUM_THREADS=str(THREADS), MKL_NUM_THREADS=str(THREADS), RAYON_NUM_THREADS=str(THREADS))
        self.name, self.runs, self.peak = name, [], None
        self.errors = tempfile.TemporaryFile("w+")
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=env)
        self.read()

    def read(self):
        line = self.child.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise RuntimeError(f"{self.name}: {self.errors.read()[-800:]}")
        return json.loads(line)

    def say(self, word):
        self.child.stdin.write(word + "\n")
        self.child.stdin.flush()
        return self.read()

    def go(self):
        before, own = machine_ticks(), process_ticks(self.child.pid)
        result = self.say("go")
        after = machine_ticks()
        own = process_ticks(self.child.pid) - own
        total, idle = after[0] - before[0], after[1] - before[1]
        result["other_cpu"] = max(0, total - idle - own) / max(1, total)
        result["cpu_seconds"] = own / os.sysconf("SC_CLK_TCK")
        self.runs.append(result)
        return result

    def quit(self):
        self.peak = self.say("quit")["peak_rss_bytes"]
        self.child.wait()
        self.errors.close()

    def kill(self):
        self.child.kill()
        self.child.wait()

    def summary(self):
        seconds = [r["seconds"] for r in self.runs]
        return dict(median=statistics.median(seconds), min=min(seconds), max=max(seconds), runs=self.runs,
                    cpu_seconds=statistics.median(r["cpu_seconds"] for r in self.runs),
                    other_cpu=statistics.median(r["other_cpu"] for r in self.runs), peak_rss_bytes=self.peak)


def wait_quiet(limit):
    """Waits until the other processes use less than 5 % of the CPU, but not longer than `limit` seconds."""
    start = time.time()
    while True:
        a = machine_ticks()
        time.sleep(1)
        b = machine_ticks()
        if 1 - (b[1] - a[1]) / max(1, b[0] - a[0]) < 0.05 or time.time() - start > limit:
            return


def peer_command(task, files, settings):
    model = files[1] if task == "score" else files[0]
    return [sys.executable, os.path.join(HERE, "peer.py"), WORK.get(task, task), model, files[2], "--threads", str(THREADS), *settings]


def own_command(worker, task, files, settings):
    model = files[1] if task == "score" else files[0]
    return [worker, WORK.get(task, task), model, files[2], *settings]


def tune(task, files, reps, wait):
    """Tries every variant by itself; {name: best seconds} without those that fail."""
    tried = {}
    for name, settings in VARIANTS[task].items():
        try:
            contestant = Contestant(name, peer_command(task, files, settings))
            contestant.go()
            wait_quiet(wait)
            tried[name] = min(contestant.go()["seconds"] for _ in range(reps))
            contestant.kill()
            print(f"  {task}: {name}: {tried[name]:.3f} s", flush=True)
        except RuntimeError as error:
            print(f"  {task}: {name} does not run: {str(error).strip().splitlines()[-1][:160]}", flush=True)
    return tried


def find_worker():
    out = subprocess.run(["cargo", "bench", "-p", "selfplay", "--bench", "worker", "--no-run", "--message-format=json"],
                         cwd=ROOT, capture_output=True, text=True)
    for line in reversed(out.stdout.splitlines()):
        found = json.loads(line)
        if found.get("executable") and found["target"]["name"] == "worker":
            return found["executable"]
    sys.exit("the worker does not build:\n" + out.stderr[-2000:])


def gemm_rate():
    """The best f32 rate of our own kernel on this machine in FLOP/s, and its table."""
    out = subprocess.run(["cargo", "bench", "-p", "selfplay-model", "--bench", "gemm_rate"], cwd=ROOT, capture_output=True,
                         text=True, env=dict(os.environ, RAYON_NUM_THREADS=str(THREADS))).stdout
    rows = [[float(x) for x in line.split()] for line in out.splitlines() if re.match(r"^\s*\d+\s+\d+\s+\d+\s+[\d.]+", line)]
    return 1e9 * max(max(row[3:]) for row in rows), out


def agree(contestants):
    """Differences between the sides in the numbers that both must find."""
    first = contestants[0].runs[0]["check"]
    wrong = []
    for other in contestants[1:]:
        for key, tolerance in TOLERANCE.items():
            a, b = first.get(key), other.runs[0]["check"].get(key)
            if a is not None and b is not None and abs(a - b) > tolerance * max(abs(a), abs(b)):
                wrong.append(f"{key}: {contestants[0].name} {a:.6g}, {other.name} {b:.6g}")
    return wrong


def compare(task, size, files, tuned, worker, a):
    commands = {name: own_command(worker, task, files, settings) for name, settings in OURS[task].items()}
    commands["default"] = peer_command(task, files, VARIANTS[task]["default"])
    if tuned != "default":
        commands["tuned"] = peer_command(task, files, VARIANTS[task][tuned])
    for name, settings in PEERS[task].items():
        commands[name] = peer_command(task, files, settings)
    contestants = [Contestant(name, command) for name, command in commands.items()]
    for contestant in contestants:
        contestant.go()  # warm-up: caches, pools, the optimizer's state; its numbers are those of untouched weights
    wrong = agree(contestants)
    for contestant in contestants:
        contestant.runs.clear()
    for _ in range(a.reps):
        for contestant in contestants:
            wait_quiet(a.wait)
            contestant.go()
    for contestant in contestants:
        contestant.quit()
    return {c.name: c.summary() for c in contestants}, wrong


def report(task, size, result, work, rate):
    lines = [f"\n{task} {size}  ({work / 1e9:.1f} GFLOP)"]
    lines.append(f"  {'':18}{'median s':>10}{'min':>9}{'max':>9}{'CPU s':>9}{'tokens/s':>10}{'of GEMM':>9}{'peak MB':>9}{'other CPU':>11}")
    for name, r in result["contestants"].items():
        tokens = r["runs"][0]["tokens"]
        # A pair's prompt counts once on our side and twice on the peer's: tokens/s are of the peer's count.
        tokens = max(tokens, result["tokens"])
        lines.append(f"  {name:18}{r['median']:>10.3f}{r['min']:>9.3f}{r['max']:>9.3f}{r['cpu_seconds']:>9.2f}{tokens / r['median']:>10.0f}"
                     f"{work / r['median'] / rate:>9.1%}{r['peak_rss_bytes'] / 1e6:>9.0f}{r['other_cpu']:>11.1%}"
                     f"{'  CONTENDED' if r['other_cpu'] > 0.05 else ''}")
    for row in result["ratios"]:
        lines.append(f"  {row['what']}: {row['value']:.2f} (bound {row['bound']}) {'ok' if row['ok'] else 'MISSED'}")
    lines += [f"  THE SIDES DISAGREE: {line}" for line in result["disagree"]]
    text = "\n".join(lines)
    print(text, flush=True)
    return text


def ratios(task, size, contestants):
    rows = []
    for ours, peers, bounds in BOUNDS[task]:
        best = min((p for p in peers if p in contestants), key=lambda p: contestants[p]["median"])
        value = contestants[best]["median"] / contestants[ours]["median"]
        rows.append(dict(what=f"{ours} against {best}", value=value, cpu=contestants[best]["cpu_seconds"] / contestants[ours]["cpu_seconds"], bound=f"≥ {bounds[size]}", ok=value >= bounds[size]))
    if task == "train":
        best = min((p for p in ["default", "tuned"] if p in contestants), key=lambda p: contestants[p]["peak_rss_bytes"])
        value = contestants["ours, recompute"]["peak_rss_bytes"] / contestants[best]["peak_rss_bytes"]
        bound = MEMORY_BOUND if size == "110m" else float("inf")
        rows.append(dict(what=f"peak memory, recompute against {best}", value=value, bound=f"≤ {bound}", ok=value <= bound))
    return rows


def machine_name():
    info = open("/proc/cpuinfo").read()
    model = re.search(r"model name\s*:\s*(.*)", info)
    name = re.sub(r"\(\w+\)|CPU|@.*", "", model.group(1) if model else "cpu")
    return f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}-{os.cpu_count()}-cores"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", required=True, help="folder for models and inputs; may be large")
    p.add_argument("--models", nargs="+", default=["15m", "110m"], choices=list(models.SHAPES))
    p.add_argument("--tasks", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    p.add_argument("--reps", type=int, default=5)
    p.add_argument("--wait", type=float, default=60, help="seconds to wait for other processes before each run")
    p.add_argument("--tuned", help="results.json of an earlier run, whose settings of the peer are taken")
    p.add_argument("--tune-reps", type=int, default=2)
    p.add_argument("--worker", help="our bench binary; built when absent")
    p.add_argument("--gemm-rate", type=float, help="GFLOP/s, in the place of measuring it")
    p.add_argument("--out", help="folder for the results")
    a = p.parse_args()
    worker = a.worker or find_worker()
    out = a.out or os.path.join(ROOT, "benches", "runs", f"{datetime.date.today()}-{machine_name()}")
    os.makedirs(out, exist_ok=True)
    rate, table = (a.gemm_rate * 1e9, "") if a.gemm_rate else gemm_rate()
    print(table + f"GEMM rate: {rate / 1e9:.1f} GFLOP/s", flush=True)
    earlier = json.load(open(a.tuned))["results"] if a.tuned else {}
    results, texts = {}, [table + f"GEMM rate: {rate / 1e9:.1f} GFLOP/s"]
    for size in a.models:
        files = models.make(a.work, size)
        work = models.flops(size, json.load(open(files[2])))
        for task in a.tasks:
            key = f"{task} {size}"
            tried = earlier[key]["tried"] if key in earlier else tune(task, files, a.tune_reps, a.wait)
            tuned = min(tried, key=tried.get)
            contestants, wrong = compare(task, size, files, tuned, worker, a)
            tokens = max(c["runs"][0]["tokens"] for c in contestants.values())
            results[key] = dict(tried=tried, tuned=tuned, settings=VARIANTS[task][tuned], contestants=contestants, tokens=tokens,
                                flop=work[WORK.get(task, task)], ratios=ratios(task, size, contestants), disagree=wrong)
            texts.append(report(task, size, results[key], work[WORK.get(task, task)], rate) + f"\n  tuned peer: {tuned}")
            with open(f"{out}/results.json", "w") as f:
                json.dump(dict(machine=machine_name(), threads=THREADS, gemm_gflops=rate / 1e9, results=results), f, indent=1)
            with open(f"{out}/summary.txt", "w") as f:
                f.write("\n".join(texts) + "\n")
    print(f"\nresults in {out}")


if __name__ == "__main__":
    main()
