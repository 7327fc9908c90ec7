#!/usr/bin/env python3
"""One run, killed with SIGKILL again and again, in every stage; its policies must be the bytes of an uninterrupted run.

    python3 tests/by_hand/kill_each_stage.py target/release/selfplay recipes/quickstart.toml [--set KEY=VALUE …]

Watches the run folder and kills the process in the stage whose turn it is: sampling, scoring, reference log-probs, training, writing a
checkpoint, writing a policy; each KILLS times, over the three iterations, every time resuming. The standard library is enough; exit 1 on a
difference or on a stage that could not be hit.
"""
import glob
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time

KILLS = 4
STAGES = ["sampling", "scoring", "reference", "training", "checkpoint", "policy"]


def count(pattern):
    return len(glob.glob(pattern))


def stages_now(run):
    """The stages that the run folder shows to be under way."""
    found = set()
    for iteration in sorted(glob.glob(f"{run}/iteration_*")):
        if os.path.exists(f"{iteration}/summary.json"):
            continue
        paired = os.path.exists(f"{iteration}/pairs.parquet")
        if not paired and count(f"{iteration}/candidates/*.parquet") and count(f"{iteration}/candidates/.*tmp*"):
            found.add("sampling")
        if not paired and count(f"{iteration}/preferences/*.parquet") and count(f"{iteration}/preferences/.*tmp*"):
            found.add("scoring")
        metrics = f"{iteration}/train/metrics.jsonl"
        steps = os.path.getsize(metrics) if os.path.exists(metrics) else 0
        policy = os.path.isdir(f"{iteration}/policy")
        if count(f"{iteration}/train/reference/*.jsonl") and not steps:
            found.add("reference")
        if steps and not policy:
            found.add("training")
        if count(f"{iteration}/train/.step_*"):
            found.add("checkpoint")
        if count(f"{iteration}/.policy*"):
            found.add("policy")
    return found


def digests(run):
    found = {}
    for path in sorted(glob.glob(f"{run}/iteration_*/policy/*")) + sorted(glob.glob(f"{run}/iteration_*/pairs.parquet")):
        with open(path, "rb") as file:
            found[os.path.relpath(path, run)] = hashlib.sha256(file.read()).hexdigest()
    return found


def main():
    selfplay, recipe, *options = sys.argv[1:]
    folder = tempfile.mkdtemp(prefix="selfplay-kill-")
    whole, killed = f"{folder}/whole", f"{folder}/killed"
    started = time.time()
    subprocess.run([selfplay, "run", recipe, "-o", whole, "-q", *options], check=True)
    print(f"uninterrupted: {time.time() - started:.1f} s", flush=True)

    hits = dict.fromkeys(STAGES, 0)
    begun = False
    while True:
        command = [selfplay, "resume", killed, "-q"] if begun else [selfplay, "run", recipe, "-o", killed, "-q", *options]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        target = min((s for s in STAGES if hits[s] < KILLS), key=lambda s: hits[s], default=None)
        while child.poll() is None:
            due = {s for s in stages_now(killed) if hits[s] < KILLS}
            # What is rare goes first; else whatever comes, so that every iteration is hit.
            if due & {"checkpoint", "policy"} or due and (target in due or len(due) > 1 or sum(hits.values()) % 2):
                stage = min(due, key=lambda s: (s not in ("checkpoint", "policy"), hits[s]))
                child.send_signal(signal.SIGKILL)
                child.wait()
                hits[stage] += 1
                print(f"kill {sum(hits.values())}: {stage}", flush=True)
                break
            time.sleep(0.0005)
        begun = os.path.exists(f"{killed}/manifest.json")
        if child.returncode == 0:
            break
        if child.returncode != -signal.SIGKILL:
            sys.exit(f"exit status {child.returncode}")
    same = digests(whole) == digests(killed)
    print(f"{sum(hits.values())} kills: {hits}; policies and pairs {'are the same bytes' if same else 'DIFFER'}")
    sys.exit(not same or min(hits.values()) < 2)


if __name__ == "__main__":
    main()
