#!/usr/bin/env python3
"""Ranks that are processes: memory of each under ZeRO-3, speed of two against one with two threads, cost of the launcher.

    cargo build --release --workspace --features selfplay-trainer/mpi --example mpi_ranks
    python3 benches/ranks.py [--steps 5] [--tokens 512] [--binary target/release/examples/mpi_ranks]

A model of 110 million weights with RMSProp on a CPU; a batch is two pairs in any case. One line of JSON for each measurement, then the three
ratios with their bounds: memory of a rank of two with train.zero = 3 against one process, at most 0.6 of it; steps a second of two ranks
of one thread each (train.zero = 1, the default) against one process of two threads, at least 0.9; of one rank under mpirun against none, within 1 %. Medians of --repeats.
"""

import argparse
import json
import os
import statistics
import subprocess


def measure(arguments, ranks, threads, zero, alone=False):
    """The JSON lines of one training, by rank."""
    command = [arguments.binary, "step", str(zero), str(arguments.steps), str(arguments.tokens)]
    command += ["alone"] if alone else []
    if not alone:
        command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)] + command
    environment = dict(
        os.environ, RAYON_NUM_THREADS=str(threads), OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1"
    )
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: status {done.returncode}\n{done.stderr}")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for line in sorted(lines, key=lambda line: line["rank"]):
        print(json.dumps({**line, "threads": threads, "alone": alone}), flush=True)
    return lines


def seconds(measured):
    """The slowest rank's step."""
    return max(line["step_seconds"] for line in measured)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--binary", default="target/release/examples/mpi_ranks")
    arguments = parser.parse_args()

    alone, one, two = [], [], []
    for _ in range(arguments.repeats):
        # In turns, so that what else the machine does falls on all of them.
        alone.append(measure(arguments, 1, 2, 0, alone=True))
        one.append(measure(arguments, 1, 2, 0))
        two.append(measure(arguments, 2, 1, 1))
    shards = measure(arguments, 2, 1, 3)
    median = lambda runs: statistics.median(seconds(run) for run in runs)
    memory = max(line["peak_mib"] for line in shards) / max(line["peak_mib"] for line in alone[0])
    print(f"memory of a rank of two, train.zero = 3: {memory:.3f} of one process (at most 0.6)")
    print(f"two ranks of one thread: {median(alone) / median(two):.3f} of one process of two threads (at least 0.9)")
    print(f"one rank under mpirun: {median(one) / median(alone) - 1:+.2%} of the time without (within 1 %)")


if __name__ == "__main__":
    main()
