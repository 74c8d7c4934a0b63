/** --debug-gpu on a real driver: right programs run as ever, a kernel that strays is named. */
import { expect } from "bun:test"
import { add } from "../shaders/elementwise.ts"
import { gpus, openGpu } from "../src/gpu.ts"
import { checkCase, ops, variants } from "../src/op.ts"
import type { CaseVariant } from "../src/op-check.ts"
import { launch, table } from "../src/op-gpu.ts"
import { elements, type Tensor } from "../src/tensor.ts"
import { testWith } from "./require.ts"

const found = gpus()
const withGpu = testWith("vulkan", found.length === 0 ? "no usable Vulkan device" : undefined)
const [variant] = variants(ops.find(({ name }) => name === "add") as (typeof ops)[number]).filter(({ index }) => index === 1) as [
  CaseVariant,
]

withGpu("a right program gives right results", () => {
  const device = openGpu(0, true)
  expect(checkCase(device, variant).worst).toBeLessThanOrEqual(1)
  device.close()
})

withGpu("a table that a kernel writes is not outside its buffers", () => {
  const device = openGpu(0, true)
  const { gpu } = variant.op
  const counted = ({ a, b }: Record<string, Tensor>, { y }: Record<string, Tensor>) => {
    const n = elements(y as Tensor)
    const kept = table(
      "f32",
      Array.from({ length: n }, () => 0),
    )
    return [launch(add, { a, b, y: kept, n }, 1), launch(add, { a, b, y, n }, 1)]
  }
  Object.assign(variant.op, { gpu: counted })
  try {
    expect(checkCase(device, variant).worst).toBeLessThanOrEqual(1)
  } finally {
    Object.assign(variant.op, { gpu })
    device.close()
  }
})

withGpu("a kernel that writes past its output is named with its op", () => {
  const device = openGpu(0, true)
  const { gpu } = variant.op
  const stray = ({ a, b }: Record<string, Tensor>, { y }: Record<string, Tensor>) => [
    launch(add, { a, b, y, n: elements(y as Tensor) + 64 }, 1),
  ]
  Object.assign(variant.op, { gpu: stray })
  try {
    expect(() => checkCase(device, variant)).toThrow(/kernel add\.\S+ \(1 × 1 × 1 workgroups\) of add writes outside its buffers/)
  } finally {
    Object.assign(variant.op, { gpu })
    device.close()
  }
})
