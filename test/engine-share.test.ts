/** Requests go before jobs on one device, and a job has its share of a server that is never idle. */
import { expect, test } from "bun:test"
import { Sharing } from "../src/engine-share.ts"

test("where nobody serves a job goes on at once", () => {
  const { pause } = new Sharing()
  expect(pause()).toBeUndefined()
})

test("a job waits for requests and goes on when there are none", async () => {
  let now = 0
  const sharing = new Sharing(() => now)
  const told: string[] = []
  let left = 0
  const leave = sharing.join(() => left > 0)
  expect(await sharing.pause()).toBe(false)
  left = 3
  const serving = (async () => {
    while (left > 0) {
      await new Promise((resolve) => void setImmediate(resolve))
      told.push(`answer ${left--}`)
    }
  })()
  // It has worked for so long that its share lets all of them go first.
  now += 200
  expect(await sharing.pause()).toBe(true)
  told.push("step")
  await serving
  expect(told).toEqual(["answer 3", "answer 2", "answer 1", "step"])
  leave()
  expect(sharing.pause()).toBeUndefined()
})

test("a server that is never idle leaves a job its share", async () => {
  let now = 0
  const sharing = new Sharing(() => now)
  sharing.join(() => {
    now++ // requests come and go without end
    return true
  })
  for (let step = 0; step < 5; step++) {
    now += 10
    const before = now
    expect(await sharing.pause()).toBe(true)
    expect([step, now - before]).toEqual([step, 40])
  }
})
