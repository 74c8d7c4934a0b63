/** Every kernel of the pack. */
import type { Kernel } from "../src/spirv.ts"
import { activationBackward } from "./activation.ts"
import { attentions } from "./attention.ts"
import { attentionBackwardKeys, attentionBackwardQueries, attentionDelta } from "./attention-backward.ts"
import { dropout, dropoutEdge } from "./dropout.ts"
import { add, assign, cast, fill, softCap, softCapBackward } from "./elementwise.ts"
import { randomNormal } from "./init.ts"
import { matmuls } from "./matmul.ts"
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
  cast,
  assign,
  fill,
  softCap,
  softCapBackward,
  ...Object.values(activationBackward),
  dropout,
  dropoutEdge,
  randomNormal,
  ...Object.values(matmuls).flatMap((of) => Object.values(of)),
  ...matmulFew.flatMap(({ packed, any }) => [packed, any]),
  matmulCombine,
  ...attentions,
  attentionDelta,
  ...attentionBackwardQueries,
  ...attentionBackwardKeys,
]
