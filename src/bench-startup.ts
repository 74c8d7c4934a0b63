/** Time from the start of a process to its end: what a person waits for before anything happens. */
import type { Measurement } from "./bench-measure.ts"
import { inTemporary, runWell } from "./bench-process.ts"
import { plainTraining } from "./bench-step.ts"

export async function benchStartup(program: readonly string[], device: string, rounds: number): Promise<Measurement[]> {
  return await inTemporary(async (directory) => {
    let run = 0
    const cases: Record<string, () => string[]> = {
      "--version": () => ["--version"],
      "--help": () => ["--help"],
      [`first step, ${device}`]: () => [
        ...["train", ...plainTraining("cpu-small", "f32", 1), `--device=${device}`],
        ...[`--runsDir=${directory}`, `--run=r${run++}`, "--json"],
      ],
    }
    const measurements: Measurement[] = []
    for (const [name, args] of Object.entries(cases)) {
      await runWell([...program, ...args()]) // fills the file cache
      const samples: number[] = []
      for (let round = 0; round < Math.max(rounds, 5); round++) samples.push((await runWell([...program, ...args()])).ms)
      const command = name.startsWith("--") ? `alpha ${name}` : `alpha bench startup --device=${device}`
      measurements.push({ bench: "startup", name, device: "", unit: "ms", better: "less", samples, facts: {}, command })
    }
    return measurements
  })
}
