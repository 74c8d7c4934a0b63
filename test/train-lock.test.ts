/** The lock of a run under competition. */
import { afterAll, expect, test } from "bun:test"
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { hostname, tmpdir } from "node:os"
import { join } from "node:path"
import { lockRun } from "../src/train-lock.ts"

const dir = mkdtempSync(join(tmpdir(), "alpha-lock-"))
afterAll(() => rmSync(dir, { recursive: true, force: true }))

test("of several trainers that find a dead one's lock at once, one gets it, the others are told who has it", async () => {
  const source = `
    import { lockRun } from ${JSON.stringify(join(import.meta.dir, "../src/train-lock.ts"))}
    while (Date.now() < Number(process.argv[2])) {}
    try { lockRun(${JSON.stringify(dir)}); console.log("taken"); for await (const _ of console); } catch (error) { console.log(error.code, error.message) }`
  const script = join(dir, "take.ts")
  writeFileSync(script, source)
  for (let round = 0; round < 2; round++) {
    writeFileSync(join(dir, "lock"), JSON.stringify({ pid: 1, started: "0", host: hostname(), boot: "" }))
    const start = String(Date.now() + 700)
    const takers = Array.from({ length: 5 }, () =>
      Bun.spawn([process.execPath, script, start], { stdin: "pipe", stdout: "pipe", stderr: "inherit" }),
    )
    // Who got it keeps it until all have spoken, however late one of them comes.
    const readers = takers.map((taker) => taker.stdout.getReader())
    const said = (await Promise.all(readers.map((reader) => reader.read()))).map(({ value }) => new TextDecoder().decode(value))
    for (const taker of takers) taker.stdin.end()
    await Promise.all(takers.map((taker) => taker.exited))
    expect(said.filter((text) => text === "taken\n")).toHaveLength(1)
    expect(said.filter((text) => text.startsWith("5 run ") && text.includes("is being trained by process"))).toHaveLength(4)
    rmSync(join(dir, "lock"), { force: true })
  }
  expect(readdirSync(dir)).toEqual(["take.ts"])
}, 300_000)

test("a lock that cannot be written is told with its path", () => {
  expect(() => lockRun(join(dir, "gone"))).toThrow(`cannot lock ${join(dir, "gone/lock")}: its directory does not exist`)
})
