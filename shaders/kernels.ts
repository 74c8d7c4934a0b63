/** Every kernel of the pack. */
import type { Kernel } from "../src/spirv.ts"
import { geluBackward, geluForward, geluTanhBackward, geluTanhForward } from "./activation.ts"
import { add } from "./elementwise.ts"
import { matmuls } from "./matmul.ts"
import { matmulCombine } from "./matmul-combine.ts"
import { matmulFew } from "./matmul-few.ts"
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
  ...Object.values(matmuls).flatMap((of) => Object.values(of)),
  ...matmulFew.flatMap(({ packed, any }) => [packed, any]),
  matmulCombine,
]
