/** A way to a server on which everything goes wrong: 500, 429, delays, repeats, and connections cut before, after and within an answer. */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { uniform } from "../src/base-random.ts"

export interface FaultProxy {
  readonly url: string
  /** Share of the requests that fail in some way, 0 to 1. */
  faults: number
  /** Nobody answers at all. */
  isDown: boolean
  /** What happened how often. */
  readonly counts: Record<string, number>
  close(): Promise<void>
}

/** Each fault in turn, so that every one occurs, however few requests there are. */
const FAULTS = ["500", "429", "cut before commit", "cut after commit", "cut answer", "twice", "slow"] as const

/** `target` names the server of the moment. A slow request arrives after `slowMs`, whether or not anybody still waits for its answer. */
export async function faultProxy(target: () => string, seed: number, faults: number, slowMs = 500): Promise<FaultProxy> {
  let [n, fault] = [0, 0]
  const state = { faults, isDown: false, counts: {} as Record<string, number> }

  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const pieces: Buffer[] = []
    for await (const piece of request) pieces.push(piece as Buffer)
    if (state.isDown) return cut(response)
    const kind = uniform(seed, 9, 0, n++) < state.faults ? FAULTS[fault++ % FAULTS.length]! : "none"
    state.counts[kind] = (state.counts[kind] ?? 0) + 1
    const forward = async () => {
      const { authorization = "", "content-type": type = "", ...rest } = request.headers
      const own = Object.entries(rest).filter(([name]) => name.startsWith("x-upload-")) as [string, string][]
      const answer = await fetch(target() + request.url, {
        method: request.method!,
        headers: { authorization, "content-type": type, ...Object.fromEntries(own) },
        body: Buffer.concat(pieces),
      })
      return { status: answer.status, headers: answer.headers, body: Buffer.from(await answer.arrayBuffer()) }
    }
    if (kind === "500") return end(response, 500, Buffer.from("fault"))
    if (kind === "429") return end(response.setHeader("retry-after", "0"), 429, Buffer.from("{}"))
    if (kind === "cut before commit") return cut(response)
    if (kind === "slow") await Bun.sleep(slowMs)
    if (kind === "twice") await forward()
    const answer = await forward()
    if (kind === "cut after commit") return cut(response)
    if (kind === "cut answer") {
      response.writeHead(answer.status, { "content-length": answer.body.length })
      response.write(answer.body.subarray(0, answer.body.length - 1))
      return cut(response)
    }
    end(response, answer.status, answer.body)
  }

  const server = createServer((request, response) => {
    handle(request, response).catch(() => cut(response)) // the server was killed meanwhile
  })
  await new Promise<void>((resolve) => void server.listen(0, "127.0.0.1", resolve))
  return Object.assign(state, {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: () => {
      server.closeAllConnections()
      return new Promise<void>((resolve) => void server.close(() => resolve()))
    },
  })
}

const end = (response: ServerResponse, status: number, body: Buffer): void => void response.writeHead(status).end(body)
const cut = (response: ServerResponse): void => void response.socket?.destroy()
