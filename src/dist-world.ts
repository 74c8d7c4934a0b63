/** A world of ranks: what a transport must be able to do, and small collectives of JSON and numbers on it. */
import { AlphaError } from "./base-error.ts"
import type { SharedState } from "./program.ts"

/** Moves bytes between ranks. Every call is collective: all ranks make it, in the same order. */
export interface Transport {
  /** For people: "MPI (Open MPI 4.1.4)". */
  readonly name: string
  /** Copies the bytes of rank `root` to all, in place. */
  broadcast(bytes: Uint8Array, root: number): void
  /** Every rank's bytes (equal lengths), in rank order. */
  allGather(mine: Uint8Array): Uint8Array
  /** Through host memory. `from` (size, n): row r goes to rank r; row r of `into` came from rank r. */
  allToAll?(from: Uint8Array, into: Uint8Array): void
  /** On the device: maps state that it shares. */
  attach?(state: SharedState): void
  /** Adds floats [from, to) of the attached state over all ranks in place, after what was submitted before; `isLast`: and before what is submitted later. */
  sumShared?(from: number, to: number, isLast: boolean): void
  /** Waits for all ranks without keeping a processor busy. */
  barrier(): void
  close(): void
}

export interface World {
  readonly rank: number
  readonly size: number
  /** Among the ranks of this host. */
  readonly localRank: number
  readonly localSize: number
  readonly transport: Transport
}

const encode = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value))
const decode = (bytes: Uint8Array): unknown => JSON.parse(new TextDecoder().decode(bytes))

/** The value of rank `root`, on all. */
export function share<T>({ rank, transport }: World, value: T | undefined, root = 0): T {
  const mine = rank === root ? encode(value) : new Uint8Array()
  const length = new Float64Array([mine.length])
  transport.broadcast(new Uint8Array(length.buffer), root)
  const bytes = rank === root ? mine : new Uint8Array(length[0] as number)
  transport.broadcast(bytes, root)
  return decode(bytes) as T
}

/** Every rank's value, in rank order. */
export function gather<T>({ size, transport }: World, value: T): T[] {
  const mine = encode(value)
  const lengths = new Float64Array(transport.allGather(new Uint8Array(new Float64Array([mine.length]).buffer)).buffer)
  const longest = Math.max(...lengths)
  const padded = new Uint8Array(longest)
  padded.set(mine)
  const all = transport.allGather(padded)
  return Array.from({ length: size }, (_, r) => decode(all.subarray(r * longest, r * longest + (lengths[r] as number))) as T)
}

/** Most calls between two questions of a `Vote`. */
const MOST_CALLS = 1000

/**
 * Whether any rank says so, asked about every `everyMs`: an answer by way of the device waits for all that it was given. Between two questions all
 * ranks let the same number of calls pass, which rank 0 finds by its clock; 0: every call asks.
 */
export class Vote {
  #left = 0
  #passed = 0
  #askedAt: number | undefined

  constructor(
    private readonly world: World,
    private readonly everyMs: number,
    private readonly clock: () => number = () => performance.now(),
  ) {}

  anyOf(mine: boolean): boolean {
    if (this.#left > 0) {
      this.#left--
      return false
    }
    const wish = this.#wish()
    const all = this.world.transport.allGather(Uint8Array.of(mine ? 1 : 0, wish & 255, wish >> 8))
    this.#left = this.#passed = (all[1] as number) + 256 * (all[2] as number)
    return all.some((byte, i) => i % 3 === 0 && byte === 1)
  }

  /** Calls to let pass: as many as fit, at most twice as many as the last time, for the first ones are slow or fast for reasons of their own. */
  #wish(): number {
    const now = this.clock()
    const ms = this.#askedAt === undefined ? Number.POSITIVE_INFINITY : (now - this.#askedAt) / (this.#passed + 1)
    this.#askedAt = now
    return Math.max(0, Math.min(Math.floor(this.everyMs / ms) - 1, 2 * this.#passed + 1, MOST_CALLS))
  }
}

/** Throws AlphaError naming the first rank whose value of a name differs from rank 0's, and both values. */
export function requireSame(world: World, values: Readonly<Record<string, unknown>>, hint: string): void {
  const all = gather(world, values)
  const [first = {}] = all
  all.forEach((other, rank) => {
    for (const name of new Set([...Object.keys(first), ...Object.keys(other)])) {
      const [theirs, ours] = [JSON.stringify(other[name]) ?? "none", JSON.stringify(first[name]) ?? "none"]
      if (theirs !== ours) throw new AlphaError(`rank ${rank} has ${name} ${theirs}, rank 0 has ${ours}`, { hint })
    }
  })
}
