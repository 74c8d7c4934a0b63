import { afterAll, describe, expect, test } from "bun:test"
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { AlphaError } from "../src/base-error.ts"
import { sha256 } from "../src/base-file.ts"
import { loadTrainer, readChatTemplate, readCheckpointFile, readConfig, saveCheckpoint, verifyCheckpoint } from "../src/gpt-checkpoint.ts"
import { floatBytes, readFloats } from "../src/gpt-convert.ts"
import { checkpointPath, listCheckpoints, modelDirectory, recoverCheckpoints, retain, setLink } from "../src/gpt-keep.ts"
import { readSafetensors, writeSafetensors } from "../src/gpt-safetensors.ts"
import {
  ownCheckpoint as content,
  floats,
  fuzzCheckpoints,
  fuzzModels,
  killSavers,
  parameters as specs,
  tokenizerJson,
  weightsOf,
} from "./checkpoint-fuzz.ts"

const FIXTURES = join(import.meta.dir, "fixtures/hf")
const work = mkdtempSync(join(tmpdir(), "alpha-checkpoint-"))
afterAll(() => rmSync(work, { recursive: true, force: true }))

const errorOf = (run: () => unknown): AlphaError | undefined => {
  try {
    run()
  } catch (error) {
    // Anything else is a crash and fails the test.
    if (error instanceof AlphaError) return error
    throw error
  }
  return undefined
}
const messageOf = (run: () => unknown) => errorOf(run)?.message ?? "nothing was thrown"

describe("safetensors", () => {
  const path = join(work, "a.safetensors")

  test("the bytes of a file are those of the format", () => {
    const tensors = [
      { ...floats("x", [1]), shape: [1, 1] },
      { name: "n", shape: [], dtype: "I64", data: () => new Uint8Array(8).fill(7) } as const,
    ]
    const result = writeSafetensors(path, tensors, { format: "pt" })
    const bytes = new Uint8Array(readFileSync(path))
    expect(result).toEqual({ bytes: bytes.length, sha256: sha256(bytes) })
    const header = `{"__metadata__":{"format":"pt"},"n":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"x":{"dtype":"F32","shape":[1,1],"data_offsets":[8,12]}}`
    const padded = header.padEnd(Math.ceil(header.length / 8) * 8, " ")
    expect(bytes[0]).toBe(padded.length)
    expect([...bytes.subarray(1, 8)]).toEqual([0, 0, 0, 0, 0, 0, 0])
    expect(new TextDecoder().decode(bytes.subarray(8, 8 + padded.length))).toBe(padded)
    expect([...bytes.subarray(8 + padded.length)]).toEqual([7, 7, 7, 7, 7, 7, 7, 7, 0, 0, 0x80, 0x3f])
    const read = readSafetensors(path)
    expect(read.metadata).toEqual({ format: "pt" })
    expect([...read.tensors.values()].map(({ name, shape, dtype, byteLength }) => [name, shape, dtype, byteLength])).toEqual([
      ["n", [], "I64", 8],
      ["x", [1, 1], "F32", 4],
    ])
    expect([...read.tensors.get("x")!.data()]).toEqual([0, 0, 0x80, 0x3f])
  })

  test("bf16 and f16 round to nearest even and come back exactly", () => {
    const values = Float32Array.of(1, -2.5, 1.00390625, 1.01171875, 65504, 3.3895313892515355e38, Number.NaN, Number.NEGATIVE_INFINITY, -0)
    const words = (dtype: "BF16" | "F16", from: Float32Array) =>
      [...new Uint16Array(floatBytes(from, dtype, "w").slice().buffer)].map((w) => w.toString(16))
    // 1 + 1/256 lies half-way and goes to the even 1; 1 + 3/256 to the even 1 + 4/256.
    expect(words("BF16", values)).toEqual(["3f80", "c020", "3f80", "3f82", "4780", "7f7f", "7fc0", "ff80", "8000"])
    expect(words("F16", Float32Array.of(1, -2.5, 65504, 2 ** -24, 2 ** -26, Number.NaN, -0, 1 + 2 ** -11))).toEqual([
      "3c00",
      "c100",
      "7bff",
      "1",
      "0",
      "7e00",
      "8000",
      "3c00",
    ])
    expect(messageOf(() => floatBytes(Float32Array.of(0, 65520), "F16", "w"))).toContain(
      "tensor w: element 1 is 65520, beyond the 65504 of f16",
    )
    for (const dtype of ["BF16", "F16"] as const) {
      const exact = Float32Array.of(0.5, -3, 2 ** -14, Number.POSITIVE_INFINITY, -0, 2 ** -24)
      writeSafetensors(path, [{ name: "w", shape: [6], dtype, data: () => floatBytes(exact, dtype, "w") }])
      const back = new Float32Array(5)
      readFloats(readSafetensors(path).tensors.get("w")!, 1, back)
      expect(back).toEqual(exact.slice(1))
    }
  })

  test("offsets beyond 2^32 are exact", () => {
    const [begin, end] = [5 * 2 ** 30, 5 * 2 ** 30 + 4]
    const header = JSON.stringify({
      a: { dtype: "U8", shape: [5, 2 ** 30], data_offsets: [0, begin] },
      b: { dtype: "F32", shape: [1], data_offsets: [begin, end] },
    })
    const head = Buffer.concat([Buffer.alloc(8), Buffer.from(header)])
    head.writeBigUInt64LE(BigInt(header.length))
    writeFileSync(path, head)
    truncateSync(path, head.length + end) // sparse: takes no space
    const last = new Uint8Array(1)
    readSafetensors(path).tensors.get("b")!.read(last, 3)
    expect(last[0]).toBe(0)
    rmSync(path)
  })

  test("every rule of the header is checked, naming file and tensor", () => {
    const write = (header: unknown, data: number, declared?: number) => {
      const text = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header))
      const bytes = new Uint8Array(8 + text.length + data)
      new DataView(bytes.buffer).setBigUint64(0, BigInt(declared ?? text.length), true)
      bytes.set(text, 8)
      writeFileSync(path, bytes)
      return messageOf(() => readSafetensors(path))
    }
    const one = (fields: object, data = 4) => write({ t: { dtype: "F32", shape: [1], data_offsets: [0, 4], ...fields } }, data)
    const cases: [string, string][] = [
      [write("{ ", 0), "the header is not JSON"],
      [write("[]", 0), "the header is not a JSON object"],
      [write("{}", 0, 9), "the header needs 17 bytes, the file has 10 (truncated?)"],
      [write("{}", 0, 2 ** 52), "the header length 4503599627370496 is not between"],
      [write("{}", 3), "3 bytes after the last tensor"],
      [write({ __metadata__: { a: 1 } }, 0), "__metadata__ a is not text"],
      [write({ t: 3 }, 0), "tensor t: not an object"],
      [one({ dtype: "F33" }), 'tensor t: unknown dtype "F33"'],
      [one({ dtype: "toString" }), 'tensor t: unknown dtype "toString"'],
      [one({ shape: [-1] }), "tensor t: bad shape [-1]"],
      [one({ shape: [2 ** 40, 2 ** 40] }), "tensor t: bad shape"],
      [one({ shape: "1" }), "tensor t: bad shape"],
      [one({ data_offsets: [0] }), "tensor t: bad data_offsets [0]"],
      [one({ data_offsets: [4, 0] }), "tensor t: bytes 4 to 0 lie outside"],
      [one({ data_offsets: [0, 8] }), "tensor t: bytes 0 to 8 lie outside the 4 bytes of data (truncated?)"],
      [one({ shape: [2] }), "tensor t: shape (2) of F32 needs 8 bytes, its offsets give 4"],
      [one({ data_offsets: [4, 8] }, 8), "tensor t: starts at byte 4, leaving a gap after byte 0"],
      [
        write({ a: { dtype: "F32", shape: [2], data_offsets: [0, 8] }, t: { dtype: "F32", shape: [2], data_offsets: [4, 12] } }, 12),
        "tensor t: starts at byte 4, inside another tensor",
      ],
    ]
    for (const [message, words] of cases) {
      expect(message).toContain(words)
      expect(message).toContain(path)
    }
    writeFileSync(path, "short")
    expect(messageOf(() => readSafetensors(path))).toContain("5 bytes, shorter than the 8-byte header length")
    expect(messageOf(() => readSafetensors(join(work, "none")))).toContain("does not exist")
    expect(messageOf(() => writeSafetensors(path, [floats("a", [1]), floats("a", [1])]))).toContain("two tensors are named a")
    expect(messageOf(() => writeSafetensors(path, [{ ...floats("a", [1]), shape: [2] }]))).toContain(
      "tensor a has 4 bytes, shape (2) of F32 needs 8",
    )
    expect(messageOf(() => writeSafetensors("/dev/full", [floats("a", [1])]))).toContain("no space left on the device")
  })
})

describe("checkpoint directories", () => {
  test("what was saved comes back, and the same content gives the same bytes", () => {
    const [a, b] = [join(work, "same-a"), join(work, "same-b")]
    const bytes = saveCheckpoint(a, content(3))
    saveCheckpoint(b, content(3))
    expect(readdirSync(a).sort()).toEqual([
      "config.json",
      "generation_config.json",
      "model.safetensors",
      "model.safetensors.index.json",
      "tokenizer.json",
      "tokenizer_config.json",
      "trainer.json",
      "trainer.safetensors",
    ])
    for (const name of readdirSync(a)) expect(readFileSync(join(a, name)).equals(readFileSync(join(b, name)))).toBe(true)
    expect(verifyCheckpoint(a).length).toBe(7)
    expect(bytes).toBeGreaterThan(4 * specs.reduce((n, spec) => n + spec.shape.reduce((x, d) => x * d, 1), 0))
    const { state, tensors } = loadTrainer(a)
    expect(state).toEqual({ step: 3, best: 1.25, rng: [4294967295, 0], note: "é" })
    expect([...tensors.get("skipped")!.data()]).toEqual([3, 1, 2])
    expect([...new Float32Array(tensors.get("m.wte.weight")!.data().buffer)]).toEqual([3, 0.5])
    expect(readCheckpointFile(a, "tokenizer.json")).toBe(tokenizerJson)
    expect(readChatTemplate(a)).toBe("{{ messages }}")
    expect(JSON.parse(readFileSync(join(a, "tokenizer_config.json"), "utf8")).eos_token).toBe("<|endoftext|>")
  })

  test("a failed save leaves the old checkpoint and nothing else", () => {
    const dir = join(mkdtempSync(join(work, "failed-")), "step-000001")
    saveCheckpoint(dir, content(1))
    const failing = (name: string): Float32Array => {
      if (name === "norm.weight") throw new AlphaError("no such buffer")
      return weightsOf(2)(name)
    }
    expect(messageOf(() => saveCheckpoint(dir, { ...content(2), weights: failing }))).toBe("no such buffer")
    const unwritable = { ...content(2), trainer: { tensors: [], state: { best: Number.POSITIVE_INFINITY } } }
    expect(messageOf(() => saveCheckpoint(dir, unwritable))).toContain("trainer.json: best is Infinity")
    expect(readdirSync(join(dir, ".."))).toEqual(["step-000001"])
    expect(loadTrainer(dir).state.step).toBe(1)
    saveCheckpoint(dir, content(2))
    expect(readdirSync(join(dir, ".."))).toEqual(["step-000001"])
    expect(loadTrainer(dir).state.step).toBe(2)
  })

  test("a directory that no trainer wrote has no list to check and nothing to resume", () => {
    const dir = join(FIXTURES, "gpt2")
    expect(verifyCheckpoint(dir)).toEqual([])
    expect(messageOf(() => loadTrainer(dir))).toContain("so there is no run to resume")
    expect(messageOf(() => readConfig(join(FIXTURES, "..")))).toContain("no config.json")
    expect(readCheckpointFile(dir, "tokenizer.json")).toBeUndefined()
    const old = join(work, "template")
    mkdirSync(old)
    writeFileSync(
      join(old, "tokenizer_config.json"),
      JSON.stringify({
        chat_template: [
          { name: "tool_use", template: "x" },
          { name: "default", template: "y" },
        ],
      }),
    )
    expect(readChatTemplate(old)).toBe("y")
  })

  test("missing, truncated, altered and unlisted files are refused by name", () => {
    const good = join(work, "good")
    saveCheckpoint(good, content(5))
    const broken = (change: (dir: string) => void): string => {
      const dir = mkdtempSync(join(work, "broken-"))
      cpSync(good, dir, { recursive: true })
      change(dir)
      return messageOf(() => verifyCheckpoint(dir)).replace(`${dir}/`, "")
    }
    expect(broken((dir) => rmSync(join(dir, "trainer.json")))).toBe("trainer.json is missing")
    expect(broken((dir) => rmSync(join(dir, "tokenizer.json")))).toBe("tokenizer.json is missing")
    expect(broken((dir) => truncateSync(join(dir, "model.safetensors"), 1000))).toMatch(
      /^model.safetensors has 1000 bytes, \d+ were written \(truncated\)$/,
    )
    expect(broken((dir) => truncateSync(join(dir, "trainer.json"), 500))).toBe("trainer.json does not end with its checksum (truncated?)")
    expect(broken((dir) => flip(join(dir, "trainer.json"), 40))).toBe("trainer.json was altered: its checksum does not match")
    expect(broken((dir) => flip(join(dir, "trainer.safetensors"), 300))).toContain("trainer.safetensors was altered")
    // Weights that were swapped for shards are not taken on trust.
    const shards = broken((dir) => {
      rmSync(join(dir, "model.safetensors"))
      for (const name of readdirSync(join(FIXTURES, "gpt2-shards-bf16")))
        if (name.startsWith("model")) cpSync(join(FIXTURES, "gpt2-shards-bf16", name), join(dir, name))
    })
    expect(shards).toBe("model.safetensors is missing")
  })
})

/** Flips one bit. */
function flip(path: string, bit: number): void {
  const bytes = readFileSync(path)
  bytes[bit >> 3]! ^= 1 << (bit & 7)
  writeFileSync(path, bytes)
}

describe("fuzz", () => {
  test("200 damaged checkpoints (seed 20): each is refused by the name of the damaged file", async () => {
    const { refused } = await fuzzCheckpoints(200, 20, join(work, "fuzz-own"))
    expect(refused).toBeGreaterThan(170)
  }, 300_000)

  test("200 damaged foreign directories (seed 21): an error that names a file, or the right weights; never a crash", async () => {
    const { refused } = await fuzzModels(200, 21, work)
    expect(refused).toBeGreaterThan(100)
  }, 300_000)
})

describe("the checkpoints of a run", () => {
  const runWith = (...steps: number[]): string => {
    const run = mkdtempSync(join(work, "run-"))
    for (const step of steps) {
      mkdirSync(checkpointPath(run, step), { recursive: true })
      writeFileSync(join(checkpointPath(run, step), "config.json"), `${step}`)
    }
    return run
  }
  const steps = (run: string) => listCheckpoints(run).map(({ step }) => step)

  test("they are listed by step, and links are replaced in one step", () => {
    const run = runWith(1000000, 20, 100)
    expect(checkpointPath("runs/a", 500)).toBe("runs/a/checkpoints/step-000500")
    expect(steps(run)).toEqual([20, 100, 1000000])
    expect(listCheckpoints(join(work, "none"))).toEqual([])
    expect(messageOf(() => modelDirectory(run))).toContain("the run has no checkpoint yet")
    expect(messageOf(() => modelDirectory(join(work, "none")))).toContain("no such directory")
    setLink(run, "last", checkpointPath(run, 20))
    expect(modelDirectory(run)).toBe(checkpointPath(run, 20))
    setLink(run, "last", checkpointPath(run, 1000000))
    setLink(run, "best", checkpointPath(run, 100))
    expect(readlinkSync(join(run, "last"))).toBe("checkpoints/step-1000000")
    expect(readFileSync(join(modelDirectory(run), "config.json"), "utf8")).toBe("100")
    expect(modelDirectory(join(run, "last"))).toBe(checkpointPath(run, 1000000)) // the link may move while the files are read
    expect(readdirSync(run).sort()).toEqual(["best", "checkpoints", "last"])
  })

  test("the last K, every Nth, best and last are kept", () => {
    const run = runWith(10, 20, 30, 40, 50, 60, 70)
    setLink(run, "best", checkpointPath(run, 10))
    setLink(run, "last", checkpointPath(run, 70))
    expect(retain(run, { keepLast: 2, keepEvery: 40 })).toEqual([20, 30, 50].map((step) => checkpointPath(run, step)))
    expect(steps(run)).toEqual([10, 40, 60, 70])
    retain(run, { keepLast: 0 })
    expect(steps(run)).toEqual([10, 70])
  })

  test("what a kill leaves is cleared, and a checkpoint moved aside comes back", () => {
    const run = runWith(10, 20, 30)
    const parent = join(run, "checkpoints")
    mkdirSync(join(parent, ".step-000040.77.tmp"))
    renameSync(join(parent, "step-000020"), join(parent, ".step-000020.replaced")) // killed between the two renames
    cpSync(join(parent, "step-000030"), join(parent, ".step-000030.replaced"), { recursive: true }) // killed after them
    renameSync(join(parent, "step-000010"), join(parent, ".step-000010.deleted")) // killed while deleting
    mkdirSync(join(parent, "notes"))
    recoverCheckpoints(run)
    expect(readdirSync(parent).sort()).toEqual(["notes", "step-000020", "step-000030"])
    expect(readFileSync(join(parent, "step-000020/config.json"), "utf8")).toBe("20")
  })

  test("6 kill -9 while saving (seed 20): a checkpoint at every step that was reported, each whole", async () => {
    await killSavers(6, 20, work)
  }, 300_000)
})
