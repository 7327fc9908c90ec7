#!/usr/bin/env python3
"""Ranks that are processes: memory of each under ZeRO-3, speed of two against one with two threads, cost of the launcher.

    cargo build --release --workspace --features selfplay/mpi --bin selfplay
    cargo build --release --workspace --features selfplay-trainer/mpi --example mpi_ranks
    python3 benches/ranks.py [--steps 5] [--tokens 512] [--alternations 5] [--only steps|loading|launcher]

`steps`: a model of 110 million weights with RMSProp on a CPU; a batch is two pairs in any case. Memory of a rank of two with train.zero = 3
against one process, at most 0.6 of it; steps a second of two ranks of one thread each (train.zero = 1, the
default) against one process of two threads, at least 0.9; and,
for knowledge, one process under mpirun that trains without MPI, as `selfplay run` does, and one that starts it.

`loading`: two and four ranks of one thread with train.zero = 3 that load the same model from its folder, train it and save it, each rank loading
its share or all of it: the largest memory of a rank while it loads and until the end, seconds of loading, a step, and saving.

`launcher`: `mpirun -n 1 selfplay run` against `selfplay run`, of --recipe (about half a minute on two cores), as anybody would type it: within 1 %.
The time of the work is that from the first to the last line of events.jsonl; the wall-clock time also has what mpirun takes to start a
process and to end, which does not grow with the run.

All of them in turns, the order of each turn the reverse of the last, so that what else the machine does, and its getting warm, falls on all alike.
A ratio is the median of the turns' own ratios, with the lowest and the highest. A line of JSON for each measurement. The machine should be
quiet: the spread tells whether it was.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time

AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def environment(threads=None):
    found = dict(os.environ, **AS_ROOT)
    found.pop("RAYON_NUM_THREADS", None)
    return found if threads is None else dict(found, RAYON_NUM_THREADS=str(threads))


def finished(command, env):
    """What a command prints, and its wall-clock seconds."""
    begun = time.perf_counter()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    took = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: status {done.returncode}\n{done.stderr}")
    return done.stdout, took


def steps_of(arguments, ranks, threads, zero=0, launched=True, alone=False):
    """The JSON lines of one training, by rank."""
    command = [arguments.example, "step", str(zero), str(arguments.steps), str(arguments.tokens)] + ["alone"] * alone
    if launched:
        command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)] + command
    lines = [json.loads(line) for line in finished(command, environment(threads))[0].splitlines() if line.startswith("{")]
    for line in sorted(lines, key=lambda line: line["rank"]):
        print(json.dumps({**line, "threads": threads, "mpirun": launched, "mpi": not alone}), flush=True)
    return {"step": max(line["step_seconds"] for line in lines), "peak_mib": max(line["peak_mib"] for line in lines)}


def loading_of(arguments, ranks, model, how):
    """The JSON lines of one training that begins with loading, by rank; the largest of each number."""
    command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)]
    command += [arguments.example, "load", "3", str(arguments.steps), str(arguments.tokens), model, how]
    lines = [json.loads(line) for line in finished(command, environment(1))[0].splitlines() if line.startswith("{")]
    for line in sorted(lines, key=lambda line: line["rank"]):
        print(json.dumps({**line, "loads": how}), flush=True)
    keys = ("load_peak_mib", "peak_mib", "load_seconds", "step_seconds", "save_seconds")
    return {key: max(line[key] for line in lines) for key in keys}


def run_of(arguments, launched):
    """Seconds of the work of a whole run, and of all of it by the clock on the wall."""
    folder = tempfile.mkdtemp(prefix="selfplay-ranks-")
    try:
        run = os.path.join(folder, "run")
        settings = [word for one in arguments.set for word in ("--set", one)]
        command = [arguments.selfplay, "run", arguments.recipe, "-o", run, "-q", *settings]
        if launched:
            command = ["mpirun", "-n", "1", *command]
        wall = finished(command, environment())[1]
        with open(os.path.join(run, "events.jsonl")) as file:
            events = [json.loads(line) for line in file]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    measured = {"work": events[-1]["time"] - events[0]["time"], "wall": wall, "threads": events[0]["threads"]}
    print(json.dumps({"mpirun": launched, **{key: round(value, 3) for key, value in measured.items()}}), flush=True)
    return measured


def in_turns(turns, ways):
    """Measures each of several ways once a turn; the turns' results by way."""
    found = {name: [] for name in ways}
    for turn in range(turns):
        for name in list(ways)[:: 1 if turn % 2 == 0 else -1]:
            found[name].append(ways[name]())
    return found


def ratio(found, one, other, key):
    """The median of the turns' ratios, the lowest and the highest."""
    ratios = [a[key] / b[key] for a, b in zip(found[one], found[other])]
    return statistics.median(ratios), min(ratios), max(ratios)


def percent(ratios):
    middle, low, high = ratios
    return f"{middle - 1:+.2%} ({low - 1:+.2%} to {high - 1:+.2%})"


def steps(arguments):
    found = in_turns(arguments.alternations, {
        "process": lambda: steps_of(arguments, 1, 2, launched=False, alone=True),
        "two": lambda: steps_of(arguments, 2, 1),
        "one": lambda: steps_of(arguments, 1, 2, alone=True),
        "one with MPI": lambda: steps_of(arguments, 1, 2),
    })
    shards = steps_of(arguments, 2, 1, zero=3)
    memory = shards["peak_mib"] / found["process"][0]["peak_mib"]
    print(f"memory of a rank of two, train.zero = 3: {memory:.3f} of one process (at most 0.6)")
    middle, low, high = ratio(found, "process", "two", "step")
    print(f"two ranks of one thread: {middle:.3f} ({low:.3f} to {high:.3f}) of one process of two threads (at least 0.9)")
    print(f"a step of one process under mpirun: {percent(ratio(found, 'one', 'process', 'step'))} of the time without")
    print(f"a step of one that starts MPI: {percent(ratio(found, 'one with MPI', 'process', 'step'))} of the time without")


def loading(arguments):
    model = tempfile.mkdtemp(prefix="selfplay-model-")
    try:
        finished([arguments.example, "write", model], environment(2))
        for ranks in (2, 4):
            found = in_turns(arguments.alternations, {
                how: (lambda how=how: loading_of(arguments, ranks, model, how)) for how in ("whole", "shares")
            })
            for key in found["whole"][0]:
                middle, low, high = ratio(found, "shares", "whole", key)
                values = {how: statistics.median(one[key] for one in turns) for how, turns in found.items()}
                print(f"{ranks} ranks, {key}: {values['shares']:.4g} with shares, {values['whole']:.4g} whole: {middle:.3f} ({low:.3f} to {high:.3f})")
    finally:
        shutil.rmtree(model, ignore_errors=True)


def launcher(arguments):
    ways = {"plain": lambda: run_of(arguments, False), "mpirun": lambda: run_of(arguments, True)}
    # The first run reads everything from the disk.
    ways["plain"]()
    found = in_turns(arguments.alternations, ways)
    start = statistics.median(finished(["mpirun", "-n", "1", "true"], environment())[1] for _ in range(5))
    beside = {name: statistics.median(one["wall"] - one["work"] for one in runs) for name, runs in found.items()}
    plain = statistics.median(one["work"] for one in found["plain"])
    if len({one["threads"] for runs in found.values() for one in runs}) > 1:
        print("the two have other numbers of threads: mpirun has bound the process")
    print(f"mpirun -n 1, the work of {plain:.1f} s: {percent(ratio(found, 'mpirun', 'plain', 'work'))} of the time without (within 1 %)")
    print(f"by the clock on the wall: {percent(ratio(found, 'mpirun', 'plain', 'wall'))}")
    print(f"beside the work: {beside['mpirun']:.2f} s, without mpirun {beside['plain']:.2f} s; mpirun -n 1 true takes {start:.2f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--alternations", type=int, default=5)
    parser.add_argument("--example", default="target/release/examples/mpi_ranks")
    parser.add_argument("--selfplay", default="target/release/selfplay")
    parser.add_argument("--recipe", default="recipes/quickstart.toml")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--only", choices=["steps", "loading", "launcher"])
    arguments = parser.parse_args()
    for name, part in {"steps": steps, "loading": loading, "launcher": launcher}.items():
        if arguments.only in (None, name):
            part(arguments)


if __name__ == "__main__":
    main()
