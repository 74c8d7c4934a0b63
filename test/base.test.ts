import { afterAll, expect, test } from "bun:test"
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { AlphaError, EXIT, nearest } from "../src/base-error.ts"
import { firstInvalidUtf8, publishDirectory, readJson, readText, sha256, sha256File, writeAtomic, writeDurable } from "../src/base-file.ts"
import { fillNormal, normal, philox, randomBits, uniform } from "../src/base-random.ts"

const directory = mkdtempSync(join(tmpdir(), "alpha-base-"))
afterAll(() => rmSync(directory, { recursive: true, force: true }))

const thrown = (work: () => unknown): AlphaError => {
  try {
    work()
  } catch (error) {
    if (error instanceof AlphaError) return error
    throw error
  }
  throw new Error("nothing was thrown")
}

test("philox4x32-10 gives Random123's known answers", () => {
  const answer = (...words: [number, number, number, number, number, number]) => {
    const out = new Uint32Array(4)
    philox(...words, out)
    return Array.from(out, (word) => word.toString(16).padStart(8, "0")).join(" ")
  }
  const ones = 0xffffffff
  expect(answer(0, 0, 0, 0, 0, 0)).toBe("6627e8d5 e169c58d bc57ac4c 9b00dbd8")
  expect(answer(ones, ones, ones, ones, ones, ones)).toBe("408f276d 41c83b0e a20bc7c6 6d5451fd")
  expect(answer(0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0)).toBe("d16cfe09 94fdcceb 5001e420 24126ea1")
})

test("value i is lane i&3 of block i>>2, also beyond 2^32", () => {
  const out = new Uint32Array(4)
  for (const index of [0, 1, 6, 4095, 2 ** 34 + 7]) {
    const group = Math.floor(index / 4)
    philox(group % 2 ** 32, Math.floor(group / 2 ** 32), 9, 0, 1337, 5, out)
    expect(randomBits(1337, 5, 9, index)).toBe(out[index % 4]!)
    expect(uniform(1337, 5, 9, index)).toBe(Math.floor(out[index % 4]! / 256) / 2 ** 24)
  }
})

test("bulk fills equal the single values at every length", () => {
  for (const length of [0, 1, 3, 4, 7, 32]) {
    const normals = new Float64Array(length)
    fillNormal(normals, 7, 3, 1)
    for (let i = 0; i < length; i++) expect(normals[i]).toBe(normal(7, 3, 0, i))
  }
})

test("a million normals have the moments of N(0, std²) and uniforms fill [0, 1)", () => {
  const count = 1 << 20
  const values = new Float32Array(count)
  fillNormal(values, 42, 1, 0.02)
  let sum = 0
  let squares = 0
  let fourth = 0
  for (const value of values) {
    const z = value / 0.02
    sum += z
    squares += z * z
    fourth += z ** 4
  }
  expect(Math.abs(sum / count)).toBeLessThan(0.004) // 4 standard errors
  expect(Math.abs(squares / count - 1)).toBeLessThan(0.006)
  expect(Math.abs(fourth / count - 3)).toBeLessThan(0.04)
  const buckets = new Array<number>(16).fill(0)
  for (let i = 0; i < count; i++) buckets[Math.floor(uniform(42, 1, 0, i) * 16)]!++
  for (const bucket of buckets) expect(Math.abs(bucket / (count / 16) - 1)).toBeLessThan(0.02)
})

test("nearest finds typos, swaps and spellings, and refuses far names", () => {
  const names = ["nLayer", "nHead", "nEmbd", "lr", "steps", "warmupSteps", "evalInterval"]
  expect(nearest("nlayers", names)).toBe("nLayer")
  expect(nearest("warmup-step", names)).toBe("warmupSteps")
  expect(nearest("spets", names)).toBe("steps")
  expect(nearest("lrr", names)).toBe("lr")
  expect(nearest("evalIntervall", names)).toBe("evalInterval")
  expect(nearest("warmup", names)).toBe("warmupSteps")
  expect(nearest("colour", names)).toBeUndefined()
  expect(nearest("nope", ["type", "model", "open"])).toBeUndefined()
  expect(nearest("x", ["n", "lr"])).toBeUndefined()
})

test("writeAtomic replaces a file, leaves no temporary, and names what failed", () => {
  const path = join(directory, "file.json")
  writeAtomic(path, "old")
  writeAtomic(path, "new ü")
  expect(readText(path)).toBe("new ü")
  writeAtomic(path, new Uint8Array([1, 2, 3]))
  expect([...readFileSync(path)]).toEqual([1, 2, 3])
  expect(readdirSync(directory).filter((name) => name.endsWith(".tmp"))).toEqual([])
  const missing = join(directory, "missing", "file")
  const error = thrown(() => writeAtomic(missing, "x"))
  expect(error.message).toContain(missing)
  expect(error.message).toContain("its directory does not exist")
  expect(error.hint).toContain("path")
})

test("a full disk is named", () => {
  if (!existsSync("/dev/full")) return console.log("SKIP a full disk is named: no /dev/full here")
  const error = thrown(() => writeDurable("/dev/full", "x"))
  expect(error.message).toBe("cannot write /dev/full: no space left on the device")
})

test("a directory without write permission is named", () => {
  if (process.getuid?.() === 0) return console.log("SKIP unwritable directory: root may write everywhere")
  const locked = join(directory, "locked")
  mkdirSync(locked)
  chmodSync(locked, 0o500)
  expect(thrown(() => writeAtomic(join(locked, "x"), "x")).message).toContain("permission denied")
})

test("readText and readJson name the file, the cause and the offset", () => {
  const missing = thrown(() => readText(join(directory, "none.txt")))
  expect(missing.message).toContain("none.txt: does not exist")
  expect(missing.code).toBe(EXIT.data)
  expect(thrown(() => readText(directory)).message).toContain("is a directory")
  const path = join(directory, "latin1.txt")
  writeFileSync(path, new Uint8Array([0x61, 0xc3, 0xa4, 0xe4, 0x62]))
  expect(thrown(() => readText(path)).message).toContain("offset 3 of 5")
  writeFileSync(path, "\ufefftext")
  expect(readText(path)).toBe("text")
  writeFileSync(path, "{")
  expect(thrown(() => readJson(path)).message).toContain("latin1.txt: not valid JSON")
})

test("the first invalid UTF-8 byte is found", () => {
  expect(firstInvalidUtf8(new Uint8Array([0x61, 0x62]))).toBe(2)
  expect(firstInvalidUtf8(new Uint8Array([0xff]))).toBe(0)
  expect(firstInvalidUtf8(new Uint8Array([0x61, 0xe2, 0x82, 0x61]))).toBe(1)
  expect(firstInvalidUtf8(new Uint8Array([0x61, 0xc0, 0x80]))).toBe(1)
})

test("publishDirectory makes a directory appear whole", () => {
  const temporary = join(directory, ".step.tmp")
  mkdirSync(temporary)
  writeDurable(join(temporary, "a"), "1")
  publishDirectory(temporary, join(directory, "step"))
  expect(readText(join(directory, "step", "a"))).toBe("1")
  expect(existsSync(temporary)).toBe(false)
})

test("sha256 of memory and of a file larger than one piece", async () => {
  expect(sha256("abc")).toBe("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
  const bytes = new Uint8Array(5_000_000).map((_, i) => i)
  const path = join(directory, "large.bin")
  writeFileSync(path, bytes)
  expect(await sha256File(path)).toBe(sha256(bytes))
  const error = await sha256File(join(directory, "none")).catch((caught: unknown) => caught)
  expect((error as AlphaError).message).toContain("none: does not exist")
})
