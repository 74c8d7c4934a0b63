/** What this machine has: processor, instruction sets, memory, system. */
import { readFileSync } from "node:fs"
import { availableParallelism, cpus, release, totalmem } from "node:os"
import { instructionSets } from "./native.ts"

export interface MachineFacts {
  readonly processor: string
  readonly cores: number
  /** Level of the kernels that run ("v4" AVX-512, "v3" AVX2 and FMA, "base"), and the processor's best. */
  readonly isa: string
  readonly best_isa: string
  /** Matrix products run on AMX tiles. */
  readonly amx: boolean
  readonly memory_bytes: number
  readonly memory_free_bytes: number
  /** Last-level cache; 0 where the system does not say. */
  readonly cache_bytes: number
  readonly system: string
  /** Null where the C library is another. */
  readonly glibc: string | null
}

export function machineFacts(): MachineFacts {
  const { best, used, amx } = instructionSets()
  return {
    processor: cpus()[0]?.model.trim() ?? "unknown",
    cores: availableParallelism(),
    isa: used,
    best_isa: best,
    amx,
    memory_bytes: Math.min(totalmem(), process.constrainedMemory() || Number.POSITIVE_INFINITY),
    memory_free_bytes: process.availableMemory(),
    cache_bytes: lastCache(),
    system: `${process.platform} ${release()}`,
    glibc: glibcVersion(),
  }
}

function glibcVersion(): string | null {
  const { header } = process.report.getReport() as { header?: { glibcVersionRuntime?: string } }
  return header?.glibcVersionRuntime ?? null
}

/** Bytes of the largest cache of processor 0, from Linux's list ("307200K"). */
function lastCache(): number {
  const sizes = [0, 1, 2, 3, 4].map((index) => {
    try {
      const text = readFileSync(`/sys/devices/system/cpu/cpu0/cache/index${index}/size`, "utf8")
      const [, count, unit] = /^(\d+)([KM])/.exec(text) ?? []
      return Number(count ?? 0) * (unit === "M" ? 2 ** 20 : 2 ** 10)
    } catch {
      return 0 // no such cache, or not Linux's layout
    }
  })
  return Math.max(...sizes)
}
