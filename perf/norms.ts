/**
 * Speed of the norms beside the residual stream and of their gradients, as a training step runs them: bun perf/norms.ts [--shapes=16384x1024,…] [--rounds=5].
 * Each is a chain, so that a gradient's column sums run beside the next gradient; the device's clock around every level of it. "alone": a launch with
 * barriers around it, and a column sum; "copy": as many bytes from f32 to f32. All in turns, medians; GB/s count the norm's own bytes.
 */
import { parseArgs } from "node:util"
import { fillNormal } from "../src/base-random.ts"
import { median } from "../src/bench-stats.ts"
import { openGpu } from "../src/gpu.ts"
import * as op from "../src/op.ts"
import { type Executable, plan, type RunInputs, type Stretch, type Tracer, trace, writeTo } from "../src/program.ts"
import type { Tensor } from "../src/tensor.ts"

const { values: flags } = parseArgs({
  options: {
    shapes: { type: "string", default: "16384x1024,8192x1280,16384x768,65536x768" },
    rounds: { type: "string", default: "5" },
  },
})
const device = openGpu(0)
console.log(device.description)
const state = device.state()
const LINKS = 8

/** Something must read what an op makes; this one reads an element. */
const taken = (t: Tracer, name: string, value: Tensor) =>
  t.output(name, op.weightedSumBackward({ dy: value }, { stream: 1, shape: [1], dtype: "f32" }).dx)

function backward(t: Tracer, R: number, C: number): void {
  const vector = (name: string) => t.state(`${name}-${C}`, "f32", [C])
  const [mean, rstd] = [t.state(`mean-${R}`, "f32", [R]), t.state(`rstd-${R}`, "f32", [R])]
  const xs = [0, 1, 2].map((i) => t.state(`x${i}-${R}-${C}`, "f32", [R, C]))
  const dys = [0, 1].map((i): Tensor => t.state(`dy${i}-${R}-${C}`, "bf16", [R, C]))
  let dsum = xs[2] as Tensor
  for (let i = 0; i < LINKS; i++) {
    const dy = dys[i] as Tensor
    const { dx, dr, dw, db } = op.layerNormBackward({ x: xs[i % 2] as Tensor, w: vector("w"), mean, rstd, dy, dsum }, { branch: "bf16" })
    writeTo(dw, vector(`dw${i}`))
    writeTo(db as Tensor, vector(`db${i}`))
    dys.push(dr as Tensor)
    dsum = dx
  }
  taken(t, "dx", dsum)
  dys.slice(-2).forEach((dr, i) => taken(t, `dr${i}`, dr))
}

function forward(t: Tracer, R: number, C: number): void {
  const [w, b] = [t.state(`w-${C}`, "f32", [C]), t.state(`b-${C}`, "f32", [C])]
  const rs = [0, 1].map((i): Tensor => t.state(`dy${i}-${R}-${C}`, "bf16", [R, C]))
  let x: Tensor = t.state(`x0-${R}-${C}`, "f32", [R, C])
  for (let i = 0; i < LINKS; i++) {
    const { y, sum, mean, rstd } = op.addLayerNorm({ x, r: rs[i] as Tensor, w, b }, { eps: 1e-5, out: "bf16" })
    rs.push(y)
    taken(t, `mean${i}`, mean)
    taken(t, `rstd${i}`, rstd)
    x = sum
  }
  taken(t, "sum", x)
  rs.slice(-2).forEach((y, i) => taken(t, `y${i}`, y))
}

/** Copies of f32; as many values as floats of `bytes` are read and written. */
const copies = (bytes: number) => (t: Tracer) => {
  let x: Tensor = t.state(`copied-${bytes}`, "f32", [bytes / 8])
  for (let i = 0; i < LINKS; i++) x = op.assign({ x }).y
  taken(t, "y", x)
}

interface Way {
  readonly name: string
  readonly bytes: number
  readonly isOf: (kernel: string) => boolean
  readonly run: Executable
  readonly us: number[]
  readonly alone: number[]
  readonly sums: number[]
}

const written = new Set<string>()
/** A program with random values wherever none were written yet. */
function way(name: string, bytes: number, isOf: Way["isOf"], body: (t: Tracer) => void): Way {
  const traced = plan(trace(name, body))
  for (const t of traced.program.states.values()) {
    if (written.has(t.name)) continue
    written.add(t.name)
    state.ensure(t.name, t.dtype, t.shape)
    const n = t.shape.reduce((product, size) => product * size, 1)
    if (t.name.startsWith("copied")) continue
    const some = new Float32Array(Math.min(n, 1 << 20))
    fillNormal(some, 1, 1, written.size)
    if (t.dtype === "bf16") {
      const bits = new Uint16Array(n)
      const words = new Uint32Array(some.buffer)
      for (let i = 0; i < n; i++) bits[i] = (words[i % words.length] as number) >>> 16
      state.write(t.name, bits)
    } else {
      const values = new Float32Array(n)
      for (let from = 0; from < n; from += some.length) values.set(some.subarray(0, Math.min(some.length, n - from)), from)
      state.write(t.name, t.name.startsWith("rstd") ? values.fill(1) : values)
    }
  }
  return { name, bytes, isOf, run: device.compile(traced, state), us: [], alone: [], sums: [] }
}

const inputs: RunInputs = {}
function measure({ run, isOf, us, alone, sums }: Way): void {
  run.submit(inputs).read([...run.plan.program.outputs.keys()][0] as string)
  const watch = device.watch?.()
  if (watch === undefined) throw new Error(`${device.name} runs one thing after another`)
  for (let i = 0; i < 3; i++) {
    watch.turn = i
    run.submit(inputs, undefined, watch)
  }
  const levels = watch.end().filter(({ kernels }: Stretch) => kernels.some(isOf))
  us.push(...levels.filter((_, i) => i % LINKS > 0 && i % LINKS < LINKS - 1).map(({ startMs, endMs }) => 1000 * (endMs - startMs)))
  const { rows } = run.profile(inputs)
  alone.push(...rows.filter(({ kernel }) => isOf(kernel ?? "")).map(({ ms }) => 1000 * ms))
  sums.push(...rows.filter(({ kernel }) => kernel === "column_sum").map(({ ms }) => 1000 * ms))
}

for (const shape of flags.shapes.split(",")) {
  const [R, C] = shape.split("x").map(Number) as [number, number]
  const ways = [
    way(
      "backward",
      16 * R * C,
      (kernel) => kernel.startsWith("norm_backward"),
      (t) => backward(t, R, C),
    ),
    way(
      "add norm",
      12 * R * C,
      (kernel) => kernel.startsWith("add_norm"),
      (t) => forward(t, R, C),
    ),
  ]
  for (const bytes of [16 * R * C, 12 * R * C]) ways.push(way("copy", bytes, (kernel) => kernel.startsWith("assign"), copies(bytes)))
  for (const until = performance.now() + 400; performance.now() < until; ) (ways.at(-1) as Way).run.submit(inputs).read("y")
  for (let round = 0; round < Number(flags.rounds); round++) for (const one of ways) measure(one)
  for (const { name, bytes, us, alone, sums, run } of ways) {
    const rate = (of: number[]) => `${median(of).toFixed(1).padStart(7)} µs ${(bytes / median(of) / 1000).toFixed(0).padStart(5)} GB/s`
    const most = us.toSorted((a, b) => a - b).at(-1) as number
    console.log(
      `${shape.padEnd(10)} ${name.padEnd(9)} ${rate(us)} (to ${most.toFixed(0).padStart(4)})  alone ${rate(alone)}${sums.length > 0 ? `  column sum ${median(sums).toFixed(1)} µs` : ""}`,
    )
    run.free()
  }
}
state.free()
device.close()
process.exit(0)
