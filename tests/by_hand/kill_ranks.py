#!/usr/bin/env python3
"""A run by several ranks, of which one is killed at a random moment, again and again; then it is resumed by 1, 2 or 3 ranks. What it
makes must be the bytes of an uninterrupted run.

    python3 tests/by_hand/kill_ranks.py target/release/selfplay recipes/quickstart.toml [--kills 50] [--mpirun] [--set KEY=VALUE …]

Without --mpirun the ranks are plain processes with RANK and WORLD_SIZE, and rank 0 trains (ranks.train_on = first): candidates,
preferences, pairs and policies are compared. With --mpirun (a binary that is built with `--features mpi`) all ranks train; as the order of
sums goes by their number, what follows the first training is compared with nothing but its own kind: that each iteration is whole,
and that eval_accuracy does not fall by more than 0.1. The standard library is enough; exit 1 on a difference.
"""
import argparse
import glob
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def start(world, command, by_mpirun):
    """The processes of a launch; with mpirun the one that is waited for."""
    environment = dict(os.environ, RAYON_NUM_THREADS="1", **ROOT)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if by_mpirun and world > 1:
        line = ["mpirun", "-n", str(world), "--oversubscribe", "--bind-to", "none", *command]
        return [subprocess.Popen(line, env=environment, **quiet)]
    ranks = []
    for rank in range(world):
        own = dict(environment)
        if world > 1:
            own.update(RANK=str(rank), WORLD_SIZE=str(world))
        ranks.append(subprocess.Popen(command, env=own, **quiet))
    return ranks


def pids(run):
    """Process ids of the ranks that work in a run's folder now."""
    found = []
    for path in glob.glob(f"{run}/ranks/*/rank_*.json"):
        try:
            with open(path) as file:
                found.append(json.load(file)["pid"])
        except (OSError, ValueError, KeyError):
            pass
    return found


def stage(run):
    """What the run's folder shows to be under way, for the count."""
    open_iterations = [one for one in sorted(glob.glob(f"{run}/iteration_*")) if not os.path.exists(f"{one}/summary.json")]
    if not open_iterations:
        return "between"
    one = open_iterations[0]
    if os.path.isdir(f"{one}/policy"):
        return "evaluating"
    if os.path.exists(f"{one}/train/metrics.jsonl"):
        return "training"
    if os.path.exists(f"{one}/pairs.parquet"):
        return "pairs"
    return "scoring" if glob.glob(f"{one}/preferences/*.parquet") else "sampling"


def digests(run, iterations):
    found = {}
    for pattern in ["candidates/*.parquet", "preferences/*.parquet", "pairs.parquet", "policy/*.safetensors"]:
        for path in sorted(glob.glob(f"{run}/{iterations}/{pattern}")):
            with open(path, "rb") as file:
                found[os.path.relpath(path, run)] = hashlib.sha256(file.read()).hexdigest()
    return found


def accuracy(selfplay, run):
    shown = json.loads(subprocess.run([selfplay, "show", run, "--json"], check=True, capture_output=True).stdout)
    return [iteration["eval_accuracy"] for iteration in shown["iterations"]]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("selfplay")
    parser.add_argument("recipe")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--mpirun", action="store_true")
    parser.add_argument("--seed", type=int, default=os.getpid())
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()
    moments = random.Random(given.seed)
    options = [word for one in given.set for word in ("--set", one)]
    options += ["--set", "ranks.timeout=30", "--set", "ranks.stale_after=3"]
    if not given.mpirun:
        options += ["--set", "ranks.train_on=first"]
    folder = tempfile.mkdtemp(prefix="selfplay-kill-ranks-")
    whole, killed = f"{folder}/whole", f"{folder}/killed"
    begun = time.time()
    environment = dict(os.environ, RAYON_NUM_THREADS="1")
    subprocess.run([given.selfplay, "run", given.recipe, "-o", whole, "-q", *options], check=True, env=environment)
    took = time.time() - begun
    print(f"seed {given.seed}; uninterrupted, by one process: {took:.1f} s", flush=True)

    kills, stages, ends = 0, {}, {}
    while True:
        world = moments.choice([1, 2, 3])
        if os.path.exists(f"{killed}/manifest.json"):
            command = [given.selfplay, "resume", killed, "-q"]
        else:
            command = [given.selfplay, "run", given.recipe, "-o", killed, "-q", *options]
        ranks = start(world, command, given.mpirun)
        if kills < given.kills:
            # Moments over all of a run, so that later stages have their turn as the run gets on.
            deadline = time.time() + moments.uniform(0.02, 0.5) * took
            while time.time() < deadline and any(rank.poll() is None for rank in ranks):
                time.sleep(0.005)
            victims = pids(killed) if given.mpirun and world > 1 else [rank.pid for rank in ranks if rank.poll() is None]
            if victims:
                now = stage(killed)
                try:
                    os.kill(moments.choice(victims), signal.SIGKILL)
                    kills += 1
                    stages[now] = stages.get(now, 0) + 1
                    print(f"kill {kills}: {now}, {world} ranks", flush=True)
                except ProcessLookupError:
                    pass
        # A rank that is left alone ends by itself, in bounded time.
        limit = time.time() + 120 + 20 * took
        for rank in ranks:
            while rank.poll() is None:
                if time.time() > limit:
                    sys.exit(f"a rank of {world} was left behind: process {rank.pid}")
                time.sleep(0.01)
        statuses = tuple(rank.returncode for rank in ranks)
        ends[statuses[0]] = ends.get(statuses[0], 0) + 1
        if kills >= given.kills and statuses[0] == 0:
            break
        if statuses[0] == 0 and kills < given.kills:
            # The run came to its end before all kills: what it made is right so far, and it begins anew.
            check(given, whole, killed)
            os.rename(killed, f"{killed}-{kills}")
    check(given, whole, killed)
    print(f"{kills} kills, by stage {stages}, statuses of the first rank {ends}; the same bytes")


def check(given, whole, killed):
    left = [path for path in glob.glob(f"{killed}/**/*.tmp-*", recursive=True) + glob.glob(f"{killed}/ranks")]
    if left:
        sys.exit(f"left behind: {left}")
    iterations = "iteration_01" if given.mpirun else "iteration_*"
    one, other = digests(whole, iterations), digests(killed, iterations)
    if given.mpirun:
        one, other = ({name: hash for name, hash in found.items() if "policy" not in name} for found in (one, other))
        for before, after in zip(accuracy(given.selfplay, whole), accuracy(given.selfplay, killed)):
            if before is not None and after < before - 0.1:
                sys.exit(f"accuracy {after}, by one process {before}")
    if one != other:
        sys.exit(f"different: {sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))}")


if __name__ == "__main__":
    main()
