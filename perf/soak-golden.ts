/** The f64 reference over every step of the golden runs in the shared folder (about a minute each). */
import { formatDuration } from "../src/base-term.ts"
import { isWithin, replayGolden } from "../src/engine-golden.ts"
import { referenceMachine } from "../test/golden-reference.ts"
import { shared } from "../test/support.ts"

const names = process.argv.slice(2)
let failed = false
for (const name of names.length > 0 ? names : ["gpt2", "llama"]) {
  const directory = shared(`golden/${name}`)
  if (directory === undefined) {
    console.log(`golden/${name}: skipped, the folder shared beside the checkout has none`)
    continue
  }
  const start = performance.now()
  const rows = replayGolden(directory, "f32", referenceMachine())
  console.log(`golden/${name}: ${rows.length} distances in ${formatDuration(performance.now() - start)}`)
  for (const kind of ["logits", "gradient", "keyGradient", "loss", "weight", "keyWeight"] as const) {
    const some = rows.filter((row) => row.kind === kind).sort((a, b) => b.far - a.far)
    const [worst] = some
    if (worst === undefined) continue
    const wrong = some.filter((row) => !isWithin(row)).length
    failed ||= wrong > 0
    console.log(
      `  ${kind.padEnd(12)}${String(some.length).padStart(3)}  worst ${worst.far.toExponential(2)} of ${worst.limit} (${worst.name})${wrong > 0 ? `  WRONG: ${wrong}` : ""}`,
    )
  }
}
process.exit(failed ? 1 : 0)
