/** The pack: every module of it valid, its index complete, its bytes the same each time, its limits kept. */
import { describe, expect, test } from "bun:test"
import { readdirSync } from "node:fs"
import { join } from "node:path"
import { kernels } from "../shaders/kernels.ts"
import {
  act,
  assemble,
  type Body,
  bf16,
  checkKernel,
  constant,
  f32,
  type Kernel,
  kernel,
  pack,
  pushBytes,
  read,
  readPack,
  readWrite,
  u32,
  u64,
  vec4,
  write,
} from "../src/spirv.ts"
import { testWith } from "./require.ts"
import { disassemble, missingValidator, validate } from "./spirv-validator.ts"

const testValid = testWith("spirv-validator", missingValidator)
const blob = pack(kernels)
const entries = readPack(blob)

testValid(
  "every module of the pack passes SPIRV-Tools",
  () => {
    expect(entries.size).toBe(kernels.flatMap(({ variants }) => variants).length)
    for (const { name, module } of entries.values()) expect([name, validate(module)]).toEqual([name, undefined])
  },
  300_000,
)

/** Kernels that a value holds, be it in lists and records. */
function kernelsIn(value: unknown, depth = 0): Kernel[] {
  if (typeof value !== "object" || value === null || depth > 3) return []
  if ("recording" in value && "variants" in value) return [value as Kernel]
  return Object.values(value).flatMap((one) => kernelsIn(one, depth + 1))
}

test("every kernel that a file of shaders/ exports is in the pack: the binary has no other", async () => {
  const packed = new Set(kernels.map(({ name }) => name))
  const exported: string[] = []
  for (const file of readdirSync(join(import.meta.dir, "../shaders")).filter((name) => !name.startsWith("ptx")))
    exported.push(...kernelsIn(await import(`../shaders/${file}`)).map(({ name }) => name))
  expect(exported.length).toBeGreaterThan(packed.size)
  expect([...new Set(exported.filter((name) => !packed.has(name)))]).toEqual([])
})

testValid("the validator sees mistakes", () => {
  const words = entries.get("add.f32.f32.f32")!.module.slice()
  words[words.length - 2] = (1 << 16) | 248 // a label without a result where the return was
  expect(validate(words)).toBeDefined()
})

/** Uses everything that needs a capability, an extension or a decoration of its own. */
const everything = kernel({
  name: "everything",
  workgroup: "WG",
  buffers: { x: read(act), table: read(u64), n: readWrite(u32), y: write(vec4(f32)) },
  push: { C: u32, scale: f32 },
  params: { rate: f32, step: u32 },
  constants: { WG: constant(u32, 64) },
  body(k: Body, { x, table, n, y, C, scale, rate, step }) {
    const far = k.memoryAt("far", table.at(k.group), readWrite(f32))
    const wide = table.at(0).add(5).mul(3).shr(2).sub(1).shl(1)
    const shared = k.shared("shared", u32, 64)
    shared.set(k.lane, 0)
    k.barrier()
    shared.atomicMax(k.lane.and(7), n.atomicCompareExchange(0, 1, 2))
    k.barrier("buffers")
    const v = k.subgroupShuffle(k.subgroupBroadcast(x.at(wide), 1), k.subgroupLane)
    const voted = k
      .subgroupAny(v.gt(0))
      .and(k.subgroupAll(v.lt(9)))
      .or(k.subgroupElect())
    const bits = k.subgroupBallot(voted).x.mulHigh(C).bitCount()
    const sum = k.workgroupSum(v.toI32()).toF32().add(k.workgroupMax(bits).toF32())
    k.while(
      () => shared.at(0).lt(step),
      () => k.if(voted, () => k.breakIf(v.lt(1))),
    )
    const [, second] = x.pack(8).at(wide)
    k.for(0, 4, 1, (i) => far.set(i, far.at(i).mul(rate)), { unroll: true })
    y.set(k.lane, k.vector(v, sum, scale.add(second!), k.subgroupInclusiveAdd(v)).max(k.vector(v, v, v, v).tanh()))
  },
})

testValid("one kernel with everything is valid in each variant", () => {
  for (const variant of everything.variants) expect(validate(assemble(everything, variant).words)).toBeUndefined()
})

testValid("only what is used is declared, and every id is defined", () => {
  const words = entries.get("add.f32.f32.f32")!.module
  const text = disassemble(words)
  expect(text.match(/OpCapability \w+/g)!.sort()).toEqual([
    "OpCapability Int64",
    "OpCapability PhysicalStorageBufferAddresses",
    "OpCapability Shader",
    "OpCapability VulkanMemoryModel",
  ])
  expect(text).not.toContain("OpExtension")
  expect(text).not.toContain("OpExtInstImport")
  expect(text.match(/ = Op/g)!.length).toBe(words[3]! - 1)
})

testValid("accesses that lanes exchange are non-private, loops carry their hint", () => {
  const text = disassemble(assemble(everything, everything.variants[0]!).words)
  expect(text).toMatch(/OpAtomicUMax/)
  expect(text).toMatch(/OpStore %\d+ %uint_0 NonPrivatePointer/)
  expect(text).toMatch(/OpLoad %uint %\d+ NonPrivatePointer/)
  expect(text).toMatch(/OpLoad %float %\d+ Aligned\|NonPrivatePointer 4/)
  expect(text).toMatch(/OpControlBarrier %uint_2 %uint_2 %uint_24840/)
  expect(text).toMatch(/OpControlBarrier %uint_2 %uint_2 %uint_24904/)
  expect(text).toMatch(/OpLoopMerge %\d+ %\d+ Unroll/)
})

test("the same kernels give the same bytes", () => {
  expect(pack(kernels)).toEqual(blob)
}, 300_000) // for machines that are busy with other things

test("a kernel that only asks for the subgroup size is given it", () => {
  const asks = kernel({
    name: "asks",
    workgroup: 64,
    buffers: { y: write(u32) },
    body: (k, { y }) => y.set(k.lane, k.subgroupSize),
  })
  expect(readPack(pack([asks])).get("asks")?.constants).toEqual([{ name: "subgroupSize", id: 0, type: "u32", value: 32 }])
})

test("the index says what a dispatch needs", () => {
  const { module, ...entry } = readPack(pack([everything])).get("everything.bf16")!
  expect(module[0]).toBe(0x07230203)
  expect(entry).toEqual({
    name: "everything.bf16",
    workgroup: "WG",
    buffers: [
      { name: "x", access: "read", type: "bf16" },
      { name: "table", access: "read", type: "u64" },
      { name: "n", access: "readWrite", type: "u32" },
      { name: "y", access: "write", type: "f32x4" },
    ],
    push: [
      { name: "x", type: "address", offset: 0 },
      { name: "table", type: "address", offset: 8 },
      { name: "n", type: "address", offset: 16 },
      { name: "y", type: "address", offset: 24 },
      { name: "params", type: "address", offset: 32 },
      { name: "C", type: "u32", offset: 40 },
      { name: "scale", type: "f32", offset: 44 },
    ],
    params: [
      { name: "rate", type: "f32" },
      { name: "step", type: "u32" },
    ],
    constants: [
      { name: "subgroupSize", id: 0, type: "u32", value: 32 },
      { name: "WG", id: 1, type: "u32", value: 64 },
    ],
    sharedBytes: 64 * 4 + 2 * 256 * 4,
    features: [
      "bufferDeviceAddress",
      "maintenance4",
      "shaderInt64",
      "storageBuffer16BitAccess",
      "subgroup arithmetic",
      "subgroup ballot",
      "subgroup basic",
      "subgroup shuffle",
      "subgroup vote",
      "vulkanMemoryModel",
    ],
  })
  const values = { x: 1, table: 2n ** 40n, n: 3, y: 4, params: 5, C: 7, scale: 0.5 }
  const view = new DataView(pushBytes(entry.push, values).buffer)
  expect([view.byteLength, view.getBigUint64(8, true), view.getUint32(40, true), view.getFloat32(44, true)]).toEqual([
    48,
    2n ** 40n,
    7,
    0.5,
  ])
  expect(() => pushBytes(entry.push, { x: 1 })).toThrow("push constant table is missing")
})

describe("limits", () => {
  const check = (given: unknown) => () => checkKernel(given as Kernel)
  test("push constants", () => {
    const many = (n: number) => Object.fromEntries(Array.from({ length: n }, (_, i) => [`b${i}`, read(f32)]))
    expect(check(kernel({ name: "full", workgroup: 64, buffers: many(16), body() {} }))).not.toThrow()
    const over = kernel({ name: "over", workgroup: 64, buffers: many(16), push: { n: u32 }, body() {} })
    expect(check(over)).toThrow("kernel over: 132 bytes of push constants, more than 128")
  })
  test("shared memory, of which only what is used counts", () => {
    const tile = (name: string, length: number, sharedKiB: 32 | 48) =>
      kernel({
        name,
        workgroup: 64,
        buffers: {},
        sharedKiB,
        body: (k: Body) => [k.shared("unused", f32, 4096), k.shared("a", f32, length).set(0, 0)],
      })
    expect(check(tile("small", 8192, 32))).not.toThrow()
    expect(check(tile("big", 8193, 32))).toThrow("kernel big: 32772 bytes of shared memory, more than 32 KiB")
    expect(check(tile("big", 8193, 48))).not.toThrow()
    expect(check(tile("huge", 12289, 48))).toThrow(/49156 bytes of shared memory, more than 48 KiB/)
  })
  test("workgroups", () => {
    expect(check(kernel({ name: "wide", workgroup: 2048, buffers: {}, body() {} }))).toThrow("kernel wide: a workgroup of 2048 lanes")
    const odd = kernel({
      name: "odd",
      workgroup: 96,
      buffers: { y: write(f32) },
      body: (k, { y }) => y.set(k.lane, k.subgroupAdd(k.f32(1))),
    })
    expect(check(odd)).toThrow("kernel odd: subgroup operations in a workgroup of 96, no multiple of 64")
  })
  test("alignment of matrix accesses", () => {
    const strided = (stride: number) =>
      kernel({
        name: "strided",
        workgroup: 64,
        buffers: { x: read(bf16), y: write(f32) },
        body(k, { x, y }) {
          const sum = k.mulAdd(
            k.loadMatrix(k.matrix(bf16, "a", 16, 16, "subgroup"), x, 0, stride, "row"),
            k.loadMatrix(k.matrix(bf16, "b", 16, 16, "subgroup"), x, 0, 16, "row"),
            k.fill(k.matrix(f32, "accumulator", 16, 16, "subgroup"), 0),
          )
          k.storeMatrix(y, 0, 16, "row", sum)
        },
      })
    expect(check(strided(24))).not.toThrow()
    expect(check(strided(20))).toThrow("kernel strided: a stride of 40 bytes for a matrix in x, no multiple of 16")
  })
  test("names", () => {
    expect(() => pack([...kernels, kernels[0]!])).toThrow(`kernel ${kernels[0]!.variants[0]!.name}: the name is taken`)
    expect(() => readPack(new Uint8Array(4))).toThrow("kernel pack: not a pack of this version")
  }, 300_000)
})
