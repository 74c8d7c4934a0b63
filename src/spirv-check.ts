/** What SPIRV-Tools does not check: limits of push constants, shared memory and workgroups, alignment of matrix accesses. */
import { AlphaError } from "./base-error.ts"
import type { Kernel } from "./spirv-kernel.ts"
import { pushLayout, pushSize } from "./spirv-layout.ts"
import { type Node, needed, type SharedMemory, type View } from "./spirv-node.ts"
import { bytesOf, resolve } from "./spirv-type.ts"

/** What every device has. */
const MOST_PUSH = 128
const MOST_LANES = 1024
/** The largest subgroup, so that a workgroup is a multiple of any. */
const LARGEST_SUBGROUP = 64
/** Matrices are loaded and stored in pieces of so many bytes. */
const MATRIX_ALIGN = 16

/** Bytes of shared memory that a kernel uses. */
export function sharedBytes(used: Iterable<Node>): number {
  const arrays = new Set<SharedMemory>()
  for (const node of used) if ("view" in node && node.view.memory.kind === "shared") arrays.add(node.view.memory)
  return [...arrays].reduce((sum, { element, length }) => sum + bytesOf(element) * length, 0)
}

/** Throws AlphaError naming the kernel, the limit and what exceeds it. */
export function checkKernel(kernel: Kernel): void {
  const fail = (what: string, hint?: string): never => {
    throw new AlphaError(`kernel ${kernel.name}: ${what}`, { hint })
  }
  const push = pushSize(pushLayout(kernel))
  if (push > MOST_PUSH) fail(`${push} bytes of push constants, more than ${MOST_PUSH}`, "put addresses into a table in a buffer")
  const used = needed(kernel.recording.root)
  const shared = sharedBytes(used)
  if (shared > kernel.sharedKiB * 1024)
    fail(`${shared} bytes of shared memory, more than ${kernel.sharedKiB} KiB`, "sharedKiB: 48 where smaller devices get another kernel")
  const { workgroup } = kernel
  const lanes = typeof workgroup === "number" ? workgroup : kernel.constants[workgroup]!.value
  if (!(Number.isInteger(lanes) && lanes > 0 && lanes <= MOST_LANES)) fail(`a workgroup of ${lanes} lanes`)
  const hasSubgroups = [...used].some(({ kind }) => kind === "subgroup")
  if (hasSubgroups && lanes % LARGEST_SUBGROUP !== 0)
    fail(`subgroup operations in a workgroup of ${lanes}, no multiple of ${LARGEST_SUBGROUP}`)
  for (const node of used) if (node.kind === "matrix") checkAlignment(node, fail)
}

function checkAlignment(node: Node & { readonly kind: "matrix" }, fail: (what: string) => never): void {
  const check = (view: View, what: string, count: Node | undefined) => {
    if (count?.kind !== "literal") return
    const bytes = Number(count.value) * bytesOf(resolve(view.element, {}))
    if (bytes % MATRIX_ALIGN !== 0) fail(`${what} of ${bytes} bytes for a matrix in ${view.memory.name}, no multiple of ${MATRIX_ALIGN}`)
  }
  if (node.does === "load" || node.does === "store") {
    check(node.view, "a start", node.args[0])
    check(node.view, "a stride", node.args[1])
  }
  if (node.does === "loadTensor" || node.does === "storeTensor") check(node.view, "a base", node.args[0])
}
