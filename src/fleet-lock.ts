/** The deploy lock of a machine: a symbolic link whose text names holder, time and purpose; it expires and can be taken over. */
import { randomBytes } from "node:crypto"
import { hostname, userInfo } from "node:os"
import { isAlive, thisProcess } from "./base-process.ts"
import { quote } from "./fleet-command.ts"

/** Exit code of a script that did not get the lock, or lost it; the holder is on standard output after "locked=". */
export const LOCKED = 75

export interface LockOwner {
  /** Names the process that holds it: random, process id, its start, boot id, computer. */
  readonly id: string
  readonly who: string
  readonly what: string
}

/** Who asks, for the lock and the audit log: "ada@laptop". */
export function whoAmI(): string {
  const { USER, LOGNAME } = process.env
  return plain(`${USER || LOGNAME || userInfo().username}@${hostname()}`)
}

export function lockOwner(what: string): LockOwner {
  const { pid, started, boot, host } = thisProcess()
  return { id: plain([randomBytes(4).toString("hex"), pid, started, boot, host].join(":")), who: whoAmI(), what: plain(what) }
}

/** Without what separates the parts of the lock, and what would not stand on a line. */
function plain(text: string): string {
  return text.replaceAll(/[|\p{Cc}]/gu, "_")
}

export interface LockHolder extends LockOwner {
  /** Seconds since 1970 by the machine's own clock. */
  readonly until: number
  readonly since: number
}

/** The holder after "locked=" in what a script printed. */
export function parseHolder(stdout: string): LockHolder | undefined {
  const text = /^(?:locked|took)=(.+)$/m.exec(stdout)?.[1]
  if (text === undefined) return undefined
  const [id = "", until, since, who = "?", what = "?"] = text.split("|")
  return { id, until: Number(until), since: Number(since), who, what }
}

/** "ada@laptop since 2026-01-31 12:00:00 UTC (deploy)". */
export function holderText({ who, since, what, until }: LockHolder): string {
  const time = (seconds: number) => (Number.isFinite(seconds) ? new Date(seconds * 1000).toISOString().slice(0, 19).replace("T", " ") : "?")
  return `${who} since ${time(since)} UTC (${what}); it expires at ${time(until)} UTC`
}

/** Whether the holder was a process of this computer that is gone: its lock means nothing any more. */
export function isOrphan({ id }: LockHolder): boolean {
  const [, pid, started, boot, ...host] = id.split(":")
  const { host: own } = thisProcess()
  return host.join(":") === plain(own) && !isAlive({ pid: Number(pid), started: started ?? "", boot: boot ?? "", host: own })
}

/**
 * Lines that take the lock for `seconds`, or renew it; they end the script with LOCKED where somebody else holds it. `takeover` is the id of
 * a holder that loses it all the same, or "any".
 */
export function takeLock({ id, who, what }: LockOwner, seconds: number, takeover?: string): string {
  const may = takeover === undefined ? "false" : takeover === "any" ? "true" : `[ "$id" = ${quote([takeover])} ]`
  return `
now=$(date +%s)
mine=${quote([id])}
text="$mine|$((now + ${seconds}))|$now|"${quote([who])}"|"${quote([what])}
locked() { echo "locked=$(readlink deploy.lock || :)"; exit ${LOCKED}; }
held=$(readlink deploy.lock || :)
id=\${held%%|*}; rest=\${held#*|}; until=\${rest%%|*}
case $until in ''|*[!0-9]*) until=0 ;; esac
rm -f "lock.$mine"
if [ "$id" = "$mine" ]; then
  ln -s "$text" "lock.$mine"; mv -f "lock.$mine" deploy.lock
else
  if [ -n "$held" ]; then
    if [ "$until" -gt "$now" ] && ! ${may}; then locked; fi
    mv deploy.lock "lock.$mine" 2>/dev/null || locked
    if [ "$(readlink "lock.$mine")" != "$held" ]; then mv "lock.$mine" deploy.lock; locked; fi
    rm -f "lock.$mine"
    echo "took=$held"
  fi
  ln -s "$text" deploy.lock 2>/dev/null || locked
fi`.trim()
}

/** Lines that end the script with LOCKED unless the lock is still ours. */
export function holdLock({ id }: LockOwner): string {
  return `
held=$(readlink deploy.lock || :)
[ "\${held%%|*}" = ${quote([id])} ] || { echo "locked=$held"; exit ${LOCKED}; }`.trim()
}

/** The line that gives up the lock if it is ours. */
export function dropLock({ id }: LockOwner): string {
  return `held=$(readlink deploy.lock || :); [ "\${held%%|*}" != ${quote([id])} ] || rm -f deploy.lock`
}
