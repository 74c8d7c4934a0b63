/** Sums of gradients over ranks in a fixed order: that of accumulation on one rank, bit for bit. */
import type { World } from "./dist-world.ts"
import { mpi } from "./native.ts"
import type { State } from "./program.ts"

/** A state to be summed, and the states whose values are added to it one after another: mostly itself alone. */
export interface Summand {
  readonly name: string
  readonly parts: readonly string[]
}

/** Floats of a piece that is exchanged at a time. */
const PIECE = 1 << 22

/** A stretch of one summand within a piece: floats [from, from + length) of it lie at `at`. */
interface Stretch {
  readonly summand: Summand
  readonly from: number
  readonly length: number
  readonly at: number
}

/** What is exchanged at a time: `share` floats belong to each rank, `rows` values of every element follow each other. */
interface Piece {
  readonly stretches: readonly Stretch[]
  readonly rows: number
  readonly share: number
  /** This rank's share of the running sums. */
  readonly sums: Float32Array
}

/**
 * Adds what `active` ranks hold, round by round, and gives the sums to all after the last. Rank p sums its share of every piece: the parts of
 * rank 0, then those of rank 1 …, to what earlier rounds left. Traffic per rank: (N − 1)/N of all parts each round, and (N − 1)/N of
 * the sums once.
 */
export class OrderedSum {
  readonly #pieces: readonly Piece[]
  readonly #outgoing: Float32Array
  readonly #incoming: Float32Array

  constructor(
    private readonly world: World,
    private readonly state: State,
    summands: readonly Summand[],
    pieceFloats = PIECE,
  ) {
    const sizes = new Map(summands.map((s) => [s, (state.read(s.name) as Float32Array).length]))
    const shapes = [1, 2].flatMap((rows) =>
      cut(
        summands.filter((s) => s.parts.length === rows),
        sizes,
        Math.floor(pieceFloats / rows),
      ),
    )
    this.#pieces = shapes.map((stretches): Piece => {
      const last = stretches.at(-1) as Stretch
      const share = Math.ceil((last.at + last.length) / world.size)
      return { stretches, rows: last.summand.parts.length, share, sums: new Float32Array(share) }
    })
    const largest = Math.max(...this.#pieces.map(({ rows, share }) => rows * share * world.size))
    this.#outgoing = new Float32Array(largest)
    this.#incoming = new Float32Array(largest)
  }

  /** One round: the first `active` ranks hold values; `adds`: to the sums of earlier rounds; `isLast`: the sums are written to the states. */
  round(active: number, adds: boolean, isLast: boolean): void {
    const reader = cachedReader(this.state)
    const writer = isLast ? cachedWriter(this.state) : undefined
    for (const piece of this.#pieces) {
      this.#exchange(piece, reader)
      mpi().mpi_sum_rows(piece.sums, this.#incoming, active * piece.rows, piece.share, adds ? 1 : 0)
      if (writer !== undefined) this.#spread(piece, writer)
    }
    writer?.end()
  }

  /** incoming (size, rows, share) = this rank's share of everyone's parts. */
  #exchange({ stretches, rows, share }: Piece, read: (summand: Summand) => readonly Float32Array[]): void {
    const { size, transport } = this.world
    const [outgoing, incoming] = [this.#outgoing, this.#incoming].map((all) => all.subarray(0, size * rows * share)) as [
      Float32Array,
      Float32Array,
    ]
    for (const { summand, from, length, at } of stretches) {
      read(summand).forEach((values, row) => {
        // Rank p's share [p·share, (p + 1)·share) of the piece, row by row.
        for (let done = 0; done < length; ) {
          const [owner, within] = [Math.floor((at + done) / share), (at + done) % share]
          const count = Math.min(length - done, share - within)
          outgoing.set(values.subarray(from + done, from + done + count), (owner * rows + row) * share + within)
          done += count
        }
      })
    }
    transport.allToAll?.(bytesOf(outgoing), bytesOf(incoming))
  }

  /** Everyone's sums, to the states. */
  #spread({ stretches, sums }: Piece, { into }: ReturnType<typeof cachedWriter>): void {
    const all = new Float32Array(this.world.transport.allGather(bytesOf(sums)).buffer)
    for (const { summand, from, length, at } of stretches) into(summand.name).set(all.subarray(at, at + length), from)
  }
}

const bytesOf = (values: Float32Array): Uint8Array => new Uint8Array(values.buffer, values.byteOffset, values.byteLength)

/** Pieces of at most `most` floats, filled one after another. */
function cut(summands: readonly Summand[], sizes: ReadonlyMap<Summand, number>, most: number): Stretch[][] {
  const pieces: Stretch[][] = []
  let filled = most
  for (const summand of summands) {
    const size = sizes.get(summand) as number
    for (let from = 0; from < size; ) {
      if (filled === most) {
        pieces.push([])
        filled = 0
      }
      const length = Math.min(size - from, most - filled)
      pieces.at(-1)?.push({ summand, from, length, at: filled })
      from += length
      filled += length
    }
  }
  return pieces
}

/** The parts of the summand read last: a GPU downloads each once, though pieces take it in stretches. */
function cachedReader(state: State): (summand: Summand) => readonly Float32Array[] {
  let known: { summand: Summand; values: readonly Float32Array[] } | undefined
  return (summand) => {
    if (known?.summand !== summand) known = { summand, values: summand.parts.map((part) => state.read(part) as Float32Array) }
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
