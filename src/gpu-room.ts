/** How much shared memory a device gives a block of a kernel in PTX: tried once for each driver, on a device of its own that may be lost. */
import { mkdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { ptxRoom } from "../shaders/ptx-room.ts"
import { writeAtomic } from "./base-file.ts"
import { Driver, HOST } from "./gpu-driver.ts"
import { disablesRoom, type GpuInfo, targetOf } from "./gpu-info.ts"
import { ptxOf } from "./gpu-module.ts"
import { Pipelines, pipelineCache } from "./gpu-pipeline.ts"
import { vulkan } from "./native.ts"
import type { GpuTarget } from "./program.ts"
import { cellBytes, dynamicBytes, MOST_DYNAMIC } from "./ptx.ts"

/** Seconds after which a block that asks for more than the driver gives is taken for one that never begins. */
const PATIENCE = 3
const known = new Map<string, number>()

/** What ops may know of the device, with what only trying tells: 227 KiB for a block instead of 48 where its driver takes that from machine code. */
export function triedTarget(info: GpuInfo): GpuTarget {
  const [target, isDisabled] = [targetOf(info.facts), disablesRoom()]
  if (!target.ptx || isDisabled || ptxOf(ptxRoom).code === undefined) return target
  const { uuid } = info.facts
  const room = known.get(uuid) ?? kept(info)
  known.set(uuid, room)
  return { ...target, ptxRoom: room }
}

/** What was found with this driver before; tried where nothing was. */
function kept(info: GpuInfo): number {
  const { file } = pipelineCache(info.facts)
  const verdict = file && `${file}.room`
  const before = verdict === undefined ? 0 : verdictIn(verdict)
  if (before === MOST_DYNAMIC || before === ptxRoom.sharedBytes) return before
  const answer = isThere(info)
  const found = answer ? ptxRoom.sharedBytes : MOST_DYNAMIC
  if (answer === undefined) return found
  try {
    if (verdict !== undefined) {
      mkdirSync(join(verdict, ".."), { recursive: true, mode: 0o700 })
      writeAtomic(verdict, new TextEncoder().encode(`${found}\n`))
    }
  } catch {
    // a read-only home: tried again next time
  }
  return found
}

/** What the file says; 0 where it says nothing, or cannot be read. */
function verdictIn(file: string): number {
  try {
    return Number(readFileSync(file, "utf8"))
  } catch {
    return 0
  }
}

/** VkResults of a driver that has no memory, of the host or its own, at the moment. */
const NO_MEMORY = /VkResult -[12]$/

/** Whether all of it is there for two blocks of each processor; undefined where there was no memory to try it, which may be so today only. */
function isThere(info: GpuInfo): boolean | undefined {
  const target = targetOf(info.facts)
  const driver = new Driver(info, undefined)
  const pipelines = new Pipelines(driver, target, undefined)
  try {
    const launch = {
      kernel: ptxRoom,
      variant: ptxRoom.name,
      buffers: {},
      push: {},
      params: {},
      constants: {},
      groups: [2 * target.units, 1, 1],
    } as const
    pipelines.prepare([launch])
    const { threads, cells, name } = ptxRoom
    const blocks = launch.groups[0]
    const wrong = driver.buffer(4 * threads * blocks, HOST, HOST, name)
    const counts = new Uint32Array(wrong.view(0, 4 * threads * blocks)).fill(1)
    const grid = BigInt64Array.of(BigInt(blocks), 1n, 1n)
    const { handle } = pipelines.of(launch)
    const given = cellBytes(cells, { wrong: wrong.address })
    driver.now(
      name,
      (commands) => vulkan().gpu_launch(driver.gpu, commands, handle, grid, threads, dynamicBytes(ptxRoom), given, cells.length),
      PATIENCE,
    )
    const isRight = counts.every((count) => count === 0)
    wrong.free()
    pipelines.close()
    return isRight
  } catch {
    const refusal = pipelines.codeRefusal
    const isRefused = refusal !== undefined && !NO_MEMORY.test(refusal)
    return isRefused || driver.isLost ? false : undefined
  } finally {
    driver.close()
  }
}
