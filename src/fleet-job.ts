/** Asking the `alpha` of a machine: its words as a script, its answer as data, its errors as ours. */
import { type AlphaError, EXIT } from "./base-error.ts"
import { alphaOnHost } from "./fleet-command.ts"
import type { FleetHost } from "./fleet-config.ts"
import { HostError, said } from "./fleet-parallel.ts"
import { type Answer, remote } from "./fleet-ssh.ts"

/** What `alpha WORDS --json` of the machine answers. Throws what it throws there. */
export async function askHost<T>(host: FleetHost, words: readonly string[], text = alphaOnHost(host, words)): Promise<T> {
  const answer = await remote(host, text)
  const error = answerError(answer)
  if (error !== undefined) throw error
  // A login shell may print before the program does.
  const line = answer.stdout.trimEnd().split("\n").at(-1) ?? ""
  if (answer.code === 0 && /^[[{]/.test(line)) return JSON.parse(line) as T
  throw new HostError("failed", `alpha ${words.slice(0, 2).join(" ")} fails (exit code ${answer.code})${said(answer.stderr)}`)
}

/** Why the machine's `alpha` did not do it; undefined where it did, or where the connection ended it. */
export function answerError({ code, stderr, unreachable }: Answer): AlphaError | undefined {
  if (unreachable !== undefined) return new HostError("unreachable", unreachable)
  const message = [...stderr.matchAll(/^alpha: (.+)$/gm)].at(-1)?.[1]
  if (code === 0 || message === undefined) {
    const isMissing = code === 69 || code === 126 || code === 127
    return isMissing
      ? new HostError("failed", stderr.trim().split("\n").at(-1) ?? "nothing is deployed", { hint: "alpha fleet deploy" })
      : undefined
  }
  const hint = /^hint: ([\s\S]+)$/m.exec(stderr)?.[1]?.trimEnd()
  return new HostError(code === EXIT.busy ? "locked" : "failed", message, { hint })
}
