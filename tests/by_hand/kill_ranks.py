#!/usr/bin/env python3
"""Runs by several ranks of which one is killed, stopped or told to leave, in every stage; then resumed by 1, 2 or 3 ranks.

    cargo build --release --features selfplay/mpi --bin selfplay
    python3 tests/by_hand/kill_ranks.py target/release/selfplay [--kills 50] [--seed 1] [--start-at 1] [--folder DIR] [--set KEY=VALUE …]

Each kill is a run of its own, of two short iterations, by two or three ranks under mpirun that all train. The stages take turns; iteration,
rank and signal are drawn: SIGKILL mostly, SIGSTOP (a rank that stands still), SIGTERM and SIGUSR1 (it is to leave). Then:

- the launch ends in bounded time, with 75 after SIGTERM and SIGUSR1 (unless the run was finished before they were heard), with the rank's name after SIGSTOP, and leaves no process behind;
- the run is resumed by 1, 2 or 3 ranks in turn, which ends with status 0 and leaves no temporary and no meeting place;
- iteration 1's candidates, preferences and pairs are the bytes of an uninterrupted run; with the same number of ranks from start to end
  every file of rows and every policy is; with another number iteration 1's policy is as near as those of 1, 2 and 3 ranks are to each other,
  which add in different orders; and the accuracy at the true answers does not fall by more than 0.1.

--processes starts plain processes (RANK, WORLD_SIZE) of which rank 0 trains: any binary can do that, and the rest of a launch outlives a kill.
A line for each kill, a table by stage at the end, KILLS.jsonl in the folder. The standard library is enough; a failure does not end it, but its
status is 1 then. --folder keeps what it makes, and takes uninterrupted runs that are there; --start-at goes on behind kills already made.
"""
import argparse
import array
import glob
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

STAGES = ["sampling", "scoring", "pairing", "reference", "training", "checkpoint", "policy", "evaluation"]
SIGNALS = [signal.SIGKILL] * 7 + [signal.SIGSTOP, signal.SIGTERM, signal.SIGUSR1]
SHARDS = 10
SETTINGS = [
    "iterations=2", "prompts.max_prompts=150", "sample.shard_prompts=15", "eval.max_prompts=100", "train.batch_size=32",
    "train.checkpoint_every=2", "policy.dtype=f32", "ranks.timeout=15", "ranks.stale_after=4",
]
# Seconds for a launch or a resume to end; a busy machine is slow.
BOUND = 240
ENVIRONMENT = dict(os.environ, RAYON_NUM_THREADS="1", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")


class Launch:
    """The processes of a launch and what they say."""

    def __init__(self, given, world, command, log):
        self.world, self.log = world, open(log, "a+b")
        line = ["mpirun", "-n", str(world), "--oversubscribe", "--bind-to", "none", *command]
        by_mpirun = world > 1 and not given.processes
        self.children = []
        for rank in range(1 if by_mpirun else world):
            own = dict(ENVIRONMENT)
            if world > 1 and not by_mpirun:
                own.update(RANK=str(rank), WORLD_SIZE=str(world))
            child = subprocess.Popen(line if by_mpirun else command, env=own, stdout=self.log, stderr=self.log)
            self.children.append(child)

    def is_over(self):
        return all(child.poll() is not None for child in self.children)

    def wait(self):
        """The first process's status, or None where the launch does not end in time; what is left is killed."""
        limit = time.time() + BOUND
        while not self.is_over():
            if time.time() > limit:
                for child in self.children:
                    child.kill()
                    child.wait()
                return None
            time.sleep(0.005)
        return self.children[0].returncode

    def said(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")


def ranks_of(run):
    """Process ids of the ranks that work in a run's folder, by rank."""
    found = {}
    for path in glob.glob(f"{run}/ranks/*/rank_*.json"):
        try:
            with open(path) as file:
                state = json.load(file)
            found[state["rank"]] = state["pid"]
        except (OSError, ValueError, KeyError):
            pass
    return found


def processes_of(given, run):
    """Ranks, and launchers of ranks, whose command line names the run's folder."""
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        if run.encode() in words and given.selfplay.encode() in words:
            found.append(int(path.split("/")[2]))
    return found


def count(pattern):
    return len(glob.glob(pattern))


def is_at(stage, one, draw):
    """Whether an iteration's folder shows that this stage is under way, at a moment that was drawn (0 to 1)."""
    there = os.path.exists
    if stage == "sampling":
        return count(f"{one}/candidates/*.parquet") >= int(draw * (SHARDS - 1)) and there(f"{one}/candidates")
    if stage == "scoring":
        compared = count(f"{one}/preferences/*.parquet")
        return compared >= int(draw * (SHARDS - 1)) and count(f"{one}/candidates/*.parquet") > compared
    if stage == "pairing":
        return count(f"{one}/preferences/*.parquet") == SHARDS
    if stage == "reference":
        return count(f"{one}/train/reference/*.jsonl") > 0
    if stage == "training":
        try:
            with open(f"{one}/train/metrics.jsonl", "rb") as file:
                return file.read().count(b"\n") >= 1 + int(draw * 4)
        except OSError:
            return False
    if stage == "checkpoint":
        return count(f"{one}/train/.step_*") > 0
    if stage == "policy":
        return count(f"{one}/.policy*") > 0
    return there(f"{one}/policy")


def is_past(stage, one):
    """Whether the stage is over, as far as that can be seen: the kill then hit the next one."""
    there = os.path.exists
    return {
        "sampling": lambda: count(f"{one}/candidates/*.parquet") == SHARDS,
        "scoring": lambda: count(f"{one}/preferences/*.parquet") == SHARDS,
        "pairing": lambda: there(f"{one}/train/metrics.jsonl"),
        "reference": lambda: there(f"{one}/train/metrics.jsonl") and os.path.getsize(f"{one}/train/metrics.jsonl") > 0,
        "training": lambda: there(f"{one}/policy"),
        "checkpoint": lambda: there(f"{one}/policy"),
        "policy": lambda: there(f"{one}/policy"),
        "evaluation": lambda: there(f"{one}/summary.json"),
    }[stage]()


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def rows(run, iterations="iteration_*"):
    """Hashes of what is made before a training, by name."""
    kinds = ["candidates/*.parquet", "preferences/*.parquet", "pairs.parquet"]
    paths = [path for kind in kinds for path in glob.glob(f"{run}/{iterations}/{kind}")]
    return {os.path.relpath(path, run): digest(path) for path in sorted(paths)}


def policies(run, iterations="iteration_*"):
    return {os.path.relpath(path, run): digest(path) for path in sorted(glob.glob(f"{run}/{iterations}/policy/*.safetensors"))}


def weights(path):
    """All numbers of a safetensors file of 32-bit numbers, in the order of names."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    numbers = array.array("f")
    for name in sorted(name for name in header if name != "__metadata__"):
        if header[name]["dtype"] != "F32":
            raise SystemExit(f"{path}: {name} is {header[name]['dtype']}, F32 is wanted")
        first, last = header[name]["data_offsets"]
        numbers.frombytes(data[first:last])
    return numbers


def distance(one, other):
    return sum((a - b) ** 2 for a, b in zip(weights(one), weights(other))) ** 0.5


def accuracies(given, run):
    shown = subprocess.run([given.selfplay, "show", run, "--json"], check=True, capture_output=True).stdout
    return [iteration["eval_accuracy"] for iteration in json.loads(shown)["iterations"]]


class References:
    """Uninterrupted runs by 1, 2 and 3 ranks."""

    def __init__(self, given, folder, options):
        self.runs = {world: f"{folder}/whole-{world}" for world in (1, 2, 3)}
        for world, run in self.runs.items():
            if os.path.exists(f"{run}/iteration_02/summary.json") and not os.path.exists(f"{run}/ranks"):
                continue
            shutil.rmtree(run, ignore_errors=True)
            begun = time.time()
            launch = Launch(given, world, [given.selfplay, "run", given.recipe, "-o", run, *options], f"{folder}/whole-{world}.log")
            if launch.wait() != 0:
                raise SystemExit(f"an uninterrupted run by {world} ranks failed:\n{launch.said()}")
            print(f"uninterrupted, by {world}: {time.time() - begun:.1f} s", flush=True)
        self.rows = {world: rows(run) for world, run in self.runs.items()}
        self.policies = {world: policies(run) for world, run in self.runs.items()}
        self.accuracy = min(accuracies(given, run)[-1] for run in self.runs.values())
        first = {world: f"{run}/iteration_01/policy/model.safetensors" for world, run in self.runs.items()}
        between = [distance(first[one], first[other]) for one, other in ((1, 2), (1, 3), (2, 3))]
        second = f"{self.runs[1]}/iteration_02/policy/model.safetensors"
        self.tolerance = 3 * max(between) + 1e-6
        print(
            f"accuracy {self.accuracy:.3f}; iteration 1's policies are {min(between):.2g} to {max(between):.2g} apart, "
            f"one iteration's training moves them by {distance(first[1], second):.2g}",
            flush=True,
        )

    def compare(self, given, run, begun_by, ended_by, both=False):
        """What of a finished run is not as it has to be; `both`: by the same number of ranks from start to end."""
        problems = []
        first_rows = {name: hash for name, hash in self.rows[1].items() if name.startswith("iteration_01")}
        if rows(run, "iteration_01") != first_rows:
            problems.append("iteration 1's rows differ")
        if both or given.processes:
            if rows(run) != self.rows[begun_by]:
                problems.append("rows differ from those of the same ranks")
            if policies(run) != self.policies[begun_by]:
                problems.append("policies differ from those of the same ranks")
        else:
            own = f"{run}/iteration_01/policy/model.safetensors"
            apart = distance(own, f"{self.runs[ended_by]}/iteration_01/policy/model.safetensors")
            if not apart <= self.tolerance:
                problems.append(f"iteration 1's policy is {apart:.3g} from an uninterrupted one, at most {self.tolerance:.3g} is right")
        accuracy = accuracies(given, run)
        if len(accuracy) != 2 or accuracy[-1] < self.accuracy - 0.1:
            problems.append(f"accuracies {accuracy}, uninterrupted {self.accuracy}")
        left = [path for path in glob.glob(f"{run}/**/.*", recursive=True) + glob.glob(f"{run}/**/*.tmp-*", recursive=True)]
        left += glob.glob(f"{run}/ranks")
        if left:
            problems.append(f"left behind: {sorted(set(os.path.relpath(path, run) for path in left))}")
        return problems


def strike(given, number, stage, folder, options):
    """Starts a run and sends one of its ranks a signal in a stage; None where the stage was missed."""
    draw = random.Random(f"{given.seed} {number}")
    plan = {
        "kill": number, "stage": stage, "iteration": draw.choice([1, 1, 2]), "ranks": draw.choice([2, 2, 3]),
        "signal": draw.choice(SIGNALS),
    }
    plan["rank"] = 0 if draw.random() < 0.4 else draw.randrange(1, plan["ranks"])
    moment, pause = draw.random(), draw.random()
    if given.signal:
        plan["signal"] = signal.Signals[given.signal]
    run = f"{folder}/run-{number}"
    # Of a script that was ended in the middle.
    behind(given, run)
    shutil.rmtree(run, ignore_errors=True)
    if os.path.exists(f"{run}.log"):
        os.remove(f"{run}.log")
    launch = Launch(given, plan["ranks"], [given.selfplay, "run", given.recipe, "-o", run, *options], f"{folder}/run-{number}.log")
    one = f"{run}/iteration_{plan['iteration']:02}"
    ranks = {}
    while not is_at(stage, one, moment):
        if launch.is_over():
            return None
        time.sleep(0.0003 if os.path.isdir(one) else 0.005)
    # Of what takes long, any moment.
    time.sleep({"evaluation": 0.4, "reference": 0.2, "training": 0.05, "sampling": 0.05, "scoring": 0.05}.get(stage, 0.003) * pause)
    ranks = ranks_of(run)
    victim = ranks.get(plan["rank"])
    if victim is None or launch.is_over():
        launch.wait()
        return None
    plan["hit"] = not is_past(stage, one)
    begun = time.time()
    try:
        os.kill(victim, plan["signal"])
    except ProcessLookupError:
        launch.wait()
        return None
    if given.processes and plan["signal"] == signal.SIGSTOP:
        # No launcher ends it: it goes on when all others have come to their end, and has to find that out.
        others = [child for child in launch.children if child.pid != victim]
        limit = time.time() + BOUND
        while any(child.poll() is None for child in others) and time.time() < limit:
            time.sleep(0.01)
        os.kill(victim, signal.SIGCONT)
    plan["status"] = launch.wait()
    plan["seconds"] = round(time.time() - begun, 2)
    said = launch.said()
    problems = plan["problems"] = []
    if plan["status"] is None:
        problems.append(f"the launch did not end within {BOUND} s")
    is_whole = os.path.exists(f"{run}/iteration_02/summary.json")
    # Rank 0 may have done what was left before it heard of another rank's signal.
    may_be_whole = is_whole and (plan["status"] == 0 or plan["rank"] != 0)
    if plan["signal"] in (signal.SIGTERM, signal.SIGUSR1) and not may_be_whole:
        if plan["status"] != 75:
            problems.append(f"status {plan['status']} after {plan['signal'].name}")
        if f"stopped by {plan['signal'].name}" not in said:
            problems.append("rank 0 does not say what has stopped it")
    if plan["signal"] == signal.SIGSTOP and f"rank {plan['rank']} (" not in said and not is_whole:
        problems.append("the rank that stands still is not named")
    if "defect" in said or "panicked" in said:
        problems.append("a defect is told")
    plan["left"] = behind(given, run)
    if plan["left"]:
        problems.append(f"{plan['left']} processes were left behind")
    return plan


def behind(given, run):
    """How many processes of a run are left, soon after its end; they are killed."""
    limit = time.time() + 15
    while processes_of(given, run) and time.time() < limit:
        time.sleep(0.05)
    left = processes_of(given, run)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return len(left)


def go_on(given, plan, world, folder, options, references):
    """Resumes a run that was struck, and looks at what has become of it."""
    run, log = f"{folder}/run-{plan['kill']}", f"{folder}/run-{plan['kill']}.log"
    plan["resumed_by"] = world
    begun = time.time()
    if os.path.exists(f"{run}/manifest.json"):
        command = [given.selfplay, "resume", run]
    else:
        shutil.rmtree(run, ignore_errors=True)
        command = [given.selfplay, "run", given.recipe, "-o", run, *options]
    launch = Launch(given, world, command, log)
    status = launch.wait()
    plan["resume_seconds"] = round(time.time() - begun, 2)
    problems = plan["problems"]
    if status != 0:
        problems.append(f"resume by {world} ended with {status}")
    elif not os.path.exists(f"{run}/iteration_02/summary.json"):
        problems.append("the resumed run is not whole")
    else:
        problems += references.compare(given, run, plan["ranks"], world, both=world == plan["ranks"])
    left = behind(given, run)
    if left:
        problems.append(f"{left} processes were left behind by the resume")


def table(done):
    print(f"\n{'stage':<12} kills  in it  rank 0  KILL  STOP  TERM  USR1  by 1  by 2  by 3  seconds (median, most)  failures")
    for stage in [*STAGES, "all"]:
        of = [one for one in done if stage in (one["stage"], "all")]
        if not of:
            continue
        by = lambda key, value: sum(one[key] == value for one in of)
        names = [by("signal", name) for name in ("SIGKILL", "SIGSTOP", "SIGTERM", "SIGUSR1")]
        seconds = [one["seconds"] for one in of]
        print(
            f"{stage:<12} {len(of):>5}  {by('hit', True):>5}  {by('rank', 0):>6}  {names[0]:>4}  {names[1]:>4}  {names[2]:>4}  {names[3]:>4}  "
            f"{by('resumed_by', 1):>4}  {by('resumed_by', 2):>4}  {by('resumed_by', 3):>4}  "
            f"{statistics.median(seconds):>10.1f} {max(seconds):>10.1f}  {sum(bool(one['problems']) for one in of):>10}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("selfplay")
    parser.add_argument("recipe", nargs="?", default="recipes/quickstart.toml")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--start-at", type=int, default=1, help="number of the first kill")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", action="store_true", help="plain processes of which rank 0 trains, without mpirun")
    parser.add_argument("--signal", help="this one alone, by name (SIGSTOP)")
    parser.add_argument("--stage", choices=STAGES, help="this one alone")
    parser.add_argument("--folder", help="where runs are made and kept")
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()
    given.selfplay = os.path.abspath(given.selfplay)
    folder = os.path.abspath(given.folder or tempfile.mkdtemp(prefix="selfplay-kill-ranks-"))
    os.makedirs(folder, exist_ok=True)
    settings = SETTINGS + (["ranks.train_on=first"] if given.processes else []) + given.set
    options = [word for one in settings for word in ("--set", one)]
    print(f"seed {given.seed}, in {folder}", flush=True)
    references = References(given, folder, options)

    done, missed = [], []
    for number in range(given.start_at, given.start_at + given.kills):
        stage = given.stage or STAGES[(number - 1) % len(STAGES)]
        plan = next((found for found in (strike(given, number, stage, folder, options) for _ in range(4)) if found), None)
        if plan is None:
            missed.append(number)
            print(f"kill {number}: {stage} was missed four times", flush=True)
            continue
        # In turns that do not go with those of the stages.
        go_on(given, plan, 1 + (number - 1 + (number - 1) // len(STAGES)) % 3, folder, options, references)
        plan["signal"] = plan["signal"].name
        done.append(plan)
        with open(f"{folder}/KILLS.jsonl", "a") as file:
            file.write(json.dumps(plan) + "\n")
        said = "; ".join(plan["problems"]) or "as uninterrupted"
        print(
            f"kill {number}: {plan['signal']} to rank {plan['rank']} of {plan['ranks']} in {stage} of iteration {plan['iteration']}: "
            f"status {plan['status']} after {plan['seconds']} s; by {plan['resumed_by']}: {plan['resume_seconds']} s, {said}",
            flush=True,
        )
        if not plan["problems"]:
            shutil.rmtree(f"{folder}/run-{number}", ignore_errors=True)
            os.remove(f"{folder}/run-{number}.log")
    table(done)
    failed = [one["kill"] for one in done if one["problems"]]
    print(f"{len(done)} kills, {len(failed)} with a failure {failed}, {len(missed)} missed {missed}")
    if not given.folder and not failed:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(bool(failed or missed))


if __name__ == "__main__":
    main()
