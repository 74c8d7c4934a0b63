/** Opens the device that a name asks for. */
import { availableParallelism } from "node:os"
import { AlphaError, EXIT } from "./base-error.ts"
import { openCpu } from "./cpu.ts"
import type { Device } from "./program.ts"

export interface Opened {
  readonly device: Device
  /** What `auto` chose and why; undefined when the name left no choice. */
  readonly choice: string | undefined
}

/** Names of the devices this machine has. */
export const deviceNames = (): string[] => ["cpu"]

/** `cpu`, `gpu`, `gpu:N` or `auto`. Throws when what was asked for cannot be had. */
export function openDevice(name: string, threads: number | undefined): Opened {
  const cpu = () => openCpu(threads ?? availableParallelism())
  if (name === "cpu") return { device: cpu(), choice: undefined }
  if (name === "auto") return { device: cpu(), choice: "device auto: cpu (this build has no GPU device)" }
  throw new AlphaError(`device ${name}: this build has no GPU device`, { hint: "use --device=cpu", code: EXIT.device })
}
