/** What a command is: one entry of the command table, and what it is given when it runs. */
import type { Environment, Fields, Loaded, Values } from "./config.ts"

/** Headings of `alpha help`, in its order. */
export const COMMAND_GROUPS = ["Train", "Use a model", "Fleet", "Tools"] as const

/** What a command's `run` receives. V: the configuration's values, after `finish` where the entry has one. */
export interface Invocation<V = Readonly<Record<string, unknown>>, F extends Fields = Fields> {
  /** Merged and checked values by field name. */
  readonly config: V
  /** The same with `origins`, `isGiven(name)` and `naming(name, value)` for errors that say where a value came from. */
  readonly loaded: Loaded<F>
  /** --json was given: standard output carries JSON only. */
  readonly json: boolean
  /** Process environment over .env.local: secrets are read from here; never log a value. */
  readonly environment: Environment
  /** What stood after `--`, for commands that take it (`takesRest`). */
  readonly rest: readonly string[]
  /** The command line as it was typed, for the run record. */
  readonly argv: readonly string[]
  /** Writes a result to standard output: one JSON object with --json, else the text. */
  readonly print: (result: unknown, text: () => string) => void
}

/** Values of the run or model that a command continues; they stand between preset and --config file. */
export interface Base {
  readonly values: Readonly<Record<string, unknown>>
  readonly from: string
}

/** One entry of the command table. */
export interface Command {
  /** Words as typed: "train", "tokenizer build". */
  readonly name: string
  readonly aliases: readonly string[]
  readonly group: (typeof COMMAND_GROUPS)[number]
  /** One line, starting with a verb. */
  readonly summary: string
  readonly fields: Fields
  /** Fields that may be given without their flag, in this order; a list at the end takes all that is left. */
  readonly positionals: readonly string[]
  /** What stands after `--` is not the command's own but handed on as it is. */
  readonly takesRest: boolean
  /** Complete command lines that work. */
  readonly examples: readonly string[]
  readonly finish: (loaded: Loaded<Fields>) => void
  readonly base: (values: Readonly<Record<string, unknown>>) => Promise<Base | undefined>
  readonly run: (invocation: Invocation) => Promise<number | undefined>
}

/** An entry as it is written: typed by its table, with everything optional that most commands lack. */
interface CommandEntry<F extends Fields, V> {
  name: string
  aliases?: readonly string[]
  group: (typeof COMMAND_GROUPS)[number]
  summary: string
  fields: F
  positionals?: readonly (keyof F & string)[]
  takesRest?: boolean
  examples: readonly string[]
  /** Fills derived fields and refuses contradictions. */
  finish?: (loaded: Loaded<F>) => Loaded<F> & { values: V }
  /** Looks at the merged values and names a run or model to continue; the values are then merged again over its own. */
  base?: (values: Values<F>) => Promise<Base | undefined>
  /** The work; returns the exit code when it is not 0. Imports its file here, so that `alpha --help` loads none of it. */
  run: (invocation: Invocation<V, F>) => Promise<number | undefined>
}

/** Makes a table entry; V follows from `finish`, else from the table. */
export function defineCommand<F extends Fields, V = Values<F>>(entry: CommandEntry<F, V>): Command {
  const nothing = { aliases: [], positionals: [], takesRest: false, finish: () => {}, base: async () => undefined }
  // The table is heterogeneous: each entry is checked against its own fields here and used only through `Command`.
  return { ...nothing, ...entry } as unknown as Command
}
