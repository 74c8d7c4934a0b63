/** What the simulator catches that a device would do in silence, and subgroup operations for every size. */
import { describe, expect, test } from "bun:test"
import { type Body, bf16, f32, kernel, type ReadWriteBuffer, read, readWrite, simulate, u32, vec4, write } from "../src/spirv.ts"

type Floats = ReadWriteBuffer<typeof f32>
/** A run of `body` over x, 64 floats that lanes may read and write. */
function running(body: (k: Body, x: Floats) => void, { n = 64, groups = 1, subgroupSize = 32 } = {}): () => void {
  const faulty = kernel({ name: "faulty", workgroup: 64, buffers: { x: readWrite(f32) }, body: (k, { x }) => body(k, x) })
  return () => simulate(faulty, { grid: [groups], buffers: { x: new Float32Array(n) }, subgroupSize })
}

describe("addresses", () => {
  test("outside a buffer: names buffer, element, lane, workgroup", () => {
    const beyond = running((k, x) => x.set(k.group.mul(64).add(k.lane), 1), { n: 100, groups: 2 })
    expect(beyond).toThrow("kernel faulty: x[100] is outside its 100 elements (lane 36 of workgroup 1)")
    expect(running((k, x) => k.if(x.at(k.lane.sub(1)).gt(0), () => x.set(0, 1)))).toThrow(
      /x\[4294967295\] is outside its 64 elements \(lane 0/,
    )
  })
  test("a pack that is only partly inside", () => {
    const partly = running((k, x) => x.pack(4).set(k.lane, [k.f32(1), k.f32(2), k.f32(3), k.f32(4)]), { n: 15 })
    expect(partly).toThrow("kernel faulty: x[3] is outside its 3 packs of 4 (lane 3 of workgroup 0)")
  })
  test("outside shared memory, and shared memory nobody has written", () => {
    expect(running((k) => k.shared("s", f32, 63).set(k.lane, 0))).toThrow(
      "kernel faulty: shared s[63] is outside its 63 elements (lane 63 of workgroup 0)",
    )
    const unwritten = running((k, x) => {
      const s = k.shared("s", f32, 64)
      k.if(k.lane.ne(5), () => s.set(k.lane, 0))
      k.barrier()
      x.set(k.lane, s.at(k.lane.xor(1)))
    })
    expect(unwritten).toThrow("kernel faulty: shared s[5] is read before it is written (lane 4 of workgroup 0)")
  })
  test("a buffer that is not aligned, one that is missing, a push constant that is missing", () => {
    const given = kernel({
      name: "given",
      workgroup: 64,
      buffers: { x: write(f32) },
      push: { n: u32 },
      body: (k, { x, n }) => x.set(k.lane, n.toF32()),
    })
    const whole = new Float32Array(80)
    expect(() => simulate(given, { grid: [1], buffers: { x: whole.subarray(1) }, push: { n: 1 } })).toThrow(
      "kernel given: buffer x is not aligned to 16 bytes",
    )
    expect(() => simulate(given, { grid: [1], buffers: {} as never, push: { n: 1 } })).toThrow("kernel given: buffer x is missing")
    expect(() => simulate(given, { grid: [1], buffers: { x: whole }, push: {} as never })).toThrow("kernel given: n is missing")
  })
  test("division by zero, a shift by the width", () => {
    expect(running((k, x) => x.set(k.u32(64).div(k.lane.sub(k.lane)), 0))).toThrow("kernel faulty: div by zero (lane 0)")
    expect(running((k, x) => x.set(k.u32(1).shl(k.lane).and(1), 0))).toThrow("kernel faulty: shl by 32 (lane 32)")
  })
})

describe("barriers and subgroup operations that not all lanes reach", () => {
  test("a barrier in an if, and in a loop of uneven length", () => {
    const inIf = running((k) => k.if(k.lane.lt(40), () => k.barrier()))
    expect(inIf).toThrow("kernel faulty: a barrier is reached by 40 of 64 lanes, not by lane 40 (workgroup 0)")
    expect(running((k) => k.for(k.lane, 64, 64, () => k.barrier()))).not.toThrow()
    expect(running((k) => k.for(k.lane, 80, 32, () => k.barrier()))).toThrow(/a barrier is reached by 48 of 64 lanes, not by lane 48/)
    expect(running((k) => k.for(0, 3, 1, (i) => [k.breakIf(k.lane.eq(i.add(9))), k.barrier()]))).toThrow(/not by lane 9/)
  })
  test("an operation by part of a subgroup", () => {
    const part = running((k, x) => k.if(k.lane.lt(40), () => x.set(k.lane, k.subgroupAdd(k.f32(1)))))
    expect(part).toThrow("kernel faulty: subgroup subgroupAdd reached by 8 of the 32 lanes of subgroup 1 (lane 32)")
    const whole = running((k, x) => k.if(k.lane.lt(32), () => x.set(k.lane, k.subgroupAdd(k.f32(1)))))
    expect(whole).not.toThrow()
  })
  test("a shuffle from beyond the subgroup, a broadcast from several lanes", () => {
    const shuffle = running((k, x) => x.set(k.lane, k.subgroupShuffleXor(k.lane.toF32(), 16)), { subgroupSize: 16 })
    expect(shuffle).toThrow("kernel faulty: shuffleXor from lane 16 of a subgroup of 16 (lane 0)")
    expect(running((k, x) => x.set(k.lane, k.subgroupBroadcast(k.lane.toF32(), k.lane.and(1))))).toThrow(/broadcast from several lanes/)
  })
})

describe("races", () => {
  test("in shared memory, with no barrier between", () => {
    const race = running((k, x) => {
      const s = k.shared("s", f32, 64)
      s.set(k.lane, 1)
      x.set(k.lane, s.at(k.lane.xor(1)))
    })
    expect(race).toThrow(/race: shared s\[1\] reads what lane 1 of the grid writes, with no barrier between \(lane 0 of workgroup 0\)/)
    const both = running((k) => k.shared("s", f32, 32).set(k.lane.shr(1), 1))
    expect(both).toThrow(/race: shared s\[0\] writes what lane 0 of the grid writes/)
  })
  test("of a tile that is overwritten while others still read it", () => {
    const tiles = (hasBarrier: boolean) =>
      running((k, x) => {
        const s = k.shared("s", f32, 64)
        k.for(0, 2, 1, (i) => {
          s.set(k.lane, i.toF32())
          k.barrier()
          x.set(k.lane, s.at(k.lane.xor(1)))
          if (hasBarrier) k.barrier()
        })
      })
    expect(tiles(true)).not.toThrow()
    expect(tiles(false)).toThrow(/race: shared s\[0\] writes what lane 1 of the grid reads/)
  })
  test("in buffers: within a workgroup, across workgroups, through two names of the same memory", () => {
    expect(running((k, x) => x.set(k.lane.shr(1), 1))).toThrow(/race: x\[0\] writes what lane 0 of the grid writes/)
    expect(running((k, x) => x.set(k.lane, 1), { groups: 2 })).toThrow(/race: x\[0\] writes what lane 0 of the grid writes.*workgroup 1/)
    const exchange = (also?: "buffers") =>
      running((k, x) => {
        x.set(k.lane, 1)
        k.barrier(also)
        x.set(k.lane, x.at(k.lane.xor(1)))
      })
    expect(exchange()).toThrow(/race: x\[1\] reads what lane 1 of the grid writes/)
    expect(exchange("buffers")).toThrow(/race: x\[0\] writes what lane 1 of the grid reads/)
    const shift = kernel({
      name: "shift",
      workgroup: 64,
      buffers: { x: read(f32), y: write(f32) },
      body: (k, { x, y }) => y.set(k.lane, x.at(k.lane.add(1))),
    })
    const memory = new Float32Array(68)
    expect(() => simulate(shift, { grid: [1], buffers: { x: memory, y: memory } })).toThrow(
      /race: y\[1\] writes what lane 0 of the grid reads/,
    )
    expect(() => simulate(shift, { grid: [1], buffers: { x: memory, y: memory.slice() } })).not.toThrow()
  })
  test("bf16 neighbours share a word but do not race", () => {
    const halves = new Uint16Array(64)
    const given = kernel({
      name: "halves",
      workgroup: 64,
      buffers: { y: write(bf16) },
      body: (k, { y }) => y.set(k.lane, k.lane.toF32()),
    })
    simulate(given, { grid: [1], buffers: { y: halves } })
    expect(halves[63]).toBe(0x427c)
  })
})

const SIZES = [4, 8, 16, 32, 64]
test.each(SIZES)("subgroups of %d: reductions, scans, shuffles, votes, and reductions over the workgroup", (subgroupSize) => {
  const given = kernel({
    name: "collective",
    workgroup: 128,
    buffers: { x: read(f32), n: read(u32), y: write(f32), m: write(u32), votes: write(vec4(u32)) },
    body(k, { x, n, y, m, votes }) {
      const [v, i] = [x.at(k.lane), n.at(k.lane)]
      const floats = [
        k.subgroupAdd(v),
        k.subgroupMax(v),
        k.subgroupInclusiveAdd(v),
        k.subgroupExclusiveAdd(v),
        k.workgroupSum(v),
        k.workgroupMin(v),
      ]
      floats.forEach((value, j) => {
        y.set(k.lane.add(128 * j), value)
      })
      const pair = k.workgroupSum(k.vector(v, v.mul(v)))
      y.set(k.lane.add(128 * 6), pair.y)
      const words = [
        k.subgroupMin(i),
        k.subgroupShuffleXor(i, 3),
        k.subgroupShuffle(i, k.subgroupSize.sub(1).sub(k.subgroupLane)),
        k.subgroupBroadcast(i, 2),
        k.workgroupMax(i),
        k.workgroupSum(k.subgroupElect().select(k.u32(1), 0)),
        k
          .subgroupAny(i.eq(50))
          .select(k.u32(1), 0)
          .add(k.subgroupAll(i.lt(50)).select(k.u32(2), 0)),
      ]
      words.forEach((value, j) => {
        m.set(k.lane.add(128 * j), value)
      })
      votes.set(k.lane, k.subgroupBallot(i.and(1).eq(1)))
    },
  })
  const x = Float32Array.from({ length: 128 }, (_, i) => ((i * 37) % 64) - 20) // whole numbers: every order of addition agrees
  const n = Uint32Array.from({ length: 128 }, (_, i) => (i * 29) % 101)
  const [y, m, votes] = [new Float32Array(128 * 7), new Uint32Array(128 * 7), new Uint32Array(512)]
  simulate(given, { grid: [1], subgroupSize, buffers: { x, n, y, m, votes } })
  const sum = (values: ArrayLike<number>) => Array.from(values).reduce((a, b) => a + b, 0)
  for (let lane = 0; lane < 128; lane++) {
    const start = lane - (lane % subgroupSize)
    const [own, ownN] = [[...x.subarray(start, start + subgroupSize)], [...n.subarray(start, start + subgroupSize)]]
    const before = own.slice(0, lane - start)
    const expected = [sum(own), Math.max(...own), sum(before) + x[lane]!, sum(before), sum(x), Math.min(...x), sum(x.map((v) => v * v))]
    expect(expected.map((_, j) => y[lane + 128 * j]!)).toEqual(expected)
    const words = [
      Math.min(...ownN),
      n[lane ^ 3]!,
      ownN[subgroupSize - 1 - (lane - start)]!,
      ownN[2]!,
      Math.max(...n),
      128 / subgroupSize,
      (ownN.includes(50) ? 1 : 0) + (ownN.every((value) => value < 50) ? 2 : 0),
    ]
    expect(words.map((_, j) => m[lane + 128 * j]!)).toEqual(words)
    const bits = ownN.reduce((all, value, i) => all | (BigInt(value & 1) << BigInt(i)), 0n)
    expect([...votes.subarray(4 * lane, 4 * lane + 2)]).toEqual([Number(bits & 0xffffffffn), Number(bits >> 32n)])
  }
})
