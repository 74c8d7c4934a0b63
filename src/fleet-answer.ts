/** What the exit codes of a deploy's scripts mean. */
import { holderText, LOCKED, parseHolder } from "./fleet-lock.ts"
import { HostError, said } from "./fleet-parallel.ts"
import { SCRIPT } from "./fleet-release.ts"
import type { Answer } from "./fleet-ssh.ts"

/** The answer of a deploy's script, its exit codes turned into errors. */
export function verified(answer: Answer, what: string): Answer {
  const { code, stdout, stderr, unreachable } = answer
  if (unreachable !== undefined) throw new HostError("unreachable", unreachable)
  if (code === 0) return answer
  if (code === LOCKED) {
    const holder = parseHolder(stdout)
    const text = holder === undefined ? "the deploy lock is gone: somebody took it over" : `locked by ${holderText(holder)}`
    throw new HostError("locked", text, { hint: "wait, or take it with --takeover if that deploy is dead" })
  }
  if (code === SCRIPT.full || /No space left|Disk quota/i.test(stderr)) {
    throw new HostError("failed", "disk full while sending: what came was deleted again, the current release is as it was", {
      hint: "free some space or choose another deployDir",
    })
  }
  const reason = stderr.trim() === "" ? ` (exit code ${code})` : said(stderr)
  throw new HostError("failed", `${what} fails${reason}`, { hint: code === SCRIPT.unfit ? "the current release is as it was" : undefined })
}
