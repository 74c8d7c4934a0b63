/** Matrices in the kernel simulator: what they compute, and what is caught. */
import { expect, test } from "bun:test"
import { bf16, f32, kernel, read, simulate, u32, vec4, write } from "../src/spirv.ts"

const numbers = (count: number, of: (i: number) => number) => Float32Array.from({ length: count }, (_, i) => of(i))
const bf16s = (given: Float32Array) => Uint16Array.from(given, (value) => new Uint32Array(Float32Array.of(value).buffer)[0]! >>> 16)

test("a product of tensors with a transposed factor, mapped with coordinates and operands, edges clamped", () => {
  const given = kernel({
    name: "mapped",
    workgroup: 64,
    buffers: { a: read(bf16), b: read(bf16), y: write(f32) },
    push: { M: u32, N: u32, K: u32 },
    body(k, { a, b, y, M, N, K }) {
      const [A, B, C] = [k.matrix(bf16, "a", 16, 32), k.matrix(bf16, "b", 32, 16), k.matrix(f32, "accumulator", 16, 16)]
      const left = k.loadTensor(A, a, 0, k.tensor({ shape: [M, K], outside: "zero" }).slice([0, 16], [0, 32]))
      const right = k.loadTensor(B, b, 0, k.tensor({ shape: [N, K], outside: "zero" }).slice([0, 16], [0, 32]), "transposed")
      const product = k.mulAdd(left, right, k.fill(C, 1))
      const mapped = product.map((r, c, x, other, factor) => x.add(other).mul(factor).add(r.mul(100).add(c).toF32()), product, K.toF32())
      k.storeTensor(y, 0, k.tensor({ shape: [M, N], outside: "zero" }).slice([0, 16], [0, 16]), mapped)
    },
  })
  const [M, N, K] = [5, 7, 19]
  const [a, b] = [numbers(M * K, (i) => (i % 7) - 3), numbers(N * K, (i) => (i % 5) - 2)]
  const y = new Float32Array(M * N)
  simulate(given, { grid: [1], buffers: { a: bf16s(a), b: bf16s(b), y }, push: { M, N, K } })
  for (let m = 0; m < M; m++) {
    for (let n = 0; n < N; n++) {
      let sum = 1
      for (let i = 0; i < K; i++) sum += a[m * K + i]! * b[n * K + i]!
      expect(y[m * N + n]).toBe(2 * sum * K + 100 * m + n)
    }
  }
})

test("reductions along rows and columns, also into another shape", () => {
  const given = kernel({
    name: "reduced",
    workgroup: 32,
    buffers: { x: read(f32), rows: write(f32), columns: write(f32) },
    body(k, { x, rows, columns }) {
      const [C, wide] = [k.matrix(f32, "accumulator", 16, 16), k.matrix(f32, "accumulator", 16, 32)]
      const given = k.loadTensor(C, x, 0, k.tensor({ shape: [16, 16] }).slice([0, 16], [0, 16]))
      const sums = given.reduce("row", (a, b) => a.add(b), wide)
      k.storeTensor(rows, 0, k.tensor({ shape: [16, 32] }).slice([0, 16], [0, 32]), sums)
      const most = given.reduce("column", (a, b) => a.max(b))
      k.storeTensor(columns, 0, k.tensor({ shape: [16, 16] }).slice([0, 16], [0, 16]), most)
    },
  })
  const x = numbers(256, (i) => (i * 37) % 101)
  const [rows, columns] = [new Float32Array(512), new Float32Array(256)]
  simulate(given, { grid: [1], buffers: { x, rows, columns } })
  for (let r = 0; r < 16; r++) {
    const line = x.subarray(16 * r, 16 * r + 16)
    expect(rows[32 * r + 31]).toBe(line.reduce((sum, value) => sum + value, 0))
    expect(columns[r]).toBe(Math.max(...Array.from({ length: 16 }, (_, i) => x[16 * i + r]!)))
  }
})

const staged = (hasBarrier: boolean, layout: "row" | "column") =>
  kernel({
    name: "staged",
    workgroup: 64,
    buffers: { x: read(f32), y: write(f32) },
    body(k, { x, y }) {
      const C = k.matrix(f32, "accumulator", 16, 16, "subgroup")
      const tile = k.shared("tile", vec4(u32), 2 * 16 * 5)
      const mine = k.subgroup.mul(80)
      const own = k.loadMatrix(C, x, k.subgroup.mul(256), 16, "row")
      k.storeMatrix(tile, mine, 5, "row", own.scale(2))
      if (hasBarrier) k.barrier()
      const other = k.u32(80).sub(mine)
      k.storeMatrix(y, k.subgroup.mul(256), 16, "row", k.loadMatrix(C, tile, other, 5, layout))
    },
  })

test("matrices of subgroups through shared memory, by rows and by columns", () => {
  const x = numbers(512, (i) => i)
  for (const layout of ["row", "column"] as const) {
    const y = new Float32Array(512)
    simulate(staged(true, layout), { grid: [1], buffers: { x, y } })
    for (let i = 0; i < 512; i++) {
      const [group, r, c] = [i >> 8, (i >> 4) & 15, i & 15]
      expect(y[i]).toBe(2 * ((1 - group) * 256 + (layout === "row" ? r * 16 + c : c * 16 + r)))
    }
  }
})

test("what is caught: a missing barrier, part of a subgroup, a slice over the edge, a start that is not aligned", () => {
  const [x, y] = [new Float32Array(512), new Float32Array(512)]
  expect(() => simulate(staged(false, "row"), { grid: [1], buffers: { x, y } })).toThrow(/race|before it is written/)
  const broken = (what: "part" | "edge" | "align") =>
    kernel({
      name: what,
      workgroup: 32,
      buffers: { x: read(f32), y: write(f32) },
      body(k, { x, y }) {
        const C = k.matrix(f32, "accumulator", 16, 16)
        const load = () => k.loadTensor(C, x, what === "align" ? 2 : 0, k.tensor({ shape: [15, 16] }).slice([0, 16], [0, 16]))
        const store = () =>
          k.storeTensor(y, 0, k.tensor({ shape: [16, 16] }).slice([0, 16], [0, 16]), what === "part" ? k.fill(C, 1) : load())
        if (what === "part") k.if(k.lane.lt(16), store)
        else store()
      },
    })
  const messages = { part: /16 of 32 lanes/, edge: /left by a slice/, align: /not aligned/ } as const
  for (const what of ["part", "edge", "align"] as const)
    expect(() => simulate(broken(what), { grid: [1], buffers: { x, y } })).toThrow(messages[what])
})

test("elements without their places, pairs of bf16 in words, a barrier of subgroups", () => {
  const given = kernel({
    name: "elements",
    workgroup: 64,
    buffers: { x: read(f32), y: write(bf16) },
    push: { factor: f32 },
    body(k, { x, y, factor }) {
      const C = k.matrix(f32, "accumulator", 16, 16, "subgroup")
      const own = k.loadMatrix(C, x, k.subgroup.mul(256), 16, "row")
      const pairs = own.each((a, b, by) => a.packBf16(b.mul(by)).asF32(), own.neg(), factor)
      const tile = k.shared("tile", vec4(u32), 2 * 16 * 4)
      k.storeMatrix(tile, k.subgroup.mul(64), 4, "row", pairs)
      k.subgroupBarrier()
      k.barrier()
      k.for(0, 4, 1, (i) => {
        const { x, y: second, z, w } = tile.at(k.lane.mul(2).add(i.and(1)))
        k.if(i.lt(2), () =>
          y.pack(8).set(
            k.lane.mul(2).add(i),
            [x, second, z, w].flatMap((word) => [word.shl(16).asF32(), word.and(0xffff0000).asF32()]),
          ),
        )
      })
    },
  })
  const x = numbers(512, (i) => i / 4 + 1 / 3)
  const y = new Uint16Array(1024)
  simulate(given, { grid: [1], buffers: { x, y }, push: { factor: 2 } })
  const rounded = (value: number) => {
    const bits = new Uint32Array(Float32Array.of(value).buffer)[0]!
    return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16
  }
  for (let i = 0; i < 512; i++) expect([y[2 * i], y[2 * i + 1]]).toEqual([rounded(x[i]!), rounded(-2 * x[i]!)])
  const broken = kernel({
    name: "broken",
    workgroup: 32,
    buffers: { y: write(u32) },
    body(k, { y }) {
      k.if(k.lane.lt(3), () => k.subgroupBarrier())
      y.set(k.lane, 1)
    },
  })
  expect(() => simulate(broken, { grid: [1], buffers: { y: new Uint32Array(32) } })).toThrow(/barrier reached by 3/)
})
