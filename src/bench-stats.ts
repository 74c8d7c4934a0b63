/** Statistics of timings: medians, bootstrap intervals, ratios of pairs. */
import { randomBits } from "./base-random.ts"

/** A range that holds the true value with some confidence. */
export interface Interval {
  readonly low: number
  readonly high: number
}

/** Middle of the sorted values; NaN of none. */
export function median(values: readonly number[]): number {
  const sorted = Float64Array.from(values).sort()
  const middle = sorted.length >> 1
  if (sorted.length === 0) return Number.NaN
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** The value below which a share (0 … 1) of the values lies, with linear interpolation. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = Float64Array.from(values).sort()
  const at = (sorted.length - 1) * share
  const below = sorted[Math.floor(at)]!
  return below + (sorted[Math.ceil(at)]! - below) * (at % 1)
}

export interface Bootstrap {
  readonly confidence: number
  readonly resamples: number
  readonly seed: number
}
const USUAL: Bootstrap = { confidence: 0.95, resamples: 1000, seed: 1 }

/** Uniform numbers in [0, 1) from a seed (xorshift32, Marsaglia 2003): there are millions of draws, and nothing secret in them. */
function generator(seed: number): () => number {
  let state = randomBits(seed, 3, 0, 0) | 1
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) / 2 ** 32
  }
}

/**
 * Percentile interval of `statistic` when every group is drawn again from itself, with replacement (Efron 1979). The draws depend on the seed
 * alone, so that the same samples always give the same interval. One value has no interval but itself.
 */
export function bootstrap(
  groups: readonly (readonly number[])[],
  statistic: (groups: readonly (readonly number[])[]) => number,
  options: Partial<Bootstrap> = {},
): Interval {
  const { confidence, resamples, seed } = { ...USUAL, ...options }
  const next = generator(seed)
  const again = (values: readonly number[]) => values.map(() => values[Math.floor(next() * values.length)]!)
  const found = Array.from({ length: resamples }, () => statistic(groups.map(again)))
  return { low: quantile(found, (1 - confidence) / 2), high: quantile(found, (1 + confidence) / 2) }
}

/** Samples beyond which the bootstrap of a median only finds again what the binomial distribution of ranks says at once. */
const MANY = 60

/** Interval of the median: by bootstrap, of many samples by their ranks. */
export function medianInterval(values: readonly number[], options: Partial<Bootstrap> = {}): Interval {
  if (values.length <= MANY) return bootstrap([values], ([all]) => median(all!), options)
  const sorted = Float64Array.from(values).sort()
  const half = normalQuantile((1 + (options.confidence ?? USUAL.confidence)) / 2) * Math.sqrt(values.length) * 0.5
  const at = (rank: number) => sorted[Math.min(sorted.length - 1, Math.max(0, Math.round(rank)))]!
  return { low: at((sorted.length - 1) / 2 - half), high: at((sorted.length - 1) / 2 + half) }
}

/** Point below which a standard normal variable lies with probability p ≥ 0.5 (Abramowitz and Stegun 26.2.23; error below 4.5e-4). */
function normalQuantile(p: number): number {
  const t = Math.sqrt(-2 * Math.log(1 - p))
  return t - (2.515517 + 0.802853 * t + 0.010328 * t * t) / (1 + 1.432788 * t + 0.189269 * t * t + 0.001308 * t * t * t)
}

export interface Ratio extends Interval {
  readonly ratio: number
}

/** median(a) / median(b) with its interval; 1 within it means that no difference is shown. */
export function ratioOf(a: readonly number[], b: readonly number[], options: Partial<Bootstrap> = {}): Ratio {
  const statistic = ([x, y]: readonly (readonly number[])[]) => median(x!) / median(y!)
  return { ratio: statistic([a, b]), ...bootstrap([a, b], statistic, options) }
}

/** log(B / A) of one block A B B A: what drifts at a constant pace hits both alike. */
export const blockRatio = ([a1, b1, b2, a2]: readonly [number, number, number, number]): number =>
  (Math.log(b1) + Math.log(b2) - Math.log(a1) - Math.log(a2)) / 2
