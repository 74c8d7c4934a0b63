/** A TCPStore: keys and values that ranks rendezvous by, for launchers that bring none; PyTorch's clients can use it too. */
import type { Socket } from "bun"
import { AlphaError, EXIT } from "./base-error.ts"
import { Outbox } from "./dist-socket.ts"
import { Incomplete, MAGIC, NOT_READY, QUERY, READY, Reader, STOP_WAITING, WAIT_CANCELED, Writer } from "./dist-store-wire.ts"

export interface StoreServer {
  readonly port: number
  stop(): void
}

interface Client {
  bytes: Uint8Array
  isValid: boolean
  /** Keys that it waits for. */
  wanted: readonly string[] | undefined
  readonly out: Outbox
}

const text = (value: Uint8Array): string => new TextDecoder().decode(value)

/** Listens on `port` (0: any) of all addresses. Throws AlphaError when it is taken. */
export function serveStore(port: number): StoreServer {
  const values = new Map<string, Uint8Array>()
  const waiting = new Set<Socket<Client>>()
  const send = (socket: Socket<Client>, message: Writer): void => {
    socket.data.out.send(socket, message.end())
  }
  const put = (key: string, value: Uint8Array): void => {
    values.set(key, value)
    for (const socket of waiting) {
      if (!socket.data.wanted?.every((one) => values.has(one))) continue
      waiting.delete(socket)
      socket.data.wanted = undefined
      send(socket, new Writer().u8(STOP_WAITING))
    }
  }
  /** The answer to one query, if it has one now; what it needs is read before anything changes. */
  const answer = (socket: Socket<Client>, r: Reader): Writer | undefined => {
    const query = r.u8()
    const { data } = socket
    if (!data.isValid && query !== QUERY.validate) throw new RangeError("no client of a store")
    switch (query) {
      case QUERY.validate:
        if (r.u32() !== MAGIC) throw new RangeError("no client of a store")
        data.isValid = true
        return undefined
      case QUERY.ping:
        return new Writer().u32(r.u32())
      case QUERY.set: {
        const [key, value] = [r.text(), r.bytes()]
        put(key, value)
        return undefined
      }
      case QUERY.append: {
        const [key, value] = [r.text(), r.bytes()]
        put(key, new Uint8Array(Buffer.concat([values.get(key) ?? new Uint8Array(), value])))
        return undefined
      }
      case QUERY.multiSet: {
        const pairs = r.list(() => [r.text(), r.bytes()] as const)
        for (const [key, value] of pairs) put(key, value)
        return undefined
      }
      case QUERY.compareSet: {
        const [key, expected, desired] = [r.text(), r.bytes(), r.bytes()]
        const known = values.get(key)
        const isEqual = known === undefined ? expected.length === 0 : text(known) === text(expected)
        if (isEqual) put(key, desired)
        return new Writer().bytes(isEqual ? desired : (known ?? expected))
      }
      case QUERY.get:
        return new Writer().bytes(values.get(r.text()) ?? new Uint8Array())
      case QUERY.multiGet: {
        const message = new Writer()
        for (const key of r.list(() => r.text())) message.bytes(values.get(key) ?? new Uint8Array())
        return message
      }
      case QUERY.add: {
        const [key, more] = [r.text(), r.i64()]
        const sum = BigInt(text(values.get(key) ?? new Uint8Array()) || "0") + more
        put(key, new TextEncoder().encode(String(sum)))
        return new Writer().i64(sum)
      }
      case QUERY.check: {
        const keys = r.list(() => r.text())
        return new Writer().u8(keys.every((key) => values.has(key)) ? READY : NOT_READY)
      }
      case QUERY.wait: {
        const keys = r.list(() => r.text())
        if (keys.every((key) => values.has(key))) return new Writer().u8(STOP_WAITING)
        data.wanted = keys
        waiting.add(socket)
        return undefined
      }
      case QUERY.cancelWait:
        if (waiting.delete(socket)) send(socket, new Writer().u8(WAIT_CANCELED))
        data.wanted = undefined
        return undefined
      case QUERY.countKeys:
        return new Writer().i64(BigInt(values.size))
      case QUERY.deleteKey:
        return new Writer().i64(values.delete(r.text()) ? 1n : 0n)
      default:
        throw new RangeError(`query ${query} is unknown`)
    }
  }
  const listen = () =>
    Bun.listen<Client>({
      hostname: "0.0.0.0",
      port,
      socket: {
        open(socket) {
          socket.data = { bytes: new Uint8Array(), isValid: false, wanted: undefined, out: new Outbox() }
        },
        data(socket, piece) {
          const { data } = socket
          data.bytes = data.bytes.length === 0 ? Uint8Array.from(piece) : new Uint8Array(Buffer.concat([data.bytes, piece]))
          try {
            while (data.bytes.length > 0) {
              const reader = new Reader(data.bytes)
              const message = answer(socket, reader)
              if (message !== undefined) send(socket, message)
              data.bytes = data.bytes.subarray(reader.at)
            }
          } catch (error) {
            if (!(error instanceof Incomplete)) socket.end() // not one of ours: whoever it is, it gets nothing
          }
        },
        drain: (socket) => socket.data.out.drain(socket),
        close: (socket) => void waiting.delete(socket),
      },
    })
  try {
    const server = listen()
    return { port: server.port, stop: () => server.stop(true) }
  } catch (error) {
    throw new AlphaError(`port ${port} for the ranks' store cannot be opened: ${(error as Error).message}`, {
      hint: "set MASTER_PORT to a free one on every rank",
      code: EXIT.busy,
    })
  }
}
