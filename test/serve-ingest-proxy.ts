/** A way to a server on which everything goes wrong: lost requests, lost answers, 500, 429, delays, and cut answers. */
import { uniform } from "../src/base-random.ts"

export interface FaultProxy {
  readonly url: string
  /** Share of the requests that fail in some way, 0 to 1. */
  faults: number
  /** Nobody answers at all. */
  isDown: boolean
  readonly counts: Record<string, number>
  close(): Promise<void>
}

export function faultProxy(target: () => string, seed: number, faults: number): FaultProxy {
  let [n, fault] = [0, 0]
  const proxy = {
    faults,
    isDown: false,
    counts: {} as Record<string, number>,
  }
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    async fetch(request) {
      const draw = uniform(seed, 9, 0, n++)
      const body = await request.arrayBuffer()
      const url = target() + new URL(request.url).pathname
      const forward = () => fetch(url, { method: request.method, headers: request.headers, body })
      const count = (name: string) => {
        proxy.counts[name] = (proxy.counts[name] ?? 0) + 1
      }
      if (proxy.isDown) return new Response("down", { status: 502 })
      if (draw >= proxy.faults) {
        count("none")
        return forward()
      }
      const kind = fault++ % 6 // each of them, however few requests there are
      if (kind === 0) {
        count("500")
        return new Response("fault", { status: 500 })
      }
      if (kind === 1) {
        count("429")
        return new Response("{}", { status: 429, headers: { "retry-after": "0" } })
      }
      if (kind === 2) {
        count("cut answer")
        const answer = await (await forward()).text()
        return new Response(answer.slice(0, answer.length - 1))
      }
      if (kind === 3) {
        count("cut after commit")
        await forward().then((answer) => answer.text())
        return new Response("lost", { status: 503 })
      }
      if (kind === 4) {
        count("twice")
        await forward().then((answer) => answer.text())
        return forward()
      }
      count("slow")
      await Bun.sleep(500)
      return forward()
    },
    error: () => new Response("fault", { status: 502 }),
  })
  return Object.assign(proxy, { url: `http://127.0.0.1:${server.port}`, close: () => server.stop(true) })
}
