/** Sums of gradients over ranks in a fixed order: that of accumulation on one rank, bit for bit. */
import type { World } from "./dist-world.ts"
import { mpi } from "./native.ts"
import type { State } from "./program.ts"

/** Floats of a piece that is exchanged at a time. */
const PIECE = 1 << 22

/** A stretch of one state within a piece: floats [from, from + length) of it lie at `at`. */
interface Stretch {
  readonly name: string
  readonly from: number
  readonly length: number
  readonly at: number
}

/** What is exchanged at a time: `share` floats belong to each rank. */
interface Piece {
  readonly stretches: readonly Stretch[]
  readonly share: number
  /** This rank's share of the running sums. */
  readonly sums: Float32Array
}

/**
 * Adds what `active` ranks hold, round by round, and gives the sums to all after the last. Rank p sums its share of every piece: that of
 * rank 0, then that of rank 1 …, to what earlier rounds left. Traffic per rank: (N − 1)/N of the states each round, and once more of the sums.
 */
export class OrderedSum {
  readonly #pieces: readonly Piece[]
  readonly #outgoing: Float32Array
  readonly #incoming: Float32Array

  constructor(
    private readonly world: World,
    private readonly state: State,
    names: readonly string[],
    pieceFloats = PIECE,
  ) {
    const sizes = new Map(names.map((name) => [name, (state.read(name) as Float32Array).length]))
    this.#pieces = cut(sizes, pieceFloats).map((stretches): Piece => {
      const last = stretches.at(-1) as Stretch
      const share = Math.ceil((last.at + last.length) / world.size)
      return { stretches, share, sums: new Float32Array(share) }
    })
    const largest = Math.max(...this.#pieces.map(({ share }) => share * world.size))
    this.#outgoing = new Float32Array(largest)
    this.#incoming = new Float32Array(largest)
  }

  /** One round: the first `active` ranks hold values; `adds`: to the sums of earlier rounds; `isLast`: the sums are written to the states. */
  round(active: number, adds: boolean, isLast: boolean): void {
    const reader = cachedReader(this.state)
    const writer = isLast ? cachedWriter(this.state) : undefined
    for (const piece of this.#pieces) {
      this.#exchange(piece, reader)
      mpi().mpi_sum_rows(piece.sums, this.#incoming, active, piece.share, adds ? 1 : 0)
      if (writer !== undefined) this.#spread(piece, writer)
    }
    writer?.end()
  }

  /** incoming (size, share) = this rank's share of what everyone holds. */
  #exchange({ stretches, share }: Piece, read: (name: string) => Float32Array): void {
    const { size, transport } = this.world
    const [outgoing, incoming] = [this.#outgoing.subarray(0, size * share), this.#incoming.subarray(0, size * share)]
    for (const { name, from, length, at } of stretches) outgoing.set(read(name).subarray(from, from + length), at)
    transport.allToAll?.(bytesOf(outgoing), bytesOf(incoming))
  }

  /** Everyone's sums, to the states. */
  #spread({ stretches, sums }: Piece, { into }: ReturnType<typeof cachedWriter>): void {
    const all = new Float32Array(this.world.transport.allGather(bytesOf(sums)).buffer)
    for (const { name, from, length, at } of stretches) into(name).set(all.subarray(at, at + length), from)
  }
}

const bytesOf = (values: Float32Array): Uint8Array => new Uint8Array(values.buffer, values.byteOffset, values.byteLength)

/** Pieces of at most `most` floats, filled one after another. */
function cut(sizes: ReadonlyMap<string, number>, most: number): Stretch[][] {
  const pieces: Stretch[][] = []
  let filled = most
  for (const [name, size] of sizes) {
    for (let from = 0; from < size; ) {
      if (filled === most) {
        pieces.push([])
        filled = 0
      }
      const length = Math.min(size - from, most - filled)
      pieces.at(-1)?.push({ name, from, length, at: filled })
      from += length
      filled += length
    }
  }
  return pieces
}

/** The values of the state read last: a GPU downloads each once, though pieces take it in stretches. */
function cachedReader(state: State): (name: string) => Float32Array {
  let known: { name: string; values: Float32Array } | undefined
  return (name) => {
    if (known?.name !== name) known = { name, values: state.read(name) as Float32Array }
    return known.values
  }
}

/** Collects a state's new values and writes it when the next one begins. */
function cachedWriter(state: State): { into: (name: string) => Float32Array; end: () => void } {
  let open: { name: string; values: Float32Array } | undefined
  const end = () => {
    if (open !== undefined) state.write(open.name, open.values)
    open = undefined
  }
  return {
    into(name) {
      if (open?.name !== name) {
        end()
        open = { name, values: state.read(name) as Float32Array }
      }
      return open.values
    },
    end,
  }
}
