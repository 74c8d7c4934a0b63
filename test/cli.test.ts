import { afterAll, expect, test } from "bun:test"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { EXIT } from "../src/base-error.ts"
import { displayWidth } from "../src/base-term.ts"
import { COMMANDS } from "../src/cli-commands.ts"
import { parseFlags } from "../src/cli-flags.ts"
import { commandHelp, helpPage, overview, TOPICS } from "../src/cli-help.ts"
import { cautions } from "../src/cli-serve.ts"
import { loadConfig } from "../src/config.ts"

const directory = mkdtempSync(join(tmpdir(), "alpha-cli-"))
afterAll(() => rmSync(directory, { recursive: true, force: true }))

/** Runs the program from source in an empty directory; as in the binary, Bun itself must not read .env files. */
function alpha(args: readonly string[], environment: Record<string, string> = {}) {
  const { PATH = "", HOME = "" } = process.env
  const command = [process.execPath, "--no-env-file", join(import.meta.dir, "../src/cli.ts"), ...args]
  const { stdout, stderr, exitCode } = Bun.spawnSync(command, { cwd: directory, env: { PATH, HOME, ...environment } })
  return { stdout: stdout.toString(), stderr: stderr.toString(), exitCode }
}

test("every help page is at most 100 columns wide and names every flag", () => {
  const pages = [overview(COMMANDS), ...COMMANDS.map((command) => commandHelp(command)), ...Object.values(TOPICS).map(({ page }) => page())]
  const wide = pages.flatMap((page) => page.split("\n")).filter((line) => displayWidth(line) > 100)
  expect(wide).toEqual([])
  for (const command of COMMANDS) {
    const page = commandHelp(command)
    for (const [name, { aliases }] of Object.entries(command.fields)) {
      expect(page).toMatch(new RegExp(`--(\\[no-\\])?${name}[=\\[\\s]`))
      for (const alias of aliases) expect(page).toContain(`${alias.length === 1 ? "-" : "--"}${alias.split("=")[0]}`)
    }
    expect(overview(COMMANDS)).toContain(command.summary)
  }
})

/** Words of a shell line: quotes group, nothing else is special. */
const words = (line: string) => [...line.matchAll(/(?:[^\s']+|'[^']*')+/g)].map(([word]) => word.replaceAll("'", ""))

test("every example of the help is a command line that loads", () => {
  for (const command of COMMANDS) {
    expect(command.examples.length).toBeGreaterThan(0)
    for (const example of command.examples) {
      const [program, ...rest] = words(example)
      const name = command.name.split(" ")
      expect([program, ...rest.slice(0, name.length)]).toEqual(["alpha", ...name])
      const flags = parseFlags(rest.slice(name.length), command.fields, command.positionals, command.takesRest)
      command.finish(loadConfig(command.fields, { flags: flags.entries, environment: new Map() }))
    }
  }
})

test("help finds commands, families, groups of flags, fields and topics", () => {
  expect(helpPage(COMMANDS, "")).toBe(overview(COMMANDS))
  expect(helpPage(COMMANDS, "sample")).toBe(helpPage(COMMANDS, "infer"))
  expect(helpPage(COMMANDS, "train optimizer")).toStartWith("Optimizer\n  --optimizer=WORD")
  expect(helpPage(COMMANDS, "tokenizer")).toContain("tokenizer decode")
  expect(helpPage(COMMANDS, "device").split("alpha ").length).toBeGreaterThan(5)
  expect(helpPage(COMMANDS, "schedules")).toContain("cos(π·p)")
  expect(helpPage(COMMANDS, "presets")).toContain("shakespeare-char")
  expect(() => helpPage(COMMANDS, "shedules")).toThrow("nothing is called shedules")
})

test("version and help exit 0; the version has a JSON form", () => {
  const version = alpha(["--version", "--json"])
  expect(version.exitCode).toBe(EXIT.ok)
  expect(JSON.parse(version.stdout)).toMatchObject({ version: expect.any(String), target: expect.any(String) })
  expect(alpha(["--help"]).stdout).toBe(`${overview(COMMANDS)}\n`)
  const data = alpha(["train", "--help", "data"])
  expect(data.stdout).toStartWith("Data\n")
  const schema = JSON.parse(alpha(["help", "train", "--json"]).stdout) as { properties: object }
  expect(Object.keys(schema.properties)).toContain("nLayer")
})

test("every page of help has a JSON form", () => {
  const json = (...args: string[]) => JSON.parse(alpha(args).stdout)
  expect(json("help", "--json").commands.map(({ name }: { name: string }) => name)).toEqual(COMMANDS.map(({ name }) => name))
  expect(json("--help", "--json")).toEqual(json("help", "--json"))
  expect(json("help", "schedules", "--json")).toMatchObject({ topic: "schedules", text: expect.stringContaining("cosine") })
  expect(json("help", "tokenizer", "--json").commands.length).toBe(4)
  expect(json("help", "minP", "--json")).toMatchObject([{ title: "alpha infer", properties: { minP: { type: "number" } } }])
  expect(Object.keys(json("help", "train", "optimizer", "--json").properties)).toContain("weightDecay")
})

test("a result that cannot be written is a failure that names the device", () => {
  for (const args of ["--version", "help", "train --print-config"]) {
    const command = `"$0" ${join(import.meta.dir, "../src/cli.ts")} ${args} > /dev/full`
    const { stderr, exitCode } = Bun.spawnSync(["sh", "-c", command, process.execPath], { cwd: directory })
    expect([args, exitCode, stderr.toString()]).toEqual([
      args,
      EXIT.failure,
      expect.stringContaining("standard output (/dev/full): ENOSPC"),
    ])
  }
})

test("errors are a message, a hint and an exit code, without a stack trace", () => {
  const typo = alpha(["train", "--lrr=3"])
  expect(typo).toEqual({ stdout: "", stderr: "alpha: unknown flag --lrr\nhint: did you mean --lr?\n", exitCode: EXIT.usage })
  expect(alpha(["trian"]).stderr).toBe("alpha: unknown command trian\nhint: did you mean train?\n")
  expect(alpha(["tokenizer", "bild"]).stderr).toBe("alpha: tokenizer: unknown subcommand bild\nhint: did you mean tokenizer build?\n")
  expect(alpha(["runs", "frobnicate"]).stderr).toContain("hint: one of runs ls, ")
  expect(alpha(["train", "--nope"]).stderr).toBe("alpha: unknown flag --nope\nhint: --help lists the flags\n")
  expect(alpha(["bogus", "--json"]).stderr).toStartWith("alpha: unknown command bogus\n")
  for (const args of [["tokenizer"], ["tokenizer", "--json"]]) expect(alpha(args).stderr).toContain("a subcommand is missing")
  expect(alpha(["--lr=3", "train"]).stderr).toContain("flag --lr=3 stands before the command")
  expect(alpha(["tokenizer", "--vocabSize=3", "build"]).stderr).toContain("flag --vocabSize=3 stands before the command")
  expect(alpha(["train", "--lrr=3"], { ALPHA_DEBUG: "1" }).stderr).toContain("cli-flags.ts")
})

test("ALPHA_DEBUG works from .env.local too", () => {
  writeFileSync(join(directory, ".env.local"), "ALPHA_DEBUG=1\n")
  expect(alpha(["train", "--lr=x"]).stderr).toContain("config-field.ts")
})

test("--print-config shows every value with its origin, also of .env.local", () => {
  writeFileSync(join(directory, ".env.local"), "ALPHA_SEED=5\n")
  const args = ["train", "--preset=cpu-small", "--nLayer=2", "--print-config"]
  const table = alpha(args, { ALPHA_BATCH: "3" })
  expect(table.stderr).toBe("")
  expect(table.stdout).toMatch(/^ {2}nLayer +2 +--nLayer$/m)
  expect(table.stdout).toMatch(/^ {2}nEmbd +128 +preset cpu-small$/m)
  expect(table.stdout).toMatch(/^ {2}batch +3 +ALPHA_BATCH$/m)
  expect(table.stdout).toMatch(/^ {2}seed +5 +\.env\.local: ALPHA_SEED$/m)
  expect(table.stdout).toMatch(/^ {2}norm +layernorm +default$/m)
  expect(table.stdout.split("\n").filter((line) => displayWidth(line) > 100)).toEqual([])
  const record = JSON.parse(alpha([...args, "--json"]).stdout) as Record<string, unknown>
  expect(record.nLayer).toEqual({ value: 2, origin: { layer: "flag", from: "--nLayer" } })
  expect(alpha(args, { ALPHA_BACH: "3" })).toMatchObject({ exitCode: EXIT.usage, stderr: expect.stringContaining("ALPHA_BATCH") })
})

test("serve says what its answers depend on, and who may ask", () => {
  expect(cautions({ isOpen: false }, { batchInvariant: "on" })).toEqual([])
  expect(cautions({ isOpen: true }, { batchInvariant: "off" })).toEqual([
    "no keys are set: everything but ALPHA_ADMIN_KEY's routes is open to this machine",
    "batch-invariant=off: on a GPU the bytes of an answer depend on what runs beside it",
  ])
})
