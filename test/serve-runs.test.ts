/** What the server tells of runs: JSON, downloads, and live rows that survive a lost connection. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { join } from "node:path"
import { startTest, type TestServer, workFolder } from "./serve-fake.ts"

const work = workFolder()
let server: TestServer
beforeAll(async () => {
  server = await startTest([], {
    environment: { UPLOAD_SECRET: "upload-secret", ALPHA_ADMIN_KEY: "admin-secret" },
    publicRead: true,
    runsDir: join(work.path, "runs"),
  })
})
afterAll(async () => {
  await server.close()
  work.remove()
})

const get = async (path: string): Promise<{ status: number; body: Record<string, unknown> }> => {
  const answer = await fetch(server.url + path)
  return { status: answer.status, body: (await answer.json()) as Record<string, unknown> }
}

describe("runs", () => {
  test("publicRead opens reading alone", async () => {
    expect((await get("/api/runs")).status).toBe(200)
    const patch = (key: string, body: object) =>
      fetch(`${server.url}/api/runs/run-1`, { method: "PATCH", headers: { authorization: `Bearer ${key}` }, body: JSON.stringify(body) })
    expect((await patch("upload-secret", { notes: "x" })).status).toBe(403)
    expect((await patch("admin-secret", { notes: 1 })).status).toBe(400)
    expect((await patch("admin-secret", { tags: ["a b"] })).status).toBe(400)
    expect((await patch("admin-secret", { state: "finished" })).status).toBe(400)
    const changed = (await (await patch("admin-secret", { notes: "good", tags: ["a"] })).json()) as object
    expect(changed).toMatchObject({ notes: "good", tags: ["a"] })
    expect((await fetch(`${server.url}/api/ingest`, { method: "POST", body: "{}" })).status).toBe(401)
  })

  test("paths of the server's disk are not told, and nonsense is refused", async () => {
    expect(JSON.stringify((await get("/api/runs/run-1/checkpoints")).body)).not.toContain("secret")
    for (const path of ["/api/runs/none", "/api/runs/..%2F..%2Fetc/config", "/api/training/live?run=none"])
      expect([path, (await get(path)).status]).toEqual([path, 404])
    for (const query of ["x=nothing", "points=0", "points=1e9", "from=abc", "columns=a%20b", "format=xml"])
      expect([query, (await get(`/api/runs/run-1/metrics?${query}`)).status]).toEqual([query, 400])
    expect((await get("/api/runs?state=gone")).status).toBe(400)
    expect((await get("/api/domains")).body).toEqual({
      domains: [{ id: "novels", runs: 1, running: 1, tokens: 300, loss: 2.5, bestValLoss: null, bestRun: null, updatedAt: 2 }],
    })
  })

  test("CSV has every column that any row has; JSONL the rows as they are", async () => {
    server.runs.add("run-1", "samples", { type: "sample", text: 'a "quoted",\nline' })
    server.runs.add("run-1", "samples", { type: "sample", text: "=1+1", more: 5 })
    const csv = await fetch(`${server.url}/api/runs/run-1/samples?format=csv`)
    expect(csv.headers.get("content-disposition")).toBe('attachment; filename="novels-samples.csv"')
    expect(await csv.text()).toBe('seq,time,type,text,more\r\n0,1000,sample,"a ""quoted"",\nline",\r\n1,1000,sample,\'=1+1,5\r\n')
    const lines = (await (await fetch(`${server.url}/api/runs/run-1/samples?format=jsonl`)).text()).trimEnd().split("\n")
    expect(lines.map((line) => (JSON.parse(line) as { seq: number }).seq)).toEqual([0, 1])
  })
})

interface Told {
  readonly event: string
  readonly id: string
  readonly data: { row?: { seq: number; type: string }; state?: string }
}

/** Listens until `count` events came. */
async function listen(query: string, last: string | undefined, count: number, started: () => void = () => {}): Promise<Told[]> {
  const gone = new AbortController()
  const headers: Record<string, string> = last === undefined ? {} : { "last-event-id": last }
  const answer = await fetch(`${server.url}/api/training/live${query}`, { headers, signal: gone.signal })
  expect(answer.headers.get("content-type")).toStartWith("text/event-stream")
  started()
  const told: Told[] = []
  let text = ""
  for await (const bytes of answer.body!) {
    text += new TextDecoder().decode(bytes)
    const events = text.split("\n\n")
    text = events.pop() ?? ""
    for (const event of events) {
      const field = (name: string) => new RegExp(`^${name}: (.*)$`, "m").exec(event)?.[1]
      if (field("data") !== undefined)
        told.push({ event: field("event")!, id: field("id")!, data: JSON.parse(field("data")!) as Told["data"] })
    }
    if (told.length >= count) break
  }
  gone.abort()
  return told
}

describe("live", () => {
  const step = (n: number) => server.runs.add("run-1", "metrics", { type: "step", step: n })

  test("all runs, resumed by the last id with nothing lost or told twice", async () => {
    const first = await listen("", undefined, 2, () => {
      step(1)
      step(2)
    })
    expect(first.map(({ event, data }) => [event, data.row?.seq])).toEqual([
      ["step", 0],
      ["step", 1],
    ])
    step(3) // while nobody listens
    server.runs.add("run-1", "events", { type: "checkpoint" })
    const second = await listen("", first[1]!.id, 3, () => step(4))
    expect(second.map(({ event, data }) => [event, data.row?.seq])).toEqual([
      ["step", 2],
      ["event", 0],
      ["step", 3],
    ])
    const again = await listen("", first[0]!.id, 4)
    expect(again.map(({ data }) => data.row?.seq)).toEqual([1, 2, 0, 3])
    expect((await listen("", "other-epoch:5", 1))[0]!.event).toBe("reset")
  })

  test("one run goes on from rows, whichever process answers", async () => {
    const told = await listen("?run=run-1", "metrics:1,events:-1,samples:1", 3)
    const places = (id: string) => id.replace(/\.\w+/g, "")
    expect(told.map(({ event, id }) => [event, places(id)])).toEqual([
      ["step", "metrics:2,events:-1,samples:1"],
      ["step", "metrics:3,events:-1,samples:1"],
      ["event", "metrics:3,events:0,samples:1"],
    ])
    const next = await listen("?run=run-1", told[2]!.id, 1, () => step(5))
    expect(next.map(({ event, id }) => [event, places(id)])).toEqual([["step", "metrics:4,events:0,samples:1"]])
    // Without an id: from now on, and the id says where all journals stand.
    const fresh = await listen("?run=run-1", undefined, 1, () => step(6))
    expect(fresh.map(({ event, id }) => [event, places(id)])).toEqual([["step", "metrics:5,events:0,samples:1"]])
    const other = await listen("?run=run-1", told[2]!.id.replace(/metrics:3\.\w+/, "metrics:3.zzz"), 1)
    expect(other.map(({ event, id }) => [event, places(id)])).toEqual([["reset", "metrics:5,events:0,samples:1"]])
  })

  test("a change of state is told", async () => {
    const told = await listen("", undefined, 1, () => {
      setTimeout(() => {
        server.runs.summaries[0] = { ...server.runs.summaries[0]!, state: "stalled" }
      }, 50)
    })
    expect(told.map(({ event, data }) => [event, data.state])).toEqual([["state", "stalled"]])
  }, 300_000)
})
