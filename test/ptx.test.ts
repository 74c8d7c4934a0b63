/** The PTX language: text, tensor maps, the pack; what ptxas says of every kernel where it is installed. */
import { expect, test } from "bun:test"
import { cpSync, existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assemblePtx, findPtxas, onlyRead, ptxCodes } from "../build-ptx.ts"
import { ptxGemm } from "../shaders/ptx-gemm.ts"
import { PTX_TILE } from "../shaders/ptx-gemm-list.ts"
import { type PtxTile, placesOf } from "../shaders/ptx-gemm-tile.ts"
import { ptxKernels } from "../shaders/ptx-kernels.ts"
import { cellBytes, ptxKernel, ptxPack, readPtxPack, tensorMapWords } from "../src/ptx.ts"
import { f32, read, u32, write } from "../src/spirv.ts"
import { multiplyAdd, wide } from "./ptx-long.ts"
import { GlobalMemory, readMap, swizzled } from "./ptx-memory.ts"
import { runPtx, type Timing } from "./ptx-run.ts"
import { testWith } from "./require.ts"

const doubled = ptxKernel({
  name: "doubled",
  about: "y[i] = 2 * x[i] for i < n",
  threads: 64,
  sharedBytes: 0,
  buffers: { x: read(f32), y: write(f32) },
  push: { n: u32 },
  body(k, { x, y, n }) {
    const i = k.special("%tid.x")
    k.comment("one element per thread")
    k.if(k.compare("lt", i, n), () => {
      const value = k.register("f32")
      k.load("f32", [value], k.madWide(i, 4, x))
      k.store("f32", k.madWide(i, 4, y), 0, [k.mulFloat(value, 2)])
    })
    k.emit("ret")
  },
})

test("a kernel's text", () => {
  expect(doubled.text).toBe(`// y[i] = 2 * x[i] for i < n
.version 8.3
.target sm_90a
.address_size 64

.extern .shared .align 1024 .b8 memory[];

.visible .entry doubled(
	.param .u64 x,
	.param .u64 y,
	.param .u32 n
)
.maxntid 64, 1, 1
.minnctapersm 1
{
	.reg .pred %p<1>;
	.reg .b32 %r<3>;
	.reg .b64 %d<4>;
	.reg .f32 %f<2>;
	mov.b32 %r0, 0;
	ld.param.u64 %d0, [x];
	ld.param.u64 %d1, [y];
	ld.param.u32 %r1, [n];
	mov.u32 %r2, %tid.x;
	// one element per thread
	setp.lt.u32 %p0, %r2, %r1;
	@!%p0 bra ELSE_0;
	mad.wide.u32 %d2, %r2, 4, %d0;
	ld.global.f32 %f0, [%d2];
	mad.wide.u32 %d3, %r2, 4, %d1;
	mul.rn.f32 %f1, %f0, 0f40000000;
	st.global.f32 [%d3], %f1;
ELSE_0:
	ret;
}
`)
})

test("the runner of the tests runs it, with lanes that part", () => {
  const [memory, x, y] = [new GlobalMemory(), Float32Array.from({ length: 40 }, (_, i) => i), new Float32Array(40).fill(-1)]
  const parameters = { x: memory.place(new Uint8Array(x.buffer)), y: memory.place(new Uint8Array(y.buffer)), n: 37 }
  runPtx({ text: doubled.text, threads: 64, blocks: [1, 1, 1], parameters, memory, timing: "random" })
  expect([...y]).toEqual(Array.from({ length: 40 }, (_, i) => (i < 37 ? 2 * i : -1)))
})

test("a product and a sum of 64 bits in two words", () => {
  const numbers = [0, 1, 7, 0xffff, 0x10000, 0x12345678, 0x80000000, 0xffff0001, 0xffffffff]
  for (const x of numbers)
    for (const y of numbers)
      for (const low of numbers)
        for (const high of numbers) {
          multiplyAdd(x, y, low, high)
          const sum = BigInt.asUintN(64, BigInt(x) * BigInt(y) + (BigInt(high) << 32n) + BigInt(low))
          expect((BigInt(wide.high) << 32n) | BigInt(wide.low)).toBe(sum)
        }
})

test("parameters are cells of 8 bytes in the entry's order", () => {
  const cells = cellBytes(doubled.cells, { x: 2 ** 40, y: 16, n: 7 })
  expect([...new BigUint64Array(cells.buffer)]).toEqual([2n ** 40n, 16n, 7n])
  expect(() => cellBytes(doubled.cells, { x: 1, y: 2 })).toThrow("n is missing")
})

test("a tensor map's words are those that cuTensorMapEncodeTiled writes", () => {
  const words = tensorMapWords({ element: "bf16", size: [768, 1024], strides: [1536], box: [64, 128], swizzle: "128B" })
  const rest = Array.from({ length: 6 }, () => 0n)
  expect([...words]).toEqual([0x6000046510n, 0n, 0n, 0x3ff000002ffn, 0n, 0x3f00000000000000n, 0x7fn, 0x4000n, 0x400n, ...rest])
  expect(() => tensorMapWords({ element: "bf16", size: [7, 4], strides: [14], box: [8, 4], swizzle: "none" })).toThrow("multiples of 16")
  expect(() => tensorMapWords({ element: "bf16", size: [64, 64], strides: [128], box: [64, 64], swizzle: "64B" })).toThrow("swizzle 64B")
})

test("what a map of five dimensions says is read back", () => {
  const spec = { size: [768, 2, 4, 4, 24], strides: [1536, 12288, 3072, 2 ** 37], box: [32, 2, 4, 4, 2] }
  const memory = new GlobalMemory()
  const words = [2n ** 45n, ...tensorMapWords({ ...spec, element: "bf16", swizzle: "64B" })]
  const map = readMap(memory, memory.place(new Uint8Array(BigUint64Array.from(words).buffer)))
  expect(map).toEqual({ ...spec, address: 2 ** 45, rank: 5, swizzle: 2 })
})

test("a swizzle moves the 16-byte pieces of a row: p of row r to p ^ (r / 2 mod 4), or to p ^ (r mod 8)", () => {
  for (let row = 0; row < 16; row++) {
    for (let piece = 0; piece < 8; piece++) {
      expect(swizzled(128 * row + 16 * piece, 3)).toBe(128 * row + 16 * (piece ^ (row & 7)))
      if (piece < 4) expect(swizzled(64 * row + 16 * piece, 2)).toBe(64 * row + 16 * (piece ^ ((row >> 1) & 3)))
    }
  }
})

test("rings and barriers of the tile in use lie where they did in the exploration", () => {
  expect(placesOf(PTX_TILE)).toEqual({ a: 0, b: 24576, fullA: 45056, emptyA: 45104, fullB: 45152, emptyB: 45192, end: 45232 })
  expect(() => placesOf({ ...PTX_TILE, ringB: 6 })).toThrow("does not fit")
})

/** The k step of the verified kernel, in the order of its instructions, loops and address arithmetic left out. */
const STEP = [
  ..."wait ldmatrix ldmatrix wait ldmatrix ldmatrix".split(" "),
  ..."wait fence mma mma mma mma commit sync arrive sync arrive wait_group1".split(" "),
  ..."wait fence mma mma mma mma commit wait_group1 sync arrive".split(" "),
  ..."wait fence mma mma mma mma commit wait_group0 sync arrive sync arrive".split(" "),
]
const NAMES: readonly (readonly [RegExp, string])[] = [
  [/mbarrier\.try_wait/, "wait"],
  [/ldmatrix/, "ldmatrix"],
  [/wgmma\.fence/, "fence"],
  [/wgmma\.mma_async/, "mma"],
  [/wgmma\.commit/, "commit"],
  [/wgmma\.wait_group\S* (\d)/, "wait_group"],
  [/mbarrier\.arrive\.release/, "arrive"],
  [/bar\.warp\.sync/, "sync"],
]
const stepsOf = (text: string, from: RegExp): string[] =>
  text
    .slice(text.search(from))
    .split("\n")
    .flatMap((line) =>
      NAMES.flatMap(([pattern, name]) => (pattern.test(line) ? [`${name}${/wait_group\S* (\d)/.exec(line)?.[1] ?? ""}`] : [])),
    )

test("a k step has the instructions of the verified kernel in their order", () => {
  for (const layout of ["ntp", "nn", "tn"] as const) {
    const { text } = ptxGemm({ layout, out: "f32", finish: "none", tile: PTX_TILE })
    expect(stepsOf(text, /^STEP_\d+:/m).slice(0, STEP.length)).toEqual(STEP)
  }
})

test("a text that releases a unit before its products are under way, or reads sums too early, gives other numbers in the runner", () => {
  // Guards the guard: the runner must see the races that were seen on the H200.
  const tile: PtxTile = { units: 1, chunks: 1, ringA: 1, ringB: 1 }
  const { text, cells } = ptxGemm({ layout: "nt", out: "f32", finish: "none", tile })
  const late = text.replace("wgmma.wait_group.sync.aligned 0;", "wgmma.wait_group.sync.aligned 1;")
  const waiting = text.indexOf("wgmma.fence")
  const [arrival = ""] = /\t@%p\d+ mbarrier\.arrive\.release.*\n/.exec(text.slice(waiting)) ?? []
  const fullB = text.lastIndexOf("\nWAIT_", waiting) + 1
  const early = `${text.slice(0, fullB)}${arrival.slice(1)}${text.slice(fullB).replace(arrival, "")}`
  const [M, N, K] = [128, 64, 128]
  const run = (given: string, timing: Timing = "late", seed = 1): number => {
    const memory = new GlobalMemory()
    const numbers = (count: number) => Uint16Array.from({ length: count }, (_, i) => 0x3f80 + ((i * 37) % 64)) // 1 … 1.5
    const [a, b, c] = [numbers(M * K), numbers(N * K), new Float32Array(M * N).fill(Number.NaN)]
    const map = (rows: number) => tensorMapWords({ element: "bf16", size: [K, rows], strides: [2 * K], box: [32, 64], swizzle: "64B" })
    const place = (array: { buffer: ArrayBuffer }) => memory.place(new Uint8Array(array.buffer))
    const maps = place(BigUint64Array.from([BigInt(place(a)), ...map(M), BigInt(place(b)), ...map(N)]))
    const sizes = { M, N, steps: K / 32, splitSteps: K / 32, splits: 1, rest: 0, span: 1, from: 0, ldc: N, group: 8, scale: 1 }
    const parameters = { ...Object.fromEntries(cells.map(({ name }) => [name, 0])), ...sizes, maps, c: place(c) }
    runPtx({ text: given, threads: 384, blocks: [1, 1, 1], parameters, floats: { scale: 1 }, memory, timing, seed })
    const float = (bits: number) => new Float32Array(Uint32Array.of(bits << 16).buffer)[0]!
    let wrong = 0
    for (let i = 0; i < M * N; i++) {
      let sum = 0
      for (let k = 0; k < K; k++) sum += float(a[Math.floor(i / N) * K + k]!) * float(b[(i % N) * K + k]!)
      if (!(Math.abs(c[i]! - sum) < 1e-3 * sum)) wrong++
    }
    return wrong
  }
  expect(run(text)).toBe(0)
  expect(run(late)).toBeGreaterThan(0)
  expect([1, 2, 3, 4, 5, 6].some((seed) => run(early, "random", seed) > 0)).toBe(true)
}, 300_000)

test("the pack gives back what was packed", () => {
  const [code, other] = [new Uint8Array([1, 2, 3]), { ...doubled, name: "other", text: `${doubled.text}// ends` }]
  const entries = readPtxPack(ptxPack([doubled, other], new Map([["other", code]])))
  const entry = { name: "doubled", threads: 64, sharedBytes: 0, cells: doubled.cells, text: doubled.text, code: undefined }
  expect([...entries.values()]).toEqual([entry, { ...entry, name: "other", text: other.text, code }])
  expect(() => ptxPack([doubled, doubled])).toThrow("taken")
  expect(() => readPtxPack(new Uint8Array(40))).toThrow("not a pack of this version")
  expect(new Set(ptxKernels.map(({ name }) => name)).size).toBe(ptxKernels.length)
})

test("an assembler that is named must be there; an empty name is none; one that refuses a kernel says which", async () => {
  expect(findPtxas("")).toBeUndefined()
  expect(() => findPtxas("/no/ptxas")).toThrow("PTXAS /no/ptxas: no such file")
  await expect(assemblePtx("/bin/false", [{ name: "odd", text: "", sharedBytes: 0 }])).rejects.toThrow("kernel odd: ptxas says")
})

const ptxas = findPtxas()
const built = join(import.meta.dir, "../.bun-out/ptx.pack")

test("a kernel that spills, or whose products ptxas puts one after another, is refused", async () => {
  const folder = mkdtempSync(join(tmpdir(), "alpha-ptx-test-"))
  try {
    for (const said of ["16 bytes stack frame, 8 bytes spill stores, 0 bytes spill loads", "wgmma.mma_async instructions are serialized"]) {
      const file = join(folder, "says")
      writeFileSync(file, `#!/bin/sh\necho '${said}'\n`, { mode: 0o755 })
      await expect(assemblePtx(file, [doubled])).rejects.toThrow(`kernel doubled: ptxas says\n${said}`)
    }
  } finally {
    rmSync(folder, { recursive: true })
  }
})

test("a loop writes the left factors that it reads, as ptxas gives the registers of others away", () => {
  for (const { name, text } of ptxKernels) expect({ name, left: onlyRead(text) }).toEqual({ name, left: undefined })
  const product = (left: string) => `\twgmma.mma_async.m64n8k16 {%f0, %f1, %f2, %f3}, {${left}, %r2, %r3, %r4}, %d0, %p0, 1, 1, 0;`
  const loop = (write: string) => ["LOOP_0:", write, product("%r1"), "\tbra LOOP_0;"].join("\n")
  expect(onlyRead(loop("\tmov.b32 %r5, %r1;"))).toBe("%r1")
  expect(onlyRead(loop("\t@%p1 mov.b32 %r1, 0;"))).toBeUndefined()
  expect(onlyRead(loop("\tldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1, %r2, %r3, %r4}, [%r9];"))).toBeUndefined()
})

testWith("ptxas", ptxas === undefined ? "ptxas is not in PTXAS or PATH" : undefined)(
  "ptxas takes every kernel without spills and without serialising its products, and says where it does not",
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "alpha-ptx-test-"))
    const file = join(folder, "ptx.pack")
    // What the build has assembled of these texts, with this assembler and these checks, need not be assembled again.
    for (const end of ["", ".by"]) if (existsSync(built + end)) cpSync(built + end, file + end)
    const all = await ptxCodes(ptxas as string, ptxKernels, file)
    // Machine code is an ELF file, the same whenever the text is.
    expect(ptxKernels.filter(({ name }) => Buffer.from(all.codes.get(name)!).readUInt32BE() !== 0x7f454c46)).toEqual([])
    const { codes } = await assemblePtx(ptxas as string, [doubled])
    rmSync(file, { force: true })
    const again = async (text: string) => {
      const kernel = { ...doubled, text }
      const made = await ptxCodes(ptxas as string, [kernel], file)
      writeFileSync(file, ptxPack([kernel], made.codes))
      return [made.assembled, Buffer.from(made.codes.get("doubled") as Uint8Array).equals(Buffer.from(codes.get("doubled") as Uint8Array))]
    }
    try {
      expect(await again(doubled.text)).toEqual([1, true])
      expect(await again(doubled.text)).toEqual([0, true])
      expect(await again(doubled.text.replace("mul.rn.f32", "add.rn.f32"))).toEqual([1, false])
      writeFileSync(`${file}.by`, "another ptxas")
      expect(await again(doubled.text)).toEqual([1, true])
    } finally {
      rmSync(folder, { recursive: true })
    }
    await expect(
      assemblePtx(ptxas as string, [{ name: "broken", text: doubled.text.replace("mul.rn.f32", "mul.rn.f33"), sharedBytes: 0 }]),
    ).rejects.toThrow("broken")
  },
  300_000,
)
