/** The ranks' store: our client and our server against each other, against the bytes of the protocol, and against PyTorch where it is there. */
import { afterAll, describe, expect, test } from "bun:test"
import { Store, serveStore } from "../src/dist.ts"
import { testWith } from "./require.ts"
import { freePort } from "./support.ts"

const server = serveStore(0)
afterAll(() => server.stop())
const connect = () => Store.connect("127.0.0.1", server.port, 30_000)
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes)

describe("client and server", () => {
  test("values, numbers, deletion", async () => {
    const store = await connect()
    await store.set("a", "hello")
    expect(text(await store.get("a", 30_000))).toBe("hello")
    expect([await store.add("n", 5), await store.add("n", -2)]).toEqual([5, 3])
    expect([await store.has("a", "n"), await store.has("a", "nowhere")]).toEqual([true, false])
    expect([await store.delete("a"), await store.delete("a")]).toEqual([true, false])
    store.close()
  })

  test("a value of megabytes", async () => {
    const store = await connect()
    const value = new Uint8Array(5_000_000).map((_, i) => i % 251)
    await store.set("big", value)
    expect(Bun.hash(await store.get("big", 30_000))).toBe(Bun.hash(value))
    store.close()
  })

  test("a get waits for another client's set; one that waits in vain names the key", async () => {
    const [one, other] = [await connect(), await connect()]
    const waiting = one.get("late", 30_000)
    await other.set("late", "now")
    expect(text(await waiting)).toBe("now")
    await expect(other.get("never", 50)).rejects.toThrow("never")
    one.close()
    other.close()
  })

  test("nobody listens: the address is named", async () => {
    const port = await freePort()
    await expect(Store.connect("127.0.0.1", port, 300)).rejects.toThrow(`127.0.0.1:${port}`)
  })

  test("a port that is taken is told with what to do", () => {
    expect(() => serveStore(server.port)).toThrow(`port ${server.port}`)
  })
})

/** Sends bytes and gives those that came back until `count` of them are there or the connection ends. */
async function exchange(sent: readonly number[], count: number, pieces = 1): Promise<number[]> {
  const got: number[] = []
  const { promise, resolve } = Promise.withResolvers<void>()
  const socket = await Bun.connect({
    hostname: "127.0.0.1",
    port: server.port,
    socket: {
      data(_, piece) {
        got.push(...piece)
        if (got.length >= count) resolve()
      },
      close: () => resolve(),
    },
  })
  const size = Math.ceil(sent.length / pieces)
  for (let at = 0; at < sent.length; at += size) {
    socket.write(Uint8Array.from(sent.slice(at, at + size)))
    socket.flush()
    await Bun.sleep(1)
  }
  await promise
  socket.end()
  return got
}

const MAGIC = [0, 0xce, 0xf7, 0x85, 0x3c]
const word = (letters: string) => [letters.length, 0, 0, 0, 0, 0, 0, 0, ...new TextEncoder().encode(letters)]

describe("the bytes of the protocol", () => {
  const ping = [...MAGIC, 13, 1, 2, 3, 4]
  test("validate and ping, whole and byte by byte", async () => {
    expect(await exchange(ping, 4)).toEqual([1, 2, 3, 4])
    expect(await exchange(ping, 4, ping.length)).toEqual([1, 2, 3, 4])
  })

  test("set, get, compare and set, append, many at once", async () => {
    const query = [
      ...MAGIC,
      ...[1, ...word("/k"), ...word("v")], // set
      ...[9, ...word("/k"), ...word("w")], // append
      ...[3, ...word("/k")], // get
      ...[2, ...word("/k"), ...word("vw"), ...word("x")], // compare and set: equal
      ...[2, ...word("/k"), ...word("no"), ...word("y")], // compare and set: not equal
      ...[11, 2, 0, 0, 0, 0, 0, 0, 0, ...word("/p"), ...word("1"), ...word("/q"), ...word("2")], // set several
      ...[10, 2, 0, 0, 0, 0, 0, 0, 0, ...word("/q"), ...word("/p")], // get several
    ]
    const answer = [...word("vw"), ...word("x"), ...word("x"), ...word("2"), ...word("1")]
    expect(await exchange(query, answer.length)).toEqual(answer)
  })

  test("a wait can be taken back", async () => {
    const query = [...MAGIC, 6, 1, 0, 0, 0, 0, 0, 0, 0, ...word("/nothing"), 12]
    expect(await exchange(query, 1)).toEqual([1])
  })

  test.each([
    ["a stranger", [1, ...word("/k"), ...word("v")]],
    ["another magic", [0, 1, 2, 3, 4]],
    ["an unknown query", [...MAGIC, 99]],
    ["a length that cannot be", [...MAGIC, 3, 255, 255, 255, 255, 255, 255, 255, 127]],
  ])("%s is hung up on", async (_, sent) => {
    expect(await exchange(sent, 1)).toEqual([])
  })
})

const python = process.env.PYTHON ?? "python3"
const hasTorch = Bun.which(python) !== null && Bun.spawnSync([python, "-c", "import torch.distributed"]).success
const withTorch = testWith("torch", hasTorch ? undefined : `${python} has no package torch (PYTHON names one that has)`)

const CLIENT = `
import sys, datetime, torch.distributed as d
s = d.TCPStore("127.0.0.1", int(sys.argv[1]), 2, False, timeout=datetime.timedelta(seconds=60))
s.set("torch", "hello")
print(s.get("torch").decode(), s.add("sum", 5), s.add("sum", 2), s.compare_set("torch", "hello", "bye").decode(), s.check(["nothing"]))
s.multi_set(["m1", "m2"], ["1", "2"])
print([v.decode() for v in s.multi_get(["m1", "m2"])], s.delete_key("m1"), s.delete_key("m1"))
`

withTorch(
  "PyTorch's client uses our server",
  async () => {
    const child = Bun.spawn([python, "-c", CLIENT, String(server.port)], { stdout: "pipe", stderr: "ignore" })
    expect(await child.stdout.text()).toBe("hello 5 7 bye False\n['1', '2'] True False\n")
  },
  300_000,
)

const AGENT = `
import torch.distributed as d
s = d.TCPStore("127.0.0.1", 0, 1, True, wait_for_workers=False)
print(s.port, flush=True)
s.wait(["ours"])
print(s.get("ours").decode(), s.add("sum", 1), flush=True)
s.set("theirs", "from torch")
s.wait(["done"])
`

withTorch(
  "our client uses PyTorch's server",
  async () => {
    const child = Bun.spawn([python, "-c", AGENT], { stdout: "pipe", stderr: "ignore" })
    const reader = child.stdout.getReader()
    let printed = ""
    const line = async (): Promise<string> => {
      for (;;) {
        const [first, ...rest] = printed.split("\n")
        if (rest.length > 0) {
          printed = rest.join("\n")
          return first ?? ""
        }
        printed += text((await reader.read()).value ?? new Uint8Array([10]))
      }
    }
    const store = await Store.connect("127.0.0.1", Number(await line()), 60_000)
    expect(await store.add("sum", 41)).toBe(41)
    await store.set("ours", "from alpha")
    expect(await line()).toBe("from alpha 42")
    expect(text(await store.get("theirs", 60_000))).toBe("from torch")
    await store.set("done", "")
    expect(await child.exited).toBe(0)
    store.close()
  },
  300_000,
)
