/** Samples of work in this process: warmed up by time and by the clock's state, then repeated for a while. */

export interface Sampling {
  /** Milliseconds of warm-up at least, and of measuring. */
  readonly warmMs: number
  readonly ms: number
  /** Fewest samples. */
  readonly least: number
  /** MHz of what works, where something tells. */
  readonly clock: () => number | undefined
  readonly now: () => number
}

/** Two looks at a clock that has settled differ by at most this share. */
const SETTLED = 0.02
/** A clock that never settles is not waited for longer than this many warm-ups. */
const PATIENCE = 4

/** Works until the time of warming up is over and the clock rests; returns how long it took in ms. */
export function warmUp(work: () => void, { warmMs, clock, now }: Pick<Sampling, "warmMs" | "clock" | "now">): number {
  const start = now()
  let before = clock()
  for (;;) {
    const until = now() + warmMs
    do work()
    while (now() < until)
    const after = clock()
    const isSettled = before === undefined || after === undefined || Math.abs(after - before) <= SETTLED * before
    if (isSettled || now() - start >= PATIENCE * warmMs) return now() - start
    before = after
  }
}

/** Warms up, then takes what `work` returns as samples until the time is over. */
export function collect(work: () => number, sampling: Sampling): number[] {
  warmUp(() => void work(), sampling)
  const samples: number[] = []
  const until = sampling.now() + sampling.ms
  while (samples.length < sampling.least || sampling.now() < until) samples.push(work())
  return samples
}
