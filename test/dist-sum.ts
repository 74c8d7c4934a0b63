/** A rank of dist-mpi.test.ts: sums over ranks in small pieces, compared with sums made alone. */
import { openCpu } from "../src/cpu.ts"
import { detectLaunch, gather, joinWorld, OrderedSum, share } from "../src/dist.ts"

const launch = detectLaunch(process.env, undefined)
if (launch === undefined) throw new Error("no launcher")
const { rank, size, localRank, localSize, source } = launch
const mpi = { speaks: source === "Open MPI" ? "Open MPI" : "PMI", library: undefined, variables: {} } as const
const world = joinWorld(
  { source, rank, size, localRank, localSize, mpi, wants: "mpi", nccl: { library: undefined, id: undefined }, watch: undefined },
  undefined,
)

/** Value i as a rank holds it in a round: of very different sizes, so that another order of additions has other bits. */
const value = (of: number, round: number, i: number): number =>
  Math.fround(Math.sin(1 + of * 7 + round * 31 + i * 0.7) * 10 ** ((i + of) % 7))

const SIZES = { scalar: 1, vector: 37, matrix: 1000, other: 501 }
const state = openCpu(1).state()
const names = Object.keys(SIZES)
for (const [name, length] of Object.entries(SIZES)) state.ensure(name, "f32", [length])

for (const pieceFloats of [64, 1 << 20]) {
  const sum = new OrderedSum(world, state, names, pieceFloats)
  // Three rounds, the last of which has work for all ranks but one.
  const actives = [size, size, size - 1]
  actives.forEach((active, round) => {
    for (const name of names) {
      const values = state.read(name) as Float32Array
      state.write(
        name,
        values.map((_, i) => value(rank, round, i)),
      )
    }
    sum.round(active, round > 0, round === actives.length - 1)
  })
  for (const name of names) {
    const got = state.read(name) as Float32Array
    for (let i = 0; i < got.length; i++) {
      let want = 0
      actives.forEach((active, round) => {
        for (let of = 0; of < active; of++) {
          const next = value(of, round, i)
          want = round === 0 && of === 0 ? next : Math.fround(want + next)
        }
      })
      if (!Object.is(got[i], want)) throw new Error(`pieces of ${pieceFloats}: ${name}[${i}] is ${got[i]}, want ${want}`)
    }
  }
}
const told = gather(world, { rank, text: "x".repeat(rank) })
if (told.some(({ rank: of, text }, r) => of !== r || text.length !== r)) throw new Error(`gathered ${JSON.stringify(told)}`)
if (share(world, rank === 0 ? "from 0" : undefined) !== "from 0") throw new Error("nothing shared")
world.transport.barrier()
world.transport.close()
process.stdout.write(`rank ${rank} of ${size}: equal\n`)
