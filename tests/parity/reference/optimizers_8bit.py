"""Six steps of bitsandbytes' block-wise 8-bit AdamW and RMSprop, for trainer/src/optimizer/eight_bit/tests.rs.

Run `TORCHDYNAMO_DISABLE=1 python optimizers_8bit.py > optimizers_8bit.json` with torch and bitsandbytes installed (made with torch
2.15 and bitsandbytes 0.50.2, CPU, float32). It runs bitsandbytes' own PyTorch definition of the step, which stands beside its
Triton kernels; the empty module takes Triton's place, of which nothing is called.

A vector of 4,300 numbers, the last block of which is cut short. Weight i is sin(i) / 2; the gradient of step t (from 1), number i is
sin(0.7 t + 0.013 i) · 10^(−(i mod 7) / 2), and 0 in the third block. The rate of step t is 0.01 · (t − 1) / 6. Every 13th number is
kept, and all magnitudes of blocks.
"""

import json
import math
import sys
import types


import bitsandbytes
import torch
from bitsandbytes.functional import create_dynamic_map


class Anything(types.ModuleType):
    def __getattr__(self, name):
        return (lambda f=None, **_: f) if name in ("jit", "autotune") else Anything(name)

    def __call__(self, *_, **__):
        return None


for name in ("triton", "triton.language"):
    sys.modules[name] = Anything(name)
from bitsandbytes.backends.triton import kernels_optim

N, STEPS, BLOCK = 4300, 6, 256
CASES = {
    "adamw8bit": ("adam", dict(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0)),
    "adamw8bit_decay": ("adam", dict(beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=0.1)),
    "rmsprop8bit": ("rmsprop", dict(beta1=0.99, beta2=0.0, eps=1e-8, weight_decay=0.0)),
    "rmsprop8bit_decay": ("rmsprop", dict(beta1=0.95, beta2=0.0, eps=1e-4, weight_decay=0.1)),
}


def gradient(t):
    g = [math.sin(0.7 * t + 0.013 * i) * 10 ** (-(i % 7) / 2) for i in range(N)]
    g[2 * BLOCK : 3 * BLOCK] = [0.0] * BLOCK
    return torch.tensor(g)


def run(kind, keys):
    signed, unsigned = create_dynamic_map(signed=True), create_dynamic_map(signed=False)
    blocks = (N + BLOCK - 1) // BLOCK
    p = torch.tensor([math.sin(i) / 2 for i in range(N)])
    state = [torch.zeros(N, dtype=torch.uint8) for _ in range(2)]
    absmax = [torch.zeros(blocks) for _ in range(2)]
    second = kind == "adam"
    for t in range(1, STEPS + 1):
        kernels_optim.optimizer_update_8bit_blockwise_pytorch(
            p, gradient(t), state[0], state[1] if second else None, keys["beta1"], keys["beta2"], 0.0, 0.0, keys["eps"], t,
            0.01 * (t - 1) / STEPS, signed, unsigned if second else None, absmax[0], absmax[1] if second else None,
            keys["weight_decay"], 1.0, False, optimizer_name=kind,
        )
    out = {"weights": p[::13].tolist()}
    for place in range(2 if second else 1):
        out[f"codes{place + 1}"] = state[place][::13].tolist()
        out[f"magnitudes{place + 1}"] = absmax[place].tolist()
    return out


maps = {"signed": create_dynamic_map(signed=True).tolist(), "unsigned": create_dynamic_map(signed=False).tolist()}
print(json.dumps({"maps": maps, **{name: run(*case) for name, case in CASES.items()}}))
