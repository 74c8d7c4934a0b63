/** The program: finds the command in a command line and runs it; errors become a message and an exit code. */
import { readlinkSync } from "node:fs"
import { type CommandDef, runCommand } from "citty"
import { buildInfo } from "./base-build.ts"
import { AlphaError, EXIT, nearest } from "./base-error.ts"
import { colours } from "./base-term.ts"
import type { Command } from "./cli-command.ts"
import { COMMANDS } from "./cli-commands.ts"
import { parseFlags } from "./cli-flags.ts"
import { HOST_VERBS } from "./cli-host-verbs.ts"
import { requestStop } from "./cli-signal.ts"
import { envName, loadConfig, RUNTIME, readEnvironment, recordConfig } from "./config.ts"

/** What is understood; what one machine says to another is not shown by `alpha help`. */
const KNOWN: readonly Command[] = [...COMMANDS, ...HOST_VERBS]

/** Runs one command line and returns its exit code; `alpha fleet` has exit codes of its own. */
export async function main(argv: readonly string[]): Promise<number> {
  try {
    return await runLine(argv)
  } catch (error) {
    if (argv[0] !== "fleet" || !(error instanceof AlphaError)) throw error
    throw (await import("./fleet.ts")).asFleetError(error)
  }
}

async function runLine(argv: readonly string[]): Promise<number> {
  const [first, ...rest] = argv
  if (first === undefined || ["help", "-h", "--help"].includes(first)) return await help(rest)
  if (["version", "--version", "-v"].includes(first)) return version(rest)
  let code: number = EXIT.ok
  const tree = commandTree(async (command, flags) => {
    code = await execute(command, flags, argv)
  }, argv)
  try {
    await runCommand(tree, { rawArgs: [...argv] })
  } catch (error) {
    const { name, code: reason } = error as { name?: string; code?: unknown }
    if (name !== "CLIError" || !["E_UNKNOWN_COMMAND", "E_NO_COMMAND"].includes(String(reason))) throw error
    if (argv.some((word) => ["--help", "-h"].includes(word))) return await help(argv.filter((word) => !word.startsWith("-")))
    throw unknownCommand(argv)
  }
  return code
}

/** Name in the tree of a family's command without a second word. */
const ALONE = "(alone)"

type Dispatch = (command: Command, flags: readonly string[]) => Promise<void>

/** The table as citty's tree: "tokenizer build" stands under "tokenizer". */
function commandTree(dispatch: Dispatch, argv: readonly string[]): CommandDef {
  const root: Record<string, CommandDef> = {}
  for (const command of KNOWN) {
    for (const name of [command.name, ...command.aliases]) {
      const words = name.split(" ")
      // citty drops flags that stand before the command; they would be lost in silence.
      const run = async ({ rawArgs }: { rawArgs: string[] }) => {
        if (argv.length - rawArgs.length !== words.length) throw unknownCommand(argv)
        await dispatch(command, rawArgs)
      }
      // "fleet" is a command and a family: without a second word the family runs it.
      const isAlone = words.length === 1 && !COMMANDS.some((other) => other.name.startsWith(`${name} `))
      if (isAlone) root[name] = { run }
      else {
        root[words[0]!] ??= { subCommands: {} }
        const family = root[words[0]!]!
        ;(family.subCommands as Record<string, CommandDef>)[words[1] ?? ALONE] = { run }
        if (words.length === 1) family.default = ALONE
      }
    }
  }
  return { subCommands: root }
}

/** The error for a command line that names no command. */
function unknownCommand(argv: readonly string[]): AlphaError {
  const names = COMMANDS.flatMap(({ name, aliases }) => [name, ...aliases])
  const family = names.filter((name) => name.startsWith(`${argv[0]} `))
  const words = argv.filter((word) => !word.startsWith("-"))
  const early = argv.slice(0, family.length > 0 && words.length > 1 ? 2 : 1).find((word) => word.startsWith("-"))
  if (early !== undefined) {
    return new AlphaError(`flag ${early} stands before the command`, {
      hint: "the command comes first: alpha train --data=book.txt",
      code: EXIT.usage,
    })
  }
  if (family.length > 0) {
    const what = words.length === 1 ? "a subcommand is missing" : `unknown subcommand ${words[1]}`
    const close = nearest(
      words[1] ?? "",
      family.map((name) => name.split(" ")[1]!),
    )
    const hint = close ? `did you mean ${argv[0]} ${close}?` : `one of ${family.join(", ")}`
    return new AlphaError(`${argv[0]}: ${what}`, { hint, code: EXIT.usage })
  }
  const close = nearest(argv[0]!, names)
  return new AlphaError(`unknown command ${argv[0]}`, {
    hint: close ? `did you mean ${close}?` : "alpha help lists the commands",
    code: EXIT.usage,
  })
}

/** Loads the configuration of a command and runs it. */
async function execute(command: Command, args: readonly string[], argv: readonly string[]): Promise<number> {
  const flags = parseFlags(args, command.fields, command.positionals, command.takesRest)
  if (flags.help !== undefined)
    return await help([command.name, flags.help, ...(flags.json ? ["--json"] : [])].filter((word) => word !== ""))
  const environment = readEnvironment(process.cwd(), process.env)
  // Knobs of the program are read where they act; those of .env.local must reach there too.
  for (const name of Object.keys(RUNTIME).map(envName)) {
    const value = environment.get(name)?.value
    if (value !== undefined) process.env[name] = value
  }
  const sources = { flags: flags.entries, environment }
  let loaded = loadConfig(command.fields, sources)
  const base = await command.base(loaded.values)
  if (base !== undefined) loaded = loadConfig(command.fields, { ...sources, base })
  command.finish(loaded)
  if (flags.printConfig) {
    const { configTable } = await import("./cli-config.ts")
    output(flags.json ? JSON.stringify(recordConfig(loaded), null, 2) : configTable(loaded))
    return EXIT.ok
  }
  const print = (result: unknown, text: () => string) => output(flags.json ? JSON.stringify(result) : text())
  return (await command.run({ config: loaded.values, loaded, json: flags.json, environment, argv, rest: flags.rest, print })) ?? EXIT.ok
}

async function help(words: readonly string[]): Promise<number> {
  const { helpJson, helpPage } = await import("./cli-help.ts")
  const names = words.filter((word) => word !== "--json").join(" ")
  const commands = names.startsWith("host") ? KNOWN : COMMANDS
  output(words.includes("--json") ? JSON.stringify(helpJson(commands, names)) : helpPage(commands, names))
  return EXIT.ok
}

function version(flags: readonly string[]): number {
  const info = buildInfo()
  output(flags.includes("--json") ? JSON.stringify(info) : `alpha ${info.version} (${info.commit}, ${info.target}, bun ${info.bun})`)
  return EXIT.ok
}

function output(text: string): void {
  process.stdout.write(`${text}\n`)
}

/** Prints an error as `alpha: message` with its hint; a stack trace only with ALPHA_DEBUG=1, or when it is a fault of ours. */
function report(error: unknown): number {
  const isDebug = ["1", "true", "yes", "on"].includes(process.env.ALPHA_DEBUG ?? "")
  const paint = colours(process.stderr)
  const known = error instanceof AlphaError
  const message = error instanceof Error ? error.message : String(error)
  process.stderr.write(`${paint.red("alpha:")} ${known ? message : `internal error: ${message}`}\n`)
  const hint = known ? error.hint : isDebug ? undefined : "ALPHA_DEBUG=1 shows where; please report it"
  if (hint !== undefined) process.stderr.write(`${paint.dim("hint:")} ${hint}\n`)
  if (isDebug && error instanceof Error) process.stderr.write(`${error.stack}\n`)
  return known ? error.code : EXIT.failure
}

/** Exit code of a process whose standard output can no longer be written; undefined while it can. */
let outputExit: number | undefined

/** A reader that closes the pipe early (alpha … | head) has what it wanted; a command that saves its work when it is stopped does so first. */
function outputClosed(error: NodeJS.ErrnoException): void {
  if (outputExit !== undefined) return
  outputExit = error.code === "EPIPE" ? EXIT.ok : EXIT.failure
  if (outputExit !== EXIT.ok) process.stderr.write(`alpha: cannot write standard output${outputName()}: ${error.message}\n`)
  if (!requestStop()) process.exit(outputExit)
}

/** " (/dev/full)": the file or device behind standard output, where the system tells. */
function outputName(): string {
  try {
    return ` (${readlinkSync("/proc/self/fd/1")})`
  } catch {
    return ""
  }
}

/** The whole process, from arguments to exit. */
async function start(): Promise<never> {
  process.stdout.on("error", outputClosed)
  process.stderr.on("error", () => {}) // a terminal that is gone: there is nobody left to tell
  const code = await main(process.argv.slice(2)).catch(report)
  // Everything written must be out before the exit ends the workers, and what became of it known: its error comes a turn of the loop later.
  await new Promise((resolve) => process.stdout.write("", resolve))
  await new Promise(setImmediate)
  process.exit(outputExit ?? code)
}

if (import.meta.main) void start()
