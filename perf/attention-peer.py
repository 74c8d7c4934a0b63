"""PyTorch's attention beside alpha's: milliseconds of forward and of backward, a JSON line per implementation.

python3 perf/attention-peer.py BATCH T HEADS KEY_HEADS HEAD_SIZE WARM_MS
Causal, bf16; q, k and v are views of one (B, T, heads + 2 key heads, size), as a model's product for the three leaves them.
"""
import json
import sys
import time

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

B, T, H, K, D, warm = map(int, sys.argv[1:])
qkv = torch.randn(B, T, H + 2 * K, D, device="cuda", dtype=torch.bfloat16, requires_grad=True)
q, k, v = (part.transpose(1, 2).detach().requires_grad_() for part in qkv.split([H, K, K], 2))
dy = torch.randn(B, T, H, D, device="cuda", dtype=torch.bfloat16).transpose(1, 2)


def ms_of(work):
    """Median of three batches of calls, after `warm` milliseconds of them."""
    torch.cuda.synchronize()
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < warm / 1000 or calls < 4:
        work()
        calls += 1
        if calls % 16 == 0:
            torch.cuda.synchronize()
    count, found = max(4, calls // 3), []
    for _ in range(3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(count):
            work()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end) / count)
    return sorted(found)[1]


for name, backend in [("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION)]:
    try:
        with sdpa_kernel(backend):
            attend = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=H != K)
            y = attend()
            backward = ms_of(lambda: torch.autograd.grad(y, (q, k, v), dy, retain_graph=True))
            forward = ms_of(lambda: attend().detach())
            print(json.dumps({"name": name, "forward": forward, "backward": backward}))
    except RuntimeError as error:
        print(f"{name}: {error}", file=sys.stderr)
