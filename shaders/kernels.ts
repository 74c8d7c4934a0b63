/** Every kernel of the pack. */
import type { Kernel } from "../src/spirv.ts"
import { attentions } from "./attention.ts"
import { attentionBackwardKeys, attentionBackwardQueries, attentionDelta } from "./attention-backward.ts"
import { attentionAppends, attentionChunks } from "./attention-cached.ts"
import { attentionDecodes } from "./attention-decode.ts"
import { fragmentAttention } from "./attention-fragment.ts"
import { fragmentBackward } from "./attention-fragment-backward.ts"
import { matrixAttention } from "./attention-matrix.ts"
import { matrixBackward } from "./attention-matrix-backward.ts"
import { tensorAttention } from "./attention-tensor.ts"
import { tensorBackward } from "./attention-tensor-backward.ts"
import { tensorMask, tensorStatistics } from "./attention-tensor-inputs.ts"
import { all } from "./attention-tensor-tile.ts"
import { crossEntropy, lossSum } from "./classifier.ts"
import { dropout, dropoutEdge } from "./dropout.ts"
import { add, assign, cast, fill, multiply, softCap, softCapBackward } from "./elementwise.ts"
import { embeddings } from "./embedding.ts"
import { bucketFolds, bucketSums, periodicSums } from "./embedding-backward.ts"
import { randomNormal } from "./init.ts"
import { logitAdjust, logprobOf, logprobs } from "./logits.ts"
import { matmuls } from "./matmul.ts"
import { biasSums } from "./matmul-bias.ts"
import { matmulCombine } from "./matmul-combine.ts"
import { matmulCombineSpans } from "./matmul-combine-spans.ts"
import { matmulFew } from "./matmul-few.ts"
import { matrixMatmuls } from "./matmul-matrix.ts"
import { matmulSkinny } from "./matmul-skinny.ts"
import { tensorKernels } from "./matmul-tensor.ts"
import { muonApply, muonMomentum, muonStart } from "./muon.ts"
import { addNorms, norms } from "./norm.ts"
import { normBackwards } from "./norm-backward.ts"
import { adamw, lion, sgd } from "./optimizer.ts"
import { qkNormBackwards, qkNorms } from "./qk-norm.ts"
import { columnSum } from "./reduce.ts"
import { ropes } from "./rope.ts"
import { takeRows, takeRowsEdge } from "./rows.ts"
import { sampleSlices } from "./sample.ts"
import { sampleChoose } from "./sample-choose.ts"
import { clear, sortBounds, sortCount, sortScan, sortScatter } from "./sort.ts"
import { stepControl } from "./step-control.ts"
import { swiglu, swigluBackward } from "./swiglu.ts"
import { normOfSums, squareSums } from "./tensor-list.ts"
import { weightedSum, weightedSumBackward } from "./weighted-sum.ts"

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
  ...Object.values(ropes),
  ...Object.values(qkNorms),
  ...Object.values(qkNormBackwards),
  squareSums,
  normOfSums,
  stepControl,
  adamw,
  lion,
  sgd,
  muonMomentum,
  muonStart,
  muonApply,
  add,
  cast,
  assign,
  fill,
  multiply,
  softCap,
  softCapBackward,
  dropout,
  dropoutEdge,
  randomNormal,
  ...Object.values(swiglu),
  ...Object.values(swigluBackward),
  weightedSum,
  weightedSumBackward,
  takeRows,
  takeRowsEdge,
  sampleSlices,
  sampleChoose,
  logitAdjust,
  logprobs,
  logprobOf,
  ...Object.values(matmuls).flatMap((of) => Object.values(of)),
  ...matmulFew.flatMap(({ packed, any }) => [packed, any]),
  ...matmulSkinny.flatMap(({ narrow, wide }) => [narrow, wide]),
  matmulCombine,
  matmulCombineSpans,
  ...Object.values(crossEntropy),
  lossSum,
  ...tensorKernels,
  ...Object.values(matrixMatmuls).flat(),
  ...Object.values(biasSums),
  ...attentions,
  attentionDelta,
  ...attentionBackwardQueries,
  ...attentionBackwardKeys,
  ...[fragmentAttention, fragmentBackward.queries, fragmentBackward.keys].flatMap(
    ({ plain, dropout }): Kernel[] => [...plain, ...dropout] as Kernel[],
  ),
  ...Object.values(matrixAttention).flatMap(([best]) => (best === undefined ? [] : [best.plain, best.dropout])),
  ...[matrixBackward.queries, matrixBackward.keys].flatMap((bySize) =>
    Object.values(bySize).flatMap(([best]) => (best === undefined ? [] : [...best.plain, ...best.dropout])),
  ),
  ...all<Kernel>(tensorAttention),
  tensorMask,
  tensorStatistics,
  ...all<Kernel>(tensorBackward.queries),
  ...all<Kernel>(tensorBackward.keys),
  ...attentionAppends,
  ...attentionChunks,
  ...attentionDecodes.one,
  ...attentionDecodes.two,
]
