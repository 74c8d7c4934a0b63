/** The table of all ops and the functions that model code calls. */
import { dropoutOps } from "./op-dropout.ts"
import { elementwiseOps } from "./op-elementwise.ts"
import { embeddingOps } from "./op-embedding.ts"
import { activationOps } from "./op-activation.ts"
import { matmulOps } from "./op-matmul.ts"
import { normOps } from "./op-norm.ts"
import { optimizerOps } from "./op-optimizer.ts"
import { muon } from "./op-optimizer-muon.ts"
import { swigluOps } from "./op-swiglu.ts"
import type { Op } from "./program.ts"

/** Every op: tests, devices and documentation are loops over this table. */
export const ops: readonly Op[] = [...elementwiseOps, ...dropoutOps, ...swigluOps, ...embeddingOps, ...activationOps, ...matmulOps, ...normOps, ...optimizerOps, muon]

export * from "./op-dropout.ts"
export * from "./op-elementwise.ts"
export * from "./op-embedding.ts"
export * from "./op-activation.ts"
export * from "./op-matmul.ts"
export * from "./op-norm.ts"
export * from "./op-optimizer.ts"
export * from "./op-optimizer-muon.ts"
export * from "./op-swiglu.ts"
