/** Every kernel of the pack. */
import type { Kernel } from "../src/spirv.ts"
import { geluBackward, geluForward, geluTanhBackward, geluTanhForward } from "./activation.ts"
import { attentions } from "./attention.ts"
import { attentionBackwardKeys, attentionBackwardQueries, attentionDelta } from "./attention-backward.ts"
import { crossEntropy, lossSum } from "./classifier.ts"
import { add } from "./elementwise.ts"
import { matmuls } from "./matmul.ts"
import { biasSums } from "./matmul-bias.ts"
import { matmulCombine } from "./matmul-combine.ts"
import { matmulFew } from "./matmul-few.ts"
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
  ...Object.values(matmuls).flatMap((of) => Object.values(of)),
  ...matmulFew.flatMap(({ packed, any }) => [packed, any]),
  matmulCombine,
  crossEntropy,
  lossSum,
  ...Object.values(biasSums),
  ...attentions,
  attentionDelta,
  ...attentionBackwardQueries,
  ...attentionBackwardKeys,
]
