/** The kernel language: what compiles, what is recorded, what a recording computes. */
import { describe, expect, test } from "bun:test"
import {
  act,
  type Body,
  bf16,
  bool,
  constant,
  DeviceMemory,
  type Dispatch,
  f32,
  i32,
  type Kernel,
  kernel,
  read,
  readWrite,
  simulate,
  type U32,
  u32,
  u64,
  vec2,
  vec4,
  write,
} from "../src/spirv.ts"

/** Writes what `compute` makes of each lane's number; returns it for 64 lanes. */
function perLane(compute: (k: Body, lane: U32) => U32): number[] {
  const given = kernel({
    name: "per_lane",
    workgroup: 64,
    buffers: { y: write(u32) },
    body: (k, { y }) => y.set(k.lane, compute(k, k.lane)),
  })
  const y = new Uint32Array(64)
  simulate(given, { grid: [1], buffers: { y } })
  return [...y]
}
const lanes = Array.from({ length: 64 }, (_, i) => i)

test("misuse does not compile", () => {
  const misuse = kernel({
    name: "misuse",
    workgroup: 64,
    buffers: { x: read(f32), y: write(f32), n: readWrite(u32), h: read(act) },
    push: { C: u32, scale: f32 },
    body(k, { x, y, n, h, C, scale }) {
      if (k.lane !== undefined) return // the rest is for the compiler
      // @ts-expect-error a read-only buffer is not written
      x.set(0, 1)
      // @ts-expect-error a write-only buffer is not read
      y.at(0)
      // @ts-expect-error f32 + u32
      scale.add(C)
      // @ts-expect-error u32 + f32
      C.add(scale)
      // @ts-expect-error an f32 is no element number
      x.at(scale)
      // @ts-expect-error a u32 is not stored as f32
      y.set(0, C)
      // @ts-expect-error nor an f32 as u32
      n.set(0, scale)
      // @ts-expect-error a condition is a bool
      k.if(C, () => {})
      // @ts-expect-error both sides of a select have one type
      C.eq(0).select(scale, C)
      // @ts-expect-error no shifts of floats
      scale.shl(1)
      // @ts-expect-error no exponential of integers
      C.exp()
      // @ts-expect-error no atomics on floats
      k.shared("s", f32, 4).atomicAdd(0, 1)
      // @ts-expect-error no packs of integers
      n.pack(4)
      // @ts-expect-error what is chosen per variant is an f32 here
      n.set(0, h.at(0))
      // @ts-expect-error signed and unsigned do not mix
      k.i32(1).add(C)
      // @ts-expect-error a loop counts in u32
      k.for(0, scale, 1, () => {})
      // @ts-expect-error vectors of different sizes
      k.vector(scale, scale).add(k.vector(scale, scale, scale))
      // @ts-expect-error no bool in shared memory
      k.shared("b", bool, 4)
    },
  })
  // @ts-expect-error vectors of three have no common stride
  kernel({ name: "three", workgroup: 64, buffers: { x: read({ scalar: "f32", size: 3 } as const) }, body() {} })
  // @ts-expect-error the dispatch lacks a push constant
  const lacking: Dispatch<typeof misuse.buffers, typeof misuse.push, object, object>["push"] = { C: 1 }
  expect(lacking).toBeDefined()
  expect(misuse.recording.root.nodes).toEqual([])
})

describe("what cannot be a kernel is refused by name", () => {
  const recording = (body: (k: Body) => void) => () =>
    kernel({ name: "bad", workgroup: 64, buffers: {}, body: (k: Body) => body(k) }).recording
  test("a value that leaves its block", () => {
    let kept: U32 | undefined
    const leave = recording((k) => {
      k.if(k.lane.eq(0), () => {
        kept = k.lane.add(1)
      })
      k.var(u32, kept!)
    })
    expect(leave).toThrow(/kernel bad: a value \(operation\) is used outside the block it was computed in/)
  })
  test("literals out of range", () => {
    expect(recording((k) => k.lane.add(-1))).toThrow("kernel bad: -1 is no u32")
    expect(recording((k) => k.lane.add(0.5))).toThrow("kernel bad: 0.5 is no u32")
  })
  test("a break outside loops, a name used twice", () => {
    expect(recording((k) => k.breakIf(k.lane.eq(0)))).toThrow("kernel bad: breakIf outside a loop")
    expect(recording((k) => [k.shared("s", f32, 1), k.shared("s", f32, 1)])).toThrow("kernel bad: two shared arrays are named s")
    const taken = kernel({ name: "bad", workgroup: 64, buffers: { x: read(f32) }, push: { x: u32 }, body() {} })
    expect(() => taken.recording).toThrow("kernel bad: the name x is taken")
  })
  test("a variable inside a matrix callback", () => {
    const callback = recording((k) => {
      const outer = k.var(f32, 0)
      k.fill(k.matrix(f32, "accumulator", 16, 16), 0).map(() => outer.get())
    })
    expect(callback).toThrow(/kernel bad: a value \(k.var\) is used outside/)
  })
})

test("values are recorded once, known results not at all", () => {
  const { recording } = kernel({
    name: "folded",
    workgroup: 64,
    buffers: { y: write(u32) },
    body(k, { y }) {
      const twice = k.lane.mul(2)
      y.set(k.lane.mul(2).add(0).mul(1), twice.add(k.u32(3).mul(4)))
    },
  })
  expect(recording.root.nodes.map((node) => (node.kind === "operation" ? node.name : node.kind))).toEqual(["mul", "add", "store"])
})

test("integers are exact and wrap", () => {
  expect(perLane((_k, i) => i.mul(0x9e3779b9).add(0xffffffff))).toEqual(lanes.map((i) => (Math.imul(i, 0x9e3779b9) - 1) >>> 0))
  const high = (i: number) => Number((BigInt(i + 3) * 0xd2511f53n) >> 32n)
  expect(perLane((_k, i) => i.add(3).mulHigh(0xd2511f53))).toEqual(lanes.map(high))
  expect(perLane((_k, i) => i.sub(5).shr(28).or(i.shl(4)).xor(i.not()).bitCount())).toEqual(
    lanes.map((i) => (((((i - 5) >>> 28) | (i << 4)) ^ ~i) >>> 0).toString(2).replaceAll("0", "").length),
  )
  expect(perLane((k, i) => i.toI32().sub(k.i32(20)).div(3).mod(5).toU32())).toEqual(lanes.map((i) => (Math.trunc((i - 20) / 3) % 5) >>> 0))
  expect(perLane((k, i) => i.toI32().sub(20).shr(1).max(k.i32(-4)).abs().toU32())).toEqual(
    lanes.map((i) => Math.abs(Math.max(-4, (i - 20) >> 1))),
  )
})

test("floats are rounded after each step, halves to even, bits kept", () => {
  const third = Math.fround(1 / 3)
  const bits = (value: number) => new Uint32Array(Float32Array.of(value).buffer)[0]!
  expect(perLane((_k, i) => i.toF32().mul(third).add(0.1).bits())).toEqual(
    lanes.map((i) => bits(Math.fround(Math.fround(i * third) + Math.fround(0.1)))),
  )
  expect(perLane((_k, i) => i.toF32().mul(0.5).round().toU32())).toEqual(lanes.map((i) => roundEven(i / 2)))
  expect(
    perLane((_k, i) =>
      i
        .add(0x7f7fffff - 31)
        .asF32()
        .isInf()
        .select(i, 99),
    ),
  ).toEqual(lanes.map((i) => (i === 32 ? 32 : 99)))
  expect(perLane((k, i) => i.toF32().log().isNan().or(i.toF32().neg().sqrt().isNan()).select(k.u32(1), 0))).toEqual(
    lanes.map((i) => (i > 0 ? 1 : 0)),
  )
})

function roundEven(x: number): number {
  const low = Math.floor(x)
  if (x - low !== 0.5) return Math.round(x)
  return low % 2 === 0 ? low : low + 1
}

test("loops, ifs and breaks take each lane its own way", () => {
  const collatz = (start: number) => {
    let [n, steps] = [start, 0]
    for (; n !== 1; steps++) n = n % 2 === 0 ? n / 2 : 3 * n + 1
    return steps
  }
  const steps = perLane((k, i) => {
    const [n, count] = [k.var(u32, i.add(1)), k.var(u32, 0)]
    k.while(
      () => n.get().ne(1),
      () => {
        k.if(
          n.get().and(1).eq(0),
          () => n.update((v) => v.shr(1)),
          () => n.update((v) => v.mul(3).add(1)),
        )
        count.add(1)
      },
    )
    return count.get()
  })
  expect(steps).toEqual(lanes.map((i) => collatz(i + 1)))
  const broken = perLane((k, i) => {
    const sum = k.var(u32, 0)
    k.for(0, 10, 1, (j) => {
      k.for(j, 100, 7, (m) => {
        k.if(m.gt(20), () => k.breakIf(m.add(i).and(1).eq(0)))
        sum.add(m)
      })
      k.breakIf(j.mul(10).gt(i))
    })
    return sum.get()
  })
  expect(broken).toEqual(
    lanes.map((i) => {
      let sum = 0
      for (let j = 0; j < 10; j++) {
        for (let m = j; m < 100; m += 7) {
          if (m > 20 && (m + i) % 2 === 0) break
          sum += m
        }
        if (j * 10 > i) break
      }
      return sum
    }),
  )
})

test("vectors: arithmetic, components, comparisons, selects", () => {
  const given = kernel({
    name: "vectors",
    workgroup: 32,
    buffers: { x: read(vec4(f32)), y: write(vec4(f32)), dots: write(vec2(f32)), n: write(vec2(u32)) },
    body(k, { x, y, dots, n }) {
      const v = x.at(k.lane)
      y.set(
        k.lane,
        v
          .mul(2)
          .add(k.vector(v.w, v.z, v.y, v.x))
          .max(0),
      )
      dots.set(k.lane, k.vector(v.dot(v), v.x.lt(v.y).select(v.x, 7)))
      n.set(k.lane, k.vector(k.lane, k.lane.add(1)).shl(1))
    },
  })
  const x = Float32Array.from({ length: 128 }, (_, i) => Math.fround(Math.sin(i)))
  const [y, dots, n] = [new Float32Array(128), new Float32Array(64), new Uint32Array(64)]
  simulate(given, { grid: [1], buffers: { x, y, dots, n } })
  for (let i = 0; i < 32; i++) {
    const v = [...x.subarray(4 * i, 4 * i + 4)]
    expect([...y.subarray(4 * i, 4 * i + 4)]).toEqual(v.map((a, c) => Math.max(0, Math.fround(Math.fround(2 * a) + v[3 - c]!))))
    expect(dots[2 * i]).toBeCloseTo(
      v.reduce((sum, a) => sum + a * a, 0),
      5,
    )
    expect(dots[2 * i + 1]).toBe(v[0]! < v[1]! ? v[0]! : 7)
    expect([n[2 * i], n[2 * i + 1]]).toEqual([2 * i, 2 * i + 2])
  }
})

test("bf16: every value is read, every f32 rounded to nearest even, NaN stays NaN", () => {
  const copy = kernel({
    name: "copy",
    workgroup: 64,
    buffers: { x: read(act), y: write(bf16), wide: write(f32) },
    push: { n: u32 },
    body(k, { x, y, wide, n }) {
      k.for(k.group.mul(k.workgroup).add(k.lane), n, k.groups.mul(k.workgroup), (i) => {
        y.set(i, x.at(i))
        wide.set(i, x.at(i))
      })
    },
  })
  const n = 4096
  const bits = Uint32Array.from({ length: n }, (_, i) => Math.imul(i, 0x9e3779b9) >>> 0)
  bits.set([0x3f808000, 0x3f818000, 0x3f808001, 0x7f800000, 0xff800000, 0x7fffffff, 0x7f800001, 0xffffffff, 0x7f7fffff])
  const floats = new Float32Array(bits.buffer)
  const y = new Uint16Array(n)
  simulate(copy, { variant: "copy.f32", grid: [2], buffers: { x: floats, y, wide: new Float32Array(n) }, push: { n } })
  expect([...y.subarray(0, 9)]).toEqual([0x3f80, 0x3f82, 0x3f81, 0x7f80, 0xff80, 0x7fc0, 0x7fc0, 0x7fc0, 0x7f80])
  expect([...y]).toEqual(
    [...bits].map((b, i) => (Number.isNaN(floats[i]) ? 0x7fc0 : Number((BigInt(b) + 0x7fffn + BigInt((b >>> 16) & 1)) >> 16n))),
  )
  const [again, wide] = [new Uint16Array(n), new Float32Array(n)]
  simulate(copy, { variant: "copy.bf16", grid: [2], buffers: { x: y, y: again, wide }, push: { n } })
  expect(again).toEqual(y)
  expect([...new Uint32Array(wide.buffer)]).toEqual([...y].map((half) => (half << 16) >>> 0))
})

test("packs and views address the same bytes, whatever the variant", () => {
  const scale = kernel({
    name: "scale",
    workgroup: 32,
    buffers: { x: read(act), y: write(act), raw: write(vec4(u32)) },
    body(k, { x, y, raw }) {
      y.pack(8).set(
        k.lane,
        x
          .pack(8)
          .at(k.lane)
          .map((v) => v.mul(2)),
      )
      raw.set(k.lane, x.as(vec4(u32)).at(k.lane))
    },
  })
  const x = Float32Array.from({ length: 256 }, (_, i) => i)
  const [y, raw] = [new Float32Array(256), new Uint32Array(128)]
  simulate(scale, { grid: [1], buffers: { x, y, raw } })
  expect([...y]).toEqual([...x].map((v) => 2 * v))
  expect(new Float32Array(raw.buffer)).toEqual(x.subarray(0, 128))
  const half = Uint16Array.from({ length: 256 }, (_, i) => 0x3f80 + i)
  const doubled = new Uint16Array(256)
  simulate(scale, { variant: "scale.bf16", grid: [1], buffers: { x: half, y: doubled, raw } })
  expect([...doubled]).toEqual([...half].map((bits) => bits + 0x80))
  expect(new Uint16Array(raw.buffer)).toEqual(half)
})

test("params, constants, the grid, and memory behind a table of addresses", () => {
  const scaleAll = kernel({
    name: "scale_all",
    workgroup: "WG",
    buffers: { table: read(u64), lengths: read(u32) },
    params: { rate: f32, step: u32 },
    constants: { WG: constant(u32, 64), extra: constant(f32, 0.5) },
    body(k, { table, lengths, rate, step, extra }) {
      const tensor = k.memoryAt("tensor", table.at(k.groupY), readWrite(f32))
      k.for(k.group.mul(k.workgroup).add(k.lane), lengths.at(k.groupY), k.groups.mul(k.workgroup), (i) => {
        tensor.set(i.toU64(), tensor.at(i).mul(rate).add(step.toF32()).add(extra))
      })
    },
  })
  const memory = new DeviceMemory()
  const tensors = [new Float32Array(300).fill(2), new Float32Array(7).fill(3)]
  const table = BigUint64Array.from(tensors, (tensor, i) => BigInt(memory.place(`tensor ${i}`, tensor)))
  const lengths = Uint32Array.from(tensors, ({ length }) => length)
  const run = () =>
    simulate(scaleAll, { grid: [2, 2], memory, buffers: { table, lengths }, params: { rate: 10, step: 4 }, constants: { WG: 32 } })
  run()
  expect(new Set(tensors[0])).toEqual(new Set([24.5]))
  expect(new Set(tensors[1])).toEqual(new Set([34.5]))
  lengths[1] = 8
  expect(run).toThrow("kernel scale_all: tensor[7] is outside its 7 elements (lane 7 of workgroup 2)")
  table[0] = 64n
  expect(run).toThrow("kernel scale_all: tensor at address 64, where nothing is (lane 0 of workgroup 0)")
})

test("atomics count, in buffers and in shared memory", () => {
  const histogram = kernel({
    name: "histogram",
    workgroup: 64,
    buffers: { x: read(u32), bins: readWrite(u32), low: readWrite(i32) },
    body(k, { x, bins, low }) {
      const own = k.shared("own", u32, 8)
      k.if(k.lane.lt(8), () => own.set(k.lane, 0))
      k.barrier()
      const value = x.at(k.group.mul(64).add(k.lane))
      own.atomicAdd(value.and(7), 1)
      low.atomicMin(0, value.toI32().sub(50))
      k.barrier()
      k.if(k.lane.lt(8), () => bins.atomicAdd(k.lane, own.at(k.lane)))
    },
  })
  const x = Uint32Array.from({ length: 256 }, (_, i) => (i * i) % 97)
  const [bins, low] = [new Uint32Array(8), new Int32Array(1)]
  simulate(histogram, { grid: [4], buffers: { x, bins, low } })
  expect([...bins]).toEqual(Array.from({ length: 8 }, (_, bin) => x.filter((value) => value % 8 === bin).length))
  expect(low[0]).toBe(-50)
})

test("variants carry their types in their names", () => {
  const names = ({ variants }: Kernel) => variants.map(({ name }) => name)
  const body = () => {}
  expect(names(kernel({ name: "plain", workgroup: 1, buffers: { x: read(f32) }, body }))).toEqual(["plain"])
  expect(names(kernel({ name: "one", workgroup: 1, buffers: { x: read(act) }, body }))).toEqual(["one.f32", "one.bf16"])
  const listed = kernel({ name: "listed", workgroup: 1, buffers: { x: read(act) }, variants: [{ act: "bf16" }], body })
  expect(names(listed)).toEqual(["listed.bf16"])
})
