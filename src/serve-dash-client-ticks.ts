/** Where the ticks of a logarithmic axis stand. */

/** Ticks of a logarithmic axis: 1, 2, 5 of each decade, decades alone where they are many; even ones where there is less than half of one. */
export function logTicks(low: number, high: number): number[] {
  const ticks: number[] = []
  if (high / low < 5) {
    const raw = (high - low) / 5
    const decade = 10 ** Math.floor(Math.log10(raw))
    const step = ([1, 2, 5, 10].find((part) => part * decade >= raw) ?? 10) * decade
    for (let tick = Math.ceil(low / step); tick * step <= high; tick++) ticks.push(Number((tick * step).toPrecision(12)))
    return ticks
  }
  const decades = Math.log10(high / low)
  const every = Math.ceil(decades / 6)
  for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++)
    for (const part of decades > 3 ? [1] : [1, 2, 5]) {
      const tick = Number(`${part}e${e}`)
      if (e % every === 0 && tick >= low && tick <= high) ticks.push(tick)
    }
  return ticks
}
