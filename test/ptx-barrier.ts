/** Barriers of PTX: those of a block by number, and those in shared memory. */
import type { Work } from "./ptx-compile.ts"
import { Barrier } from "./ptx-memory.ts"
import { barrierAt, sharedAddress } from "./ptx-move.ts"
import { LANES, type Registers } from "./ptx-registers.ts"
import type { Block, Warp } from "./ptx-run.ts"
import type { Instruction, Value } from "./ptx-text.ts"

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

export function barrier({ op, operands }: Instruction, r: Registers): Work {
  const [first, second, third] = operands as readonly [Value, Value, Value]
  if (op.startsWith("mbarrier.init")) {
    const [place, count] = [r.shared(first), r.word(second)]
    return (b, w, lanes) => {
      for (const lane of lanes) {
        const address = sharedAddress(b, w, place, lane)
        if (address % 8 !== 0) throw new Error(`a barrier at ${address} is not aligned`)
        b.barriers.set(address, new Barrier(w.words[count + lane]!))
      }
    }
  }
  const place = r.shared(second)
  if (op.startsWith("mbarrier.arrive")) {
    const bytes = op.includes("expect_tx") ? r.word(third) : undefined
    return (b, w, lanes) => {
      for (const lane of lanes) barrierAt(b, w, place, lane).arrive(bytes === undefined ? 0 : w.words[bytes + lane]!)
    }
  }
  const [to, parity] = [r.word(first), r.word(third)]
  return (b, w, lanes) => {
    for (const lane of lanes) {
      const isOver = barrierAt(b, w, place, lane).isOver(w.words[parity + lane]!)
      w.words[to + lane] = isOver ? 1 : 0
      if (!isOver) w.isWaiting = true
    }
  }
}
