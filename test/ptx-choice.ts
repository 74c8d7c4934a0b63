/** Whether a token and its log-probability are those of the ops sample and logprobs, in f64. */
import { expect } from "bun:test"
import { STREAM } from "../shaders/sample.ts"
import { uniform } from "../src/base-random.ts"

export interface Row {
  readonly logits: ArrayLike<number>
  readonly temperature: number
  readonly topK?: number
  readonly topP?: number
  readonly minP?: number
  readonly seed?: number
  readonly draw?: number
}

/** Tokens that the ops' words allow where sums are off by rounding, the right one first; and ln of all probabilities. */
function wanted({ logits, temperature, topK, topP = 1, minP = 0, seed = 11, draw = 3 }: Row, allowed: number) {
  const z = Float32Array.from(logits)
  const max = Math.max(...z)
  const logSum = Math.log(z.reduce((sum, one) => sum + Math.exp(one - max), 0))
  const logprobs = Array.from(z, (one) => one - max - logSum)
  const ids = Array.from({ length: allowed }, (_, v) => v).filter((v) => !Number.isNaN(z[v]!))
  const falling = ids.toSorted((a, b) => (z[a] === z[b] ? a - b : z[b]! - z[a]!))
  const greedy = falling[0]!
  if (temperature === 0) return { tokens: [greedy], logprobs }
  const weight = (v: number) => (z[v] === z[greedy] ? 1 : Math.exp((z[v]! - z[greedy]!) / temperature))
  const sums = (list: readonly number[]) => {
    const all = [0]
    for (const v of list) all.push(all.at(-1)! + weight(v))
    return all
  }
  const total = (list: readonly number[]) => sums(list).at(-1)!
  const drawn = (slack: number) => {
    const isCut = (topK ?? logits.length) < allowed || topP < 1
    let order = isCut ? falling.slice(0, topK) : ids
    const limit = Math.fround(topP) * total(order) * (1 + slack)
    const before = sums(order)
    if (topP < 1) order = order.filter((_, i) => i === 0 || before[i]! < limit)
    order = order.filter((v) => weight(v) >= Math.fround(minP) * (1 - slack))
    const target = uniform(seed, STREAM, draw, 0) * total(order) * (1 + slack)
    const after = sums(order)
    return order.find((_, i) => after[i + 1]! > target) ?? order.at(-1)!
  }
  return { tokens: [0, 3e-6, -3e-6].map(drawn), logprobs }
}

/** Fails where the choice is wrong; "edge": another token than the one that exact sums give, by rounding. */
export function checkChoice(row: Row, allowed: number, token: number, logprob: number): "edge" | "right" {
  const { tokens, logprobs } = wanted(row, allowed)
  expect(tokens).toContain(token)
  const of = logprobs[token]!
  if (Number.isNaN(of)) expect(logprob).toBeNaN()
  else expect(Math.abs(logprob - of)).toBeLessThan(2e-5)
  return token === tokens[0] ? "right" : "edge"
}
