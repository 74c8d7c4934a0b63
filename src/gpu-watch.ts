/** When the steps of recordings run, as they really run: a timestamp behind the barrier before each step's launches, and one behind those. */
import { type Driver, MAX_TIMESTAMPS, type Recording } from "./gpu-driver.ts"
import type { ScheduledLaunch } from "./gpu-schedule.ts"
import { vulkan } from "./native.ts"
import type { Stretch, Watch } from "./program.ts"

export class GpuWatch implements Watch {
  turn = 0
  readonly #recordings: Recording[] = []
  readonly #stretches: Omit<Stretch, "startMs" | "endMs">[] = []
  /** The turn that found no timestamps left: neither it nor a later one is told of. */
  #cut = Number.POSITIVE_INFINITY

  constructor(readonly driver: Driver) {
    const reset = driver.record((commands) => vulkan().gpu_timestamp(driver.gpu, commands, -MAX_TIMESTAMPS))
    this.keep([reset])
    driver.submit(reset)
  }

  /** Whether timestamps for so many steps are left. */
  holds(steps: number): boolean {
    if (2 * (this.#stretches.length + steps) > MAX_TIMESTAMPS) this.#cut = Math.min(this.#cut, this.turn)
    return this.turn < this.#cut
  }

  /** Recordings that are done with when the watch ends. */
  keep(recordings: readonly Recording[]): void {
    this.#recordings.push(...recordings)
  }

  /**
   * Records a step's launches between two timestamps. Each is written when all kernels before it have ended, as the barriers beside them want it
   * anyway: nothing that runs side by side is kept apart.
   */
  around(commands: Recording, program: string, step: readonly ScheduledLaunch[], isFirst: boolean, launch: () => void): void {
    const { gpu } = this.driver
    const at = 2 * this.#stretches.length
    this.#stretches.push({ program, kernels: step.map((one) => one.launch.variant), isFirst, turn: this.turn })
    vulkan().gpu_timestamp(gpu, commands, at)
    launch()
    vulkan().gpu_timestamp(gpu, commands, at + 1)
  }

  end(): Stretch[] {
    const { driver } = this
    driver.idle("what is watched")
    for (const recording of this.#recordings.splice(0)) driver.freeRecording(recording)
    const ticks = new BigUint64Array(2 * this.#stretches.length)
    if (ticks.length > 0) vulkan().gpu_timestamps(driver.gpu, ticks.length, ticks)
    const unit = driver.info.facts.timestampFemtoseconds / 1e12
    const ms = (i: number): number => Number((ticks[i] as bigint) - (ticks[0] as bigint)) * unit
    return this.#stretches
      .map((stretch, i) => ({ ...stretch, startMs: ms(2 * i), endMs: ms(2 * i + 1) }))
      .filter(({ turn }) => turn < this.#cut)
  }
}
