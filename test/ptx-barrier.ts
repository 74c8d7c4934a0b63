/** Barriers of PTX: those of a block by number, and those in shared memory. */
import { Barrier } from "./ptx-memory.ts"
import { type Block, barrierAt, LANES, nameOf, read, sharedAddress, type Warp } from "./ptx-run.ts"
import type { Value } from "./ptx-text.ts"

export function blockBarrier(b: Block, w: Warp, id: number, threads: number): void {
  const key = `${id}`
  const arrived = b.arrived.get(key) ?? new Set()
  b.arrived.set(key, arrived)
  if (arrived.has(-1 - w.number)) {
    arrived.delete(-1 - w.number) // released
    return
  }
  arrived.add(w.number)
  if ([...arrived].filter((one) => one >= 0).length * LANES < threads) {
    w.isWaiting = true
    return
  }
  for (const one of [...arrived]) {
    if (one < 0) continue
    arrived.delete(one)
    if (one !== w.number) arrived.add(-1 - one)
  }
}

export function barrier(b: Block, w: Warp, op: string, operands: readonly Value[], lanes: readonly number[]): void {
  for (const lane of lanes) {
    if (op.startsWith("mbarrier.init")) {
      const address = sharedAddress(b, w, operands[0]!, lane)
      if (address % 8 !== 0) throw new Error(`a barrier at ${address} is not aligned`)
      b.barriers.set(address, new Barrier(read(b, w, operands[1]!, lane)))
    } else if (op.includes("expect_tx")) barrierAt(b, w, operands[1]!, lane).arrive(read(b, w, operands[2]!, lane))
    else if (op.startsWith("mbarrier.arrive")) barrierAt(b, w, operands[1]!, lane).arrive()
    else {
      const isOver = barrierAt(b, w, operands[1]!, lane).isOver(read(b, w, operands[2]!, lane))
      b.word(w, nameOf(operands[0]))[lane] = isOver ? 1 : 0
      if (!isOver) w.isWaiting = true
    }
  }
}
