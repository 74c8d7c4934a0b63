/** The checkpoints of a run: where they lie, the best and last links, which are kept. */

import { existsSync, lstatSync, readdirSync, readlinkSync, renameSync, rmSync, symlinkSync } from "node:fs"
import { basename, dirname, isAbsolute, join, relative } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { fsyncPath, temporaryName, withFile } from "./base-file.ts"
import { REPLACED } from "./gpt-checkpoint.ts"

const STEP = /^step-(\d+)$/

/** runs/RUN/checkpoints/step-000500 */
export const checkpointPath = (runDir: string, step: number): string => join(runDir, "checkpoints", `step-${String(step).padStart(6, "0")}`)

/** The checkpoints of a run, oldest first. */
export function listCheckpoints(runDir: string): { step: number; dir: string }[] {
  const parent = join(runDir, "checkpoints")
  if (!existsSync(parent)) return []
  return withFile("read", parent, () => readdirSync(parent))
    .flatMap((name) => {
      const step = STEP.exec(name)
      return step === null ? [] : [{ step: Number(step[1]), dir: join(parent, name) }]
    })
    .sort((a, b) => a.step - b.step)
}

/** `path`, or that of the run with this name. */
export const modelPath = (path: string, runsDir: string): string =>
  !existsSync(path) && !path.includes("/") && existsSync(join(runsDir, path)) ? join(runsDir, path) : path

/**
 * The model directory that a path means: of a run its best checkpoint, or its last while no evaluation has run; else the path itself.
 * With `runsDir` a bare name may be that of a run there. Links are followed here, once: a trainer may move them between two reads, and
 * the weights of one checkpoint would be compared with the checksums of another.
 */
export function modelDirectory(path: string, runsDir?: string): string {
  const names = ["best", "last"] as const
  if (runsDir !== undefined) return modelDirectory(modelPath(path, runsDir))
  if (!existsSync(path))
    throw new AlphaError(`${path}: no such directory`, {
      hint: "give a run, a checkpoint or a Hugging Face model directory",
      code: EXIT.data,
    })
  if (!existsSync(join(path, "checkpoints"))) return followed(path)
  const found = names.find((name) => existsSync(join(path, name)))
  if (found === undefined)
    throw new AlphaError(`${path}: the run has no checkpoint yet`, { hint: "wait for its first checkpoint", code: EXIT.data })
  return followed(join(path, found))
}

/** The directory behind a best or last link. */
function followed(path: string): string {
  const link = path.replace(/\/+$/, "")
  if (!["best", "last"].includes(basename(link)) || !lstatSync(link).isSymbolicLink()) return path
  const target = readlinkSync(link)
  return isAbsolute(target) ? target : join(dirname(link), target)
}

/** Points `best` or `last` of a run at a checkpoint directory, replacing the link in one step. */
export function setLink(runDir: string, name: "best" | "last", target: string): void {
  const path = join(runDir, name)
  const temporary = temporaryName(path)
  withFile("link", path, () => {
    rmSync(temporary, { force: true })
    symlinkSync(relative(runDir, target), temporary)
    renameSync(temporary, path)
  })
  fsyncPath(runDir)
}

/**
 * Deletes the checkpoints that are not among the last `keepLast`, not at a multiple of `keepEvery` steps, and not what `best` or `last`
 * points at. A checkpoint disappears in one step (renamed first), so a kill leaves no half of one. Returns the deleted directories.
 */
export function retain(runDir: string, { keepLast, keepEvery }: { keepLast: number; keepEvery?: number | undefined }): string[] {
  const all = listCheckpoints(runDir)
  const linked = ["best", "last"].map((name) => linkTarget(join(runDir, name)))
  const kept = new Set(all.slice(Math.max(0, all.length - keepLast)).map(({ step }) => step))
  const doomed = all.filter(
    ({ step, dir }) => !kept.has(step) && !(keepEvery !== undefined && step % keepEvery === 0) && !linked.includes(basename(dir)),
  )
  for (const { dir } of doomed) {
    const gone = join(dirname(dir), `.${basename(dir)}.deleted`)
    withFile("delete", dir, () => {
      rmSync(gone, { recursive: true, force: true })
      renameSync(dir, gone)
      rmSync(gone, { recursive: true, force: true })
    })
  }
  return doomed.map(({ dir }) => dir)
}

function linkTarget(path: string): string | undefined {
  return lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() ? basename(readlinkSync(path)) : undefined
}

/**
 * Clears what a killed trainer left in `checkpoints`: unfinished writes and deletions go, a checkpoint that was moved aside for a replacement
 * that never arrived comes back. For the one process that holds the run's lock.
 */
export function recoverCheckpoints(runDir: string): void {
  const parent = join(runDir, "checkpoints")
  if (!existsSync(parent)) return
  for (const name of withFile("read", parent, () => readdirSync(parent))) {
    const path = join(parent, name)
    const replaced = name.startsWith(".") && name.endsWith(REPLACED) ? join(parent, name.slice(1, -REPLACED.length)) : undefined
    if (replaced !== undefined && !existsSync(replaced)) withFile("restore", replaced, () => renameSync(path, replaced))
    else if (/^\.step-\d+\.(\d+\.tmp|deleted|replaced)$/.test(name)) rmSync(path, { recursive: true, force: true })
  }
  fsyncPath(parent)
}
