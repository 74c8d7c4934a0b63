/**
 * Speed of the ops that only move memory, and of sampling, on the first Vulkan device: bun perf/gpu-elementwise.ts [--rows=65536] [--runs=20].
 * For a machine without Bun: bun perf/gpu-elementwise.ts --build=FILE writes one executable that takes the same flags.
 * A line per op: GB/s by the median of the device's timestamps over the runs, µs; sampling: µs of its launches at a vocabulary of 50,304.
 */
import { writeFileSync } from "node:fs"
import { parseArgs } from "node:util"
import { kernels } from "../shaders/kernels.ts"
import type { BuildInfo } from "../src/base-build.ts"
import { fillNormal } from "../src/base-random.ts"
import { openGpu } from "../src/gpu.ts"
import { nativeLibraryPath } from "../src/native-load.ts"
import * as op from "../src/op.ts"
import { plan, type RunInputs, type Tracer, trace } from "../src/program.ts"
import { pack } from "../src/spirv.ts"
import type { Dtype, Tensor } from "../src/tensor.ts"

const { values: flags } = parseArgs({
  options: { build: { type: "string" }, rows: { type: "string", default: "65536" }, runs: { type: "string", default: "20" } },
})
if (flags.build !== undefined) {
  const info: BuildInfo = { version: "perf", commit: "perf", target: "linux-x64", compiler: "", bun: Bun.version }
  const assets = { "native-library": nativeLibraryPath(), "kernel-pack": `${flags.build}.pack` }
  writeFileSync(assets["kernel-pack"], pack(kernels))
  await Bun.build({
    entrypoints: [import.meta.path],
    target: "bun",
    define: { ALPHA_BUILD: JSON.stringify(info) },
    loader: { ".so": "file", ".pack": "file" },
    plugins: [
      {
        name: "assets",
        setup: (build) =>
          void build.onResolve({ filter: /^alpha:/ }, ({ path }) => ({ path: assets[path.slice(6) as keyof typeof assets] })),
      },
    ],
    compile: { outfile: flags.build },
  })
  process.exit(0)
}

const device = openGpu(0)
console.log(device.description)
const [R, C, runs] = [Number(flags.rows), 768, Number(flags.runs)]

/** Median ms of all launches of a program, and the bytes they touch. */
function measure(name: string, body: (t: Tracer) => void, inputs: RunInputs = {}, fill: Readonly<Record<string, Float32Array>> = {}) {
  const traced = plan(trace(name, body))
  const state = device.state()
  for (const t of traced.program.states.values()) state.ensure(t.name, t.dtype, t.shape)
  for (const [of, values] of Object.entries(fill)) state.write(of, values)
  const compiled = device.compile(traced, state)
  for (let i = 0; i < 3; i++) compiled.profile(inputs)
  const profiles = Array.from({ length: runs }, () => compiled.profile(inputs).rows.filter(({ op }) => op !== READER))
  const times = profiles.map((rows) => rows.reduce((sum, { ms }) => sum + ms, 0)).sort((a, b) => a - b)
  const parts = (profiles[0] ?? []).map(({ kernel }, i) => `${kernel} ${((profiles.at(-1)?.[i]?.ms ?? 0) * 1000).toFixed(1)}`)
  const bytes = (profiles[0] ?? []).reduce((sum, row) => sum + row.bytes, 0)
  compiled.free()
  state.free()
  return { ms: times[runs >> 1] as number, bytes, parts }
}

/** Something must read what an op makes; this one reads an element, and is not counted. */
const READER = op.weightedSumBackward.name
const counters = (t: Tracer) => ({ seed: t.live("seed", "i32"), step: t.live("step", "i32"), row: t.live("row", "i32") })
const into = (t: Tracer, value: Tensor) => t.output("y", op.weightedSumBackward({ dy: value }, { stream: 1, shape: [1], dtype: "f32" }).dx)
const x = (t: Tracer, name: string, dtype: Dtype, columns = C) => t.state(name, dtype, [R, columns])
const MOVERS: Record<string, (t: Tracer) => Tensor> = {
  "add bf16 + bf16": (t) => op.add({ a: x(t, "a", "bf16"), b: x(t, "b", "bf16") }).y,
  "add f32 + bf16": (t) => op.add({ a: x(t, "a", "f32"), b: x(t, "b", "bf16") }).y,
  "cast f32 to bf16": (t) => op.cast({ x: x(t, "x", "f32") }, { to: "bf16" }).y,
  "assign bf16": (t) => op.assign({ x: x(t, "x", "bf16") }).y,
  "soft cap f32": (t) => op.softCap({ x: x(t, "x", "f32") }, { cap: 30 }).y,
  "dropout bf16": (t) => op.dropout({ x: x(t, "x", "bf16"), ...counters(t) }, { p: 0.2, site: 1 }).y,
  "dropout f32": (t) => op.dropout({ x: x(t, "x", "f32"), ...counters(t) }, { p: 0.2, site: 1 }).y,
  "swiglu bf16": (t) => op.swiglu({ x: x(t, "x", "bf16", 4096) }).y,
  "swiglu backward bf16": (t) => op.swigluBackward({ x: x(t, "x", "bf16", 4096), dy: x(t, "dy", "bf16", 2048) }).dx,
  "activation backward bf16": (t) => op.activationBackward({ dy: x(t, "dy", "bf16", 3072), slope: x(t, "slope", "bf16", 3072) }).dz,
  "random normal": (t) => op.randomNormal({ seed: t.live("seed", "i32") }, { shape: [R, C], stream: 1, std: 0.02 }).y,
}
for (const [name, make] of Object.entries(MOVERS)) {
  const { ms, bytes } = measure(name, (t) => into(t, make(t)), { seed: 1, step: 2, row: 0 })
  console.log(`${name.padEnd(24)} ${(bytes / ms / 1e6).toFixed(0).padStart(6)} GB/s ${(ms * 1000).toFixed(1).padStart(8)} µs`)
}

const V = 50304
const SETTINGS = {
  greedy: [0, V, 1, 0],
  plain: [1, V, 1, 0],
  "min p 0.05": [1, V, 1, 0.05],
  "top k 50": [1, 50, 1, 0],
  "top p 0.9": [1, V, 0.9, 0],
  "top k 200, top p 0.95": [0.8, 200, 0.95, 0],
} as const
for (const B of [1, 8, 64]) {
  const logits = new Float32Array(B * V)
  fillNormal(logits, 1, 1, 3)
  for (const [name, [temperature, topK, topP, minP]] of Object.entries(SETTINGS)) {
    const [floats, ids] = [(value: number) => new Float32Array(B).fill(value), (value: number) => new Int32Array(B).fill(value)]
    const inputs = { temperature: floats(temperature), topK: ids(topK), topP: floats(topP), minP: floats(minP), penalty: floats(1) }
    const { ms, parts } = measure(
      "sample",
      (t) => {
        const [f, i] = [(of: string) => t.input(of, "f32", [B]), (of: string) => t.input(of, "i32", [B])]
        const settings = {
          temperature: f("temperature"),
          topK: i("topK"),
          topP: f("topP"),
          minP: f("minP"),
          repetitionPenalty: f("penalty"),
        }
        t.output("token", op.sample({ logits: t.state("logits", "f32", [B, V]), ...settings, seed: i("seed"), draw: i("draw") }).token)
      },
      { ...inputs, seed: ids(1), draw: ids(2) },
      { logits },
    )
    console.log(`sample ${String(B).padStart(2)} rows, ${name.padEnd(22)} ${(ms * 1000).toFixed(1).padStart(7)} µs: ${parts.join(", ")}`)
  }
}
process.exit(0)
