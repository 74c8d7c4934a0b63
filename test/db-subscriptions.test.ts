/** What is written while the database is away is told when it is back, however long that was. */
import { expect, test } from "bun:test"
import { Subscriptions } from "../src/db-subscriptions.ts"
import type { RunUpdate } from "../src/db-types.ts"

test("a run that changed a minute ago, while looks failed, is told by the next look", async () => {
  let isAway = true
  const missed = Promise.withResolvers<void>()
  const subscriptions = new Subscriptions({
    records: async () => {
      if (isAway) {
        missed.resolve()
        throw new Error("away")
      }
      return [{ id: "r", updatedAt: Date.now() - 60_000 }]
    },
    idOf: async (name) => name,
    through: async () => -1,
    rowsAfter: async (_, kind, after) => (kind === "metrics" && after < 0 ? [{ seq: 0, time: 1, type: "step" }] : []),
  })
  const { promise, resolve } = Promise.withResolvers<RunUpdate>()
  const end = subscriptions.add("r", {}, resolve)
  await missed.promise
  isAway = false
  expect(await promise).toMatchObject({ run: "r" })
  end()
  subscriptions.close()
}, 300_000)
