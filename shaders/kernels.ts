/** Every kernel of the pack. */
import type { Kernel } from "../src/spirv.ts"
import { geluBackward, geluForward, geluTanhBackward, geluTanhForward } from "./activation.ts"
import { attentions } from "./attention.ts"
import { attentionBackwardKeys, attentionBackwardQueries, attentionDelta } from "./attention-backward.ts"
import { add } from "./elementwise.ts"
import { matmuls } from "./matmul.ts"
import { rmsNormBackward, rmsNormForward } from "./norm.ts"
import { columnSum } from "./reduce.ts"

export const kernels: readonly Kernel[] = [
  rmsNormForward,
  rmsNormBackward,
  columnSum,
  add,
  geluForward,
  geluBackward,
  geluTanhForward,
  geluTanhBackward,
  ...matmuls,
  ...attentions,
  attentionDelta,
  ...attentionBackwardQueries,
  ...attentionBackwardKeys,
]
