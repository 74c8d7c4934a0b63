"""PyTorch beside alpha: training, generation and matrix products of the shapes that alpha asks for; one JSON line on standard output.
With --turns it measures whenever it reads a line, and answers each with one, so that a start serves several rounds.

python3 bench-peer.py train --layers 12 --heads 12 --width 768 --vocab 50304 --batch 16 --context 1024 --dtype bf16 --device cuda --compile
python3 bench-peer.py decode … --prompt 512 --generate 128
python3 bench-peer.py gemm --shapes 1024x1024x1024,4096x4096x4096 --dtype bf16 --device cuda
python3 -m torch.distributed.run --standalone --nproc-per-node 2 bench-peer.py train …: data parallel (DDP), `batch` per rank, the rate of all ranks
python3 -m torch.distributed.run --standalone --nproc-per-node 2 bench-peer.py reduce --bytes 498000000 --device cuda

The model is GPT-2's: layer norms and linear layers with biases, GELU by tanh, learned positions, the head tied to the embedding.
"""
import argparse
import json
import os
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

parser = argparse.ArgumentParser()
parser.add_argument("what", choices=["train", "decode", "gemm", "reduce", "version"])
for name in ["layers", "heads", "width", "vocab", "batch", "context", "prompt", "generate", "threads", "warmup", "iters", "check", "bytes"]:
    parser.add_argument(f"--{name}", type=int)
parser.add_argument("--seconds", type=float, default=3)
parser.add_argument("--shapes", default="")
parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
parser.add_argument("--device", default="cpu")
parser.add_argument("--compile", action="store_true")
parser.add_argument("--static", action="store_true", help="DDP around the compiled model, its graph said to stay; else the compiler cuts DDP's at its buckets")
parser.add_argument("--turns", action="store_true")
args = parser.parse_args()

is_cuda = args.device.startswith("cuda")
dtype = torch.bfloat16 if args.dtype == "bf16" else torch.float32
if args.threads:
    torch.set_num_threads(args.threads)
torch.set_float32_matmul_precision("high")
torch.manual_seed(1)

# torchrun's ranks: one GPU each.
world = int(os.environ.get("WORLD_SIZE", "1"))
rank = int(os.environ.get("RANK", "0"))
is_first = rank == 0
if world > 1:
    if is_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl" if is_cuda else "gloo")


def wait():
    if is_cuda:
        torch.cuda.synchronize()


def seconds_of(work):
    """Seconds of one call, the device's work included."""
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def repeated(work, per_call, at_least=3):
    """Rates of calls for about --seconds; ranks call as often as rank 0 wants."""
    rates, start = [], time.perf_counter()
    while from_first(len(rates) < at_least or time.perf_counter() - start < args.seconds):
        rates.append(per_call / seconds_of(work))
    return rates


def from_first(value):
    """Rank 0's number, on all."""
    if world == 1:
        return value
    shared = torch.tensor([float(value)], dtype=torch.float64, device=args.device)
    torch.distributed.broadcast(shared, 0)
    return shared.item()


class Layer(nn.Module):
    """Attention and feed-forward on the residual stream; with `slots` it keeps keys and values of so many positions."""

    def __init__(self, width, heads, slots=None):
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width)
        self.from_heads = nn.Linear(width, width)
        self.before_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        if slots is not None:
            batch, length = slots
            for name in ("keys", "values"):
                self.register_buffer(name, torch.zeros(batch, heads, length, width // heads))

    def forward(self, x, at=None, visible=None):
        rows, length, width = x.shape
        qkv = self.to_qkv(self.before_attention(x)).view(rows, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (rows, heads, length, head size)
        if at is None:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            self.keys.index_copy_(2, at, k)
            self.values.index_copy_(2, at, v)
            mixed = F.scaled_dot_product_attention(q, self.keys, self.values, attn_mask=visible)
        x = x + self.from_heads(mixed.transpose(1, 2).reshape(rows, length, width))
        return x + self.mlp(self.before_mlp(x))


class Gpt(nn.Module):
    def __init__(self, slots=None):
        super().__init__()
        self.tokens = nn.Embedding(args.vocab, args.width)
        self.positions = nn.Embedding(args.context, args.width)
        self.layers = nn.ModuleList(Layer(args.width, args.heads, slots) for _ in range(args.layers))
        self.last = nn.LayerNorm(args.width)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
        if slots is not None:
            self.register_buffer("seen", torch.ones(args.context, args.context, dtype=torch.bool).tril())

    def forward(self, ids, other):
        return self.loss(ids, other) if self.training else self.next(ids, other)

    def loss(self, ids, targets):
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        logits = F.linear(self.last(x), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def next(self, ids, at):
        x = self.tokens(ids) + self.positions(at)
        visible = self.seen[at][None, None]
        for layer in self.layers:
            x = layer(x, at, visible)
        return F.linear(self.last(x[:, -1]), self.tokens.weight).argmax(-1, keepdim=True)


def train():
    model = Gpt().to(args.device)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), fused=True)
    compiled = torch.compile if args.compile else lambda same: same
    if world == 1:
        loss_of = compiled(model)
    elif args.static:
        loss_of = DistributedDataParallel(compiled(model), static_graph=True, gradient_as_bucket_view=True)
    else:
        loss_of = compiled(DistributedDataParallel(model, gradient_as_bucket_view=True))
    torch.manual_seed(1 + rank)
    windows = torch.randint(args.vocab, (4, args.batch, args.context + 1), device=args.device)

    def step(i=0):
        window = windows[i % 4]
        with torch.autocast(args.device.split(":")[0], torch.bfloat16, enabled=args.dtype == "bf16"):
            loss = loss_of(window[:, :-1], window[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for i in range(5 if is_cuda else 2):
        step(i)
    if is_cuda:
        torch.cuda.reset_peak_memory_stats()
    # Only the ends of a sample are waited for, so that the device never waits for the host between steps.
    steps = int(from_first(max(1, round(args.seconds / 3 / seconds_of(step)))))

    def measure():
        rates = repeated(lambda: [step(i) for i in range(steps)], world * args.batch * args.context * steps)
        return {"tokens_per_s": rates, "peak_bytes": torch.cuda.max_memory_allocated() if is_cuda else None}

    return measure


def decode():
    model = Gpt((args.batch, args.context)).to(args.device, dtype).eval()
    step = torch.compile(model, mode="reduce-overhead", fullgraph=True) if args.compile else model
    prompt = torch.randint(args.vocab, (args.batch, args.prompt), device=args.device)
    begin = torch.arange(args.prompt, device=args.device)
    first = model.next(prompt, begin)

    def generate(count=args.generate):
        token, at = first.clone(), torch.tensor([args.prompt], device=args.device)
        for _ in range(count):
            token, at = step(token, at).clone(), at + 1

    generate(8)
    return lambda: {
        "prompt_tokens_per_s": repeated(lambda: model.next(prompt, begin), args.batch * args.prompt),
        "tokens_per_s": repeated(generate, args.batch * args.generate),
    }


def pattern(rows, columns, seed):
    """Multiples of 1/128 from -1 on, which bf16 holds exactly and whose bits are busy as real ones (a GPU draws more power for them); alpha makes the same."""
    i = torch.arange(seed, rows * columns + seed, dtype=torch.int64, device=args.device)
    return (((((i * 2654435761) & 0xFFFFFFFF) >> 20) % 256 - 128) / 128).to(dtype).view(rows, columns)


def gemm():
    results = []
    for m, n, k in (map(int, shape.split("x")) for shape in args.shapes.split(",")):
        x, w = pattern(m, k, 1), pattern(n, k, 2)
        y = F.linear(x, w)
        for _ in range(args.warmup):
            F.linear(x, w)
        if is_cuda:
            for _ in range(50):  # the clocks rise
                F.linear(x, w)
            marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(args.iters)]
            for begin, end in marks:
                begin.record()
                F.linear(x, w)
                end.record()
            wait()
            ms = [begin.elapsed_time(end) for begin, end in marks]
        else:
            ms = [1000 * seconds_of(lambda: F.linear(x, w)) for _ in range(args.iters)]
        checked = [y[i * 7919 % m, i * 104729 % n].item() for i in range(args.check or 0)]
        results.append({"shape": [m, n, k], "ms": ms, "checked": checked})
    return {"results": results}


def reduce():
    """Sums of a vector over all ranks, several in a row between two looks at the clock."""
    values = torch.zeros(args.bytes // 4, device=args.device)
    calls = 10

    def work():
        for _ in range(calls):
            torch.distributed.all_reduce(values)

    work()
    return {"bytes_per_s": [args.bytes * rate for rate in repeated(work, calls)]}


def answer(measure):
    done = measure()
    if is_first:
        print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda if is_cuda else None, **done}), flush=True)


with torch.set_grad_enabled(args.what == "train"):
    if args.what in ("version", "gemm", "reduce"):
        answer({"version": dict, "gemm": gemm, "reduce": reduce}[args.what])
    else:
        measure = {"train": train, "decode": decode}[args.what]()
        for _ in sys.stdin if args.turns else range(1):
            answer(measure)
if world > 1:
    torch.distributed.destroy_process_group()
