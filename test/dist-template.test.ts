/** The files that start ranks: shell that parses, YAML that holds what it should, commands that alpha understands. */
import { describe, expect, test } from "bun:test"
import { parseFlags } from "../src/cli-flags.ts"
import { loadConfig, TRAIN_FIELDS } from "../src/config.ts"
import { LAUNCHERS, launchTemplate } from "../src/dist.ts"

const options = { nodes: 3, gpus: 4, run: "Large run_1", data: "/shared/my book's.txt" }

/** The words of the `alpha train` in a text, as a shell sees them. */
function trainWords(text: string): string[] {
  const command = text.slice(text.indexOf("alpha train")).replace(/\\\n/g, " ")
  const line = (command.split("\n").find((one) => one.includes("alpha train")) ?? "").replace(/ &$/, "")
  const shown = Bun.spawnSync(["bash", "-c", `for word in ${line}; do printf '%s\\n' "$word"; done`])
  return shown.stdout.toString().trimEnd().split("\n")
}

describe.each([...LAUNCHERS])("%s", (launcher) => {
  const text = launchTemplate(launcher, options)
  // In YAML's folded text a command goes on without a backslash.
  const joined = launcher === "dstack" ? text.replace(/\n +--/g, " --") : text

  test("starts a run that goes on after a failure, with a micro-batch for every rank", () => {
    const [program, name, ...flags] = trainWords(joined)
    expect([program, name]).toEqual(["alpha", "train"])
    const { entries } = parseFlags(flags, TRAIN_FIELDS, [])
    const { values } = loadConfig(TRAIN_FIELDS, { flags: entries, environment: new Map() })
    expect(values).toMatchObject({ data: options.data, run: options.run, resume: "or-start", accumSteps: 12 })
    // Where the launcher starts one process per host, that one starts the ranks.
    expect(values.gpus).toBe(["jobset", "skypilot", "dstack"].includes(launcher) ? 4 : undefined)
  })

  test("is what its launcher reads", () => {
    if (["torchrun", "slurm", "mpirun"].includes(launcher)) {
      const checked = Bun.spawnSync(["bash", "-n"], { stdin: Buffer.from(text), stderr: "pipe" })
      expect(checked.stderr.toString()).toBe("")
      return
    }
    const parsed = Bun.YAML.parse(text) as Record<string, unknown>
    expect(JSON.stringify(parsed)).toContain("alpha train")
    expect(JSON.stringify(parsed)).toContain("large-run-1")
  })
})
