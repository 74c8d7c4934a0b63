/** The planner: drops what nobody reads, gives every temporary an offset in one arena. */

import type { Plan } from "./program-device.ts"
import { type Node, type Program, tensorsOf } from "./program-op.ts"
import { byteLength, elements, type Tensor } from "./tensor.ts"

const ALIGN = 256
/** No tensor crosses a multiple of this: a device may allocate at most 4 GiB at once, NVIDIA's a little less. */
export const ARENA_SLAB = 0xff00_0000

/** One piece of an arena, and when it is alive. */
export interface Block {
  bytes: number
  from: number
  to: number
  offset: number
}
/** The temporaries that share a piece: in-place chains. */
type Shared = Block & { readonly members: Tensor[] }

export function plan(program: Program): Plan {
  removeDead(program)
  const blocks = liveness(program)
  const arenaBytes = place(blocks)
  const offsets = new Map<number, number>()
  for (const block of blocks) for (const t of block.members) offsets.set(t.id, block.offset)
  return { program, arenaBytes, offsets }
}

/** Removes nodes without effect and outputs without reader, last to first. */
function removeDead(program: Program): void {
  const read = new Set([...program.outputs.values()].map((t) => t.id))
  const kept: Node[] = []
  for (const node of program.nodes.toReversed()) {
    for (const [name, t] of Object.entries(node.outputs)) {
      if (t !== undefined && t.role === "temp" && !read.has(t.id)) node.outputs[name] = undefined
    }
    const useful = node.op.writes.length > 0 || Object.values(node.outputs).some((t) => t !== undefined)
    if (!useful) continue
    for (const t of tensorsOf(node.inputs)) read.add(t.id)
    kept.push(node)
  }
  program.nodes.length = 0
  for (const node of kept.reverse()) program.nodes.push(node) // there may be more than a call takes arguments
}

/** Lifetimes [from, to] in node indices; outputs of the program live to its end; an in-place output joins its input's block. */
function liveness(program: Program): Shared[] {
  const last = new Map<number, number>()
  program.nodes.forEach((node, index) => {
    for (const t of tensorsOf(node.inputs)) last.set(t.id, index)
  })
  for (const t of program.outputs.values()) last.set(t.id, program.nodes.length)
  const blockOf = new Map<number, Shared>()
  const blocks: Shared[] = []
  program.nodes.forEach((node, index) => {
    for (const [name, t] of Object.entries(node.outputs)) {
      if (t === undefined || t.role !== "temp") continue
      const bytes = Math.ceil(byteLength(t) / ALIGN) * ALIGN
      const to = last.get(t.id) ?? index
      const known = blockOf.get(t.id)
      if (known !== undefined) {
        known.to = Math.max(known.to, to) // added to
        continue
      }
      const source = node.inputs[node.op.inPlace[name] ?? ""] as Tensor | undefined
      const shared = source === undefined ? undefined : blockOf.get(source.id)
      if (shared !== undefined && shared.to === index && sameLayout(source as Tensor, t) && !readTwice(node, source as Tensor)) {
        shared.to = Math.max(to, index)
        shared.members.push(t)
        blockOf.set(t.id, shared)
        continue
      }
      const block = { bytes, from: index, to, offset: 0, members: [t] }
      blocks.push(block)
      blockOf.set(t.id, block)
    }
  })
  return blocks
}

/** Only elements of one size sit at the same place in both, so that tasks running at once do not meet. */
const sameLayout = (a: Tensor, b: Tensor): boolean => a.dtype === b.dtype && elements(a) === elements(b)

/** An input that a node reads under two names must not be overwritten while it reads. */
const readTwice = (node: Node, t: Tensor): boolean => tensorsOf(node.inputs).filter((other) => other.id === t.id).length > 1

/** `offset`, or the next slab where `bytes` would not end in the same one; what is larger than a slab stays, for devices that can. */
function withinSlab(offset: number, bytes: number): number {
  const room = ARENA_SLAB - (offset % ARENA_SLAB)
  return bytes <= room || bytes > ARENA_SLAB ? offset : offset + room
}

/** Largest first, each at the lowest offset from `start` on that is free during its whole life. Returns where the last one ends. */
export function place(blocks: readonly Block[], start = 0): number {
  const placed: Block[] = []
  let arena = start
  for (const block of blocks.toSorted((a, b) => b.bytes - a.bytes || a.from - b.from)) {
    let offset = withinSlab(start, block.bytes)
    for (const other of placed) {
      if (other.to < block.from || other.from > block.to) continue
      if (other.offset >= offset + block.bytes) break
      offset = withinSlab(Math.max(offset, other.offset + other.bytes), block.bytes)
    }
    block.offset = offset
    arena = Math.max(arena, offset + block.bytes)
    placed.splice(placed.findLastIndex((other) => other.offset <= block.offset) + 1, 0, block)
  }
  return arena
}
