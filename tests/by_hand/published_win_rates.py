#!/usr/bin/env python3
"""Win rates of published annotations, held against the leaderboard's.

    python3 tests/by_hand/published_win_rates.py target/release/selfplay FOLDER

FOLDER holds `leaderboard.csv` of AlpacaEval 2 and annotations, NAME.json or NAME.json.gz, NAME a row of it. The raw win rate, its
standard error and the counts must be the published ones (to 1e-9). The standard library is enough; exit 1 on a difference.
"""
import csv
import glob
import json
import os
import subprocess
import sys

BOUND = 1e-9


def main():
    selfplay, folder = sys.argv[1:3]
    with open(f"{folder}/leaderboard.csv", newline="") as file:
        published = {row[""]: row for row in csv.DictReader(file)}
    worst, seen = 0.0, 0
    for path in sorted(glob.glob(f"{folder}/*.json") + glob.glob(f"{folder}/*.json.gz")):
        row = published.get(os.path.basename(path).split(".json")[0])
        if row is None:
            continue
        out = subprocess.run([selfplay, "winrate", "--annotations", path, "--json"], check=True, capture_output=True, text=True).stdout
        found = json.loads(out)
        for ours, theirs in [("win_rate", "win_rate"), ("standard_error", "standard_error"), ("n", "n_total"), ("n_wins", "n_wins"),
                             ("n_wins_base", "n_wins_base"), ("n_draws", "n_draws"), ("discrete_win_rate", "discrete_win_rate")]:
            difference = abs(found[ours] - float(row[theirs]))
            worst = max(worst, difference)
            print(f"{os.path.basename(path)}: {ours} {found[ours]}, published {row[theirs]}{'' if difference <= BOUND else '   DIFFERS'}")
        seen += 1
    print(f"{seen} files, largest difference {worst:.1e}")
    sys.exit(seen == 0 or worst > BOUND)


main()
