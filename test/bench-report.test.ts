/** The README's table is that of the history; the page draws all of it; the tuner finds what is planted. */
import { describe, expect, test } from "bun:test"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { normal } from "../src/base-random.ts"
import { parseCsv, readCsv } from "../src/bench-csv.ts"
import { HISTORY, readmeTable, withTable } from "../src/bench-history.ts"
import { reportPage } from "../src/bench-report.ts"
import { candidates, halve, isSameLoss, knobsOf, type Settings, type Trial } from "../src/bench-tune.ts"
import { settingsText } from "../src/bench-tune-run.ts"
import { heritageTune } from "../src/config.ts"
import { keepTuned, type Tuned, tunedDevice, tunedProgram } from "../src/engine.ts"
import { until } from "./support.ts"

const root = join(import.meta.dir, "..")
const history = readCsv(join(root, "perf/history.csv"))

describe("the history", () => {
  test("has every column, a known device and a number in every row", () => {
    expect(parseCsv(readFileSync(join(root, "perf/history.csv"), "utf8"))[0]).toEqual([...HISTORY])
    for (const row of history) {
      expect(row.date).toMatch(/^\d{4}-\d\d-\d\d$/)
      expect(Number(row.value)).toBeGreaterThan(0)
      expect([row.what, row.device, row.unit, row.command].every((cell) => cell !== "")).toBe(true)
      if (row.ratio !== "") expect(Number(row.beside_value)).toBeGreaterThan(0)
    }
  })

  test("is the README's table (alpha bench report --readme renews it)", () => {
    const readme = readFileSync(join(root, "README.md"), "utf8")
    expect(withTable(readme, history)).toBe(readme)
    expect(withTable("no marks", history)).toBeUndefined()
  })

  test("the newest row of each measurement stands in the table, ~ where no difference is shown", () => {
    const row = {
      date: "2026-01-01",
      commit: "abc",
      device: "H200",
      what: "train x",
      value: "1000",
      unit: "tokens/s",
      ratio: "",
      beside: "",
    }
    const newer = { ...row, value: "2000", beside: "PyTorch", beside_value: "2010", ratio: "0.995", ratio_low: "0.9", ratio_high: "1.1" }
    const table = readmeTable([row, { ...row, device: "L4" }, { ...row, what: "ops linear" }, newer])
    expect(table.split("\n").slice(2)).toEqual([
      "| H200 | train x | 2,000 tokens/s | PyTorch: 2,010 | ~ 0.99 | 2026-01-01, `abc` |",
      "| L4 | train x | 1,000 tokens/s |  |  | 2026-01-01, `abc` |",
    ])
  })

  test("what a newer row measures under another name is left out", () => {
    const row = (what: string, device = "H200") => ({ date: "2026-01-01", commit: "abc", device, what, value: "1", unit: "x", ratio: "" })
    const shown = (...rows: Record<string, string>[]) =>
      readmeTable(rows)
        .split("\n")
        .slice(2)
        .map((line) => line.split(" | ")[1])
    const old = [row("decode gpt2-124m batch 64 bf16 khr"), row("gemm nt 4096×4096×4096 bf16")]
    expect(shown(...old, row("infer other bf16 tg128"), row("gemm 64×64×64 f32", "L4"))).toHaveLength(4)
    expect(shown(...old, row("infer gpt2-124m bf16 tg128"), row("gemm 4096×4096×4096 bf16"))).toEqual([
      "infer gpt2-124m bf16 tg128",
      "gemm 4096×4096×4096 bf16",
    ])
  })

  test("becomes a page with a chart for every measurement, nothing loaded from elsewhere", () => {
    const loop = {
      status: "ok",
      device: "H200",
      settings: "100x2x64",
      avg_tok_s: "5",
      interval: "4..6",
      timestamp: "now",
      git_commit: "<b>",
    }
    const page = reportPage(history, [loop, { ...loop, status: "failed" }])
    const kinds = new Set(history.map(({ device, what }) => `${device} ${what}`)).size
    expect(page.match(/<svg /g)).toHaveLength(kinds + 1)
    expect(page).toContain("&#60;b&#62;: 5 tokens/s")
    expect(page).not.toMatch(/https?:|NaN|Infinity|undefined/)
  })
})

/** `alpha train` takes the entry by itself, says so, and leaves it where it is told to, overridden or stale. */
function trainsAsTuned(folder: string, file: string, found: Tuned): void {
  writeFileSync(join(folder, "text.txt"), "the ship and the sea and the whale ".repeat(100))
  const entry = { ...found, settings: { callbackYieldEvery: 25 } }
  let run = 0
  const train = (...flags: string[]) => {
    const small = [
      "--nLayer=1",
      "--nEmbd=8",
      "--nHead=1",
      "--context=8",
      "--tokenizer=char",
      "--evalInterval=none",
      "--sampleInterval=none",
    ]
    const args = ["train", "--preset=cpu-small", "--batch=1", "--data=text.txt", "--device=cpu", "--steps=1", `--run=r${run++}`, ...small]
    const { stdout, stderr } = Bun.spawnSync([process.execPath, "--no-env-file", join(root, "src/cli.ts"), ...args, ...flags], {
      cwd: folder,
      env: { ...process.env, XDG_CACHE_HOME: join(folder, "cache") },
    })
    return stderr.toString() + stdout.toString()
  }
  keepTuned(file, entry)
  expect(JSON.parse(readFileSync(file, "utf8"))).toHaveLength(1)
  expect(train()).toMatch(/tuned: callbackYieldEvery=25 \(alpha bench tune, .* % faster; --no-tuned leaves them out\)/)
  expect(train("--print-config")).toMatch(/callbackYieldEvery +25 +.*alpha bench tune/)
  for (const flag of ["--no-tuned", "--callbackYieldEvery=2", "--batch=2"]) expect(train(flag)).not.toContain("tuned:")
  keepTuned(file, { ...entry, program: "0.0.0 abc" })
  expect(train()).toContain(`are not used: found with alpha 0.0.0 abc, this is ${tunedProgram()} (alpha bench tune cpu-small renews them)`)
  keepTuned(file, { ...entry, driver: "another" })
  expect(train("--print-config")).not.toMatch(/callbackYieldEvery +25/)
  for (const damaged of ["[damaged", "[null, 1]"]) {
    writeFileSync(file, damaged)
    expect(train("--print-config")).toMatch(/^ +callbackYieldEvery +1 +default$/m)
  }
}

describe("the tuner", () => {
  const knobs = knobsOf("gpu", 8)

  test("tries the usual settings first, then each knob alone, then draws, none twice", () => {
    const all = candidates(knobs, 60, 1)
    expect(all[0]).toEqual({})
    expect(new Set(all.map((one) => JSON.stringify(one))).size).toBe(60)
    expect(candidates(knobs, 60, 1)).toEqual(all)
    expect(candidates(knobsOf("cpu", 1), 10_000, 1).length).toBeLessThan(20)
    expect(knobsOf("cpu", 2).find(({ column }) => column === "threads")?.values).toEqual([undefined, "1", "4"])
  })

  test("finds a planted best through noise, and keeps nothing that fails or computes something else", async () => {
    let n = 0
    const run = async (settings: Settings, steps: number): Promise<Trial> => {
      const isBest = settings.ALPHA_ADAPTIVE_SYNC_MIN_INTERVAL === "4" ? 1.2 : 1
      const broken = settings.ALPHA_ADAPTIVE_SYNC_DEFERRED_THRESHOLD === "3"
      const other = settings.ALPHA_ADAPTIVE_MEM_STATS_POLL_EVERY === "8"
      const rate = 1000 * isBest * (broken || other ? 5 : 1) * (1 + (0.2 / Math.sqrt(steps)) * normal(3, 1, 0, n++))
      return { settings, steps, status: broken ? "failed" : other ? "other_loss" : "ok", rate, loss: 4 }
    }
    const { trials, last } = await halve(candidates(knobs, 20, 1), 100, run)
    expect(last[0]!.settings.ALPHA_ADAPTIVE_SYNC_MIN_INTERVAL).toBe("4")
    expect(last.every(({ status }) => status === "ok")).toBe(true)
    expect(last.some(({ settings }) => settingsText(settings) === "as usual")).toBe(true)
    expect(new Set(trials.map(({ steps }) => steps))).toEqual(new Set([8, 13, 25, 50, 100]))
    const none = await halve(candidates(knobs, 4, 1), 8, async (settings, steps) => ({
      settings,
      steps,
      status: "failed",
      rate: 0,
      loss: null,
    }))
    expect(none.last).toEqual([])
  })

  test("runtime knobs may not change a bit of the loss, other kernels a little", () => {
    expect(isSameLoss(4.0000001, 4, { ALPHA_CALLBACK_YIELD_EVERY: "4" }, knobs, 0.01)).toBe(false)
    expect(isSameLoss(4.01, 4, { HELIOS_MATRIX: "khr" }, knobs, 0.01)).toBe(true)
    expect(isSameLoss(4.1, 4, { HELIOS_MATRIX: "khr" }, knobs, 0.01)).toBe(false)
    expect(isSameLoss(null, 4, {}, knobs, 0.01)).toBe(false)
  })

  test("a signal takes the trial and its directory along", async () => {
    const folder = mkdtempSync(join(tmpdir(), "alpha-tune-"))
    const words = ["bench", "tune", "cpu-small", "--device=cpu", "--batch=1", "--steps=1000000", "--iterations=1"]
    const child = Bun.spawn([process.execPath, "--no-env-file", join(root, "src/cli.ts"), ...words], {
      ...{ cwd: folder, stdout: "ignore", stderr: "ignore" },
      env: { ...process.env, TMPDIR: folder, XDG_CACHE_HOME: folder },
    })
    const trials = () => [...new Bun.Glob("alpha-bench-*/tune/lock").scanSync({ cwd: folder, dot: true })]
    await until("a trial", () => trials().length > 0)
    const { pid } = JSON.parse(readFileSync(join(folder, trials()[0] as string), "utf8")) as { pid: number }
    child.kill("SIGTERM")
    await child.exited
    expect(child.signalCode).toBe("SIGTERM")
    await until("its end", () => !existsSync(`/proc/${pid}`) || /State:\s+Z/.test(readFileSync(`/proc/${pid}/status`, "utf8")))
    expect(new Bun.Glob("alpha-bench-*").scanSync({ cwd: folder, onlyFiles: false }).next().done).toBeTrue()
    rmSync(folder, { recursive: true })
  }, 300_000)

  test("alpha bench tune writes its trials and the winner, and fails where nothing is ok", () => {
    const folder = mkdtempSync(join(tmpdir(), "tune-"))
    const tune = (env: Record<string, string>) =>
      Bun.spawnSync(
        [
          process.execPath,
          "--no-env-file",
          join(root, "src/cli.ts"),
          "bench",
          "tune",
          "--device=cpu",
          "--steps=8",
          "--batch=1",
          "--iterations=2",
        ],
        { cwd: folder, env: { ...process.env, XDG_CACHE_HOME: join(folder, "cache"), ...env } },
      )
    const { stdout, exitCode } = tune({})
    expect(exitCode).toBe(0)
    const file = join(folder, "cache/alpha/tuned.json")
    expect(stdout.toString()).toContain(`${file}: alpha train --preset=cpu-small takes `)
    const [entry, ...others] = JSON.parse(readFileSync(file, "utf8")) as Tuned[]
    expect(others).toEqual([])
    expect(entry).toMatchObject({ preset: "cpu-small", precision: "f32", batch: 1, ...tunedDevice("cpu"), program: tunedProgram() })
    trainsAsTuned(folder, file, entry as Tuned)
    const files = readdirSync(join(folder, "perf")).sort()
    expect(files.map((file) => file.replace(/\d+-\d+/, "TIME"))).toEqual(["best-adaptive-env-TIME.env", "tune-adaptive-env-TIME.csv"])
    const rows = readCsv(join(folder, "perf", files[1]!))
    expect(rows.map(({ status }) => status)).toEqual(["ok", "ok"])
    expect(rows[0]).toMatchObject({ iter: "1", yield_every: "", speedup_pct: "0.00", steps: "8" })
    expect(readFileSync(join(folder, "perf", files[0]!), "utf8")).toContain("# cpu-small f32 on cpu: ")
    // A width that 7 heads cannot share makes every training fail.
    expect(tune({ ALPHA_N_HEAD: "7" }).exitCode).toBe(1)
    expect(tune({ ALPHA_N_HEAD: "7", TUNE_REQUIRE_OK: "0" }).exitCode).toBe(0)
    expect(heritageTune({ TUNE_REQUIRE_OK: "0" })).toEqual({ requireOk: "0" })
  }, 300_000)
})
