/** Every kernel of the pack. */
import type { Kernel } from "../src/spirv.ts"
import { geluBackward, geluForward, geluTanhBackward, geluTanhForward } from "./activation.ts"
import { add } from "./elementwise.ts"
import { embeddings } from "./embedding.ts"
import { bucketFolds, bucketSums, periodicSums } from "./embedding-backward.ts"
import { matmuls } from "./matmul.ts"
import { addNorms, norms } from "./norm.ts"
import { normBackwards } from "./norm-backward.ts"
import { columnSum } from "./reduce.ts"
import { clear, sortBounds, sortCount, sortScan, sortScatter } from "./sort.ts"

export const kernels: readonly Kernel[] = [
  ...Object.values(norms),
  ...Object.values(addNorms),
  ...Object.values(normBackwards),
  columnSum,
  ...Object.values(embeddings),
  ...Object.values(bucketFolds),
  ...Object.values(bucketSums),
  ...Object.values(periodicSums),
  clear,
  sortCount,
  sortScan,
  sortScatter,
  sortBounds,
  add,
  geluForward,
  geluBackward,
  geluTanhForward,
  geluTanhBackward,
  ...matmuls,
]
