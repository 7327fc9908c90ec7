"""Runs the snippets of docs/python.md, each in a process of its own, on a run of the quickstart made for it.

    python tests/by_hand/python_snippets.py [path/to/selfplay]

Needs transformers, datasets, TRL and PEFT beside the program (default: target/release/selfplay). What it writes goes into a
temporary folder. It ends with 1 where a snippet fails, or where the page has other snippets than those that are known here.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KNOWN = ["transformers", "datasets", "trl", "peft"]
QUICKSTART = ["--set", "iterations=1", "--set", "prompts.max_prompts=64", "--set", "eval.max_prompts=8"]
ADAPTER = [
    *["--model", "recipes/quickstart/policy", "--pairs", "runs/quickstart/iteration_01/pairs.parquet"],
    *["--output", "trained", "--set", "train.lora.rank=8", "--set", "train.lora.merge=never"],
    *["--set", "train.max_steps=2"],
]


def snippets(page: str) -> dict[str, str]:
    """The Python blocks below a line `<!-- snippet: NAME -->`."""
    found = re.findall(r"<!-- snippet: (\w+) -->\n```python\n(.*?)```", page, re.DOTALL)
    return dict(found)


def main() -> int:
    program = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/release/selfplay").resolve()
    page = snippets((ROOT / "docs/python.md").read_text())
    if list(page) != KNOWN:
        print(f"docs/python.md has the snippets {list(page)}, and {KNOWN} are known: say so here")
        return 1
    failed = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "recipes").symlink_to(ROOT / "recipes")
        for command in (["run", "recipes/quickstart.toml", "-q", *QUICKSTART], ["train", "-q", *ADAPTER]):
            subprocess.run([program, *command], cwd=folder, check=True)
        for name, code in page.items():
            environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "CUDA_VISIBLE_DEVICES": ""}
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
            )
            last = (done.stdout.strip() or done.stderr.strip()).splitlines()[-1:] or ["(no output)"]
            print(f"{name:<14}{'ok' if done.returncode == 0 else 'FAILED':<8}{last[0][:90]}")
            if done.returncode != 0:
                print(done.stderr[-3000:])
                failed.append(name)
        if not failed and not (folder / "merged/model.safetensors").is_file():
            failed.append("peft wrote no merged model")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
