/** Every kernel of the pack. */
import type { Kernel } from "../src/spirv.ts"
import { geluBackward, geluForward, geluTanhBackward, geluTanhForward } from "./activation.ts"
import { attentions } from "./attention.ts"
import { attentionBackwardKeys, attentionBackwardQueries, attentionDelta } from "./attention-backward.ts"
import { attentionAppends, attentionChunks, attentionDecodes } from "./attention-cached.ts"
import { add } from "./elementwise.ts"
import { matmuls } from "./matmul.ts"
import { addNorms, norms } from "./norm.ts"
import { normBackwards } from "./norm-backward.ts"
import { columnSum } from "./reduce.ts"

export const kernels: readonly Kernel[] = [
  ...Object.values(norms),
  ...Object.values(addNorms),
  ...Object.values(normBackwards),
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
  ...attentionAppends,
  ...attentionChunks,
  ...attentionDecodes.one,
  ...attentionDecodes.two,
]
