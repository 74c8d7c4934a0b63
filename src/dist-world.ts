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

/** Whether any rank says so. */
export function anyOf({ transport }: World, mine: boolean): boolean {
  return transport.allGather(Uint8Array.of(mine ? 1 : 0)).includes(1)
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
