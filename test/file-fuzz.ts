/** Damage as disks, copies and editors do it, and what may come of reading the result; shared by the fuzz tests and their soak. */
import { AlphaError } from "../src/base-error.ts"

/**
 * `whole` with one damage that begins before `reach`: cut short (anywhere), bytes inserted, deleted, repeated or zeroed, a bit flipped, a
 * character or a digit typed over. May by chance equal `whole`.
 */
export function damage(whole: Buffer, random: (n: number) => number, reach = whole.length): Buffer {
  const at = random(reach)
  const [before, rest] = [whole.subarray(0, at), whole.subarray(at)]
  const over = (bytes: number[]) => Buffer.concat([before, Buffer.from(bytes), rest.subarray(bytes.length)])
  switch (random(8)) {
    case 0:
      return whole.subarray(0, random(whole.length))
    case 1:
      return Buffer.concat([before, Buffer.from(Array.from({ length: 1 + random(4) }, () => random(256))), rest])
    case 2:
      return Buffer.concat([before, rest.subarray(1 + random(9))])
    case 3:
      return Buffer.concat([before, rest.subarray(0, 1 + random(40)), rest])
    case 4:
      return over(new Array(Math.min(1 + random(64), reach - at)).fill(0))
    case 5:
      return over([rest[0]! ^ (1 << random(8))])
    case 6:
      return over([32 + random(95)])
    default:
      return over([48 + random(10)])
  }
}

/** Runs `read`; returns the AlphaError it ends in. Any other error is a crash and passes through. */
export async function refusalOf(read: () => unknown): Promise<AlphaError | undefined> {
  try {
    await read()
  } catch (error) {
    if (error instanceof AlphaError) return error
    throw error
  }
  return undefined
}

/** How many damaged files were refused, and how many were read as what they still are. */
export interface FuzzCounts {
  readonly refused: number
  readonly read: number
}
