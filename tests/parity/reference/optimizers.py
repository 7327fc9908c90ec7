"""Ten steps of torch's RMSprop and AdamW on a vector of five, for trainer/src/optimizer/tests.rs.

Run `python optimizers.py > optimizers.json` beside it with torch installed (made with torch 2.15, CPU, float32).
Weights are 0.5, −1, 0, 2, −0.25; the gradient of step t (from 1), element i is sin(3 t + i) · (i + 1) / 4, times 0 at element 2 in
every odd step. The rate of step t is 0.01 · (t − 1) / 10: the first is 0, as in a run with warm-up.
"""

import json
import math

import torch

WEIGHTS = [0.5, -1.0, 0.0, 2.0, -0.25]
CASES = {
    "rmsprop": (torch.optim.RMSprop, dict(alpha=0.99, eps=1e-8)),
    "rmsprop_centered": (torch.optim.RMSprop, dict(alpha=0.9, eps=1e-3, centered=True)),
    "rmsprop_momentum": (torch.optim.RMSprop, dict(alpha=0.99, eps=1e-8, momentum=0.9)),
    "rmsprop_all": (torch.optim.RMSprop, dict(alpha=0.95, eps=1e-4, centered=True, momentum=0.8, weight_decay=0.1)),
    "adamw": (torch.optim.AdamW, dict(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)),
    "adamw_decay": (torch.optim.AdamW, dict(betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)),
}


def gradient(t):
    g = [math.sin(3 * t + i) * (i + 1) / 4 for i in range(len(WEIGHTS))]
    if t % 2 == 1:
        g[2] = 0.0
    return g


def run(kind, keys):
    w = torch.nn.Parameter(torch.tensor(WEIGHTS))
    opt = kind([w], lr=0.0, foreach=False, **keys)
    for t in range(1, 11):
        w.grad = torch.tensor(gradient(t))
        for group in opt.param_groups:
            group["lr"] = 0.01 * (t - 1) / 10
        opt.step()
    state = {k: v.tolist() for k, v in opt.state[w].items() if k != "step"}
    return {"weights": w.detach().tolist(), "state": state}


print(json.dumps({name: run(*case) for name, case in CASES.items()}, indent=1))
