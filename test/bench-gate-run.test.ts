/** The gate from end to end with real processes: exit codes, refusals, thresholds that are stored, and the program itself on both sides. */
import { describe, expect, setDefaultTimeout, test } from "bun:test"
import { chmodSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { appendCsv } from "../src/bench-csv.ts"
import { GATE_EXIT, type Verdict } from "../src/bench-gate.ts"
import { deviceClass } from "../src/bench-history.ts"
import { PROGRAM } from "./support.ts"

setDefaultTimeout(600_000)
const folder = mkdtempSync(join(tmpdir(), "gate-"))

/** A program that tells `work` times ten milliseconds, read from no clock; before, it is busy for so many seconds of its processor's time. */
writeFileSync(
  join(folder, "program.ts"),
  `const [work, busy, loss, dispatches, command, what] = process.argv.slice(2)
const tell = (object: unknown) => console.log(JSON.stringify(object))
const spent = () => (({ user, system }) => (user + system) / 1e6)(process.cpuUsage())
if (command === "bench" && what === "counters") tell([{ name: "dispatches", samples: [Number(dispatches)] }])
else if (command === "train") {
  while (spent() < Number(busy)) {}
  const ms = 10 * Number(work)
  tell({ type: "start", device: "Test Processor, 1 threads, base" })
  tell({ type: "summary", tokens_per_s: 1000 / ms, ms_per_step: ms, loss: Number(loss) })
}
`,
)

/** An executable named `name` that runs `command` with its own arguments behind. */
function executable(name: string, ...command: string[]): string {
  const path = join(folder, name)
  writeFileSync(path, `#!/bin/sh\nexec ${command.map((word) => `'${word}'`).join(" ")} "$@"\n`)
  chmodSync(path, 0o755)
  return path
}
const program = (name: string, work: number, { loss = "4.17", dispatches = 83, busy = 0 } = {}) =>
  executable(name, process.execPath, join(folder, "program.ts"), ...[work, busy, loss, dispatches].map(String))

const [plain, same, twice] = [program("plain", 1), program("same", 1), program("twice", 2)]

/** Runs `alpha bench gate` on the folder's programs. */
function gate(...args: string[]) {
  const command = [...PROGRAM, "bench", "gate", ...args, "--steps=2", "--blocks=2", "--maxBlocks=2", "--json"]
  const { stdout, stderr, exitCode } = Bun.spawnSync(command, { cwd: folder })
  const out = stdout.toString()
  return { report: out.startsWith("{") || out.startsWith("[") ? JSON.parse(out) : undefined, stderr: stderr.toString(), exitCode }
}

describe("alpha bench gate", () => {
  test("twice the work is a regression, said with every sample and confirmed", () => {
    const { report, exitCode, stderr } = gate(plain, twice, "--threshold=0.2")
    expect([exitCode, stderr]).toEqual([3, ""])
    expect(report.verdict).toBe("regression")
    expect(report.rows[0]).toMatchObject({ verdict: "regression", first: { says: "slower" }, second: { says: "slower" } })
    for (const { A, B } of report.rows[0].raw) expect([A.length, B.length]).toEqual([4, 4])
  })

  test("so it is by the processor time of the whole process", () => {
    const { report, exitCode } = gate(plain, program("busy", 1, { busy: 0.6 }), "--case=cpu", "--threshold=0.1")
    expect([exitCode, report.rows[0].metric]).toEqual([3, "cpu cpu-small f32 ms of 2 steps"])
    for (const { B } of report.rows[0].raw) expect(Math.min(...B)).toBeGreaterThanOrEqual(600)
  })

  test("the same work is no alarm", () => {
    const { report, exitCode } = gate(plain, same, "--threshold=0.9")
    expect(exitCode).toBe(0)
    expect(report).toMatchObject({ verdict: "ok", counters: [{ counter: "dispatches", verdict: "ok" }] })
  })

  test("another loss is refused, whatever the speed", () => {
    const { exitCode, stderr } = gate(plain, program("other", 1, { loss: "4.18" }), "--threshold=0.2")
    expect(exitCode).toBe(1)
    expect(stderr).toContain("the builds compute different losses: A 4.17, B 4.18")
  })

  test("one dispatch more is a regression without any statistics, unless it is allowed", () => {
    const more = program("more", 1, { dispatches: 84 })
    expect(gate(plain, more, "--threshold=0.9").exitCode).toBe(3)
    expect(gate(plain, more, "--threshold=0.9", "--allow=dispatches").exitCode).toBe(0)
  })

  test("a build against itself teaches the threshold", () => {
    const { device } = deviceClass("Test Processor, 1 threads, base")
    const row = { device, metric: "train cpu-small f32 ms/step", low: -0.01, high: 0.02 }
    appendCsv(join(folder, "noise.csv"), Object.keys(row), [row, row, row, row])
    const { report, exitCode } = gate(plain, "--learn=1", "--noise=noise.csv")
    expect(exitCode).toBe(0)
    expect(report).toMatchObject([{ device, runs: 5 }])
    expect(report[0].threshold).toBeGreaterThanOrEqual(Math.expm1(0.02) - 1e-9)
    expect(readFileSync(join(folder, "noise.csv"), "utf8").trim().split("\n")).toHaveLength(6)
  })

  test("what is no build is named", () => {
    expect(gate("nothing", plain)).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining("A nothing is neither a file nor a commit"),
    })
    expect(gate()).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("no build is given") })
    const odd = gate(plain, same, "--case=trian")
    expect(odd.stderr).toContain("--case trian: expected train, cpu, infer, startup")
  })
})

test("the program itself on both sides: equal losses, equal counters, an exit code that is the verdict's", () => {
  const self = executable("self", ...PROGRAM)
  const { report, exitCode, stderr } = gate(self, self, "--batch=1", "--threads=1", "--device=cpu", "--threshold=0.9")
  expect([exitCode, stderr]).toEqual([GATE_EXIT[report.verdict as Verdict], ""])
  expect(report.counters.length).toBeGreaterThan(5)
  expect(report.counters.every(({ verdict }: { verdict: string }) => verdict === "ok")).toBe(true)
})

test("the program itself with another seed is refused: its loss is another", () => {
  const self = executable("itself", ...PROGRAM)
  const seeded = join(folder, "seeded")
  writeFileSync(seeded, `#!/bin/sh\n[ "$1" = train ] && set -- "$@" --seed=2\nexec '${self}' "$@"\n`)
  chmodSync(seeded, 0o755)
  const { exitCode, stderr } = gate(self, seeded, "--batch=1", "--threads=1", "--device=cpu")
  expect(exitCode).toBe(1)
  expect(stderr).toMatch(/the builds compute different losses: A [\d.]+, B [\d.]+/)
})
