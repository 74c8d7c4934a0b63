/** Ranks watch each other through rank 0: one that ends without a word, or with an error, ends all with its name and cause. */
import { hostname, networkInterfaces } from "node:os"
import type { Socket } from "bun"
import { AlphaError } from "./base-error.ts"
import { Lines } from "./dist-socket.ts"

/** A rank that is gone. */
export interface Lost {
  readonly rank: number
  /** "rank 1 (host gpu7, process 4711)". */
  readonly who: string
  readonly cause: string
  /** Exit code for all others; 0 where the rank was only asked to stop before there was anything to keep. */
  readonly code: number
}

export interface Watch {
  /** This rank has ended by agreement with the others: its silence means nothing from now on. */
  bye(): void
  /** This rank fails; the others are told why. Resolves when that is on its way. */
  fail(cause: string, code: number): Promise<void>
  close(): void
}

interface Message {
  readonly hello?: { readonly rank: number; readonly who: string; readonly token: string }
  /** Rank 0's answer to it. */
  readonly welcome?: string
  readonly bye?: true
  readonly failed?: { readonly cause: string; readonly code: number }
  readonly lost?: Lost
}

const BEAT_MS = 5000
/** A host that vanished sends no end of its connections: silence for so long is one. */
const SILENT_MS = 30_000

const nameOf = (rank: number): string => `rank ${rank} (host ${hostname()}, process ${process.pid})`
const NO_WORD = "it ended without a word (killed, or its host is gone)"
const SILENT = `it has not answered for ${SILENT_MS / 1000} s`

const send = (socket: Socket<Peer>, message: Message): void => {
  socket.write(`${JSON.stringify(message)}\n`)
  socket.flush()
}

interface Peer {
  readonly lines: Lines
  rank: number
  who: string
  heardAt: number
  hasEnded: boolean
}
const peer = (rank: number, who: string): Peer => ({ lines: new Lines(), rank, who, heardAt: Date.now(), hasEnded: false })

/** Messages of a piece; a line that is none is taken for an end. */
function messages(socket: Socket<Peer>, piece: Uint8Array): Message[] {
  socket.data.heardAt = Date.now()
  try {
    return socket.data.lines.push(piece).map((line) => JSON.parse(line) as Message)
  } catch {
    socket.end()
    return []
  }
}

/** Rank 0's side. `onLost` is called once, also when a rank has not come within `startMs`; the address goes to the other ranks. */
export function watchServer(size: number, startMs: number, onLost: (lost: Lost) => void): Watch & { readonly address: string } {
  const token = crypto.randomUUID()
  const peers = new Set<Socket<Peer>>()
  let isOver = false
  const tell = (message: Message) => {
    for (const socket of peers) send(socket, message)
  }
  const lose = (lost: Lost) => {
    if (isOver) return
    isOver = true
    tell({ lost })
    onLost(lost)
  }
  const server = Bun.listen<Peer>({
    hostname: "0.0.0.0",
    port: 0,
    socket: {
      open(socket) {
        socket.data = peer(-1, "")
      },
      data(socket, piece) {
        for (const { hello, bye, failed } of messages(socket, piece)) {
          if (hello !== undefined) {
            if (hello.token !== token) return void socket.end()
            Object.assign(socket.data, { rank: hello.rank, who: hello.who })
            peers.add(socket)
            send(socket, { welcome: nameOf(0) })
          }
          if (bye) socket.data.hasEnded = true
          if (failed !== undefined && peers.has(socket)) lose({ rank: socket.data.rank, who: socket.data.who, ...failed })
        }
      },
      close(socket) {
        const { rank, who, hasEnded } = socket.data
        if (peers.delete(socket) && !hasEnded) lose({ rank, who, cause: NO_WORD, code: 1 })
      },
    },
  })
  const beat = setInterval(() => {
    tell({})
    for (const { data } of peers)
      if (!data.hasEnded && Date.now() - data.heardAt > SILENT_MS) lose({ rank: data.rank, who: data.who, cause: SILENT, code: 1 })
  }, BEAT_MS)
  const start = setTimeout(() => {
    const here = new Set([...peers].map(({ data }) => data.rank))
    const missing = Array.from({ length: size - 1 }, (_, i) => i + 1).find((rank) => !here.has(rank))
    if (missing !== undefined) lose({ rank: missing, who: `rank ${missing}`, cause: `it has not come within ${startMs / 1000} s`, code: 1 })
  }, startMs)
  return {
    address: JSON.stringify({ hosts: addresses(), port: server.port, token }),
    bye() {
      isOver = true
      tell({ bye: true })
    },
    async fail(cause, code) {
      lose({ rank: 0, who: nameOf(0), cause, code })
      await Bun.sleep(100)
    },
    close() {
      isOver = true
      clearTimeout(start)
      clearInterval(beat)
      server.stop(true)
    },
  }
}

/** The other ranks' side. Throws AlphaError when none of rank 0's addresses answers; returns the one that did too. */
export async function watchRanks(address: string, rank: number, onLost: (lost: Lost) => void): Promise<Watch & { readonly host: string }> {
  const { hosts, port, token } = JSON.parse(address) as { hosts: string[]; port: number; token: string }
  const server = peer(0, "rank 0")
  let isOver = false
  const lose = (lost: Lost) => {
    if (isOver) return
    isOver = true
    onLost(lost)
  }
  const gone = (cause: string) => lose({ rank: 0, who: server.who, cause, code: 1 })
  for (const host of hosts) {
    const { promise: answered, resolve: answer } = Promise.withResolvers<boolean>()
    let isChosen = false
    const socket = await Bun.connect<Peer>({
      hostname: host,
      port,
      data: server,
      socket: {
        data(connection, piece) {
          for (const { welcome, bye, lost } of messages(connection, piece)) {
            if (welcome !== undefined) server.who = welcome
            answer(welcome !== undefined)
            if (bye) server.hasEnded = true
            if (lost !== undefined) lose(lost)
          }
        },
        close() {
          answer(false)
          if (isChosen && !server.hasEnded) gone(NO_WORD)
        },
        connectError: () => answer(false),
        error: () => answer(false),
      },
    }).catch(() => undefined)
    if (socket === undefined) continue
    send(socket, { hello: { rank, who: nameOf(rank), token } })
    isChosen = await Promise.race([answered, Bun.sleep(3000).then(() => false)])
    if (!isChosen) {
      socket.end()
      continue
    }
    const beat = setInterval(() => {
      send(socket, {})
      if (!server.hasEnded && Date.now() - server.heardAt > SILENT_MS) gone(SILENT)
    }, BEAT_MS)
    return {
      host,
      bye() {
        isOver = true
        send(socket, { bye: true })
      },
      async fail(cause, code) {
        if (isOver) return
        isOver = true
        send(socket, { failed: { cause, code } })
        await Bun.sleep(100)
      },
      close() {
        isOver = true
        clearInterval(beat)
        socket.end()
      },
    }
  }
  throw new AlphaError(`rank ${rank} does not reach rank 0 at ${hosts.join(", ")} (port ${port})`, {
    hint: "ranks need open ports between their hosts",
  })
}

/** How other hosts may reach this one, and how this one reaches itself. */
function addresses(): string[] {
  const all = Object.values(networkInterfaces()).flatMap((list) => list ?? [])
  return [...all.filter(({ family, internal }) => family === "IPv4" && !internal).map(({ address }) => address), "127.0.0.1"]
}
