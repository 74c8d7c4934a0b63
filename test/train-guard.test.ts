/** The guard: steps without a finite gradient, spikes and empty batches are skipped, counted, told, and survived. */
import { afterAll, describe, expect, spyOn, test } from "bun:test"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { trainConsole } from "../src/cli-train-console.ts"
import { finishTrain, loadConfig, TRAIN_FIELDS } from "../src/config.ts"
import { openCpu } from "../src/cpu.ts"
import { CONTROL, CONTROL_SIZE, runReference, stepControl, type Values } from "../src/op.ts"
import { type Device, plan, type State, trace } from "../src/program.ts"
import { type StepRow, type Summary, type TrainEvent, train } from "../src/train.ts"
import { sampleText } from "./support.ts"

const runsDir = mkdtempSync(join(tmpdir(), "alpha-guard-"))
afterAll(() => rmSync(runsDir, { recursive: true, force: true }))
const cpu = openCpu(2)

describe("the decision on a step", () => {
  const SPIKE = 4
  const program = plan(
    trace("control", (t) => {
      const control = t.state("control", "f32", [CONTROL_SIZE])
      stepControl({ norm: t.state("norm", "f32", []), targets: t.state("targets", "f32", []), control }, { clip: 0, spike: SPIKE })
    }),
  )
  /** Feeds gradient norms one by one; gives the control cells after each. */
  const machines = {
    "f64 reference": () => {
      const state: Values = new Map()
      return (norm: number) => {
        state.set("norm", Float64Array.of(norm)).set("targets", Float64Array.of(1))
        runReference(program.program, state, {})
        return [...(state.get("control") as Float64Array)]
      }
    },
    cpu: () => {
      const state = cpu.state()
      const run = cpu.compile(program, state)
      return (norm: number) => {
        state.write("norm", Float32Array.of(norm))
        state.write("targets", Float32Array.of(1))
        run.submit({})
        return [...state.read("control")]
      }
    },
  }
  const usual = Array.from({ length: 60 }, (_, i) => 1 + 0.1 * Math.sin(5 * i))

  for (const [name, machine] of Object.entries(machines)) {
    test(`${name}: mean and variance are those of exponential weights 0.02·0.98ᵏ, the first norm takes the rest`, () => {
      const feed = machine()
      const control = usual.map(feed).at(-1) as number[]
      const weights = usual.map((_, i) => (i === 0 ? 0.98 ** 59 : 0.02 * 0.98 ** (59 - i)))
      const mean = usual.reduce((sum, n, i) => sum + n * (weights[i] as number), 0)
      const variance = usual.reduce((sum, n, i) => sum + (n - mean) ** 2 * (weights[i] as number), 0)
      expect(control[CONTROL.meanNorm]).toBeCloseTo(mean, 5)
      expect(control[CONTROL.variance]).toBeCloseTo(variance, 6)
      expect(control[CONTROL.applied]).toBe(60)
    })

    test(`${name}: not a number and infinity are skipped and leave the statistics alone; the next step counts`, () => {
      const feed = machine()
      feed(1)
      const before = feed(1.2)
      for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
        const after = feed(bad)
        expect([after[CONTROL.skip], after[CONTROL.scale]]).toEqual([1, 0])
        for (const cell of ["applied", "meanNorm", "variance"] as const) expect(after[CONTROL[cell]]).toBe(before[CONTROL[cell]] as number)
      }
      const next = feed(1.1)
      expect([next[CONTROL.skip], next[CONTROL.scale], next[CONTROL.skipped], next[CONTROL.applied]]).toEqual([0, 1, 2, 3])
    })

    test(`${name}: spikes are judged after 50 steps, by standard deviations`, () => {
      const feed = machine()
      usual.slice(0, 49).forEach(feed)
      expect(feed(2)[CONTROL.skip]).toBe(0) // step 50: still learning what is usual
      const fresh = machine()
      const control = usual.map(fresh).at(-1) as number[]
      const limit = (control[CONTROL.meanNorm] as number) + SPIKE * Math.sqrt(control[CONTROL.variance] as number)
      expect(fresh(limit * 0.999)[CONTROL.skip]).toBe(0)
      const other = machine()
      usual.forEach(other)
      expect(other(limit * 1.001)[CONTROL.skip]).toBe(1)
      expect(other(1)[CONTROL.skip]).toBe(0)
    })

    test(`${name}: a single spike leaves the next one a spike; a lasting rise becomes usual`, () => {
      const feed = machine()
      usual.forEach(feed)
      expect(feed(10)[CONTROL.skip]).toBe(1)
      usual.slice(0, 20).forEach((n) => {
        expect(feed(n)[CONTROL.skip]).toBe(0)
      })
      expect(feed(10)[CONTROL.skip]).toBe(1)
      let steps = 0
      while (feed(10 + Math.sin(steps))[CONTROL.skip] === 1 && steps < 100) steps++
      expect(steps).toBeGreaterThan(5)
      expect(steps).toBeLessThan(60)
    })
  }
})

/** The CPU device, where `spoil` may change the state before an update (0, 1, …) and `after` sees it afterwards. */
function disturbed(spoil: (update: number, state: State) => void, after: (update: number, state: State) => void): Device {
  let state: State | undefined
  return {
    ...cpu,
    state() {
      state = cpu.state()
      return state
    },
    compile(program, on) {
      const run = cpu.compile(program, on)
      if (program.program.name !== "train.update") return run
      let update = 0
      return {
        ...run,
        submit(inputs) {
          spoil(update, on)
          const outputs = run.submit(inputs)
          after(update++, on)
          return outputs
        },
      }
    },
  }
}

/** Overwrites one element of a state. */
function poke(state: State, name: string, value: number): void {
  const values = state.read(name).slice()
  values[5] = value
  state.write(name, values)
}

function job(run: string, settings: Readonly<Record<string, string>>) {
  const flags = Object.entries({
    tokenizer: "char",
    nLayer: "1",
    nHead: "2",
    nEmbd: "16",
    context: "16",
    batch: "2",
    accumSteps: "2",
    evalInterval: "none",
    sampleInterval: "none",
    logInterval: "1",
    runsDir,
    ...settings,
  })
  const loaded = finishTrain(
    loadConfig(TRAIN_FIELDS, {
      flags: flags.map(([name, raw]) => ({ name, raw, layer: "flag", from: `--${name}` })),
      environment: new Map(),
    }),
  )
  return {
    values: loaded.values,
    record: { config: {}, seed: 1, commit: "", version: "" },
    directory: join(runsDir, run),
    resume: false,
  }
}

const lines = <T>(run: string, journal: string): T[] =>
  readFileSync(join(runsDir, run, `${journal}.jsonl`), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as T)

describe("training", () => {
  const text = join(runsDir, "text.txt")
  writeFileSync(text, sampleText(20_000))
  const never = { stopped: false }

  for (const [precision, optimizer] of [
    ["f32", "adamw"],
    ["bf16", "muon"],
  ] as const) {
    test(`${precision}, ${optimizer}: a gradient that is not a number changes no weight, moment or copy, is told, and training goes on`, async () => {
      const run = `nan-${precision}`
      const BAD = [2, 3, 6]
      const kept = (state: State) =>
        new Map(
          state
            .names()
            .filter((name) => !/^(grad\.|sum\.|control)/.test(name))
            .map((name) => [name, state.read(name).slice()]),
        )
      let before = new Map<string, unknown>()
      const moved: boolean[] = []
      const device = disturbed(
        (update, state) => {
          before = kept(state)
          const name = update === 3 ? "wte.weight" : "h.0.mlp.up.weight"
          if (BAD.includes(update)) poke(state, `grad.${name}`, update === 6 ? Number.POSITIVE_INFINITY : Number.NaN)
        },
        (update, state) => {
          const after = kept(state)
          const same = [...after].every(([name, values]) => Bun.deepEquals(values, before.get(name)))
          moved.push(!same)
          expect([update, same]).toEqual([update, BAD.includes(update)])
        },
      )
      const events: TrainEvent[] = []
      const summary = await train(job(run, { data: text, steps: "10", precision, optimizer }), device, never, (e) => events.push(e))
      expect(moved.length).toBe(10)
      expect(summary).toMatchObject({ status: "completed", steps: 10, skipped: 3 })
      expect(Number.isFinite(summary.loss as number)).toBe(true)
      const rows = lines<StepRow>(run, "metrics").filter((row) => row.type === "step")
      expect(rows.map((row) => row.skipped)).toEqual([0, 0, 1, 2, 2, 2, 3, 3, 3, 3])
      const told = [
        { step: 3, level: "warn", message: "step 3 skipped: gradient norm NaN" },
        { step: 4, level: "warn", message: "step 4 skipped: gradient norm NaN" },
        { step: 7, level: "warn", message: "step 7 skipped: gradient norm Infinity" },
      ]
      expect(lines<TrainEvent>(run, "events").filter((event) => event.type === "note")).toMatchObject(told)
      const write = spyOn(process.stderr, "write").mockImplementation(() => true)
      const view = trainConsole()
      for (const event of events) view.show(event)
      view.close()
      const printed = write.mock.calls.map(([chunk]) => String(chunk)).join("")
      write.mockRestore()
      for (const { message } of told) expect(printed).toContain(message)
      expect(printed).toContain("skipped 3")
    })
  }

  test("a spike is skipped and named, the run recovers", async () => {
    const device = disturbed(
      (update, state) => {
        if (update === 55) poke(state, "grad.wte.weight", 1e6)
      },
      () => {},
    )
    const summary = await train(job("spike", { data: text, steps: "60", spikeThreshold: "8" }), device, never, () => {})
    expect(summary).toMatchObject({ steps: 60, skipped: 1 })
    const notes = lines<{ type: string; message: string }>("spike", "events").filter(({ type }) => type === "note")
    expect(notes.length).toBe(1)
    expect(notes[0]?.message).toMatch(/^step 56 skipped: gradient norm 1\.5\d+e\+4 is a spike, the running mean is /)
  })

  test("batches without a token that takes the loss are skipped; the run survives them", async () => {
    const chat = join(runsDir, "chat.jsonl")
    const row = {
      messages: [
        { role: "user", content: "tell me about the sea and the whale" },
        { role: "assistant", content: "calm" },
      ],
    }
    writeFileSync(chat, `${JSON.stringify(row)}\n`.repeat(50))
    const settings = { data: chat, maskPrompt: "true", batch: "1", context: "8", steps: "40", evalInterval: "10", lr: "0.01" }
    const events: TrainEvent[] = []
    const summary: Summary = await train(job("masked", settings), cpu, never, (e) => events.push(e))
    const steps = events.filter((event) => event.type === "step")
    const empty = steps.filter(({ loss }) => Number.isNaN(loss))
    expect(empty.length).toBeGreaterThan(5)
    expect(empty.length).toBeLessThan(35)
    expect(summary.skipped).toBe(empty.length)
    expect(Number.isFinite(summary.val_loss as number)).toBe(true)
    const notes = events.filter((event) => event.type === "note").map(({ message }) => message)
    expect(notes).toEqual(empty.map(({ step }) => `step ${step} skipped: no token of its batch takes the loss`))
    const last = (list: typeof steps) => list.filter(({ loss }) => Number.isFinite(loss)).at(-1)?.loss as number
    expect(last(steps)).toBeLessThan(last(steps.slice(0, 12)))
  })

  test("a prompt that the vocabulary cannot write is left out and told; the run ends whole", async () => {
    const settings = { data: text, steps: "4", sampleInterval: "2", sampleTokens: "3", context: "32" }
    const beginning = readFileSync(text, "utf8").slice(0, 4)
    for (const [run, given, used] of [
      ["some", `${beginning},☃`, beginning],
      ["none", "☃", undefined],
    ] as const) {
      const events: TrainEvent[] = []
      const summary = await train(job(`prompt-${run}`, { ...settings, samplePrompts: JSON.stringify(given.split(",")) }), cpu, never, (e) =>
        events.push(e),
      )
      expect(summary).toMatchObject({ status: "completed", steps: 4 })
      const prompts = lines<{ prompt: string }>(`prompt-${run}`, "samples").map(({ prompt }) => prompt)
      expect(prompts.length).toBe(2)
      if (used !== undefined) expect(prompts).toEqual([used, used])
      const notes = events.filter((event) => event.type === "note")
      expect(notes.length).toBe(1)
      expect(notes[0]?.message).toContain('samplePrompts "☃" is left out')
    }
  })
})
