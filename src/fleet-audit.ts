/** The audit log of a machine: a JSON line in deployDir/audit.jsonl for everything that changed it. */
import { quote } from "./fleet-command.ts"
import { whoAmI } from "./fleet-lock.ts"

/** What was done; `detail` must hold no secrets, it can be read by who can read the deploy directory. */
export interface AuditEntry {
  readonly verb: string
  readonly detail?: string
}

/** The line of a script in the deploy directory that appends the entry, with the machine's own time. */
export function audit({ verb, detail }: AuditEntry): string {
  const facts = JSON.stringify({ who: whoAmI(), verb, ...(detail === undefined ? {} : { detail }) })
  return `(umask 077; printf '{"time":"%s",%s\\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" ${quote([facts.slice(1)])} >> audit.jsonl)`
}

/** The same where there may be no deploy directory yet, and where a full disk must not stop the work. */
export function auditIfThere(entry: AuditEntry): string {
  return `[ ! -d blobs ] || ${audit(entry)} 2>/dev/null || :`
}
