/** The builds that a gate compares: binaries as they are, git refs built once in a checkout of their own. */
import { existsSync, mkdirSync, renameSync, statSync, symlinkSync } from "node:fs"
import { join, resolve } from "node:path"
import { isCompiled } from "./base-build.ts"
import { AlphaError, EXIT } from "./base-error.ts"
import { runWell } from "./bench-process.ts"

/** Bun itself, also where this program is the compiled one. */
export const bunCommand = (): { command: string[]; env: Record<string, string> } => ({
  command: [process.execPath],
  env: isCompiled ? { BUN_BE_BUN: "1" } : {},
})

const git = (...args: string[]): string | undefined => {
  const run = Bun.spawnSync(["git", ...args], { stderr: "ignore" })
  return run.success ? run.stdout.toString().trim() : undefined
}

/** The command of a build; a git ref is built below .bun-out/gate, and kept there by its commit. */
export async function buildOf(side: string, what: string, tell: (note: string) => void): Promise<string> {
  if (existsSync(what) && statSync(what).isFile()) return resolve(what)
  const [root, commit] = [git("rev-parse", "--show-toplevel"), git("rev-parse", "--verify", "--quiet", `${what}^{commit}`)]
  if (root === undefined || commit === undefined) {
    throw new AlphaError(`gate: ${side} ${what} is neither a file nor a commit of this checkout`, {
      hint: "alpha bench gate old-alpha ./alpha, or alpha bench gate main HEAD",
      code: EXIT.usage,
    })
  }
  const folder = join(root, ".bun-out/gate")
  const binary = join(folder, `alpha-${commit.slice(0, 12)}`)
  if (existsSync(binary)) return binary
  tell(`building ${what} (${commit.slice(0, 12)})`)
  const checkout = join(folder, commit.slice(0, 12))
  mkdirSync(folder, { recursive: true })
  await runWell(["git", "worktree", "add", "--detach", "--force", checkout, commit], { cwd: root })
  try {
    symlinkSync(join(root, "node_modules"), join(checkout, "node_modules"))
    const { command, env } = bunCommand()
    await runWell([...command, "build.ts"], { cwd: checkout, env })
    renameSync(join(checkout, "alpha"), binary)
  } finally {
    await runWell(["git", "worktree", "remove", "--force", checkout], { cwd: root })
  }
  return binary
}
