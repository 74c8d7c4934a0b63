/** What the compiled loop makes of its runs: status, the best attempt, speed against the baseline, rows and the check. */
import type { CsvRow } from "./bench-csv.ts"
import { median } from "./bench-stats.ts"

export type LoopStatus = "ok" | "unstable" | "smoke_fail" | "failed" | "compile_failed"

/** The worst first. */
const RANK: readonly LoopStatus[] = ["compile_failed", "failed", "smoke_fail", "unstable", "ok"]

/** Columns of perf/compiled-loop-history.csv: the heritage's, then ours. */
export const LOOP_HISTORY = [
  ...["timestamp", "git_commit", "steps", "backend", "compile_ms", "run_ms", "avg_tok_s", "last_tok_s", "speedup_pct"],
  ...["run_dir", "log_file", "status"],
  ...["loss", "samples", "interval", "device", "driver", "clocks", "binary_sha256", "tree_sha256", "settings", "prompts"],
] as const
export type LoopRow = Readonly<Record<(typeof LOOP_HISTORY)[number], string>>

/** What the trainer says when a device fails the known sums (train-smoke.ts). */
const SMOKE = / computes \w+ wrongly: /
const NOT_A_NUMBER = /"loss":null|gradient norm (?:NaN|-?Infinity)|\bNaN\b/

/** Status of a training process by its log and exit code; the smoke test decides first. */
export function statusOf(log: string, code: number): LoopStatus {
  if (SMOKE.test(log)) return "smoke_fail"
  if (code !== 0) return "failed"
  return NOT_A_NUMBER.test(log) ? "unstable" : "ok"
}

export interface Attempt {
  readonly status: LoopStatus
  /** tokens/s; 0 where it has none. */
  readonly rate: number
}

/** Status first, then speed. */
export function bestOf<A extends Attempt>(attempts: readonly A[]): A {
  const better = (a: A, b: A) => RANK.indexOf(a.status) - RANK.indexOf(b.status) || a.rate - b.rate
  return attempts.toSorted(better).at(-1) as A
}

/** Percent above the median of the newest ok rows of the same device and settings; undefined where there is none: other hardware is no yardstick. */
export function speedup(
  rate: number,
  rows: readonly CsvRow[],
  { device, settings, window }: { device: string; settings: string; window: number },
) {
  const same = rows.filter((row) => row.status === "ok" && row.device === device && row.settings === settings)
  if (same.length === 0) return undefined
  return 100 * (rate / median(same.slice(-window).map((row) => Number(row.avg_tok_s))) - 1)
}

/** Exit code of a loop. */
export const loopExit = (status: LoopStatus, failOnSmokeTest: boolean): number =>
  status === "ok" || (status === "smoke_fail" && !failOnSmokeTest) ? 0 : 1

/** How many prompts the loop's last checkpoint answers. */
export const PROMPTS = ["The whale", "Call me", "It was"] as const

/** Why the last loop does not speak for this tree of files; undefined where it does. */
export function checkLoop(rows: readonly CsvRow[], tree: string): string | undefined {
  const last = rows.findLast((row) => row.tree_sha256 === tree)
  if (last === undefined) return rows.length === 0 ? "no loop has run" : "the sources changed since the last loop"
  if (last.status !== "ok") return `the last loop of this tree ended ${last.status}`
  return Number(last.prompts) === PROMPTS.length ? undefined : `the last loop answered ${last.prompts || 0} of ${PROMPTS.length} prompts`
}

/** perf/last-benchmark.env: the heritage's names. */
export function loopEnv(row: LoopRow, { lr, gradClip }: { readonly lr: number; readonly gradClip: number | undefined }): string {
  const values: Readonly<Record<string, string | number>> = {
    TIMESTAMP: row.timestamp,
    GIT_COMMIT: row.git_commit,
    STEPS: row.steps,
    BACKEND: row.backend,
    COMPILE_MS: row.compile_ms,
    RUN_MS: row.run_ms,
    AVG_TOK_S: row.avg_tok_s,
    LAST_TOK_S: row.last_tok_s,
    SPEEDUP_PCT: row.speedup_pct,
    RUN_DIR: row.run_dir,
    RUN_LOG: row.log_file,
    LR: lr,
    GRAD_CLIP: gradClip ?? 0,
    STATUS: row.status,
    DEVICE: row.device,
    LOSS: row.loss,
    PROMPTS: row.prompts,
    TREE_SHA256: row.tree_sha256,
  }
  const quote = (value: string) => (/^[\w.:+/-]*$/.test(value) ? value : `'${value.replaceAll("'", "'\\''")}'`)
  return Object.entries(values)
    .map(([name, value]) => `${name}=${quote(String(value))}\n`)
    .join("")
}
