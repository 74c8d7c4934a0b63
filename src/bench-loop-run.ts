/** The compiled loop: builds the program, trains the benchmark model with the binary, asks its last checkpoint three prompts, keeps a row. */
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs"
import { join, relative, resolve } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { sha256, sha256File, writeAtomic } from "./base-file.ts"
import { appendCsv, readCsv } from "./bench-csv.ts"
import { bunCommand } from "./bench-gate-build.ts"
import { commitOf, deviceClass } from "./bench-history.ts"
import {
  type Attempt,
  bestOf,
  checkLoop,
  LOOP_HISTORY,
  type LoopRow,
  type LoopStatus,
  loopEnv,
  loopExit,
  PROMPTS,
  speedup,
  statusOf,
} from "./bench-loop.ts"
import { type Ran, runCommand } from "./bench-process.ts"
import { medianInterval } from "./bench-stats.ts"
import { readTrained } from "./bench-train.ts"
import type { BenchLoopConfig } from "./config.ts"

type Tell = (note: string) => void

/** What the binary is made of, below the working directory. */
function sources(): string[] {
  const inside = ["src", "shaders", "native"].flatMap((folder) =>
    existsSync(folder) ? readdirSync(folder).map((name) => join(folder, name)) : [],
  )
  const beside = readdirSync(".").filter((name) => /^build.*\.ts$|^package-lock\.json$/.test(name))
  return [...inside, ...beside].filter((path) => statSync(path).isFile()).sort()
}

/** One hash over names and contents of all sources. */
export const treeHash = (): string =>
  sha256(
    sources()
      .map((path) => `${path} ${sha256(readFileSync(path))}\n`)
      .join(""),
  )

interface Built {
  readonly binary: string
  readonly ms: number
}

/** The binary: the given one, the one there is where it is newer than all sources, else a new one. Undefined where it cannot be built. */
async function build(config: BenchLoopConfig, tell: Tell): Promise<Built | undefined> {
  if (config.binary !== undefined) return { binary: resolve(config.binary), ms: 0 }
  if (!existsSync("build.ts")) {
    throw new AlphaError("bench loop: there is no build.ts here", {
      hint: "run it in a checkout, or give --binary=alpha",
      code: EXIT.usage,
    })
  }
  const binary = resolve("alpha")
  const newest = Math.max(...sources().map((path) => statSync(path).mtimeMs))
  if (config.skipCompileIfFresh && existsSync(binary) && statSync(binary).mtimeMs > newest) {
    tell("the binary is newer than every source")
    return { binary, ms: 0 }
  }
  const { command, env } = bunCommand()
  for (let i = 0; i <= config.compileRetries; i++) {
    tell(i === 0 ? "building" : "building again")
    const { code, ms, stdout, stderr } = await runCommand([...command, "build.ts"], { env, limitMs: config.compileTimeout * 1000 })
    if (code === 0) return { binary, ms }
    tell(`${stdout}${stderr}`.trim().split("\n").slice(-8).join("\n"))
  }
  return undefined
}

interface Training extends Attempt {
  readonly ran: Ran
  readonly directory: string
  readonly log: string
}

async function trainAttempt(config: BenchLoopConfig, binary: string, name: string): Promise<Training> {
  const { data, tokenizerArtifacts, device, precision, batch, context, nLayer, nEmbd, nHead, logInterval, lr, gradClip, steps } = config
  const settings = { data, tokenizerArtifacts, device, precision, batch, context, nLayer, nEmbd, nHead, logInterval, lr, steps }
  const flags = [
    ...Object.entries(settings).map(([field, value]) => `--${field}=${value}`),
    ...(existsSync(tokenizerArtifacts) ? [] : ["--vocabSize=2000"]),
    ...[`--gradClip=${gradClip ?? "none"}`, "--evalInterval=none", "--sampleInterval=none", `--checkpointInterval=${steps}`],
    ...[`--runsDir=${config.runsDir}`, `--run=${name}`, `--failOnSmokeTest=${config.failOnSmokeTest}`, "--json"],
  ]
  const ran = await runCommand([binary, "train", ...flags])
  const log = join(config.runsDir, `${name}.log`)
  mkdirSync(config.runsDir, { recursive: true })
  const text = `${ran.stdout}${ran.stderr}`
  writeFileSync(log, text)
  const status = statusOf(text, ran.code)
  return { ran, directory: join(config.runsDir, name), log, status, rate: readTrained(ran).tokensPerS || 0 }
}

/** How many of the prompts the run's last checkpoint answers. */
async function ask({ device, precision }: BenchLoopConfig, binary: string, model: string): Promise<number> {
  let answered = 0
  for (const prompt of PROMPTS) {
    const flags = [
      `--model=${model}`,
      `--prompt=${prompt}`,
      "--maxTokens=16",
      "--temperature=0",
      `--device=${device}`,
      `--precision=${precision}`,
    ]
    const { code, stdout } = await runCommand([binary, "infer", ...flags, "--json"])
    if (code === 0 && stdout.trim() !== "") answered++
  }
  return answered
}

export interface LoopReport {
  readonly row: LoopRow
  readonly code: number
}

/** One loop from beginning to end; its row is in the history, and its exit code says whether the tree is good. */
export async function runLoop(config: BenchLoopConfig, tell: Tell): Promise<LoopReport> {
  const history = join(config.perfDir, "compiled-loop-history.csv")
  const timestamp = new Date().toISOString().replace(/\.\d+Z$/, "Z")
  const built = await build(config, tell)
  const attempts: Training[] = []
  for (let i = 0; built !== undefined && i <= config.runRetries && attempts.at(-1)?.status !== "ok"; i++) {
    const name = `compiled-loop-${timestamp.replace(/[-:Z]/g, "").replace("T", "-")}${i === 0 ? "" : `-${i + 1}`}`
    attempts.push(await trainAttempt(config, built.binary, name))
    tell(`run ${attempts.at(-1)?.directory}: ${attempts.at(-1)?.status}`)
  }
  const best = attempts.length === 0 ? undefined : bestOf(attempts)
  const trained = best === undefined ? undefined : readTrained(best.ran)
  const prompts = built === undefined || best?.ran.code !== 0 ? 0 : await ask(config, built.binary, best.directory)
  let status: LoopStatus = best?.status ?? "compile_failed"
  if (status === "ok" && prompts < PROMPTS.length) {
    tell(`only ${prompts} of ${PROMPTS.length} prompts were answered`)
    status = "failed"
  }
  const rates = (best?.ran.lines ?? []).flatMap((line) =>
    line.type === "step" && typeof line.tokens_per_s === "number" ? [line.tokens_per_s] : [],
  )
  const { device, driver } = deviceClass(trained?.device ?? "")
  const settings = settingsOf(config)
  const rate = best?.rate ?? 0
  const percent = rate > 0 ? speedup(rate, readCsv(history), { device, settings, window: config.baselineWindow }) : undefined
  const whole = (x: number | undefined) => (x === undefined || !Number.isFinite(x) ? "" : String(Math.round(x)))
  const interval = rates.length < 2 ? undefined : medianInterval(rates.slice(1))
  const row: LoopRow = {
    ...{ timestamp, git_commit: commitOf(), steps: String(config.steps), backend: config.device },
    ...{
      compile_ms: whole(built?.ms ?? 0),
      run_ms: whole(best?.ran.ms ?? 0),
      avg_tok_s: whole(rate),
      last_tok_s: whole(rates.at(-1) ?? 0),
    },
    ...{ speedup_pct: percent === undefined ? "" : percent.toFixed(2), status },
    ...{ run_dir: here(best?.directory), log_file: here(best?.log) },
    ...{ loss: trained?.loss === undefined || trained.loss === null ? "" : String(trained.loss), samples: rates.map(whole).join(" ") },
    ...{ interval: interval === undefined ? "" : `${whole(interval.low)}..${whole(interval.high)}`, device, driver },
    ...{
      clocks: whole(trained?.smMhz),
      binary_sha256: built === undefined || !existsSync(built.binary) ? "" : await sha256File(built.binary),
    },
    ...{ tree_sha256: treeHash(), settings, prompts: String(prompts) },
  }
  appendCsv(history, LOOP_HISTORY, [row])
  writeAtomic(join(config.perfDir, "last-benchmark.env"), loopEnv(row, config))
  return { row, code: loopExit(status, config.failOnSmokeTest) }
}

/** A path below the working directory; others, as in tests, by their last two names. */
function here(path: string | undefined): string {
  if (path === undefined) return ""
  const short = relative(".", path)
  return short.startsWith("..") ? short.split("/").slice(-2).join("/") : short
}

/** Everything that speed depends on beside device and build. */
const settingsOf = ({ steps, precision, batch, context, nLayer, nEmbd, nHead, lr, gradClip }: BenchLoopConfig): string =>
  `${steps}x${batch}x${context} ${nLayer}x${nEmbd}x${nHead} ${precision} lr ${lr} clip ${gradClip ?? "none"}`

/** `--check`: why the last loop does not speak for this tree; undefined where it does. */
export const checkTree = ({ perfDir }: BenchLoopConfig): string | undefined =>
  checkLoop(readCsv(join(perfDir, "compiled-loop-history.csv")), treeHash())
