/** --debugGpu: one launch per submit, memory nobody wrote is NaN, and a kernel that writes outside its buffers is named. */
import { AlphaError, EXIT } from "./base-error.ts"
import type { DeviceBuffer, Recording } from "./gpu-driver.ts"
import { kindOf } from "./gpu-info.ts"
import type { GpuMemory } from "./gpu-memory.ts"
import type { ScheduledLaunch } from "./gpu-schedule.ts"
import { vulkan } from "./native.ts"

/** A piece of a buffer that a launch may write. */
export interface Span {
  readonly buffer: DeviceBuffer
  readonly from: number
  readonly to: number
}

/** Up to this many bytes of device memory are compared around every launch. */
const COMPARED = 2 ** 28
const NAN = 0xffffffff

interface DebugStep {
  readonly scheduled: ScheduledLaunch
  readonly dispatch: (commands: Recording) => void
  /** Memory that the launch may write. */
  readonly writes: readonly Span[]
}

/**
 * Seconds after which a launch has hung, as an H200 did after some page faults, of which nothing told: on a GPU none takes as long; drivers that run on the
 * CPU have the time they need.
 */
const LAUNCH_SECONDS = 10

/** Fills the arena with NaN, then runs the launches one by one. Throws AlphaError that names the first kernel that fails or writes elsewhere. */
export function runDebug(memory: GpuMemory, arena: readonly DeviceBuffer[], steps: readonly DebugStep[]): void {
  const { driver } = memory
  const seconds = kindOf(driver.info.facts) === "cpu" ? undefined : LAUNCH_SECONDS
  driver.now("filling the arena with NaN", (commands) => {
    for (const { handle, bytes } of arena) vulkan().gpu_fill(driver.gpu, commands, handle, 0, bytes, NAN)
  })
  const watched = memory.buffers()
  const isSmall = watched.reduce((sum, { bytes }) => sum + bytes, 0) <= COMPARED
  const contents = () => new Map(isSmall ? watched.map((buffer) => [buffer, download(memory, buffer)]) : [])
  let before = contents()
  for (const { scheduled, dispatch, writes } of steps) {
    const what = nameOf(scheduled)
    driver.now(what, dispatch, seconds)
    const after = contents()
    for (const [buffer, bytes] of after) {
      const strayed = firstChange(
        before.get(buffer) as Uint8Array,
        bytes,
        writes.filter((span) => span.buffer === buffer),
      )
      if (strayed === undefined) continue
      throw new AlphaError(
        `${what} writes outside its buffers, ${strayed} bytes into ${bytes.length} bytes at address ${buffer.address.toString(16)}`,
        {
          hint: "this is a mistake in the kernel or in its op's gpu function: please report it",
          code: EXIT.device,
        },
      )
    }
    before = after
  }
}

/** "kernel add.f32 (2 × 1 × 1 workgroups) of add" */
function nameOf({ node, launch }: ScheduledLaunch): string {
  return `kernel ${launch.variant} (${launch.groups.join(" × ")} workgroups) of ${node.op.name}`
}

const download = (memory: GpuMemory, buffer: DeviceBuffer): Uint8Array =>
  memory.download({ buffer, offset: 0, address: buffer.address, bytes: buffer.bytes, free: () => {} }, buffer.bytes)

/** Offset of the first byte that differs outside the allowed spans. */
function firstChange(before: Uint8Array, after: Uint8Array, allowed: readonly Span[]): number | undefined {
  let at = 0
  const end = { from: after.length, to: after.length }
  for (const { from, to } of [...allowed.toSorted((a, b) => a.from - b.from), end]) {
    if (from > at && Buffer.compare(before.subarray(at, from), after.subarray(at, from)) !== 0) {
      while (before[at] === after[at]) at++
      return at
    }
    at = Math.max(at, to)
  }
  return undefined
}
