/** The classifier on a GPU: per chunk of rows the logits, their cross-entropy and gradient in place, and the products of that. */
import { crossEntropy, lossSum } from "../shaders/classifier.ts"
import { FLAT_TILE } from "../shaders/ptx-gemm-list.ts"
import { columnsOf, rowsOf } from "../shaders/ptx-gemm-tile.ts"
import { type GpuTarget, type Launch, type Launches, launch, part, scratch, sideBySide } from "./op-gpu.ts"
import { gemm } from "./op-matmul-gpu.ts"
import type { Beta } from "./program.ts"
import { lastDim, rows, type Tensor } from "./tensor.ts"

/** Most bytes of logits at a time, or a third of all, as each chunk adds to all of dw; and most rows: a grid's limit. */
const LOGIT_BYTES = 2 ** 30
const MOST_ROWS = 65535
/** Up to so many bytes all logits exist at once. */
const WHOLE_BYTES = 2 ** 29
/** Up to so many bytes, which a cache holds, logits stay f32 also where the rest is bf16. */
const EXACT_BYTES = 2 ** 25
/** Lanes of a row of logits at most: as many as leave registers for several loads each, with few enough rows under way for a cache. */
const MOST_LANES = 512
/** Chunks begin at multiples of so many rows: whole tiles. */
const ALIGN = 256
/** Rows of logits begin at multiples of so many elements. */
const PITCH = 64

interface Inputs {
  readonly x: Tensor
  readonly w: Tensor
  readonly targets: Tensor
}
type Outputs = { readonly [N in "loss" | "count" | "dx" | "dw"]: Tensor | undefined }

const up = (size: number, to: number): number => Math.ceil(size / to) * to

/**
 * Rows whose logits, `bytes` each, exist at once: in PTX so many that dx, the product with fewest tiles, keeps all processors busy to its end, else
 * about the same number in each chunk.
 */
function chunkRows(R: number, C: number, bytes: number, { ptx, units }: GpuTarget): number {
  const most = Math.max(ALIGN, Math.floor(Math.min(MOST_ROWS, Math.max(LOGIT_BYTES / bytes, R / 3)) / ALIGN) * ALIGN)
  const turn = Math.floor(units / Math.ceil(C / columnsOf(FLAT_TILE))) * rowsOf(FLAT_TILE)
  const isWhole = R <= most && R * bytes <= WHOLE_BYTES
  if (ptx && !isWhole && turn > 0 && turn <= most && turn < R) return Math.floor(Math.min(most, R - 1) / turn) * turn
  return Math.min(R, up(Math.ceil(R / Math.ceil(R / most)), ALIGN))
}

export function classifierLaunches(
  { x, w, targets }: Inputs,
  { loss, count, dx, dw }: Outputs,
  cap: number | undefined,
  beta: Beta<Tensor>,
  target: GpuTarget,
): Launches {
  const [R, C, V] = [rows(x), lastDim(x), w.shape[0] as number]
  const pitch = up(V, PITCH)
  const type = x.dtype === "bf16" && R * pitch * 4 > EXACT_BYTES ? "bf16" : "f32"
  const chunk = chunkRows(R, C, pitch * (type === "bf16" ? 2 : 4), target)
  const logits = scratch(type, chunk * pitch)
  const slopes = x.dtype === type ? logits : scratch("bf16", chunk * pitch)
  const losses = scratch("f32", R)
  const lanes = Math.min(MOST_LANES, Math.max(64, Math.ceil(V / 8 / 64) * 64))
  const constants = { lanes, isCapped: cap === undefined ? 0 : 1, writesGradient: dx === undefined && dw === undefined ? 0 : 1 }
  const steps: (Launch | readonly Launch[])[] = []
  for (let from = 0; from < R; from += chunk) {
    const n = Math.min(chunk, R - from)
    const inputs = part(x, from * C)
    steps.push(...gemm({ layout: "nt", a: inputs, b: w, c: logits, M: n, N: V, K: C, ldc: pitch, order: "forward" }, target))
    const buffers = { logits, targets: part(targets, from), losses: part(losses, from), gradient: slopes }
    const values = { ...buffers, V, pitch, cap: cap ?? 1 }
    steps.push(slopes.dtype === "f32" ? launch(crossEntropy.f32, values, n, constants) : launch(crossEntropy.bf16, values, n, constants))
    const gradient = { a: slopes, lda: pitch, isPadded: true, order: "any" } as const
    const toInput = dx && gemm({ ...gradient, layout: "nn", b: w, c: part(dx, from * C), M: n, N: C, K: V }, target)
    const into = dw && { c: dw, beta: from === 0 ? beta("dw") : 1 }
    const toWeight = into && gemm({ ...gradient, ...into, layout: "tn", b: inputs, M: V, N: C, K: n }, target)
    steps.push(...sideBySide(toInput ?? [], toWeight ?? []))
  }
  const wanted = { hasLoss: loss === undefined ? 0 : 1, hasCount: count === undefined ? 0 : 1 }
  if (loss !== undefined || count !== undefined) steps.push(launch(lossSum, { losses, targets, loss, count, R }, 1, wanted))
  return steps
}
