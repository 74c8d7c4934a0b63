/** Opens the device that a name asks for. */
import { availableParallelism } from "node:os"
import { AlphaError, EXIT, nearest } from "./base-error.ts"
import { openCpu } from "./cpu.ts"
import { gpuProblems, gpus, openGpu } from "./gpu.ts"
import type { Device } from "./program.ts"

export interface Opened {
  readonly device: Device
  /** What `auto` chose and why; undefined when the name left no choice. */
  readonly choice: string | undefined
}

/** Names of the devices this machine has; a Vulkan driver that itself runs on the CPU is only used when asked for. */
export const deviceNames = (): string[] => ["cpu", ...gpus().flatMap(({ isSoftware }, i) => (isSoftware ? [] : [`gpu:${i}`]))]

/** The GPUs that are some, with what gpu:N and gpu:UUID call them. */
export const gpuNames = (): { index: number; uuid: string; name: string }[] =>
  gpus().flatMap(({ isSoftware, uuid, name }, index) => (isSoftware ? [] : [{ index, uuid, name }]))

/** The GPU that a name means here, without opening it; undefined for the CPU, and for one that is not there. */
export function gpuNamed(name: string): ReturnType<typeof gpus>[number] | undefined {
  if (name === "cpu") return undefined
  const found = gpus()
  if (name === "auto") return found.find(({ isSoftware }) => !isSoftware)
  const [, which = "0"] = /^gpu:(.*)$/.exec(name) ?? []
  return which.length > 3 ? found.find(({ uuid }) => uuid.startsWith(which)) : found[Number(which)]
}

/** What a name means here: "cpu", or the UUID of a GPU; a GPU that is not there keeps the name. */
export const deviceIdentity = (name: string): string => gpuNamed(name)?.uuid ?? (name === "auto" ? "cpu" : name)

/** What there is of Vulkan, for people: devices, those that run on the CPU marked, or what was looked for in vain. */
export function vulkanText(): string {
  const found = gpus().map(({ name, isSoftware }, i) => `gpu:${i} ${name}${isSoftware ? " (runs on the CPU: only when asked for)" : ""}`)
  return found.length > 0 ? found.join(", ") : `none (${gpuProblems().join("; ")})`
}

const GPU = /^gpu(?::(\d{1,3}|[0-9a-f]{8,32}))?$/

/** Throws where a word cannot be a device, whatever this machine has. */
export function checkDeviceName(name: string): void {
  if (["auto", "cpu"].includes(name) || GPU.test(name)) return
  const close = nearest(name, ["cpu", "gpu", "auto"])
  throw new AlphaError(`device ${name}: expected cpu, gpu, gpu:N, gpu:UUID or auto`, {
    hint: close && `did you mean ${close}?`,
    code: EXIT.usage,
  })
}

/** `cpu`, `gpu`, `gpu:N`, `gpu:UUID` (its first 8 digits or more) or `auto`; `debug` has a GPU check every launch. Throws when what was asked for cannot be had. */
export function openDevice(name: string, threads: number | undefined, debug = false): Opened {
  if (name === "auto") return automatic(threads, debug)
  if (name === "cpu") return { device: cpu(threads), choice: undefined }
  checkDeviceName(name)
  const which = GPU.exec(name)?.[1]
  return { device: openGpu(which !== undefined && which.length > 3 ? which : Number(which ?? 0), debug), choice: undefined }
}

const cpu = (threads: number | undefined): Device => openCpu(threads ?? availableParallelism())

/** The first GPU that is one; a Vulkan driver that itself runs on the CPU is slower than our own kernels there. */
function automatic(threads: number | undefined, debug: boolean): Opened {
  const found = gpus()
  const first = found.findIndex(({ isSoftware }) => !isSoftware)
  if (first >= 0) return { device: openGpu(first, debug), choice: `device auto: gpu:${first} (${found[first]?.name})` }
  const software = found.map(({ name }) => `${name} runs on the CPU`)
  const why = [...software, ...gpuProblems()].join("; ")
  return { device: cpu(threads), choice: `device auto: cpu (no GPU: ${why})` }
}
