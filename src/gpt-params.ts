/** Every parameter of a model: name, shape, initialisation, weight decay; one table. */
import type { ModelConfig } from "./config.ts"
import { fill, randomNormal } from "./op.ts"
import { type Plan, plan, trace, writeTo } from "./program.ts"

export interface ParamSpec {
  readonly name: string
  /** Linear weights are (out, in): y = x·wᵀ. */
  readonly shape: readonly number[]
  /** Standard deviation of a normal, or the constant every element starts at. */
  readonly init: { readonly std: number } | { readonly constant: number }
  /** Weight decay applies to matrices only. */
  readonly decay: boolean
  /** Hidden matrices, which Muon orthogonalises; row blocks it treats one by one (q, k, v of a packed weight). */
  readonly muon: readonly number[] | undefined
  /** Used as an operand of a matrix product: has a bf16 copy under --precision=bf16. */
  readonly matmul: boolean
}

/** The parameters in forward order. Shapes: C nEmbd, V vocabSize, T blockSize, D headDim, F ffnDim. */
export function paramSpecs(c: ModelConfig): ParamSpec[] {
  const { nEmbd: C, headDim: D, nHead: H, nKvHead: K, ffnDim: F } = c
  const qkv = [H * D, K * D, K * D]
  const projectionStd = c.residualScaling ? c.initStd / Math.sqrt(2 * c.nLayer) : c.initStd
  const specs: ParamSpec[] = []
  const matrix = (name: string, shape: readonly [number, number], std: number, muon?: readonly number[]) =>
    specs.push({ name, shape, init: { std }, decay: true, muon, matmul: name !== "wpe.weight" })
  const vector = (name: string, size: number, constant: number) =>
    specs.push({ name, shape: [size], init: { constant }, decay: false, muon: undefined, matmul: false })
  const linear = (name: string, out: number, from: number, std: number, blocks = [out]) => {
    matrix(`${name}.weight`, [out, from], std, blocks)
    if (c.bias) vector(`${name}.bias`, out, 0)
  }
  const norm = (name: string) => {
    vector(`${name}.weight`, C, 1)
    if (c.norm === "layernorm" && c.bias) vector(`${name}.bias`, C, 0)
  }
  matrix("wte.weight", [c.vocabSize, C], c.initStd)
  if (c.position === "learned") matrix("wpe.weight", [c.blockSize, C], c.initStd)
  for (let layer = 0; layer < c.nLayer; layer++) {
    const h = `h.${layer}`
    norm(`${h}.attnNorm`)
    linear(`${h}.attn.qkv`, qkv[0]! + 2 * K * D, C, c.initStd, qkv)
    if (c.qkNorm) {
      vector(`${h}.attn.qNorm.weight`, D, 1)
      vector(`${h}.attn.kNorm.weight`, D, 1)
    }
    linear(`${h}.attn.proj`, C, H * D, projectionStd)
    norm(`${h}.mlpNorm`)
    if (c.activation === "swiglu") linear(`${h}.mlp.gateUp`, 2 * F, C, c.initStd, [F, F])
    else linear(`${h}.mlp.up`, F, C, c.initStd)
    linear(`${h}.mlp.down`, C, F, projectionStd)
  }
  norm("norm")
  if (!c.tie) matrix("head.weight", [c.vocabSize, C], c.initStd)
  return specs
}

/** Number of parameters, tied weights once. */
export const countParams = (c: ModelConfig): number => paramSpecs(c).reduce((n, p) => n + p.shape.reduce((a, b) => a * b, 1), 0)

/**
 * Training FLOPs per token: 6·N + 12·nLayer·(nHead·headDim)·T, N = parameters without position embeddings (and without the
 * token embedding where the head has weights of its own, which is a look-up). PaLM appendix B, arXiv:2204.02311.
 */
export function flopsPerToken(c: ModelConfig, T: number): number {
  const lookups = (c.position === "learned" ? c.blockSize * c.nEmbd : 0) + (c.tie ? 0 : c.vocabSize * c.nEmbd)
  return 6 * (countParams(c) - lookups) + 12 * c.nLayer * c.nHead * c.headDim * T
}

/**
 * Parameter i draws from stream 0x10000 + i. Dropout sites count from 0 and stay below; batches and random data (0xda7a…, data-batch,
 * data-random) and sampling (0x73616d70, op-sample) lie far above any number of parameters.
 */
const INIT_STREAM = 0x10000

/** The program that gives every parameter its first value: a pure function of (seed, position in the table). */
export function initPlan(model: ModelConfig): Plan {
  return plan(
    trace("init", (t) => {
      const seed = t.live("seed", "i32")
      paramSpecs(model).forEach(({ name, shape, init }, index) => {
        const first =
          "std" in init
            ? randomNormal({ seed }, { shape, stream: INIT_STREAM + index, std: init.std }).y
            : fill({}, { shape, value: init.constant }).y
        writeTo(first, t.state(name, "f32", shape))
      })
    }),
  )
}
