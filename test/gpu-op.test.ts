/** The op table on a Vulkan device, every case against the f64 reference. */
import { describe, expect, test } from "bun:test"
import { gpus, openGpu } from "../src/gpu.ts"
import { checkCase, ops, variants } from "../src/op.ts"
import { testWith } from "./require.ts"

const found = gpus()
const withGpu = testWith("vulkan", found.length === 0 ? "no usable Vulkan device" : undefined)
const device = found.length === 0 ? undefined : openGpu(0)

/** The largest kernel's first compilation by lavapipe, on a busy machine. */
const SLOWEST_MS = 300_000

test("a device that is not there is refused by name, with those that are", () => {
  const [only] = found
  expect(() => openGpu(99)).toThrow(found.length === 1 ? `device gpu:99: there is one: gpu:0 (${only?.name})` : "gpu:99")
})

withGpu("a variable that says nothing sensible is an error that names it", () => {
  for (const name of ["HELIOS_DISABLE_PTX", "HELIOS_DISABLE_PTX_ROOM", "HELIOS_MATRIX", "HELIOS_DISABLE_COOP_MAT"]) {
    process.env[name] = "many"
    try {
      expect(() => openGpu(0)).toThrow(`${name} many: expected `)
    } finally {
      delete process.env[name]
    }
  }
})

for (const op of ops.filter(({ gpu }) => gpu !== undefined)) {
  describe(op.name, () => {
    for (const variant of variants(op)) {
      const about = variant.opCase.about ?? ""
      withGpu(
        `gpu = reference, ${variant.act}${variant.beta === 1 ? ", adding" : ""}, case ${variant.index} ${about}`,
        () => {
          const { worst, tensor } = checkCase(device as NonNullable<typeof device>, variant)
          expect(worst, tensor).toBeLessThanOrEqual(1)
        },
        SLOWEST_MS,
      )
    }
  })
}
