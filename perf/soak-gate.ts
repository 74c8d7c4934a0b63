/** The gate on simulated machines: 1,000 gates of equal builds, 300 of each planted slow-down. */
import { gates, learned, MACHINES } from "../test/gate-machines.ts"

for (const [name, machine] of Object.entries(MACHINES)) {
  const threshold = await learned(machine, 5)
  const equal = await gates(machine, threshold, 0, 1000, 1_000_000)
  const power: string[] = []
  for (const percent of [2, 3, 5, 10]) {
    const { regression, ok } = await gates(machine, threshold, percent / 100, 300, 2_000_000 + percent)
    power.push(`${percent} %: ${((100 * regression) / 300).toFixed(1)} % alarms, ${((100 * ok) / 300).toFixed(1)} % silence`)
  }
  console.log(`${name.padEnd(6)} threshold ${(100 * threshold).toFixed(2)} %; equal builds ${JSON.stringify(equal)}; ${power.join("; ")}`)
}
