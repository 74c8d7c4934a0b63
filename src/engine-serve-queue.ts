/** Who is next: clients take turns by the tokens they were served, each client's requests in order. */

/** What waits, as the queue sees it. */
export interface Waiting {
  readonly client: string
  /** Prompt and answer tokens it may come to. */
  readonly tokens: number
}

interface Client<W> {
  waiting: W[]
  /** Requests that were taken and have not ended. */
  running: number
  /** Tokens computed for it, counted from the least served client when it came. */
  served: number
}

/** A client that comes starts level with the least served one: neither ahead for having been away nor behind for what it had before. */
export class FairQueue<W extends Waiting> {
  readonly #clients = new Map<string, Client<W>>()
  #count = 0
  #tokens = 0

  get count(): number {
    return this.#count
  }

  get tokens(): number {
    return this.#tokens
  }

  push(one: W): void {
    const client = this.#client(one.client)
    client.waiting.push(one)
    this.#count++
    this.#tokens += one.tokens
  }

  #client(name: string): Client<W> {
    const known = this.#clients.get(name)
    if (known !== undefined) return known
    const least = Math.min(...Array.from(this.#clients.values(), ({ served }) => served))
    const made = { waiting: [], running: 0, served: Number.isFinite(least) ? least : 0 }
    this.#clients.set(name, made)
    return made
  }

  /** The next one, without taking it. */
  peek(): W | undefined {
    let next: Client<W> | undefined
    for (const client of this.#clients.values()) {
      if (client.waiting.length > 0 && (next === undefined || client.served < next.served)) next = client
    }
    return next?.waiting[0]
  }

  /** Takes one that waits: it runs now (until `ended`), or is gone. */
  take(one: W, runs: boolean): void {
    const client = this.#clients.get(one.client)
    const at = client?.waiting.indexOf(one) ?? -1
    if (client === undefined || at < 0) return
    client.waiting.splice(at, 1)
    this.#count--
    this.#tokens -= one.tokens
    if (runs) client.running++
    this.#forget(one.client, client)
  }

  /** Tokens were computed for a client. */
  serve(name: string, tokens: number): void {
    const client = this.#clients.get(name)
    if (client !== undefined) client.served += tokens
  }

  ended(name: string): void {
    const client = this.#clients.get(name)
    if (client === undefined) return
    client.running--
    this.#forget(name, client)
  }

  #forget(name: string, { waiting, running }: Client<W>): void {
    if (waiting.length === 0 && running === 0) this.#clients.delete(name)
  }

  all(): W[] {
    return [...this.#clients.values()].flatMap(({ waiting }) => waiting)
  }
}
