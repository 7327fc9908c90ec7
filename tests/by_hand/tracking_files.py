#!/usr/bin/env python3
"""Event files of TensorBoard and an offline run of Weights & Biases, read by their own makers' readers and held against metrics.jsonl.

    python3 tests/by_hand/tracking_files.py RUN        a run with log.tensorboard = true (and log.wandb = true)

Needs `pip install tensorboard`; for the second part `pip install 'wandb==0.17.9' 'protobuf<5'`, whose reader of offline runs is in Python. Exit 1
on a difference.
"""
import glob
import json
import os
import struct
import sys


def metrics(folder):
    with open(os.path.join(folder, "metrics.jsonl")) as file:
        return [json.loads(line) for line in file]


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(folder, size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def single(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def main():
    run = sys.argv[1]
    iterations = sorted(glob.glob(os.path.join(run, "iteration_*")))
    wrong = 0
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        print("no tensorboard here")
        iterations_of_events = []
    else:
        iterations_of_events = iterations
    for iteration in iterations_of_events:
        folder = os.path.join(iteration, "train")
        found, wanted = scalars(folder), metrics(folder)
        for key in ["loss", "grad_norm", "learning_rate", "reward_chosen", "logp_rejected", "tokens"]:
            mine = [(one["step"], single(one[key])) for one in wanted]
            same = found.get(f"train/{key}") == mine
            wrong += not same
            print(f"{folder}: train/{key}: {len(mine)} steps, {'equal' if same else 'DIFFERENT'}")
    if iterations_of_events:
        found = scalars(run)
        summaries = [json.load(open(os.path.join(one, "summary.json"))) for one in iterations]
        for tag, key in [("held_out/win_rate_first", "win_rate_first"), ("held_out/kl", "kl")]:
            mine = [(one["iteration"], single(one[key])) for one in summaries if one[key] is not None]
            same = found.get(tag, []) == mine
            wrong += not same
            print(f"{run}: {tag}: {mine}, {'equal' if same else 'DIFFERENT'}")
    for path in glob.glob(os.path.join(run, "wandb", "offline-run-*", "*.wandb")):
        try:
            from wandb.proto import wandb_internal_pb2
            from wandb.sdk.internal.datastore import DataStore
        except ImportError:
            print("no wandb with a reader in Python here")
            break
        store = DataStore()
        store.open_for_scan(path)
        kinds, losses, steps = [], [], []
        while True:
            data = store.scan_data()
            if data is None:
                break
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            kind = record.WhichOneof("record_type")
            kinds.append(kind)
            if kind == "history":
                row = {item.key: json.loads(item.value_json) for item in record.history.item}
                assert row["_step"] == record.history.step.num
                steps.append(row["_step"])
                losses += [row["train/loss"]] if "train/loss" in row else []
            if kind == "run":
                print(f"{path}: run {record.run.run_id}, project {record.run.project}, name {record.run.display_name}, {len(record.run.config.update)} keys")
        mine = [one["loss"] for iteration in iterations for one in metrics(os.path.join(iteration, "train"))]
        same = losses == mine and steps == list(range(len(steps))) and kinds[0] == "run" and kinds[-1] == "exit"
        wrong += not same
        print(f"{path}: {len(losses)} steps of training, {'equal' if same else 'DIFFERENT'}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
