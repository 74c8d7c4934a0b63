/** One loop over the op table: gradients in f64, the CPU against the reference, bits against thread count. */
import { describe, expect, test } from "bun:test"
import { openCpu } from "../src/cpu.ts"
import { gradCheck } from "../src/grad-check.ts"
import { checkCase, ops, variants } from "../src/op.ts"

openCpu(2) // builds the library where it is out of date, before the clock of the first test starts

for (const op of ops) {
  describe(op.name, () => {
    const about = (index: number) => `${index}${op.cases[index]?.about === undefined ? "" : ` ${op.cases[index]?.about}`}`
    if (op.backward !== undefined) {
      op.cases.forEach((opCase, index) => {
        test(`gradient, case ${about(index)}`, () => expect(gradCheck(op, opCase)).toBeLessThan(1e-6))
      })
    }
    for (const variant of variants(op)) {
      test(`cpu = reference, ${variant.act}${variant.beta === 1 ? ", adding" : ""}, case ${about(variant.index)}`, () => {
        const two = checkCase(openCpu(2), variant)
        expect(two.worst, two.tensor).toBeLessThanOrEqual(1)
        const one = checkCase(openCpu(1), variant) // sets the size of the one pool
        for (const [name, bits] of one.bits)
          expect(Buffer.from(bits).equals(Buffer.from(two.bits.get(name) as Uint8Array)), name).toBe(true)
      })
    }
  })
}
