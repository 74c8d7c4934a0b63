/** Every kernel of the pack. */
import type { Kernel } from "../src/spirv.ts"
import { activationBackward } from "./activation.ts"
import { dropout, dropoutEdge } from "./dropout.ts"
import { add, assign, cast, fill, softCap, softCapBackward } from "./elementwise.ts"
import { randomNormal } from "./init.ts"
import { matmuls } from "./matmul.ts"
import { rmsNormBackward, rmsNormForward } from "./norm.ts"
import { columnSum } from "./reduce.ts"

export const kernels: readonly Kernel[] = [
  rmsNormForward,
  rmsNormBackward,
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
  ...matmuls,
]
