/** PTX text taken apart: parameters, instructions with their operands, labels. */

export type Value =
  | { readonly kind: "register"; readonly name: string }
  | { readonly kind: "number"; readonly value: bigint }
  | { readonly kind: "float"; readonly bits: number }
  | { readonly kind: "list"; readonly of: readonly Value[] }
  | { readonly kind: "address"; readonly base: Value; readonly bytes: number; readonly coordinates: readonly Value[] }
  | { readonly kind: "name"; readonly name: string }

export interface Instruction {
  readonly line: string
  readonly guard: { readonly name: string; readonly holds: boolean } | undefined
  readonly op: string
  /** The op between its points. */
  readonly parts: readonly string[]
  /** All lanes of the warp must come together. */
  readonly isAligned: boolean
  readonly operands: readonly Value[]
}

export interface PtxText {
  readonly name: string
  readonly parameters: readonly string[]
  readonly instructions: readonly Instruction[]
  readonly labels: ReadonlyMap<string, number>
}

/** Splits at commas outside of brackets. */
function split(text: string): string[] {
  const parts: string[] = []
  let depth = 0
  let part = ""
  for (const letter of text) {
    if ("{[".includes(letter)) depth++
    if ("}]".includes(letter)) depth--
    if (letter === "," && depth === 0) {
      parts.push(part.trim())
      part = ""
    } else part += letter
  }
  return part.trim() === "" ? parts : [...parts, part.trim()]
}

function operandOf(text: string): Value {
  if (text.startsWith("{")) return { kind: "list", of: split(text.slice(1, -1)).map(operandOf) }
  if (text.startsWith("[")) {
    const [place, coordinates] = split(text.slice(1, -1))
    const [base, bytes = "0"] = (place as string).split("+")
    const list = coordinates === undefined ? [] : split(coordinates.slice(1, -1)).map(operandOf)
    return { kind: "address", base: operandOf((base as string).trim()), bytes: Number(bytes), coordinates: list }
  }
  if (/^0f[0-9a-fA-F]{8}$/.test(text)) return { kind: "float", bits: Number.parseInt(text.slice(2), 16) }
  if (/^-?(0x)?[0-9a-fA-F]+$/.test(text) && /^-?\d/.test(text)) return { kind: "number", value: BigInt(text) }
  if (/^%(tid|ctaid|nctaid|ntid)\.[xyz]$/.test(text)) return { kind: "name", name: text }
  return text.startsWith("%") ? { kind: "register", name: text.split("|")[0] as string } : { kind: "name", name: text }
}

/** Throws where the text is not of one entry. */
export function readPtx(text: string): PtxText {
  const head = /\.entry (\w+)\(([\s\S]*?)\)/.exec(text)
  if (head === null) throw new Error("no entry")
  const parameters = [...(head[2] as string).matchAll(/\.param \.\w+ (\w+)/g)].map((match) => match[1] as string)
  const body = text.slice(text.indexOf("\n{", head.index) + 2, text.lastIndexOf("}"))
  const instructions: Instruction[] = []
  const labels = new Map<string, number>()
  for (const raw of body.split("\n")) {
    const line = raw.replace(/\/\/.*/, "").trim()
    if (line === "" || line.startsWith(".reg")) continue
    const label = /^([\w$]+):$/.exec(line)
    if (label !== null) {
      labels.set(label[1] as string, instructions.length)
      continue
    }
    const parts = /^(?:@(!?)(%\w+)\s+)?([\w.:]+)\s*(.*);$/.exec(line)
    if (parts === null) throw new Error(`not an instruction: ${line}`)
    const guard = parts[2] === undefined ? undefined : { name: parts[2], holds: parts[1] !== "!" }
    const op = parts[3] as string
    instructions.push({
      line,
      guard,
      op,
      parts: op.split("."),
      isAligned: /\.aligned|^shfl|^vote|^bar/.test(op),
      operands: split(parts[4] as string).map(operandOf),
    })
  }
  return { name: head[1] as string, parameters, instructions, labels }
}
