/** The fields of `alpha bench peer` and `alpha bench cuda`. */

import { BENCH, BENCH_OUTPUT, pick } from "./config-bench-measure.ts"
import { bool, choice, float, inGroup, int, list, text, type Values } from "./config-field.ts"

const WHAT = inGroup("What", {
  peer: choice("PyTorch's training and generation, its matrix products (cuBLAS on a GPU), or llama.cpp", ["torch", "cuda", "llama"], {
    default: "torch",
  }),
  case: list("torch: train, infer", { default: ["train", "infer"] }),
  gpus: int("torch: ranks on this host that train together, beside PyTorch's DDP; each has --batch rows", {
    optional: true,
    min: 1,
    max: 64,
  }),
  ...pick(BENCH, "preset", "device", "precision", "threads", "batch", "context", "prompt", "generate"),
})

const PRODUCTS = inGroup("Matrix products", {
  shapes: text("products M×K by K×N: 1024^3 or M,N,K, several with ; between", { default: "1024^3;2048^3;3072^3" }),
  iters: int("timed products of each shape and round", { default: 20, min: 1 }),
  warmup: int("products before the clock starts", { default: 6, min: 0 }),
  check: bool("compare elements of a product with the peer's first", { default: false }),
  checkShape: text("shape that is compared", { default: "384^3" }),
  checkAtol: float("absolute difference that is allowed", { default: 0.02, min: 0 }),
  checkRtol: float("relative difference that is allowed", { default: 0.01, min: 0 }),
})

const PROGRAMS = inGroup("Programs", {
  python: text("Python with PyTorch", { derive: "PYTHON of the environment, else python3" }),
  compile: bool("try torch.compile; the fastest variant counts", { default: true }),
  eager: bool("try PyTorch without torch.compile", { default: true }),
  install: bool("let npm put node-llama-cpp into the cache directory where it is missing", { default: false }),
})

const SAMPLING = pick(BENCH, "rounds", "seconds")

/** What `alpha bench peer` reads. */
export const BENCH_PEER = { ...WHAT, ...PRODUCTS, ...PROGRAMS, ...SAMPLING, ...BENCH_OUTPUT }
export type BenchPeerConfig = Values<typeof BENCH_PEER>

/** What `alpha bench cuda` reads: the heritage's name for the matrix products. */
export const BENCH_CUDA = pick(
  BENCH_PEER,
  ...(["shapes", "iters", "warmup", "check", "checkShape", "checkAtol", "checkRtol"] as const),
  ...(["device", "precision", "threads", "python", "rounds", "format", "record", "config"] as const),
)
