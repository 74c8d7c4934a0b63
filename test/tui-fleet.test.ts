/** The live view of machines: every size of screen, every state, and the keys. */
import { expect, test } from "bun:test"
import { displayWidth } from "../src/base-term.ts"
import { type HostReport, JOB_STATES, type JobReport, type JobState } from "../src/fleet.ts"
import { createStyle, drawFleet, type FleetRow, type FleetState, fleetFrame, initialFleet, pressFleet } from "../src/tui.ts"

const plain = createStyle({ colour: false, unicode: true })

const job = (name: string, state: JobState, startedAt: number): JobReport => ({
  name,
  id: name,
  kind: "train",
  state,
  reason: state === "running" ? "" : `why ${state}`,
  argv: ["train", `--run=${name}`],
  slots: [],
  configHash: "",
  startedAt,
  attempt: 1,
  pid: state === "running" ? 7 : null,
  progress: { step: 20, steps: 100, loss: 2.5, valLoss: null, tokensPerS: 12_345, msPerStep: 500, ended: null },
  quietSince: 0,
  exit: null,
  launcher: "session",
  version: "",
})

const report: HostReport = {
  host: "l4",
  time: 100_000,
  boot: "",
  version: "0.1.0",
  commit: "abc",
  cores: 8,
  load: 1.5,
  memoryBytes: 2 ** 34,
  memoryFreeBytes: 2 ** 33,
  diskFreeBytes: 2 ** 36,
  gpus: [
    {
      index: 0,
      uuid: "u",
      name: "NVIDIA L4",
      memoryBytes: 2 ** 34,
      memoryUsedBytes: 2 ** 33,
      utilisation: 0.5,
      watts: 61,
      celsius: 55,
      job: "first",
    },
    {
      index: 1,
      uuid: "v",
      name: "other",
      memoryBytes: null,
      memoryUsedBytes: null,
      utilisation: null,
      watts: null,
      celsius: null,
      job: null,
    },
  ],
  jobs: [...JOB_STATES.map((state, i) => job(`was-${state}`, state, i)), job("first", "running", 40_000)],
}

const rows: FleetRow[] = [
  { name: "box", state: "ok", message: "", report },
  { name: "away", state: "unreachable", message: "10.0.0.9 cannot be reached", report: undefined },
  { name: "new", state: undefined, message: "", report: undefined },
]
const state: FleetState = { ...initialFleet([]), rows }

test("the frame fills every size exactly, in characters of either kind", () => {
  for (const style of [plain, createStyle({ colour: true, unicode: true }), createStyle({ colour: false, unicode: false })]) {
    for (const width of [1, 2, 5, 20, 39, 60, 80, 100, 200]) {
      for (const height of [1, 2, 3, 11, 12, 24, 50]) {
        const lines = fleetFrame(state, width, height, style)
        expect([width, height, lines.length, ...new Set(lines.map(displayWidth))]).toEqual([width, height, height, width])
      }
    }
  }
})

test("machines, GPUs and jobs are told, those that live first", () => {
  const text = fleetFrame(state, 120, 40, plain).map((line) => line.trimEnd())
  expect(text[0]).toBe(" alpha fleet · 3 machines · 2 running · 1 stalled · 1 restarting · 1 crashed · 1 rebooted · 1 not reached")
  expect(text[1]).toBe("● box  2 running · 2 GPUs · load 1.5 of 8 · 8.00 GiB of 16.0 GiB free · disk 64.0 GiB free · alpha 0.1.0 abc")
  expect(text[2]).toBe("    gpu:0  NVIDIA L4         █████───── 50 %  8.00 GiB of 16.0 GiB    61 W   55 °C  first")
  expect(text[5]).toMatch(/^ {4}first +running +20\/100 +2\.5000 +– +12\.3K +40\.0 s +1m 00s$/)
  expect(text.filter((line) => line.includes("was-")).map((line) => line.trim().split(/ +/)[1])).toEqual([
    "restarting",
    "stalled",
    "running",
    "rebooted",
    "stopped",
    "finished",
    "crashed",
  ])
  expect(text.join("\n")).toContain("unreachable: 10.0.0.9 cannot be reached")
  expect(text.join("\n")).toContain("asking …")
  expect(text.at(-3)).toBe(" first on box: running")
  expect(text.at(-2)).toBe(" alpha train --run=first")
})

test("keys choose a job, leave ended ones out, and end the view", () => {
  const press = (keys: readonly string[]) => keys.reduce<FleetState | undefined>((now, key) => now && pressFleet(now, key), state)
  const detail = (keys: readonly string[]) => fleetFrame(press(keys)!, 100, 30, plain).at(-3)!.trim()
  expect(detail(["j"])).toBe("was-restarting on box: restarting, why restarting")
  expect(detail(["down", "up", "k"])).toBe("first on box: running")
  expect(detail(["G"])).toBe("was-crashed on box: crashed, why crashed")
  expect(detail(["end", "home"])).toBe("first on box: running")
  expect(detail(["a", "G"])).toBe("was-running on box: running")
  expect(detail(["a", "a", "x"])).toBe("first on box: running")
  expect([press(["q"]), press(["ctrl-c"])]).toEqual([undefined, undefined])
  // A chosen job below the screen is scrolled to.
  expect(fleetFrame(press(["G"])!, 100, 12, plain).some((line) => line.includes("was-crashed ") && line.includes("20/100"))).toBeTrue()
  const nothing = fleetFrame(initialFleet(["a"]), 60, 14, plain)
  expect(nothing.join("\n")).toContain("no jobs: alpha fleet train starts one")
})

test("one frame waits for every machine", async () => {
  const sources = rows.map((row) => ({ name: row.name, ask: async () => row }))
  expect(await drawFleet(sources, plain, 80, 24)).toEqual(fleetFrame(state, 80, 24, plain))
})
