/** Which checkpoint answers: loading on demand, eviction, pins, unloading, runs that begin. */
import { afterAll, afterEach, describe, expect, test } from "bun:test"
import { cpSync, mkdirSync, rmSync } from "node:fs"
import { join } from "node:path"
import { setLink } from "../src/gpt.ts"
import { Models } from "../src/serve-models.ts"
import { fakeEngine, startTest, type TestServer, workFolder, writeModel } from "./serve-fake.ts"

const work = workFolder()
afterAll(() => work.remove())
const model = writeModel(join(work.path, "model"))
const run = join(work.path, "runs/story")
const checkpoint = (step: number) => join(run, "checkpoints", `step-00000${step}`)
mkdirSync(join(run, "checkpoints"), { recursive: true })

/** Models on an engine that tells what it loaded and dropped. */
function watched() {
  const engine = fakeEngine()
  const told: string[] = []
  const { load, unload } = engine
  engine.load = (spec) => {
    told.push(`load ${spec.key}`)
    return load(spec)
  }
  engine.unload = (key) => {
    told.push(`unload ${key}`)
    return unload(key)
  }
  return { models: new Models(engine, { precision: "f32", log: () => {} }), told }
}

let server: TestServer | undefined
afterEach(async () => {
  await server?.close()
  server = undefined
  rmSync(run, { recursive: true, force: true })
  mkdirSync(join(run, "checkpoints"), { recursive: true })
})
function save(step: number, link: "best" | "last" = "best"): void {
  cpSync(model, checkpoint(step), { recursive: true })
  setLink(run, link, checkpoint(step))
}

test("a run that is followed from its beginning: not ready, then its last checkpoint, then its best", async () => {
  server = await startTest([], { follow: run })
  const status = async () => (await fetch(`${server!.url}/ready`)).status
  const ask = () => fetch(`${server!.url}/v1/completions`, { method: "POST", body: '{"prompt": "x"}' })
  expect(await status()).toBe(503)
  const early = await ask()
  expect([early.status, ((await early.json()) as { error: { code: string } }).error.code]).toEqual([503, "model_not_ready"])
  save(1, "last")
  await server.context.models.followOnce()
  expect([await status(), (await ask()).status]).toEqual([200, 200])
  save(2)
  await server.context.models.followOnce()
  await ask()
  expect(server.engine.requests.map((request) => request.model)).toEqual(["story@1", "story@2"])
})

test("an admin loads a checkpoint of a run that was not served, and nothing outside the runs", async () => {
  const admin = "admin-of-this-test"
  server = await startTest([model], { runsDir: join(work.path, "runs"), environment: { ALPHA_ADMIN_KEY: admin, ALPHA_API_KEYS: admin } })
  const load = async (name: string) => {
    const headers = { "x-api-key": admin }
    return (await fetch(`${server!.url}/v1/load`, { method: "POST", body: JSON.stringify({ model: name }), headers })).status
  }
  expect(await load("story")).toBe(404)
  save(1)
  save(2)
  expect([await load("story@1"), await load("story"), await load("story@7")]).toEqual([200, 200, 404])
  expect(server.engine.requests).toEqual([])
  for (const name of ["../runs/story", "..", ".", "", join(work.path, "runs/story")])
    expect([name, (await load(name)) >= 400]).toEqual([name, true])
  expect((await fetch(`${server.url}/ready`)).status).toBe(200)
})

test("a swap leaves the old checkpoint to the requests that began with it", async () => {
  save(1)
  const { models, told } = watched()
  models.add(run, "runs", "best")
  await models.start()
  const old = await models.lease("story")
  save(2)
  await models.followOnce()
  const next = await models.lease("story")
  expect([old.model.key, next.model.key]).toEqual(["story@1", "story@2"])
  expect(told).toEqual(["load story@1", "load story@2"])
  old.release()
  old.release()
  expect(told).toEqual(["load story@1", "load story@2", "unload story@1"])
  await models.followOnce()
  expect(told.length).toBe(3)
})

test("a checkpoint that vanishes while it is loaded keeps the old one answering", async () => {
  save(1)
  const { models } = watched()
  models.add(run, "runs", "best")
  await models.start()
  save(2)
  rmSync(join(checkpoint(2), "config.json"))
  await models.followOnce()
  expect((await models.lease("story")).model.key).toBe("story@1")
})

test("pinned steps are loaded when asked for, and only a few idle ones stay", async () => {
  for (const step of [1, 2, 3, 4, 5]) save(step)
  const { models, told } = watched()
  models.add(run, "runs")
  await models.start()
  for (const step of [1, 2, 3, 1]) (await models.lease(`story@${step}`)).release()
  expect(told).toEqual(["load story@5", "load story@1", "load story@2", "load story@3", "unload story@1", "load story@1", "unload story@2"])
  for (const name of ["story@9", "other", "story@x", "../story"]) await expect(models.lease(name)).rejects.toMatchObject({ status: 404 })
  expect(models.entries().map(({ id, loaded }) => `${id}${loaded ? " loaded" : ""}`)).toEqual([
    "story loaded",
    "story@1 loaded",
    "story@2",
    "story@3 loaded",
    "story@4",
    "story@5 loaded",
  ])
})

describe("one model", () => {
  test("that the engine dropped for others is loaded again when it is asked for", async () => {
    const { models, told } = watched()
    models.add(model, "runs")
    expect(models.isReady).toBe(false)
    await models.start()
    expect(models.isReady).toBe(true)
    models.evicted("model")
    expect(models.isReady).toBe(true)
    const [one, two] = await Promise.all([models.lease(undefined), models.lease("model")])
    expect(one.model).toBe(two.model)
    expect(told).toEqual(["load model", "load model"])
    await expect(models.lease("model@3")).rejects.toMatchObject({ status: 400 })
  })

  test("is unloaded when its last request has ended", async () => {
    const { models, told } = watched()
    models.add(model, "runs")
    await models.start()
    const lease = await models.lease("model")
    await models.unload("model")
    expect(told).toEqual(["load model"])
    lease.release()
    expect(told).toEqual(["load model", "unload model"])
    await models.lease("model")
    expect(told.at(-1)).toBe("load model")
  })

  test("cannot share its name with another", () => {
    const { models } = watched()
    models.add(model, "runs")
    models.add(model, "runs")
    const twin = join(work.path, "else/model")
    cpSync(model, twin, { recursive: true })
    expect(() => models.add(twin, "runs")).toThrow("two models are called model")
  })
})
