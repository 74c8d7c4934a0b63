/** `alpha doctor` as a program: facts, the op table at every instruction set level, golden runs, exit codes. */
import { afterAll, describe, expect, test } from "bun:test"
import { copyFileSync, cpSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { EXIT } from "../src/base-error.ts"
import { displayWidth } from "../src/base-term.ts"
import { openCpu } from "../src/cpu.ts"
import { ops, variants } from "../src/op.ts"
import { PROGRAM } from "./support.ts"

openCpu(2) // builds the library where it is out of date, before the clock of the first test starts

const directory = mkdtempSync(join(tmpdir(), "alpha-doctor-"))
afterAll(() => rmSync(directory, { recursive: true, force: true }))

const golden = join(import.meta.dir, "fixtures/golden-forms/qwen3")

function doctor(args: readonly string[], environment: Record<string, string> = {}) {
  const { PATH = "", HOME = "" } = process.env
  const command = [...PROGRAM, "doctor", ...args]
  const { stdout, stderr, exitCode } = Bun.spawnSync(command, { cwd: directory, env: { PATH, HOME, ...environment } })
  return { stdout: stdout.toString(), stderr: stderr.toString(), exitCode }
}

interface Report {
  ok: boolean
  machine: { isa: string; best_isa: string; amx: boolean; cores: number; memory_bytes: number; glibc: string | null }
  devices: {
    device: string
    speed: { read_bytes_per_s: number; f32_flops: number; bf16_flops: number }
    ops: { op: string; cases: number; worst: number; error: string | null; ok: boolean }[]
  }[]
}

// Narrower vectors take other paths through the kernels; a level above the processor's best changes nothing.
for (const isa of ["v4", "v3", "base"]) {
  test(`every operation is right with kernels of level ${isa} or the processor's best below it`, () => {
    const { stdout, exitCode } = doctor(["--json"], { ALPHA_ISA: isa })
    const report = JSON.parse(stdout) as Report
    const [cpu] = report.devices as [Report["devices"][number]]
    expect(cpu.ops.filter(({ ok }) => !ok)).toEqual([])
    expect([exitCode, report.ok]).toEqual([EXIT.ok, true])
    expect(cpu.ops.map(({ op }) => op)).toEqual(ops.map(({ name }) => name))
    expect(cpu.ops.map(({ cases }) => cases)).toEqual(ops.map((op) => variants(op).length))
    const levels = ["base", "v3", "v4"]
    expect(levels.indexOf(report.machine.isa)).toBe(Math.min(levels.indexOf(isa), levels.indexOf(report.machine.best_isa)))
    expect(report.machine.amx && isa !== "v4").toBe(false)
    expect(report.machine.cores).toBeGreaterThan(0)
    expect(report.machine.memory_bytes).toBeGreaterThan(2 ** 27)
    for (const speed of Object.values(cpu.speed)) expect(speed).toBeGreaterThan(0)
  }, 300_000)
}

describe("golden runs", () => {
  test("a table within 100 columns and a verdict", () => {
    const { stdout, exitCode } = doctor([`--golden=${golden}`, "--device=cpu"])
    expect(exitCode).toBe(EXIT.ok)
    const lines = stdout.trim().split("\n")
    expect(lines.filter((line) => displayWidth(line) > 100 && !line.includes(golden))).toEqual([])
    expect(stdout).toContain("model.layers.1.self_attn.q_norm.weight")
    expect(stdout).toMatch(/^4 losses, worst at step \d +\S+ +1\.0e-5$/m)
    expect(lines.at(-1)).toStartWith("right: all 53 distances are within their limits")
  })

  test("every distance with its limit as JSON; final weights are not judged in bf16", () => {
    const run = join(import.meta.dir, "fixtures/golden/gpt2")
    const rows = (precision: string) => {
      const { stdout, exitCode } = doctor([`--golden=${run}`, `--precision=${precision}`, "--json"])
      expect(exitCode).toBe(EXIT.ok)
      return (JSON.parse(stdout) as { rows: { kind: string; far: number; limit?: number; ok: boolean }[] }).rows
    }
    const count = (list: { kind: string }[]) =>
      Object.fromEntries(
        Map.groupBy(list, ({ kind }) => kind)
          .entries()
          .map(([kind, some]) => [kind, some.length]),
      )
    const expected = { logits: 1, gradient: 28, keyGradient: 2, loss: 40, weight: 28, keyWeight: 2 }
    const [f32, bf16] = [rows("f32"), rows("bf16")]
    expect(count(f32)).toEqual(expected)
    expect(count(bf16)).toEqual(expected)
    expect(f32.every(({ limit }) => limit !== undefined)).toBe(true)
    expect(count(bf16.filter(({ limit }) => limit === undefined))).toEqual({ weight: 28, keyWeight: 2 })
  })

  test("another model's run is beyond the limits: exit code 1, and the table says where", () => {
    const other = join(directory, "other")
    cpSync(golden, other, { recursive: true })
    copyFileSync(join(golden, "final.safetensors"), join(other, "model/model.safetensors")) // weights after training instead of before
    const { stdout, exitCode } = doctor([`--golden=${other}`, "--device=cpu"])
    expect(exitCode).toBe(EXIT.failure)
    expect(stdout).toMatch(/^logits +WRONG /m)
    expect(stdout).toMatch(/^WRONG: \d+ of 53 distances are beyond their limits: logits logits, gradient model.embed_tokens.weight,/m)
  })

  test("a directory that is none, and a device that is not there", () => {
    expect(doctor(["--golden=nowhere"])).toMatchObject({
      exitCode: EXIT.data,
      stderr: expect.stringContaining("cannot read nowhere/golden.json: does not exist"),
    })
    expect(doctor(["--device=gpu:7"])).toMatchObject({ exitCode: EXIT.device, stderr: expect.stringContaining("gpu:7") })
  })
})
