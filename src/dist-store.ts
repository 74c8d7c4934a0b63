/** A client of PyTorch's TCPStore: the one that torchrun's agent serves, or our own. */
import type { Socket } from "bun"
import { AlphaError, EXIT } from "./base-error.ts"
import { Outbox } from "./dist-socket.ts"
import { Incomplete, MAGIC, QUERY, Reader, Writer } from "./dist-store-wire.ts"

/** PyTorch's clients put this before every key. */
const PREFIX = "/"
const RETRY_MS = 200

export class Store {
  #bytes: Uint8Array = new Uint8Array()
  #wake: (() => void) | undefined
  #problem: string | undefined
  #last: Promise<unknown> = Promise.resolve()
  #socket: Socket<undefined> | undefined
  readonly #out = new Outbox()

  private constructor(
    private readonly host: string,
    private readonly port: number,
  ) {}

  /** Connects, trying again until `timeoutMs` have passed: rank 0 may not be there yet. Throws AlphaError naming the address. */
  static async connect(host: string, port: number, timeoutMs: number): Promise<Store> {
    const until = Date.now() + timeoutMs
    for (;;) {
      const store = new Store(host, port)
      try {
        await store.#open(Math.min(5000, timeoutMs))
        return store
      } catch (error) {
        store.close()
        if (Date.now() + RETRY_MS > until)
          throw new AlphaError(`no store of the ranks at ${host}:${port}: ${(error as Error).message}`, {
            hint: "MASTER_ADDR and MASTER_PORT must name rank 0's host as every rank can reach it",
            code: EXIT.failure,
          })
        await Bun.sleep(RETRY_MS)
      }
    }
  }

  async #open(timeoutMs: number): Promise<void> {
    const nonce = process.pid & 0x7fff_ffff
    this.#socket = await Bun.connect({
      hostname: this.host,
      port: this.port,
      socket: {
        data: (_, piece) => {
          this.#bytes = new Uint8Array(Buffer.concat([this.#bytes, piece]))
          this.#wake?.()
        },
        drain: (socket) => this.#out.drain(socket),
        close: () => this.#fail("it closed the connection"),
        error: (_, error) => this.#fail(error.message),
        connectError: (_, error) => this.#fail(error.message),
      },
    })
    const hello = new Writer().u8(QUERY.validate).u32(MAGIC).u8(QUERY.ping).u32(nonce)
    const answered = await this.#ask(hello, (r) => r.u32(), timeoutMs)
    if (answered !== nonce) throw new Error("what listens there is no TCPStore")
  }

  #fail(problem: string): void {
    this.#problem ??= problem
    this.#wake?.()
  }

  /** Sends a query and reads its answer; one at a time. */
  #ask<T>(query: Writer, read: (r: Reader) => T, timeoutMs?: number): Promise<T> {
    const turn = this.#last.then(async () => {
      this.#send(query)
      return await this.#read(read, timeoutMs)
    })
    this.#last = turn.catch(() => {})
    return turn
  }

  #send(query: Writer): void {
    if (this.#problem !== undefined) throw new AlphaError(`store ${this.host}:${this.port}: ${this.#problem}`)
    if (this.#socket !== undefined) this.#out.send(this.#socket, query.end())
  }

  async #read<T>(read: (r: Reader) => T, timeoutMs?: number): Promise<T> {
    const until = timeoutMs === undefined ? Number.POSITIVE_INFINITY : Date.now() + timeoutMs
    for (;;) {
      const reader = new Reader(this.#bytes)
      try {
        const value = read(reader)
        this.#bytes = this.#bytes.slice(reader.at)
        return value
      } catch (error) {
        if (!(error instanceof Incomplete)) throw error
      }
      if (this.#problem !== undefined) throw new AlphaError(`store ${this.host}:${this.port}: ${this.#problem}`)
      const left = until - Date.now()
      if (left <= 0) throw new AlphaError(`store ${this.host}:${this.port}: no answer within ${timeoutMs} ms`)
      await new Promise<void>((resolve) => {
        const timer = Number.isFinite(left) ? setTimeout(resolve, left) : undefined
        this.#wake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
  }

  set(key: string, value: Uint8Array | string): Promise<void> {
    const query = new Writer()
      .u8(QUERY.set)
      .bytes(PREFIX + key)
      .bytes(value)
    return this.#ask(query, () => undefined)
  }

  /** The value of a key, waiting for it. Throws AlphaError naming the key when it does not come in time. */
  async get(key: string, timeoutMs: number): Promise<Uint8Array> {
    const wait = new Writer()
      .u8(QUERY.wait)
      .i64(1n)
      .bytes(PREFIX + key)
    try {
      await this.#ask(wait, (r) => r.u8(), timeoutMs)
    } catch (error) {
      throw new AlphaError(`${(error as Error).message} (waiting for ${key})`, {
        hint: "another rank has not started, or ended before it could say so",
        code: EXIT.failure,
      })
    }
    return await this.#ask(new Writer().u8(QUERY.get).bytes(PREFIX + key), (r) => r.bytes())
  }

  /** Adds to a number, which is 0 before; the new value. */
  async add(key: string, more: number): Promise<number> {
    const query = new Writer()
      .u8(QUERY.add)
      .bytes(PREFIX + key)
      .i64(BigInt(more))
    return Number(await this.#ask(query, (r) => r.i64()))
  }

  async has(...keys: readonly string[]): Promise<boolean> {
    const query = new Writer().u8(QUERY.check).i64(BigInt(keys.length))
    for (const key of keys) query.bytes(PREFIX + key)
    return (await this.#ask(query, (r) => r.u8())) === 0
  }

  async delete(key: string): Promise<boolean> {
    return (await this.#ask(new Writer().u8(QUERY.deleteKey).bytes(PREFIX + key), (r) => r.i64())) > 0n
  }

  close(): void {
    this.#problem ??= "closed"
    this.#socket?.end()
  }
}
