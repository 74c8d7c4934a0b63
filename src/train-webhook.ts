/** ALPHA_ALERT_WEBHOOK: alerts as JSON to an address, in the form that Discord and Slack show too. */
import { AlphaError, EXIT } from "./base-error.ts"
import type { Environment } from "./config.ts"

const POST_MS = 10_000
/** Tries of one post, and the wait after the first. */
const TRIES = 4
const WAIT_MS = 500

/** The address that a variable names. Throws, without showing it: it may hold a secret. */
export function addressIn(environment: Environment, name: string): string | undefined {
  const value = environment.get(name)?.value
  if (value === undefined || value === "") return undefined
  const url = URL.canParse(value) ? new URL(value) : undefined
  if (url !== undefined && ["http:", "https:"].includes(url.protocol) && url.username === "") return value
  throw new AlphaError(`${name}: expected an address such as https://example.org`, { code: EXIT.usage })
}

export interface Webhook {
  /** `run`: its name; null: the machine. */
  post(run: string | null, rule: string, message: string): void
  /** All posts have ended. */
  flush(): Promise<void>
}

/** The webhook of the environment; undefined where none is named. `onNote` hears why a post was given up, without the address. */
export function openWebhook(environment: Environment, onNote: (note: string) => void): Webhook | undefined {
  const url = addressIn(environment, "ALPHA_ALERT_WEBHOOK")
  if (url === undefined) return undefined
  const posts = new Set<Promise<void>>()
  const send = async (body: string): Promise<void> => {
    for (let tries = 1, wait = WAIT_MS; ; tries++, wait *= 3) {
      let problem: string
      try {
        const signal = AbortSignal.timeout(POST_MS)
        const { ok, status } = await fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body, signal })
        if (ok) return
        problem = `answered ${status}`
        if (status < 500 && status !== 429) tries = TRIES
      } catch (error) {
        problem = (error as { code?: string }).code ?? (error as Error).name
      }
      if (tries >= TRIES) return onNote(`alert webhook: ${problem}`)
      await Bun.sleep(wait)
    }
  }
  return {
    post(run, rule, what) {
      const message = run === null ? what : `${run}: ${what}`
      const post = send(JSON.stringify({ run, rule, message, content: message, text: message })).finally(() => posts.delete(post))
      posts.add(post)
    },
    flush: async () => void (await Promise.all(posts)),
  }
}
