import { describe, expect, test } from "bun:test"
import { type BatchSpec, type Dataset, evalWindows, fillBatch, NO_TARGET } from "../src/data.ts"
import { permuted } from "../src/data-batch.ts"
import { randomTokens } from "../src/data-random.ts"

/** A dataset over numbers, for tests of what batches pick. */
function datasetOf(values: number[], options: Partial<Dataset> = {}): Dataset {
  return {
    name: "numbers",
    tokens: values.length,
    bytes: 0,
    documents: 1,
    counted: values.length,
    hash: "",
    endOfText: undefined,
    byteLengths: undefined,
    read: (at, into) => into.set(values.slice(at, at + into.length)),
    close() {},
    ...options,
  }
}

const counting = (n: number) => datasetOf(Array.from({ length: n }, (_, i) => i))
const base: BatchSpec = { seed: 7, step: 0, row: 0, rows: 4, T: 8, order: "random", globalBatch: 4, boundaries: false }

function batch(dataset: Dataset, change: Partial<BatchSpec> = {}) {
  const spec = { ...base, ...change }
  const tokens = new Int32Array(spec.rows * spec.T)
  const targets = new Int32Array(spec.rows * spec.T)
  fillBatch(dataset, spec, tokens, targets)
  return { tokens: [...tokens], targets: [...targets], rows: Array.from({ length: spec.rows }, (_, r) => tokens[r * spec.T]!) }
}

describe("batches", () => {
  test("targets are the next tokens", () => {
    const { tokens, targets } = batch(counting(1000))
    expect(targets).toEqual(tokens.map((id) => id + 1))
  })

  for (const order of ["random", "sequential"] as const) {
    test(`${order}: a pure function of (seed, step, global row), however rows are grouped`, () => {
      const data = counting(5000)
      for (const step of [0, 1, 17, 123456]) {
        const whole = batch(data, { order, step, rows: 32, globalBatch: 32 })
        const parts = [0, 8, 16, 24].map((row) => batch(data, { order, step, row, rows: 8, globalBatch: 32 }))
        expect(parts.flatMap((part) => part.tokens)).toEqual(whole.tokens)
        expect(parts.flatMap((part) => part.targets)).toEqual(whole.targets)
      }
      expect(batch(data, { order, step: 3 })).toEqual(batch(data, { order, step: 3 }))
      expect(batch(data, { order, step: 3 })).not.toEqual(batch(data, { order, step: 4 }))
      expect(batch(data, { order, step: 3 })).not.toEqual(batch(data, { order, step: 3, seed: 8 }))
    })
  }

  test("random: every start from 0 to tokens − T − 1 occurs, evenly, and none beyond", () => {
    const data = counting(8 + 10)
    const counts = new Array(10).fill(0)
    for (let step = 0; step < 500; step++) for (const start of batch(data, { step }).rows) counts[start]++
    const expected = 2000 / 10
    expect(counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0)).toBeLessThan(27.9) // χ², 9 degrees, 0.1 %
    expect(counts.length).toBe(10)
  })

  test("random: known starts", () => {
    expect(batch(counting(100_000), { rows: 4, seed: 1337 }).rows).toEqual([83435, 45903, 75701, 3254]) // from a Philox4x32-10 written in Python
  })

  test("sequential: an epoch covers every window once, in another order and from another offset each time", () => {
    const T = 8
    const data = counting(1 + 25 * T + 5) // 25 windows and a slack of 5
    const epochs = [0, 1, 2].map((epoch) => {
      const starts = Array.from(
        { length: 25 },
        (_, i) => batch(data, { order: "sequential", step: epoch * 25 + i, rows: 1, globalBatch: 1 }).rows[0]!,
      )
      const sorted = starts.toSorted((a, b) => a - b)
      expect(sorted).toEqual(Array.from({ length: 25 }, (_, w) => sorted[0]! + w * T))
      expect(sorted[0]).toBeLessThanOrEqual(5)
      return starts
    })
    expect(epochs[0]).not.toEqual(epochs[1])
    expect(new Set(epochs.map((starts) => Math.min(...starts))).size).toBeGreaterThan(1)
  })

  test("permuted is a permutation for every size", () => {
    for (const count of [1, 2, 3, 5, 16, 17, 100, 1000]) {
      const seen = new Set(Array.from({ length: count }, (_, i) => permuted(i, count, 1, 2)))
      expect(seen.size).toBe(count)
      expect(Math.max(...seen)).toBe(count - 1)
    }
    expect(permuted(2 ** 40 - 1, 2 ** 40, 5, 0)).toBeLessThan(2 ** 40)
  })

  test("boundaries: windows begin where their document does, and no target lies in the next document", () => {
    const END = 99
    const values = [1, 2, 3, END, 4, 5, END, ...Array.from({ length: 40 }, (_, i) => 10 + i)]
    const data = datasetOf(values, { endOfText: END })
    const T = 6
    for (let step = 0; step < 50; step++) {
      const { tokens, targets, rows } = batch(data, { step, T, boundaries: true })
      for (const [r, first] of rows.entries()) {
        const start = values.indexOf(first)
        expect([0, 4, 7].includes(start) || start - T >= 7).toBe(true)
        for (let t = 0; t < T; t++) {
          const expected = tokens[r * T + t] === END ? NO_TARGET : values[start + t + 1]!
          expect(targets[r * T + t]).toBe(expected)
        }
      }
    }
  })

  test("masked tokens feed the model but are no targets", () => {
    const data = datasetOf([5, ~6, ~7, 8, 9, ~10, 11, 12, 13])
    const { tokens, targets } = batch(data, { rows: 1, T: 8 })
    expect(tokens).toEqual([5, 6, 7, 8, 9, 10, 11, 12])
    expect(targets).toEqual([NO_TARGET, NO_TARGET, 8, 9, NO_TARGET, 11, 12, 13])
  })

  test("too few tokens for one window: an error that names both numbers", () => {
    expect(() => batch(counting(8))).toThrow("8 tokens, but one window needs context + 1 = 9")
    expect(batch(counting(9)).rows).toEqual([0, 0, 0, 0])
  })
})

describe("evaluation windows", () => {
  test("every token but the first is a target exactly once, in any grouping", () => {
    for (const [tokens, T, rows] of [
      [100, 8, 3],
      [9, 8, 2],
      [2, 8, 4],
      [17, 4, 1],
    ] as const) {
      const data = datasetOf(
        Array.from({ length: tokens }, (_, i) => i),
        { byteLengths: Uint32Array.from({ length: tokens }, (_, i) => i) },
      )
      const windows = evalWindows(data, T)
      const seen: number[] = []
      let targetCount = 0
      let byteCount = 0
      for (let index = 0; index < windows.count; index += rows) {
        const x = new Int32Array(rows * T)
        const y = new Int32Array(rows * T)
        const { targets, bytes } = windows.fill(index, rows, x, y)
        targetCount += targets
        byteCount += bytes!
        for (let i = 0; i < y.length; i++) {
          if (y[i] === NO_TARGET) continue
          expect(x[i]).toBe(y[i]! - 1)
          seen.push(y[i]!)
        }
      }
      expect(seen).toEqual(Array.from({ length: tokens - 1 }, (_, i) => i + 1))
      expect(targetCount).toBe(tokens - 1)
      expect(byteCount).toBe((tokens * (tokens - 1)) / 2)
    }
  })

  test("with a stride every token is a target once, in the first window that holds it", () => {
    const data = datasetOf(Array.from({ length: 12 }, (_, i) => i)) // 11 targets
    const windows = evalWindows(data, 4, false, 2)
    expect(windows.count).toBe(5)
    const [x, y] = [new Int32Array(5 * 4), new Int32Array(5 * 4)]
    expect(windows.fill(0, 5, x, y).targets).toBe(11)
    const no = NO_TARGET
    expect([...x]).toEqual([0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7, 6, 7, 8, 9, 8, 9, 10, 0])
    expect([...y]).toEqual([1, 2, 3, 4, no, no, 5, 6, no, no, 7, 8, no, no, 9, 10, no, no, 11, no])
    expect(evalWindows(datasetOf([0, 1, 2]), 4, false, 1).count).toBe(1)
    expect(evalWindows(datasetOf([0]), 4, false, 1).count).toBe(0)
  })
})

describe("random tokens", () => {
  test("depend on position only, stay below the vocabulary, and the splits differ", () => {
    const train = randomTokens("train", 50304, 3)
    const whole = new Int32Array(1000)
    train.read(12345, whole)
    const part = new Int32Array(100)
    train.read(12345 + 501, part)
    expect([...part]).toEqual([...whole.slice(501, 601)])
    expect(Math.max(...whole)).toBeLessThan(50304)
    expect(Math.min(...whole)).toBeGreaterThanOrEqual(0)
    expect(whole.reduce((sum, id) => sum + id, 0) / 1000 / 50304).toBeCloseTo(0.5, 1)
    const val = new Int32Array(1000)
    randomTokens("val", 50304, 3).read(0, val)
    train.read(0, whole)
    expect([...val]).not.toEqual([...whole])
    expect(randomTokens("train", 50304, 4).hash).not.toBe(train.hash)
  })
})
