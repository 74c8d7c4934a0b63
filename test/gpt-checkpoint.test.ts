import { afterAll, describe, expect, test } from "bun:test"
import {
  cpSync,
  existsSync,
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
import { fillNormal, randomBits } from "../src/base-random.ts"
import { resolveModel } from "../src/config.ts"
import {
  type CheckpointContent,
  loadTrainer,
  loadWeights,
  readChatTemplate,
  readCheckpointFile,
  readConfig,
  saveCheckpoint,
  verifyCheckpoint,
} from "../src/gpt-checkpoint.ts"
import { floatBytes, readFloats } from "../src/gpt-convert.ts"
import { checkpointPath, listCheckpoints, modelDirectory, recoverCheckpoints, retain, setLink } from "../src/gpt-keep.ts"
import { paramSpecs } from "../src/gpt-params.ts"
import { type NamedTensor, readSafetensors, writeSafetensors } from "../src/gpt-safetensors.ts"

const FIXTURES = join(import.meta.dir, "fixtures/hf")
const SOAK = process.env.ALPHA_SOAK === "1"
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

const model = resolveModel({ vocabSize: 31, blockSize: 8, nLayer: 2, nHead: 2, nEmbd: 8 })
const specs = paramSpecs(model)
const tokenizerJson = readFileSync(join(FIXTURES, "gpt2-bpe/tokenizer.json"), "utf8")

/** Parameters of a run with this seed. */
function weightsOf(seed: number): (name: string) => Float32Array {
  return (name) => {
    const index = specs.findIndex((spec) => spec.name === name)
    const values = new Float32Array(specs[index]!.shape.reduce((n, d) => n * d, 1))
    const { init } = specs[index]!
    if ("std" in init) fillNormal(values, seed, index, init.std)
    else values.fill(init.constant)
    return values
  }
}
const floats = (name: string, values: number[]): NamedTensor => ({
  name,
  shape: [values.length],
  dtype: "F32",
  data: () => new Uint8Array(Float32Array.from(values).buffer),
})
const content = (seed: number): CheckpointContent => ({
  model,
  ids: { bos: 0, eos: 0 },
  tokenizerJson,
  chatTemplate: "{{ messages }}",
  weights: weightsOf(seed),
  trainer: {
    tensors: [{ name: "skipped", shape: [3], dtype: "U8", data: () => Uint8Array.of(seed, 1, 2) }, floats("m.wte.weight", [seed, 0.5])],
    state: { step: seed, best: 1.25, rng: [4294967295, 0], note: "é" },
  },
})

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

/** A whole number below n, the i-th of a stream. */
const pick = (n: number, stream: number, i: number): number => randomBits(20, stream, 0, i) % n

/** Loads everything a run or an inference would. */
function loadAll(dir: string): Map<string, Float32Array> {
  const params = new Map<string, Float32Array>()
  loadWeights(dir, readConfig(dir).model, (name, shape) => {
    const values = new Float32Array(shape.reduce((n, d) => n * d, 1))
    params.set(name, values)
    return values
  })
  return params
}

describe("fuzz", () => {
  const count = SOAK ? 1000 : 150

  test(`${count} damaged checkpoints (seed 20): each is refused by the name of the damaged file`, () => {
    const dir = join(work, "fuzz-own")
    saveCheckpoint(dir, content(9))
    const names = readdirSync(dir).sort()
    for (let i = 0; i < count; i++) {
      const name = names[pick(names.length, 1, i)]!
      const path = join(dir, name)
      const whole = readFileSync(path)
      const kind = pick(4, 2, i)
      const at = pick(whole.length, 3, i)
      if (kind === 0) truncateSync(path, at)
      else if (kind === 1) writeFileSync(path, Buffer.concat([whole.subarray(0, at), Buffer.of(pick(256, 4, i)), whole.subarray(at)]))
      else if (kind === 2) writeFileSync(path, Buffer.concat([whole.subarray(0, at), whole.subarray(at + 1 + pick(9, 4, i))]))
      else flip(path, at * 8 + pick(8, 4, i))
      const message = messageOf(() => verifyCheckpoint(dir))
      if (!message.startsWith(path)) throw new Error(`damage ${i} (kind ${kind} at byte ${at} of ${name}): ${message}`)
      writeFileSync(path, whole)
    }
    expect(verifyCheckpoint(dir).length).toBe(names.length - 1)
    console.log(`${count} damaged checkpoints, all refused`)
  }, 120_000)

  test(`${count} damaged foreign directories (seed 20): an error that names a file, or weights of the right shapes; never a crash`, () => {
    let refused = 0
    const sources = ["gpt2", "gpt2-shards-bf16", "llama-f16", "llama-shards", "qwen3-bf16"]
    const dirs = sources.map((name) => {
      const dir = join(work, `fuzz-${name}`)
      cpSync(join(FIXTURES, name), dir, { recursive: true })
      return { dir, shapes: [...loadAll(dir)].map(([param, values]) => [param, values.length]) }
    })
    for (let i = 0; i < count; i++) {
      const { dir, shapes } = dirs[pick(dirs.length, 5, i)]!
      const names = readdirSync(dir)
        .filter((name) => name !== "expected.json")
        .sort()
      const path = join(dir, names[pick(names.length, 6, i)]!)
      const whole = readFileSync(path)
      // Damage in the header or text, where structure lies: the values behind it carry no checksum.
      const isWeights = path.endsWith(".safetensors")
      const end = isWeights ? 8 + Number(whole.readBigUInt64LE(0)) : whole.length
      const at = pick(end, 7, i)
      const kind = pick(3, 8, i)
      if (kind === 0) truncateSync(path, pick(whole.length, 9, i))
      else if (kind === 1) flip(path, at * 8 + pick(8, 9, i))
      else writeFileSync(path, Buffer.concat([whole.subarray(0, at), Buffer.from(String(pick(10, 9, i))), whole.subarray(at + 1)]))
      const error = errorOf(() => {
        const found = loadAll(dir)
        const isAsDeclared = paramSpecs(readConfig(dir).model).every(
          ({ name, shape }) => found.get(name)?.length === shape.reduce((n, d) => n * d, 1),
        )
        if (!isAsDeclared) throw new Error(`damage ${i}: weights of other shapes than config.json says`)
        // A header that still holds together must not have moved values into parameters of other sizes.
        if (isWeights) expect([...found].map(([param, values]) => [param, values.length])).toEqual(shapes)
      })
      if (error !== undefined) {
        refused++
        if (!error.message.includes(dir)) throw new Error(`damage ${i} to ${path}: the error names no file: ${error.message}`)
      }
      writeFileSync(path, whole)
    }
    for (const { dir } of dirs) expect(errorOf(() => loadAll(dir))).toBeUndefined()
    expect(refused).toBeGreaterThan(count / 4)
    console.log(`${count} damaged directories: ${refused} refused, the others still a whole model`)
  }, 120_000)
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

  const kills = SOAK ? 200 : 6
  test(`${kills} kill -9 while saving (seed 20): a checkpoint at every step that was reported, each whole`, async () => {
    const run = mkdtempSync(join(work, "kill-"))
    const script = join(work, "saver.ts")
    const imports = `import { saveCheckpoint } from ${JSON.stringify(join(import.meta.dir, "../src/gpt-checkpoint.ts"))}
      import { checkpointPath } from ${JSON.stringify(join(import.meta.dir, "../src/gpt-keep.ts"))}
      import { resolveModel } from ${JSON.stringify(join(import.meta.dir, "../src/config.ts"))}`
    writeFileSync(
      script,
      `${imports}
      const model = resolveModel({ vocabSize: 31, blockSize: 8, nLayer: 2, nHead: 2, nEmbd: 8 })
      for (let step = 1; ; step++) {
        // Every second save replaces an existing checkpoint with other content.
        saveCheckpoint(checkpointPath(process.argv[2], step >> 1), { model, weights: (name) => sized(name), trainer: { tensors: [], state: { step } } })
        process.stdout.write("saved " + (step >> 1) + "\\n")
      }
      function sized(name) {
        const C = 8
        const sizes = { "wte.weight": 31 * C, "wpe.weight": 8 * C }
        return new Float32Array(sizes[name] ?? (/qkv/.test(name) ? 3 * C * C : /mlp\\.(up|down)/.test(name) ? 4 * C * C : /proj/.test(name) ? C * C : C))
      }`,
    )
    for (let i = 0; i < kills; i++) {
      rmSync(join(run, "checkpoints"), { recursive: true, force: true })
      const child = Bun.spawn([process.execPath, script, run], { stdout: "pipe", stderr: "inherit" })
      let reported = ""
      let deadline: Timer | undefined
      for await (const chunk of child.stdout) {
        reported += new TextDecoder().decode(chunk)
        deadline ??= setTimeout(() => child.kill("SIGKILL"), pick(120, 10, i))
      }
      clearTimeout(deadline)
      await child.exited
      recoverCheckpoints(run)
      const expected = new Set(reported.match(/\d+(?=\n)/g)?.map(Number))
      expect(expected.size).toBeGreaterThan(0)
      for (const step of expected) expect(existsSync(checkpointPath(run, step))).toBe(true)
      for (const { dir } of listCheckpoints(run)) expect(verifyCheckpoint(dir).length).toBe(5)
    }
    console.log(`${kills} kills, every checkpoint whole`)
  }, 300_000)
})
