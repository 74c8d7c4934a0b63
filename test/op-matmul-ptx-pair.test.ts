/** Both gradients of a linear layer side by side in PTX, instruction by instruction: the CPU's values. */
import { expect, test } from "bun:test"
import { openCpu } from "../src/cpu.ts"
import { schedule } from "../src/gpu-schedule.ts"
import * as op from "../src/op.ts"
import { type Device, type Plan, plan, trace } from "../src/program.ts"
import { HOPPER, toBf16, uniforms } from "./bf16.ts"
import { simulatedDevice } from "./gpu-simulated.ts"

interface Sizes {
  readonly rows: number
  readonly x: number
  readonly dy: number
}

function gradients({ rows, x: width, dy: inner }: Sizes, out: "bf16" | "f32" = "bf16"): Plan {
  return plan(
    trace("gradients", (t) => {
      const [x, dy] = [t.state("x", "bf16", [rows, width]), t.state("dy", "bf16", [rows, inner])]
      const w = t.state("w", "bf16", [inner, width])
      const { dw, db } = op.linearBackwardWeight({ x, dy }, { bias: true })
      const { dx } = op.linearBackwardInput({ dy, w }, { out })
      for (const [name, value] of Object.entries({ dw, db, dx: out === "f32" ? dx : op.cast({ x: dx }, { to: "f32" }).y }))
        t.output(name, value)
    }),
  )
}

function run(device: Device, sizes: Sizes): Record<string, Float32Array> {
  const [made, state, random] = [gradients(sizes), device.state(), uniforms(11)]
  const run = device.compile(made, state)
  for (const [name, { shape }] of made.program.states) {
    const count = shape.reduce((product, size) => product * size, 1)
    state.write(
      name,
      Uint16Array.from({ length: count }, () => toBf16(random())),
    )
  }
  const out = run.submit({})
  return Object.fromEntries(["dw", "db", "dx"].map((name) => [name, Float32Array.from(out.read(name))]))
}

const CASES: readonly Sizes[] = [
  { rows: 264, x: 392, dy: 136 },
  { rows: 264, x: 192, dy: 136 },
]
for (const sizes of CASES)
  test(`${JSON.stringify(sizes)}: dw, db and dx are the CPU's`, () => {
    const products = schedule(gradients(sizes), HOPPER)
      .steps.map((step) => step.filter(({ launch }) => "text" in launch.kernel))
      .filter((step) => step.length > 0)
    const weight = products[0]?.[0]?.launch
    const input = products[0]?.[1]?.launch
    expect([products.length, weight?.push.splits, weight?.buffers.kept !== undefined, (input?.push.rest as number) > 0]).toEqual([
      1,
      1,
      true,
      true,
    ])
    const [ours, theirs] = [run(simulatedDevice(32, "nv2", true), sizes), run(openCpu(1), sizes)]
    for (const [name, tolerance] of Object.entries({ dw: 1e-4, db: 1e-4, dx: 2 ** -7 })) {
      const most = Math.max(...theirs[name]!.map(Math.abs))
      ours[name]!.forEach((value, i) => {
        if (!(Math.abs(value - theirs[name]![i]!) <= tolerance * most)) throw new Error(`${name}[${i}]: ${value}, not ${theirs[name]![i]}`)
      })
    }
  }, 240_000)

test("an input's gradient in f32 has its own way: what tells bf16 blocks to begin early means parts there", () => {
  const launches = schedule(gradients(CASES[1]!, "f32"), HOPPER).steps.flatMap((step) => step.map(({ launch }) => launch))
  const input = launches.find(({ kernel }) => kernel.name.startsWith("ptx_matmul_nn_f32"))
  expect([input?.push.rest, input?.push.span, launches.some(({ buffers }) => buffers.kept !== undefined)]).toEqual([0, 1, false])
})
