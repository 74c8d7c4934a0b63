/** The Vulkan device: a plan becomes command buffers that are recorded once and replayed for every run. */
import { AlphaError, EXIT } from "./base-error.ts"
import { formatBytes } from "./base-term.ts"
import { Driver } from "./gpu-driver.ts"
import { driverOf, findGpus, type GpuInfo, kindOf, peakFlops } from "./gpu-info.ts"
import { GpuMemory } from "./gpu-memory.ts"
import { Pipelines, pipelineCache } from "./gpu-pipeline.ts"
import { about, withFlops } from "./gpu-profile.ts"
import { Recorder, type Slot } from "./gpu-record.ts"
import { triedTarget } from "./gpu-room.ts"
import { finalSteps, type Schedule, schedule } from "./gpu-schedule.ts"
import { GpuState } from "./gpu-state.ts"
import { GpuWatch } from "./gpu-watch.ts"
import { openNvml } from "./native.ts"
import type { Device, Executable, GpuTarget, Plan, RunInputs, RunOutputs } from "./program.ts"
import { byteLength } from "./tensor.ts"

/** Runs of a program that may be under way at once. */
const SLOTS = 4

const PATHS: Record<GpuTarget["matrix"], string> = {
  none: "portable kernels",
  khr: "KHR cooperative matrices",
  nv2: "NV cooperative matrices 2",
}

/** Opens the Vulkan device of this place in `gpus()`, or whose UUID begins so; `debug` runs launch by launch. Throws AlphaError where there is none. */
export function openGpu(which: number | string = 0, debug = false): Device {
  const { usable, problems } = findGpus()
  const info = typeof which === "number" ? usable[which] : usable.find(({ facts }) => facts.uuid.startsWith(which))
  if (info === undefined) {
    const there = usable.map((gpu, i) => `gpu:${i} (${gpu.facts.name})`)
    const only =
      there.length === 0 ? "no usable Vulkan device" : `there ${there.length === 1 ? "is one" : `are ${there.length}`}: ${there.join(", ")}`
    throw new AlphaError(`device gpu:${which}: ${only}${problems.length === 0 ? "" : ` (${problems.join("; ")})`}`, {
      hint:
        there.length > 0
          ? `--device=gpu:${there.length === 1 ? "0" : `0 to gpu:${there.length - 1}`}, or --device=cpu`
          : "install the maker's driver with Vulkan (Debian: mesa-vulkan-drivers, NVIDIA: nvidia-driver), or use --device=cpu",
      code: EXIT.device,
    })
  }
  return open(info, usable.indexOf(info), debug)
}

/** Names of the usable devices in order: what gpu:N means. Software devices run on the CPU. */
export function gpus(): { name: string; driver: string; uuid: string; isSoftware: boolean; problems: readonly string[] }[] {
  const { usable, problems } = findGpus()
  return usable.map(({ facts }) => {
    const { name, driver, driverInfo, uuid } = facts
    return { name, driver: `${driver} ${driverInfo}`, uuid, isSoftware: kindOf(facts) === "cpu", problems }
  })
}

/** Why there is no usable device; for people. */
export const gpuProblems = (): readonly string[] => findGpus().problems

function open(info: GpuInfo, index: number, debug: boolean): Device {
  const target = triedTarget(info)
  const cache = pipelineCache(info.facts)
  const driver = new Driver(info, cache.bytes, debug)
  const memory = new GpuMemory(driver)
  const pipelines = new Pipelines(driver, target, cache.file)
  const sample = openNvml(info.facts.uuid)
  const schedules = new WeakMap<Plan, Schedule>()
  const scheduled = (plan: Plan): Schedule => {
    const made = schedules.get(plan) ?? schedule(plan, target)
    schedules.set(plan, made)
    return made
  }
  return {
    name: `gpu:${index}`,
    uuid: info.facts.uuid,
    get description() {
      const { name, memoryBytes } = info.facts
      const compiled =
        pipelines.codeRefusal === undefined ? "" : ` (compiled by the driver, which refuses machine code: ${pipelines.codeRefusal})`
      const room = target.ptxRoom === undefined ? "" : ` in ${target.ptxRoom >> 10} KiB`
      const ptx = target.ptx ? ` and Hopper's instructions in PTX${room}${compiled}` : ""
      return `${name}, ${formatBytes(memoryBytes)}, ${driverOf(info.facts)}, ${PATHS[target.matrix]}${ptx}${debug ? ", debugging" : ""}`
    },
    ahead: SLOTS - 1,
    ...(debug ? {} : { watch: () => new GpuWatch(driver) }),
    telemetry: () => sample?.(),
    peakBytes: () => driver.peakBytes,
    arenaBytes: (plan) => scheduled(plan).arenaBytes,
    peakFlops: (precision) => peakFlops(info.facts, precision),
    memoryBytes() {
      const { budget, used } = driver.memory()
      return Math.max(0, budget - used)
    },
    state: () => new GpuState(memory),
    begin: (plan) => pipelines.begin(scheduled(plan).steps.flatMap((step) => step.map(({ launch }) => launch))),
    compile: (plan, state, groups = []) => compile(plan, scheduled(plan), groups, state as GpuState, memory, pipelines, debug),
    close() {
      driver.idle("the end")
      if (driver.isLost) return
      pipelines.close()
      memory.close()
      driver.close()
    },
  }
}

function compile(
  plan: Plan,
  scheduled: Schedule,
  groups: readonly (readonly string[])[],
  state: GpuState,
  memory: GpuMemory,
  pipelines: Pipelines,
  debug: boolean,
): Executable {
  const { program } = plan
  const { driver } = memory
  state.ensureAll([...program.states.values()])
  const finals = finalSteps(program, scheduled, groups)
  const ends = [...new Set([...finals, scheduled.steps.length])]
  const recorder = new Recorder(plan, scheduled, memory, pipelines, state, ends)
  const unused: Slot[] = [recorder.slot()]
  /** The ring, oldest run first. */
  const used: Slot[] = []
  pipelines.save()
  const claim = (inputs: RunInputs, slots = SLOTS): Slot => {
    const slot = used.length < slots ? (unused.pop() ?? recorder.slot()) : (used.shift() as Slot)
    used.push(slot)
    driver.wait(slot.value, program.name)
    recorder.fill(slot, inputs)
    return slot
  }
  const outputsOf = (slot: Slot, value: number): RunOutputs => ({
    read(name) {
      const t = program.outputs.get(name)
      if (t === undefined) throw new TypeError(`${program.name} has no output ${name}`)
      driver.wait(value, program.name)
      const bytes = slot.results.view(recorder.results.get(name) as number, byteLength(t))
      return t.dtype === "i32" ? new Int32Array(bytes) : new Float32Array(bytes)
    },
  })
  return {
    plan,
    barriers: Math.max(0, scheduled.steps.length - 1),
    submit(inputs, onFinal, watch) {
      const slot = claim(inputs)
      const watches = watch instanceof GpuWatch && watch.holds(scheduled.steps.length)
      if (debug) recorder.debug(slot)
      else
        (watches ? recorder.watched(slot, watch) : slot.recordings).forEach((recording, i) => {
          slot.value = driver.submit(recording)
          if (onFinal !== undefined) for (const [group, final] of finals.entries()) if (final === ends[i]) onFinal(group)
        })
      return outputsOf(slot, slot.value)
    },
    submitAll(count, inputs, kept) {
      const slots = Array.from({ length: count }, (_, i) => claim(inputs(i), Math.max(SLOTS, kept + 1)))
      if (debug) slots.forEach((slot) => recorder.debug(slot))
      else {
        const value = driver.submit(...slots.flatMap(({ recordings }) => recordings))
        for (const slot of slots) slot.value = value
      }
      return slots.map((slot) => outputsOf(slot, slot.value))
    },
    profile(inputs) {
      const slot = claim(inputs)
      const rows = recorder.profile(slot).map(({ launch, startMs, ms }) => ({ ...about(launch), startMs, ms }))
      return { rows: withFlops(rows), outputs: outputsOf(slot, 0) }
    },
    free() {
      driver.idle(program.name)
      recorder.free([...unused, ...used])
    },
  }
}
