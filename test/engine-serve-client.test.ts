import { afterAll, expect, test } from "bun:test"
import { type RequestEvent, type ServeRequest, startEngine, startServing } from "../src/engine.ts"
import { clean, LIMITS, makeModel, PLAIN } from "./serve-engine.ts"

const path = makeModel("worker")
const engine = startEngine()
afterAll(() => {
  engine.close()
  clean()
})

test("through the Worker: models, requests, cancel, statistics, drain, stop; the main thread stays free", async () => {
  const serving = startServing(engine, LIMITS, { device: "cpu", threads: 1 })
  await expect(serving.load({ key: "m", path: `${path}/none`, precision: "f32" })).rejects.toThrow("no such directory")
  const facts = await serving.load({ key: "m", path, precision: "f32" })
  expect(facts).toMatchObject({ key: "m", directory: path, blockSize: 128 })
  let id = 0
  const ask = (request: Partial<ServeRequest>, onEvent?: (event: RequestEvent, id: number) => void) =>
    new Promise<RequestEvent[]>((done) => {
      const own = id++
      const events: RequestEvent[] = []
      serving.submit({ ...PLAIN, ...request, id: own }, (event) => {
        events.push(event)
        onEvent?.(event, own)
        if (event.type === "finished" || event.type === "failed") done(events)
      })
    })
  const cancel = () => ask({ maxTokens: 100, ignoreEnd: true }, (event, own) => event.type === "token" && serving.cancel(own))
  const [whole, first] = await Promise.all([ask({ maxTokens: 5, ignoreEnd: true, promptLogprobs: true, topLogprobs: 2 }), cancel()])
  // Where this thread does not get its turn, an answer is over before it can be cancelled.
  let [cancelled, tooLate] = [first, 0]
  for (; cancelled.at(-1)?.type === "finished" && tooLate < 100; tooLate++) cancelled = await cancel()
  const kinds = ["queued", "started", "promptLogprobs", "token", "token", "token", "token", "token", "finished"]
  expect(whole.map(({ type }) => type)).toEqual(kinds as RequestEvent["type"][])
  const scored = whole[2] as Extract<RequestEvent, { type: "promptLogprobs" }>
  expect([scored.from, scored.logprobs.length, scored.top!.map(({ ids }) => ids.length)]).toEqual([1, 2, [2, 2]])
  expect(cancelled.at(-1)).toMatchObject({ type: "failed", code: "cancelled" })
  const { running, finished, models } = await serving.statistics()
  expect({ running, length: finished.length, used: models[0]!.pagesUsed }).toEqual({ running: 0, length: 1 + tooLate, used: 0 })

  const deep = JSON.parse(`${'{"items":'.repeat(100_000)}{}${"}".repeat(100_000)}`)
  const refused = await ask({ constraint: { type: "json_schema", schema: deep } })
  expect(refused).toMatchObject([{ type: "failed", code: "request", param: "constraint", message: "constraint: nests too deeply" }])

  const last = ask({ maxTokens: 100, ignoreEnd: true })
  await serving.drain()
  expect((await last).at(-1)!.type).toBe("finished")
  expect((await ask({})).at(-1)).toMatchObject({ code: "draining" })
  expect((await serving.stop()).requests).toBe(4 + tooLate)
  expect((await ask({})).at(-1)).toMatchObject({ type: "failed", code: "internal" })
})
