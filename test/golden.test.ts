/** Training runs recorded with PyTorch and transformers, replayed on the CPU and in the f64 reference. */
import { afterAll, describe, expect, test } from "bun:test"
import { cpSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { openCpu } from "../src/cpu.ts"
import { deviceMachine, type GoldenRow, isWithin, type Machine, replayGolden } from "../src/engine-golden.ts"
import { referenceMachine } from "./golden-reference.ts"
import { shared } from "./support.ts"

const fixture = (name: string) => join(import.meta.dir, "fixtures", name)

const cpu = openCpu(2) // builds the library where it is out of date, before the clock of the first test starts

/** Replays and lists what is beyond its limit: "gradient model.norm.weight 2e-3 > 1e-5". */
function beyond(directory: string, precision: "f32" | "bf16", machine: Machine): string[] {
  const rows = replayGolden(directory, precision, machine)
  expect(rows.filter(({ kind }) => kind === "logits").length).toBe(1)
  expect(rows.filter(({ kind }) => kind === "gradient").length).toBeGreaterThan(10)
  return rows.filter((row) => !isWithin(row)).map(({ kind, name, far, limit }) => `${kind} ${name} ${far} > ${limit}`)
}

function onCpu(directory: string, precision: "f32" | "bf16"): string[] {
  const machine = deviceMachine(cpu)
  try {
    return beyond(directory, precision, machine)
  } finally {
    machine.close()
  }
}

for (const name of ["golden/gpt2", "golden/llama"]) {
  test(`${name}: f64 reference`, () => expect(beyond(fixture(name), "f32", referenceMachine())).toEqual([]))
  test(`${name}: CPU f32`, () => expect(onCpu(fixture(name), "f32")).toEqual([]))
  test(`${name}: CPU bf16`, () => expect(onCpu(fixture(name), "bf16")).toEqual([]))
}

// Untied heads and exact GELU; a head size that is not nEmbd / nHead under scaled RoPE; QK-norm. No bf16 yardstick is recorded for them.
for (const name of ["golden-forms/gpt2-untied", "golden-forms/llama-rope-scaled", "golden-forms/qwen3"]) {
  test(`${name}: f64 reference`, () => expect(beyond(fixture(name), "f32", referenceMachine())).toEqual([]))
  test(`${name}: CPU f32`, () => expect(onCpu(fixture(name), "f32")).toEqual([]))
}

// The reference takes a minute for each of these: npm run soak -- golden.
for (const name of ["golden/gpt2", "golden/llama"]) {
  const directory = shared(name)
  const run = directory === undefined ? test.skip : test
  for (const precision of ["f32", "bf16"] as const) {
    const why = directory === undefined ? " (not there: the folder shared beside the checkout)" : ""
    run(`shared ${name}: CPU ${precision}${why}`, () => expect(onCpu(directory as string, precision)).toEqual([]))
  }
}

describe("a golden directory that is wrong is refused by the name of the file", () => {
  const directory = mkdtempSync(join(tmpdir(), "alpha-golden-"))
  afterAll(() => rmSync(directory, { recursive: true, force: true }))
  const at = (name: string) => join(directory, name)
  const replay = (precision: "f32" | "bf16" = "f32") => replayGolden(directory, precision, referenceMachine())

  /** Damages a fresh copy and replays it. */
  function damaged(damage: () => void, precision: "f32" | "bf16" = "f32"): () => GoldenRow[] {
    rmSync(directory, { recursive: true, force: true })
    cpSync(fixture("golden-forms/qwen3"), directory, { recursive: true })
    damage()
    return () => replay(precision)
  }
  const remove = (name: string) => () => rmSync(at(name), { recursive: true })
  const edit = (change: (json: { steps: { lr: unknown }[]; optimizer: { name: string }; args: { context: number } }) => void) => () => {
    const json = JSON.parse(readFileSync(at("golden.json"), "utf8"))
    change(json)
    writeFileSync(at("golden.json"), JSON.stringify(json))
  }

  test("missing files", () => {
    for (const name of ["golden.json", "batches.bin", "logits0.safetensors", "grads0.safetensors", "final.safetensors"]) {
      expect(damaged(remove(name))).toThrow(at(name))
    }
    expect(damaged(remove("model/config.json"))).toThrow(`${at("model")}: no config.json`)
    expect(damaged(remove("model/model.safetensors"))).toThrow(`${at("model")}: no model.safetensors`)
  })

  test("damaged and contradicting files", () => {
    expect(damaged(() => truncateSync(at("grads0.safetensors"), 5000))).toThrow(at("grads0.safetensors"))
    expect(damaged(() => truncateSync(at("batches.bin"), 100))).toThrow(`${at("batches.bin")}: 100 bytes, golden.json needs 800`)
    expect(damaged(() => writeFileSync(at("golden.json"), "{"))).toThrow(at("golden.json"))
    expect(damaged(edit((json) => (json.steps[2]!.lr = "1e-3")))).toThrow(`${at("golden.json")}: steps.2.lr is "1e-3", not a number`)
    expect(damaged(edit((json) => (json.optimizer.name = "adam")))).toThrow('optimizer.name "adam": only "adamw" is replayed')
    expect(damaged(edit((json) => (json.args.context = 12)))).toThrow("batches.bin: 800 bytes, golden.json needs 416")
    expect(damaged(() => cpSync(at("grads0.safetensors"), at("logits0.safetensors")))).toThrow(
      /logits0.safetensors: tensor \S+ is none of the model's/,
    )
    expect(damaged(() => cpSync(fixture("golden/llama/final.safetensors"), at("final.safetensors")))).toThrow(
      /final.safetensors: tensor \S+ (is missing|has shape)/,
    )
    const outside = () => writeFileSync(at("batches.bin"), Buffer.from(new Int32Array(200).fill(24).buffer))
    expect(damaged(outside)).toThrow(`${at("batches.bin")}: token 24 at index 0 is outside the vocabulary of 24`)
    expect(damaged(() => {}, "bf16")).toThrow('golden.json: has no "bf16"')
  })
})
