/** The op table in the kernel simulator: every launch checked lane by lane for bounds, races and divergent barriers, at several subgroup sizes. */
import { describe, expect, test } from "bun:test"
import { checkCase, ops, variants } from "../src/op.ts"
import { simulatedDevice } from "./gpu-simulated.ts"

/** Lavapipe has 8. */
const SIZES = [32, 4, 64, 16]

for (const op of ops.filter(({ gpu }) => gpu !== undefined)) {
  describe(op.name, () => {
    variants(op).forEach((variant, i) => {
      const lanes = SIZES[i % SIZES.length] as number
      const about = `${variant.act}${variant.beta === 1 ? ", adding" : ""}, case ${variant.index} ${variant.opCase.about ?? ""}`
      test(`simulated = reference, ${lanes} lanes, ${about}`, () => {
        const { worst, tensor } = checkCase(simulatedDevice(lanes), variant)
        expect(worst, tensor).toBeLessThanOrEqual(1)
      }, 300_000)
    })
  })
}
