import { afterAll, expect, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fuzzCaches, fuzzShards } from "./data-fuzz.ts"

const folder = mkdtempSync(join(tmpdir(), "alpha-data-fuzz-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

test("200 damaged shards (seed 31) are refused by name or give exactly their ids", async () => {
  const { refused, read } = await fuzzShards(200, 31, folder)
  expect([refused + read, refused > 80, read > 40]).toEqual([200, true, true])
})

test("100 damaged caches (seed 32) are named and made again", async () => {
  const { refused } = await fuzzCaches(100, 32, folder)
  expect(refused).toBeGreaterThan(80)
})
