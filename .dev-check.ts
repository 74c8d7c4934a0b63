import { gpus, openGpu, gpuProblems } from "../src/gpu.ts"
import { plan, trace, writeTo } from "../src/program.ts"
import * as op from "../src/op.ts"
console.log(JSON.stringify(gpus()), gpuProblems())
import { findGpus } from "../src/gpu-info.ts"
const f = findGpus().usable[0]!.facts
console.log(JSON.stringify({...f, extensions: f.extensions.length, matrixShapes: f.matrixShapes}, null, 0))
console.log(f.extensions.filter(e => /cooperative|bfloat|NVX|budget|fd|executable|sm_builtins|priority|pageable/.test(e)).join(" "))
const t0 = performance.now()
const d = openGpu(0)
console.log(d.name, d.description, "open ms", performance.now() - t0, "free", d.memoryBytes())
const state = d.state()
const N = 1 << 28
for (const dt of ["f32", "bf16"] as const) {
  const p = plan(trace("copy" + dt, (t) => { const x = t.state("x" + dt, dt, [N]); writeTo(op.add({ a: x, b: x }).y, t.state("y" + dt, dt, [N])); t.output("done", t.state("done", "f32", [])) }))
  const run = d.compile(p, state)
  for (let i = 0; i < 20; i++) run.submit({}).read("done")
  const prof = Array.from({ length: 5 }, () => run.profile({}).rows[0]!.ms)
  console.log(dt, "add: ms", prof, "GB/s", (3 * N * (dt === "f32" ? 4 : 2)) / 1e6 / Math.min(...prof))
  const s0 = performance.now(); for (let i = 0; i < 100; i++) run.submit({}).read("done"); console.log("per submit+read ms", (performance.now() - s0) / 100)
}
const chain = plan(trace("chain", (t) => { let x = t.state("a", "f32", [1024]); let v = op.add({ a: x, b: x }).y; for (let i = 0; i < 999; i++) v = op.add({ a: v, b: x }).y; writeTo(op.assign({ x: v }).y, t.state("b", "f32", [1024])); t.output("done", t.state("done", "f32", [])) }))
const c = d.compile(chain, state)
for (let i = 0; i < 5; i++) c.submit({}).read("done")
const s1 = performance.now(); for (let i = 0; i < 20; i++) c.submit({}).read("done"); console.log("1000 dependent launches: ms", (performance.now() - s1) / 20)
const empty = d.compile(plan(trace("one", (t) => { const x = t.state("a", "f32", [1024]); writeTo(op.assign({ x }).y, t.state("b", "f32", [1024])); t.output("done", t.state("done", "f32", [])) })), state)
for (let i = 0; i < 5; i++) empty.submit({}).read("done")
const s2 = performance.now(); for (let i = 0; i < 200; i++) empty.submit({}).read("done"); console.log("one launch submit+read: us", (performance.now() - s2) / 200 * 1000)
