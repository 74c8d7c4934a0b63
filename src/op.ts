/** The table of all ops and the functions that model code calls. */
import { elementwiseOps } from "./op-elementwise.ts"
import type { Op } from "./program.ts"

/** Every op: tests, devices and documentation are loops over this table. */
export const ops: readonly Op[] = [...elementwiseOps]

export * from "./op-elementwise.ts"
