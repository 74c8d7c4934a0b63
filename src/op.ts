/** The table of all ops and the functions that model code calls. */

import { activationOps } from "./op-activation.ts"
import { attentionOps } from "./op-attention.ts"
import { attentionBackwardOps } from "./op-attention-backward.ts"
import { attentionCachedOps } from "./op-attention-cached.ts"
import { dropoutOps } from "./op-dropout.ts"
import { elementwiseOps } from "./op-elementwise.ts"
import { embeddingOps } from "./op-embedding.ts"
import { initOps } from "./op-init.ts"
import { logitOps } from "./op-logits.ts"
import { lossOps } from "./op-loss.ts"
import { matmulOps } from "./op-matmul.ts"
import { normOps } from "./op-norm.ts"
import { normBackwardOps } from "./op-norm-backward.ts"
import { optimizerOps } from "./op-optimizer.ts"
import { muon } from "./op-optimizer-muon.ts"
import { qkNormOps } from "./op-qk-norm.ts"
import { ropeOps } from "./op-rope.ts"
import { rowOps } from "./op-rows.ts"
import { sampleOps } from "./op-sample.ts"
import { swigluOps } from "./op-swiglu.ts"
import { weightedSumOps } from "./op-weighted-sum.ts"
import type { Op } from "./program.ts"

/** Every op: tests, devices and documentation are loops over this table. */
export const ops: readonly Op[] = [
  ...elementwiseOps,
  ...weightedSumOps,
  ...dropoutOps,
  ...swigluOps,
  ...embeddingOps,
  ...activationOps,
  ...matmulOps,
  ...normOps,
  ...normBackwardOps,
  ...attentionOps,
  ...attentionBackwardOps,
  ...attentionCachedOps,
  ...lossOps,
  ...logitOps,
  ...sampleOps,
  ...qkNormOps,
  ...ropeOps,
  ...optimizerOps,
  muon,
  ...rowOps,
  ...initOps,
]

export * from "./op-activation.ts"
export * from "./op-attention.ts"
export * from "./op-attention-backward.ts"
export * from "./op-attention-cached.ts"
export { caseInputs, caseValues } from "./op-case.ts"
export { type CaseVariant, caseProgram, checkCase, relativeL2, toBf16, variants } from "./op-check.ts"
export * from "./op-dropout.ts"
export * from "./op-elementwise.ts"
export * from "./op-embedding.ts"
export * from "./op-init.ts"
export * from "./op-logits.ts"
export * from "./op-loss.ts"
export * from "./op-matmul.ts"
export * from "./op-norm.ts"
export * from "./op-norm-backward.ts"
export * from "./op-optimizer.ts"
export * from "./op-optimizer-muon.ts"
export * from "./op-qk-norm.ts"
export { runReference, type Values } from "./op-reference.ts"
export * from "./op-rope.ts"
export * from "./op-rows.ts"
export * from "./op-sample.ts"
export * from "./op-swiglu.ts"
export * from "./op-weighted-sum.ts"
