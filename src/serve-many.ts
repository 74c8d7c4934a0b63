/** Several engine requests of one HTTP request: a few at a time, so that it does not fill the queue by itself. */
import type { ApiError } from "./serve-error.ts"

/** Requests of one HTTP request that run or wait together. */
const AT_ONCE = 32

export interface Outcome {
  done(): void
  failed(error: ApiError): void
}

/**
 * Launches request 0 … count − 1; `launch` returns what cancels it. A queue that is full refuses the whole when it refuses the first; later ones
 * try again for `patienceMs`, since what has begun is not given up for a moment's fullness. Returns what cancels all.
 */
export function launchAll(
  count: number,
  patienceMs: number,
  launch: (index: number, outcome: Outcome) => () => void,
  onFailed: (error: ApiError) => void,
): () => void {
  const cancels = new Map<number, () => void>()
  let next = 0
  let over = false
  const cancel = () => {
    over = true
    for (const one of cancels.values()) one()
    cancels.clear()
  }
  const start = (index: number, since: number): void => {
    const done = () => {
      cancels.delete(index)
      if (!over && next < count) start(next++, performance.now())
    }
    const failed = (error: ApiError) => {
      cancels.delete(index)
      if (over) return
      const waitMs = Number(error.headers["retry-after-ms"])
      if (error.status === 429 && index > 0 && performance.now() + waitMs < since + patienceMs) {
        const timer = setTimeout(() => start(index, since), waitMs)
        cancels.set(index, () => clearTimeout(timer))
        return
      }
      cancel()
      onFailed(error)
    }
    cancels.set(index, launch(index, { done, failed }))
  }
  while (next < Math.min(count, AT_ONCE)) start(next++, performance.now())
  return cancel
}
