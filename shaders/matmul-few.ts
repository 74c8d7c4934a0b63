/** Products of few rows with a weight matrix, which is read once: decoding. */
import { act, type Choice, f32, kernel, type ReadBuffer, read, type U32, u32 } from "../src/spirv.ts"
import { epilogue, finish } from "./matmul-epilogue.ts"
import { CHUNK } from "./matmul-order.ts"

const LANES = 128
/** Rows of w, which are columns of c, that a lane takes at once. */
const SIDE = 4
/** Elements per load: 16 bytes of bf16, twice 16 of f32. */
const PACK = 8
const range = (n: number) => Array.from({ length: n }, (_, i) => i)

function few(rows: number, isPacked: boolean) {
  return kernel({
    name: `matmul_few_${rows}${isPacked ? "" : "_any"}`,
    workgroup: LANES,
    buffers: { a: read(act), b: read(act), ...epilogue.buffers },
    push: { M: u32, N: u32, K: u32, lda: u32, ldb: u32, ...epilogue.push, span: u32, teams: u32 },
    params: epilogue.params,
    constants: epilogue.constants,
    variants: [
      { act: "f32", out: "f32" },
      { act: "bf16", out: "f32" },
      { act: "bf16", out: "bf16" },
      { act: "f32", out: "bf16" },
    ],
    body(k, { a, b, M, N, K, lda, ldb, span, teams, ...e }) {
      // Sum of chunk c of a team's output o at o·pitch + c; an odd pitch spreads the outputs over the banks.
      const sumsOf = k.shared("sums", f32, rows * SIDE * LANES + rows * SIDE * (LANES / (rows * SIDE)))
      const pitch = span.or(1)
      const [team, place] = [k.lane.div(span), k.lane.mod(span)]
      const m0 = k.groupY.mul(rows)
      const firstTeam = k.group.mul(teams)
      const n0 = firstTeam.add(team).mul(SIDE)
      const row = (from: ReadBuffer<Choice>, number: U32, extent: U32, length: U32) => {
        const start = number.min(extent.sub(1)).mul(length) // rows beyond the end are copies, for outputs that nobody stores
        return (i: U32) => (isPacked ? from.pack(PACK).at(start.add(i).div(PACK)) : [from.at(start.add(i))])
      }
      const left = range(rows).map((r) => row(a, m0.add(r), M, lda))
      const right = range(SIDE).map((s) => row(b, n0.add(s), N, ldb))

      const output = k.lane // of this workgroup, in the order team, column, row
      const outputs = teams.mul(SIDE * rows)
      const total = k.var(f32, 0)
      const chunks = K.add(CHUNK - 1).div(CHUNK)
      k.for(0, chunks, span, (base) => {
        const chunk = base.add(place)
        k.if(team.lt(teams).and(chunk.lt(chunks)).and(n0.lt(N)), () => {
          const sums = range(rows * SIDE).map(() => k.var(f32, 0))
          const start = chunk.mul(CHUNK)
          const step = (i: U32) => {
            const w = right.map((load) => load(i))
            left.forEach((load, r) => {
              const x = load(i)
              w.forEach((column, s) => sums[s * rows + r]!.update((now) => x.reduce((sum, value, j) => value.fma(column[j]!, sum), now)))
            })
          }
          if (isPacked) k.for(0, CHUNK, PACK, (i) => step(start.add(i)), { unroll: rows === 1 })
          else k.for(start, start.add(CHUNK).min(K), 1, step)
          sums.forEach((sum, o) =>
            sumsOf.set(
              team
                .mul(SIDE * rows)
                .add(o)
                .mul(pitch)
                .add(place),
              sum.get(),
            ),
          )
        })
        k.barrier()
        // All lanes walk along, those without an output on that of lane 0: Mesa 22.3's lavapipe fails on loops over shared memory that
        // only some lanes enter.
        const isOutput = output.lt(outputs).and(
          firstTeam
            .add(output.div(SIDE * rows))
            .mul(SIDE)
            .lt(N),
        )
        const mine = isOutput.select(output, 0).mul(pitch)
        k.for(0, span.min(chunks.sub(base)), 1, (i) => total.add(sumsOf.at(mine.add(i))))
        k.barrier()
      })
      const [m, n] = [m0.add(output.mod(rows)), firstTeam.mul(SIDE).add(output.div(rows))]
      k.if(output.lt(outputs).and(m.lt(M)).and(n.lt(N)), () => finish(k, e, m, n, [total.get()]))
    },
  })
}

/** Outputs of a workgroup at most: each is added up by a lane. */
export const FEW_LANES = LANES
export const FEW_SIDE = SIDE
/** The variants by rows of a that are multiplied at once. */
export const FEW_ROWS = [1, 2, 4, 8] as const

/**
 * c = epilogue(a·bᵀ) (M, N), a (M, K), b (N, K), in the order of matmul_nt: a lane sums a chunk of 32 k for 4 columns and `rows` rows, then
 * a lane per output adds the chunks one after another. A team of `span` lanes does 4 columns, span = the chunks of K or all lanes; `teams` of
 * them fit in a workgroup and have at most 128 outputs. Grid: (⌈N / (4·teams)⌉, ⌈M / rows⌉). Reads b ⌈M / rows⌉ times: (N·K + M·K)·s bytes.
 * K, lda and ldb are multiples of 32, 8 and 8; …_any takes all.
 */
export const matmulFew = FEW_ROWS.map((rows) => ({ rows, packed: few(rows, true), any: few(rows, false) }))
