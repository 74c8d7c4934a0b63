/** Live rows over real journals: a run that is resumed, a reader that does not read. */
import { afterAll, expect, test } from "bun:test"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { connect, type Socket } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { countJournal, DirectoryStore, JournalWriter, journalPath, rewindJournal } from "../src/db.ts"
import { startTest } from "./serve-fake.ts"
import { until } from "./support.ts"

const runsDir = mkdtempSync(join(tmpdir(), "alpha-live-"))
afterAll(() => rmSync(runsDir, { recursive: true, force: true }))
const directory = join(runsDir, "first")
mkdirSync(directory)
writeFileSync(join(directory, "config.json"), JSON.stringify({ id: "id-first", config: {} }))
const path = journalPath(directory, "metrics")
let time = 0
function write(from: number, to: number, more: object = {}): void {
  const writer = new JournalWriter(path)
  for (let step = from; step < to; step++) writer.append({ time: ++time, type: "step", step, ...more })
  writer.close()
}

const store = new DirectoryStore(runsDir)
const server = await startTest([], { store })
afterAll(async () => {
  await server.close()
  store.close()
})

interface Told {
  readonly event: string
  readonly id: string
  readonly seq: number | undefined
}

/** A listener on a socket of its own, whose reading can be held. */
class Listener {
  readonly told: Told[] = []
  readonly socket: Socket
  /** The last chunk has come. */
  isEnded = false
  #text = ""

  constructor(query: string, last?: string) {
    const { hostname, port } = new URL(server.url)
    this.socket = connect(Number(port), hostname, () => {
      const id = last === undefined ? "" : `last-event-id: ${last}\r\n`
      this.socket.write(`GET /api/training/live${query} HTTP/1.1\r\nhost: ${hostname}\r\n${id}\r\n`)
    })
    this.socket.on("data", (bytes) => {
      this.#take(bytes.toString())
      this.isEnded = bytes.toString().endsWith("\r\n0\r\n\r\n")
    })
    this.socket.on("error", () => {})
  }

  #take(text: string): void {
    this.#text += text
    const events = this.#text.split("\n\n")
    this.#text = events.pop() ?? ""
    for (const event of events) {
      const field = (name: string) => new RegExp(`^${name}: (.*)$`, "m").exec(event)?.[1]
      const [id, data] = [field("id"), field("data")]
      if (id === undefined || data === undefined) continue
      // The length of a chunk may stand in the middle of an event; then its rest is no JSON by itself.
      const seq = /"seq":(\d+)/.exec(data)?.[1]
      this.told.push({ event: field("event") ?? "", id, seq: seq === undefined ? undefined : Number(seq) })
    }
  }
}

test("a resumed run: listeners are told that rows are void, those who were away too", async () => {
  write(0, 10)
  const [all, one] = [new Listener(""), new Listener("?run=first")]
  await until("both listeners", () => server.context.listening.size === 2)
  write(10, 12)
  await until("two rows", () => all.told.length >= 2 && one.told.length >= 2)
  const { id } = one.told[1]!
  rewindJournal(path, 7)
  write(8, 11)
  await until("six rows", () => all.told.length >= 6 && one.told.length >= 6)
  const seen = ({ told }: Listener) => told.map(({ event, seq }) => [event, seq])
  const wanted = [
    ["step", 10],
    ["step", 11],
    ["reset", undefined],
    ["step", 8],
    ["step", 9],
    ["step", 10],
  ]
  expect(seen(all)).toEqual(wanted)
  expect(seen(one)).toEqual(wanted)
  const away = new Listener("?run=first", id)
  await until("a reset", () => away.told.length >= 1)
  write(11, 12)
  const exact = new Listener("?run=first", one.told[4]!.id)
  await until("the row after it", () => away.told.length >= 2 && exact.told.length >= 2)
  expect(seen(away)).toEqual([
    ["reset", undefined],
    ["step", 11],
  ])
  expect(seen(exact)).toEqual([
    ["step", 10],
    ["step", 11],
  ])
  for (const { socket } of [all, one, away, exact]) socket.destroy()
  await until("nobody listens", () => server.context.listening.size === 0)
}, 300_000)

test("a reader that does not read is cut off, the server keeps nothing for it, and it goes on where it was", async () => {
  const slow = new Listener("?run=first")
  await until("a listener", () => server.context.listening.size === 1)
  slow.socket.pause()
  const before = process.memoryUsage().rss
  let next = 12
  const padding = { text: "x".repeat(2000) }
  for (; server.context.listening.size > 0 && next < 60_000; next += 1500) {
    write(next, next + 1500, padding)
    await Bun.sleep(550)
  }
  await until("it is cut off", () => server.context.listening.size === 0)
  expect(process.memoryUsage().rss - before).toBeLessThan(300e6)
  const last = countJournal(path) - 1
  slow.socket.resume()
  await until("its end", () => slow.isEnded)
  expect(slow.told.length).toBeGreaterThan(0)
  const again = new Listener("?run=first", slow.told.at(-1)?.id ?? "metrics:-1,events:-1,samples:-1")
  await until("the last row", () => again.told.some(({ seq }) => seq === last) || again.isEnded)
  expect(again.told[0]!.seq).toBe((slow.told.at(-1)?.seq ?? -1) + 1)
  again.socket.destroy()
}, 300_000)
