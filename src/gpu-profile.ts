/** What a launch moves and computes, for profiles. */
import type { ScheduledLaunch } from "./gpu-schedule.ts"
import type { Memory, Node, ProfileRow } from "./program.ts"
import { byteLength } from "./tensor.ts"

/** Bytes of a launch's memory, each once: tables of addresses stand for what they point at. */
function bytesOf(memory: Memory | undefined): number {
  if (memory === undefined) return 0
  if (!("kind" in memory)) return byteLength(memory)
  if (memory.kind === "scratch") return memory.elements * (memory.dtype === "bf16" ? 2 : 4)
  if (memory.kind === "part") return bytesOf(memory.of) - memory.from * (memory.of.dtype === "bf16" ? 2 : 4)
  const pointed = memory.values.filter((value) => typeof value === "object")
  return [...new Set(pointed)].reduce((sum, value) => sum + bytesOf(value), 0)
}

/** Op, kernel and bytes of a launch. */
export function about({ node, launch }: ScheduledLaunch) {
  const bytes = launch.bytes ?? Object.values(launch.buffers).reduce((sum, memory) => sum + bytesOf(memory), 0)
  return { node, op: node.op.name, kernel: launch.variant, bytes }
}

/** A node's operations belong to the longest of its launches. */
export function withFlops(rows: readonly (Omit<ProfileRow, "flops"> & { readonly node: Node })[]): ProfileRow[] {
  const longest = new Map<Node, number>()
  for (const { node, ms } of rows) longest.set(node, Math.max(ms, longest.get(node) ?? 0))
  return rows.map(({ node, ...row }) => {
    const isLongest = longest.get(node) === row.ms
    if (isLongest) longest.delete(node)
    return { ...row, flops: isLongest ? (node.op.flops?.(node.inputs, node.attrs) ?? 0) : 0 }
  })
}
