/** The compiled loop: status ranking, baselines of the same device only, exit codes, retries, the check, and rows without hosts or absolute paths. */
import { describe, expect, test } from "bun:test"
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs"
import { hostname, tmpdir } from "node:os"
import { join } from "node:path"
import { readCsv } from "../src/bench-csv.ts"
import { bestOf, checkLoop, LOOP_HISTORY, loopExit, speedup, statusOf } from "../src/bench-loop.ts"
import { heritageLoop } from "../src/config.ts"
import { smokeTest } from "../src/train-smoke.ts"
import { PROGRAM } from "./support.ts"

describe("what a loop makes of its runs", () => {
  test("the smoke test decides first, then the exit code, then numbers that are none", () => {
    expect(statusOf("gpu:0 computes add wrongly: out.y is 3 × what its tolerance allows", 0)).toBe("smoke_fail")
    expect(statusOf("gpu:0 computes add wrongly: out.y is 3 × what its tolerance allows", 4)).toBe("smoke_fail")
    expect(statusOf('{"type":"step","loss":null}', 1)).toBe("failed")
    expect(statusOf('{"type":"step","loss":null}', 0)).toBe("unstable")
    expect(statusOf("step 3 skipped: gradient norm NaN", 0)).toBe("unstable")
    expect(statusOf('{"type":"summary","loss":4.1}', 0)).toBe("ok")
    expect(smokeTest.toString()).toContain("computes") // the words that are looked for
  })

  test("ok > unstable > smoke_fail > failed, then the faster", () => {
    const [failed, smoke, unstable, slow, fast] = [
      { status: "failed", rate: 9 },
      { status: "smoke_fail", rate: 9 },
      { status: "unstable", rate: 9 },
      { status: "ok", rate: 1 },
      { status: "ok", rate: 2 },
    ] as const
    expect(bestOf([failed, smoke])).toBe(smoke)
    expect(bestOf([unstable, failed, smoke])).toBe(unstable)
    expect(bestOf([fast, slow, unstable])).toBe(fast)
  })

  test("the exit code is 0 only for ok, or for a smoke failure that was allowed", () => {
    expect(["ok", "unstable", "smoke_fail", "failed", "compile_failed"].map((status) => loopExit(status as "ok", true))).toEqual([
      0, 1, 1, 1, 1,
    ])
    expect(loopExit("smoke_fail", false)).toBe(0)
    expect(loopExit("failed", false)).toBe(1)
  })

  test("the baseline is the median of the last five ok rows of the same device and settings", () => {
    const row = (avg_tok_s: number, device = "H200", status = "ok", settings = "a") => ({
      avg_tok_s: String(avg_tok_s),
      device,
      status,
      settings,
    })
    const rows = [
      row(1),
      ...[100, 110, 90, 105, 95].map((x) => row(x)),
      row(5000, "L4"),
      row(5000, "H200", "unstable"),
      row(7, "H200", "ok", "b"),
    ]
    expect(speedup(110, rows, { device: "H200", settings: "a", window: 5 })).toBeCloseTo(10, 9)
    expect(speedup(110, rows, { device: "A100", settings: "a", window: 5 })).toBeUndefined()
  })

  test("the check wants an ok loop of this tree whose prompts ran", () => {
    const row = { tree_sha256: "t", status: "ok", prompts: "3" }
    expect(checkLoop([row], "t")).toBeUndefined()
    expect(checkLoop([], "t")).toBe("no loop has run")
    expect(checkLoop([row], "other")).toContain("the sources changed")
    expect(checkLoop([row, { ...row, status: "failed" }], "t")).toContain("ended failed")
    expect(checkLoop([{ ...row, prompts: "2" }], "t")).toContain("2 of 3 prompts")
  })

  test("the heritage's variables set fields", () => {
    expect(heritageLoop({ BACKEND: "cpu_ref", GRAD_CLIP: "0", LR: "", OTHER: "x", FAIL_ON_SMOKE_TEST: "0" })).toEqual({
      device: "cpu_ref",
      gradClip: "none",
      failOnSmokeTest: "0",
    })
  })
})

describe("alpha bench loop with a program that does what it is told", () => {
  const folder = mkdtempSync(join(tmpdir(), "loop-"))
  mkdirSync(join(folder, "src"))
  writeFileSync(join(folder, "src/a.ts"), "one")
  // The first run has this exit code and these words, later ones are good.
  writeFileSync(
    join(folder, "program.ts"),
    `import { existsSync, writeFileSync } from "node:fs"
const [command, ...flags] = process.argv.slice(2)
if (command === "infer") { if (!existsSync("mute")) console.log("{}") }
else {
  const step = (step: number, rate: number) => console.log(JSON.stringify({ type: "step", step, loss: 4, tokens_per_s: rate }))
  console.log(JSON.stringify({ type: "start", device: "NVIDIA H200, 139 GiB, NVIDIA 580.1, portable kernels" }))
  step(1, 100)
  step(25, 2000)
  step(50, 2100)
  if (existsSync("smoke")) { console.error("gpu:0 computes add wrongly: out.y is 9 × what its tolerance allows"); if (flags.includes("--failOnSmokeTest=true")) process.exit(4) }
  if (existsSync("fail-once") && !existsSync("failed")) { writeFileSync("failed", ""); process.exit(1) }
  console.log(JSON.stringify({ type: "summary", tokens_per_s: 2050, ms_per_step: 1, loss: 4 }))
}
`,
  )
  const binary = join(folder, "program")
  writeFileSync(binary, `#!/bin/sh\nexec '${process.execPath}' '${join(folder, "program.ts")}' "$@"\n`)
  chmodSync(binary, 0o755)
  const history = join(folder, "perf/compiled-loop-history.csv")

  function loop(args: readonly string[], variables: Record<string, string> = {}) {
    const command = [...PROGRAM, "bench", "loop", "--binary=program", ...args]
    const { exitCode, stderr } = Bun.spawnSync(command, { cwd: folder, env: { ...process.env, ...variables } })
    return { exitCode, stderr: stderr.toString(), rows: readCsv(history) }
  }
  const words = (...names: string[]) => {
    for (const name of ["smoke", "mute", "fail-once"]) Bun.spawnSync(["rm", "-f", name, "failed"], { cwd: folder })
    for (const name of names) writeFileSync(join(folder, name), "")
  }

  test("an ok loop has a row by the heritage's columns and ours, and the check passes until a source changes", () => {
    const { exitCode, rows } = loop(["--steps=50"])
    expect(exitCode).toBe(0)
    expect(Object.keys(rows[0]!)).toEqual([...LOOP_HISTORY])
    expect(Object.keys(rows[0]!).slice(0, 12).join()).toBe(
      "timestamp,git_commit,steps,backend,compile_ms,run_ms,avg_tok_s,last_tok_s,speedup_pct,run_dir,log_file,status",
    )
    expect(rows[0]).toMatchObject({
      steps: "50",
      avg_tok_s: "2050",
      last_tok_s: "2100",
      status: "ok",
      device: "H200",
      driver: "580.1",
      prompts: "3",
    })
    expect(rows[0]).toMatchObject({ samples: "100 2000 2100", interval: "2000..2100", loss: "4" })
    const text = readFileSync(history, "utf8") + readFileSync(join(folder, "perf/last-benchmark.env"), "utf8")
    for (const secret of [folder, hostname()]) expect(text).not.toContain(secret)
    expect(text).toContain("STATUS=ok\n")
    expect(loop(["--check"]).exitCode).toBe(0)
    writeFileSync(join(folder, "src/a.ts"), "two")
    expect(loop(["--check"])).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("the sources changed since the last loop") })
  })

  test("a run that fails is repeated, and the best counts", () => {
    words("fail-once")
    const { exitCode, stderr, rows } = loop(["--steps=50"])
    expect(exitCode).toBe(0)
    expect(stderr).toMatch(/: failed\n.*: ok\n/)
    expect(rows).toHaveLength(2)
    expect(rows[1]).toMatchObject({ status: "ok", speedup_pct: "0.00" })
  })

  test("a smoke failure exits 1, and 0 only with FAIL_ON_SMOKE_TEST=0", () => {
    words("smoke")
    expect(loop(["--runRetries=0"]).exitCode).toBe(1)
    const { exitCode, rows } = loop(["--runRetries=0"], { FAIL_ON_SMOKE_TEST: "0" })
    expect(exitCode).toBe(0)
    expect(rows.slice(-2).map(({ status }) => status)).toEqual(["smoke_fail", "smoke_fail"])
    expect(loop(["--check"])).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("ended smoke_fail") })
  })

  test("a checkpoint that answers nothing makes the loop fail", () => {
    words("mute")
    expect(loop(["--runRetries=0"])).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("only 0 of 3 prompts") })
  })
})
