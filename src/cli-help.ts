/** Help texts, generated from the command table and the configuration tables. */
import { AlphaError, EXIT, nearest } from "./base-error.ts"
import { columns, displayWidth, wrap } from "./base-term.ts"
import { COMMAND_GROUPS, type Command } from "./cli-command.ts"
import { SWITCHES } from "./cli-flags.ts"
import { guide } from "./cli-guide.ts"
import { ENVIRONMENT_NAMES, envName, type Field, type Fields, jsonSchema, kebabName, PRESETS, RUNTIME, SECRETS } from "./config.ts"

const WIDTH = 100
/** Columns of the flag names; longer ones push their text to the next line. */
const FLAG_WIDTH = 30

/** `alpha help`: what there is. */
export function overview(commands: readonly Command[]): string {
  const sections = COMMAND_GROUPS.map((group) => {
    const rows = commands.filter((command) => command.group === group).map((command) => [`  ${titleOf(command)}`, command.summary])
    return `${group}\n${twoColumns(rows)}`
  })
  const topics = Object.entries(TOPICS).map(([name, topic]) => [`  help ${name}`, topic.about])
  return [
    "alpha trains, serves, deploys and measures GPT models: one file, nothing to install.\n\nusage: alpha COMMAND [FLAGS]",
    ...sections,
    `Topics\n${twoColumns([
      ...topics,
      ["  help COMMAND", "the same as alpha COMMAND --help"],
      ["  help FIELD", "one field, such as lr, wherever it is used"],
    ])}`,
    "Start\n  alpha train --preset=cpu-small --data=book.txt\n  alpha infer --model=RUN --prompt='Once upon a time'",
  ].join("\n\n")
}

function titleOf({ name, aliases }: Command): string {
  return aliases.length === 0 ? name : `${name}, ${aliases.join(", ")}`
}

/** Left texts padded to the widest, right texts wrapped beside them. */
function twoColumns(rows: readonly (readonly [string, string] | string[])[]): string {
  const left = Math.max(...rows.map(([name]) => displayWidth(name!))) + 2
  return rows.map(([name, about]) => hang(name!.padEnd(left), about!, left)).join("\n")
}

/** `head` followed by wrapped text whose further lines are indented by `indent`. */
function hang(head: string, body: string, indent: number): string {
  const lines = wrap(body, WIDTH - indent)
  const own =
    displayWidth(head) <= indent ? [head.padEnd(indent) + lines[0], ...lines.slice(1).map((line) => " ".repeat(indent) + line)] : undefined
  return (own ?? [head, ...lines.map((line) => " ".repeat(indent) + line)]).join("\n")
}

/** `alpha COMMAND --help`, all of it or one group of flags. */
export function commandHelp(command: Command, group = ""): string {
  if (group !== "") return flagGroup(...groupRows(command, group))
  const groups = groupsOf(command.fields)
  const positionals = command.positionals.map((name) => ` [${name.toUpperCase()}]`).join("")
  const switches = Object.entries(SWITCHES).map(([name, doc]) => hang(`  --${kebabName(name)}`, doc, FLAG_WIDTH))
  return [
    `alpha ${titleOf(command)} - ${command.summary}`,
    `usage: alpha ${command.name}${positionals} [FLAGS]`,
    `Examples\n${command.examples.map((example) => `  ${example}`).join("\n")}`,
    ...[...groups].map(([name, fields]) => flagGroup(name, fields)),
    `Always\n${switches.join("\n")}`,
    "Flags are --camelCase or --kebab-case, --flag=value or --flag value; alpha help config has the rest.",
  ].join("\n\n")
}

/** The heading that `group` means, whatever its case, and its rows. */
function groupRows(command: Command, group: string): [string, readonly [string, Field][]] {
  const groups = groupsOf(command.fields)
  const found = [...groups].find(([name]) => name.toLowerCase() === group.toLowerCase())
  if (found !== undefined) return found
  const close = nearest(group, groups.keys())
  throw new AlphaError(`help ${command.name}: no group of flags is called ${group}`, {
    hint: close ? `did you mean ${close}?` : `one of ${[...groups.keys()].join(", ")}`,
    code: EXIT.usage,
  })
}

/** Rows by heading, in table order. */
export function groupsOf(fields: Fields): Map<string, [string, Field][]> {
  const groups = new Map<string, [string, Field][]>()
  for (const [name, field] of Object.entries(fields)) groups.set(field.group, [...(groups.get(field.group) ?? []), [name, field]])
  return groups
}

function flagGroup(group: string, rows: readonly [string, Field][]): string {
  return `${group}\n${rows.map(([name, field]) => flagRow(name, field)).join("\n")}`
}

function flagRow(name: string, field: Field): string {
  return hang(`  ${flagOf(name, field)}`, describe(field), FLAG_WIDTH)
}

function flagOf(name: string, field: Field): string {
  const value = { int: "N", float: "X", choice: "WORD", text: "TEXT", list: "TEXT", bool: "" }[field.kind]
  if (field.bare !== undefined) return `--${name}[=${value}]`
  return value === "" ? `--[no-]${name}` : `--${name}=${value}`
}

/** The sentence of the row, then its choices, unit, default, bounds and other names. */
function describe(field: Field): string {
  const facts: string[] = []
  if (field.choices) facts.push(field.choices.join(", "))
  if (field.kind === "list") facts.push("may be repeated")
  if (field.unit && !field.doc.includes(field.unit)) facts.push(`in ${field.unit}`)
  const value = defaultOf(field)
  if (value !== undefined) facts.push(`default: ${value}`)
  const names = field.aliases.map((alias) => {
    const [word, fixed] = alias.split("=") as [string, string?]
    return `${word.length === 1 ? "-" : "--"}${word}${fixed === undefined ? "" : ` = ${fixed}`}`
  })
  if (names.length > 0) facts.push(`also ${names.join(", ")}`)
  return facts.length === 0 ? field.doc : `${field.doc} (${facts.join("; ")})`
}

function defaultOf(field: Field): string | undefined {
  if (field.default === undefined) return field.derive
  return Array.isArray(field.default) ? (field.default.length === 0 ? undefined : JSON.stringify(field.default)) : String(field.default)
}

/** Pages of `alpha help TOPIC` that belong to no command. */
export const TOPICS: Readonly<Record<string, { about: string; page: () => string }>> = {
  using: { about: "what the commands are for, with examples", page: () => guide("Using the binary") },
  fleet: { about: "training on other machines over ssh", page: () => guide("Fleet") },
  "feedback-loop": { about: "how to make a model better, and the program", page: () => guide("Feedback loop") },
  config: { about: "where values come from, and how they are written", page: configPage },
  presets: { about: "named sets of tokenizer, model and training settings", page: presetsPage },
  schedules: { about: "the learning rate at a step, as formulas", page: () => SCHEDULES },
  ranks: { about: "training on several GPUs and hosts", page: () => guide("Several GPUs and hosts") },
  environment: { about: "variables the program reads", page: environmentPage },
  "exit-codes": { about: "what the exit status says", page: exitPage },
}

function configPage(): string {
  return `Configuration

Each field has one name everywhere: nLayer is the flag --nLayer or --n-layer, the JSON key "nLayer"
and the variable ALPHA_N_LAYER. The strongest source wins:

  default < preset < continued run or model < --config FILE < environment < flag

  --config=FILE      a JSON object of fields, for example {"nLayer": 4, "lr": 1e-3}
  environment        ALPHA_ variables, then the file .env.local of the working directory
  --print-config     shows every value with its source; with --json a file that --config reads

Switches are --name, --no-name or --name=false. An optional value needs =, as in --resume=RUN.
"none" removes an optional value (--gradClip=none), "auto" derives one again (--headDim=auto).
Lists are repeated flags (--stop=A --stop=B) or JSON arrays. Unknown names are refused.`
}

function presetsPage(): string {
  const rows = Object.entries(PRESETS).map(([name, preset]) => [`  ${name}`, preset.about])
  return `Presets (alpha train --preset=NAME; alpha train --preset=NAME --print-config shows one)\n\n${twoColumns(rows)}`
}

const SCHEDULES = `Learning rate schedules (--schedule), at step s = 0, 1, … of --steps

  warm-up    s < warmupSteps:   lr · (s + 1) / warmupSteps
  then, with p = min(1, (s - warmupSteps) / max(1, decaySteps - warmupSteps)):
  cosine     minLr + (lr - minLr) · (1 + cos(π·p)) / 2
  linear     lr + (minLr - lr) · p
  constant   lr
  wsd        lr while s < d, d = max(warmupSteps, round(decaySteps · (1 - wsdDecayFraction)));
             then, with q = min(1, (s - d) / max(1, decaySteps - d)):
             minLr + (lr - minLr) · (1 - √q)`

function environmentPage(): string {
  const knobs = Object.entries(RUNTIME).map(([name, field]) => [`  ${envName(name)}`, describe(field)])
  const keys = [
    ...Object.entries(SECRETS).map(([name, field]) => [`  ${envName(name)}`, describe(field)]),
    ["  UPLOAD_SECRET", "keys for sending the data of runs, separated by commas"],
    ["  PORT", "where --port is not given"],
  ]
  const own = [...knobs, ...keys].map(([name]) => name!.trim())
  const names = [...ENVIRONMENT_NAMES].filter((name) => !own.includes(name))
  const list = wrap(names.join(" "), WIDTH - 2).map((line) => `  ${line}`)
  return `Environment\n\nOf the program itself:\n${twoColumns(knobs)}\n\nOf alpha serve, without a flag:\n${twoColumns(keys)}\n\nOf the fields (see the flag of the same name):\n${list.join("\n")}`
}

function exitPage(): string {
  const meanings: Record<keyof typeof EXIT, string> = {
    ok: "the work is done; also when a signal ended training and its state is saved",
    failure: "the work was tried and failed",
    usage: "the command line or configuration is wrong; nothing was started",
    data: "an input file is missing, damaged or not what was expected",
    device: "the device that was asked for cannot be had",
    busy: "another process holds the run",
    interrupted: "a second SIGINT, SIGTERM or SIGHUP ended the program at once",
  }
  const rows = Object.entries(meanings).map(([name, meaning]) => [`  ${EXIT[name as keyof typeof EXIT]}`, meaning])
  return `Exit status\n\n${columns(rows, [0])}\n\nalpha fleet has its own: alpha help fleet`
}

/** What `words` name. */
type Subject =
  | { kind: "overview" }
  | { kind: "topic"; name: string }
  | { kind: "command"; command: Command; group: string }
  | { kind: "family"; commands: readonly Command[] }
  | { kind: "field"; name: string; commands: readonly Command[] }

/** The topic, command or field named by `words`; unknown ones are refused with the nearest. */
function subjectOf(commands: readonly Command[], words: string): Subject {
  if (words === "") return { kind: "overview" }
  if (Object.hasOwn(TOPICS, words)) return { kind: "topic", name: words }
  for (const command of commands) {
    const name = [command.name, ...command.aliases].find((known) => words === known || words.startsWith(`${known} `))
    if (name !== undefined) return { kind: "command", command, group: words.slice(name.length + 1) }
  }
  const family = commands.filter(({ name }) => name.startsWith(`${words} `))
  if (family.length > 0) return { kind: "family", commands: family }
  const users = commands.filter(({ fields }) => Object.hasOwn(fields, words))
  if (users.length > 0) return { kind: "field", name: words, commands: users }
  const close = nearest(words, [...Object.keys(TOPICS), ...commands.flatMap(({ name, aliases }) => [name, ...aliases])])
  throw new AlphaError(`help: nothing is called ${words}`, {
    hint: close ? `did you mean ${close}?` : "alpha help lists what there is",
    code: EXIT.usage,
  })
}

/** The page of what `words` name. */
export function helpPage(commands: readonly Command[], words: string): string {
  const subject = subjectOf(commands, words)
  switch (subject.kind) {
    case "overview":
      return overview(commands)
    case "topic":
      return TOPICS[subject.name]!.page()
    case "command":
      return commandHelp(subject.command, subject.group)
    case "family":
      return subject.commands
        .map((entry) => `${titleOf(entry)} - ${entry.summary}\n${entry.examples.map((line) => `  ${line}`).join("\n")}`)
        .join("\n\n")
    case "field":
      return subject.commands.map(({ name, fields }) => `alpha ${name}\n${flagRow(subject.name, fields[subject.name]!)}`).join("\n\n")
  }
}

/** The same as data: commands and topics by name; the text of a topic; of commands, groups of flags and fields the JSON Schema. */
export function helpJson(commands: readonly Command[], words: string): unknown {
  const subject = subjectOf(commands, words)
  switch (subject.kind) {
    case "overview": {
      const topics = Object.entries(TOPICS).map(([name, { about }]) => ({ name, about }))
      return { commands: commands.map(commandFacts), topics }
    }
    case "topic":
      return { topic: subject.name, about: TOPICS[subject.name]!.about, text: TOPICS[subject.name]!.page() }
    case "command": {
      const { command, group } = subject
      const fields = group === "" ? command.fields : Object.fromEntries(groupRows(command, group)[1])
      return jsonSchema(fields, `alpha ${command.name}${group === "" ? "" : ` ${group}`}`)
    }
    case "family":
      return { commands: subject.commands.map(commandFacts) }
    case "field":
      return subject.commands.map((command) => jsonSchema({ [subject.name]: command.fields[subject.name]! }, `alpha ${command.name}`))
  }
}

const commandFacts = ({ name, aliases, group, summary, positionals, examples }: Command) => ({
  name,
  aliases,
  group,
  summary,
  positionals,
  examples,
})
