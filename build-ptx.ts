/** Machine code of the kernels in PTX where ptxas is installed: they must assemble without spills, their products must not wait for each other. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { availableParallelism, tmpdir } from "node:os"
import { join } from "node:path"
import { withRoom } from "./build-ptx-room.ts"
import { AlphaError } from "./src/base-error.ts"
import { lastPtxPack, MOST_DYNAMIC, type PtxEntry, type PtxKernel } from "./src/ptx.ts"

/** What the build needs of a kernel. */
type Assembly = Pick<PtxKernel, "name" | "text" | "sharedBytes">

/** PTXAS, or ptxas in PATH; undefined without one, and where PTXAS is empty. Throws AlphaError where it names nothing. */
export function findPtxas(named = process.env.PTXAS): string | undefined {
  if (named === undefined) return Bun.which("ptxas") ?? undefined
  if (named === "") return undefined
  if (!existsSync(named)) throw new AlphaError(`PTXAS ${named}: no such file`, { hint: "PTXAS= builds without machine code" })
  return named
}

/** First registers of sum and left factor of every product in a cubin, in its order. */
export function productsOf(cubin: Uint8Array<ArrayBuffer>): readonly { readonly sum: number; readonly left: number }[] {
  const view = new DataView(cubin.buffer, cubin.byteOffset, cubin.byteLength)
  const sections = Number(view.getBigUint64(0x28, true))
  const found: { sum: number; left: number }[] = []
  for (let i = 0; i < view.getUint16(0x3c, true); i++) {
    const header = sections + i * view.getUint16(0x3a, true)
    const isCode = view.getUint32(header + 4, true) === 1 && (view.getBigUint64(header + 8, true) & 4n) !== 0n
    const [from, bytes] = [0x18, 0x20].map((field) => Number(view.getBigUint64(header + field, true))) as [number, number]
    // HGMMA with the left factor in registers: its number in bits 0-11, the sum in 16-23, the left factor in 24-31.
    for (let at = from; isCode && at < from + bytes; at += 16)
      if ((view.getUint16(at, true) & 0xfff) === 0xdf0) found.push({ sum: view.getUint8(at + 2), left: view.getUint8(at + 3) })
  }
  return found
}

/** The left factors of a text's products, by their first register. */
const leftsOf = (text: string): readonly string[] =>
  [...text.matchAll(/wgmma\.mma_async[^;]*?\{[^}]*\}, \{(%r\d+)[^}]*\}/g)].map(([, left]) => left!)

/** A left factor that a loop of the text reads and does not write. */
export function onlyRead(text: string): string | undefined {
  const lines = text.split("\n")
  const labels = new Map(lines.flatMap((line, i) => (/^\w+:$/.test(line) ? [[line.slice(0, -1), i] as const] : [])))
  for (const [end, line] of lines.entries()) {
    const begin = labels.get(/\bbra (\w+);/.exec(line)?.[1] ?? "") ?? end
    if (begin >= end) continue
    const loop = lines.slice(begin, end)
    const written = new Set(loop.flatMap((one) => /^\t(?:@\S+ )?[\w.:]+ (\{[^}]*\}|[%\w]+),/.exec(one)?.[1]?.match(/%r\d+/g) ?? []))
    const found = leftsOf(loop.join("\n")).find((left) => !written.has(left))
    if (found !== undefined) return found
  }
  return undefined
}

/**
 * What is wrong with the registers of left factors, as ptxas 12.8 and 13.0 give those that a loop only reads to others: a loop must write them, be it where a
 * jump never goes (there they are set to 0), and each of those must have registers of its own.
 */
export function misplaced(text: string, cubin: Uint8Array<ArrayBuffer>): string | undefined {
  const read = onlyRead(text)
  if (read !== undefined) return `a loop reads left factor ${read} and does not write it`
  const kept = new Set([...text.matchAll(/mov\.b32 (%r\d+), 0;/g)].map(([, register]) => register!))
  const lefts = leftsOf(text)
  if (!lefts.some((left) => kept.has(left))) return undefined
  const products = productsOf(cubin)
  if (products.length !== lefts.length) return `${lefts.length} products became ${products.length}`
  const places = Map.groupBy(products.keys(), (i) => lefts[i]!)
  const registersOf = (left: string) => new Set(places.get(left)!.map((i) => products[i]!.left))
  for (const left of new Set(lefts.filter((one) => kept.has(one)))) {
    const own = registersOf(left)
    const others = new Set(lefts.filter((other) => other !== left && [...registersOf(other)].some((register) => own.has(register))))
    if (own.size !== 1 || others.size > 0)
      return `left factor ${left} is in registers ${[...own].join(", ")}, with ${[...others].join(", ")}`
  }
  return undefined
}

/** Vulkan has no block's first KiB of shared memory reserved, as CUDA has: dynamic shared memory begins at 0. */
const NOTHING_RESERVED = "--disable-smem-reservation=true"

interface Assembled {
  readonly registers: number
  readonly code: Uint8Array<ArrayBuffer>
}

/** A kernel's machine code. Throws AlphaError with what ptxas says of spills and the like; products that it puts one after another are an error too. */
async function assemble(ptxas: string, folder: string, { name, text, sharedBytes }: Assembly): Promise<Assembled> {
  const file = join(folder, `${name}.ptx`)
  writeFileSync(file, text)
  const run = Bun.spawn([ptxas, "-arch=sm_90a", "-v", NOTHING_RESERVED, file, "-o", `${file}.cubin`], { stdout: "pipe", stderr: "pipe" })
  const [said, errors, exit] = await Promise.all([new Response(run.stdout).text(), new Response(run.stderr).text(), run.exited])
  const all = said + errors
  const spilled = [...all.matchAll(/(\d+) bytes spill/g)].some(([, bytes]) => bytes !== "0")
  const hint = exit === 0 ? undefined : "ptxas of CUDA 12.8 and 13.0 take it; with PTXAS= (empty) the build does without machine code"
  if (exit !== 0 || spilled || /wgmma.*serialized/.test(all)) throw new AlphaError(`kernel ${name}: ptxas says\n${all.trim()}`, { hint })
  const code = new Uint8Array(readFileSync(`${file}.cubin`))
  const fault = misplaced(text, code)
  if (fault !== undefined) throw new AlphaError(`kernel ${name}: ${fault}`)
  const registers = Number(/Used (\d+) registers/.exec(all)?.[1])
  return { registers, code: sharedBytes > MOST_DYNAMIC ? withRoom(code, name, sharedBytes) : code }
}

/** Assembles all kernels, on all cores; returns the most registers that one uses, and the machine code of each by name. */
export async function assemblePtx(
  ptxas: string,
  kernels: readonly Assembly[],
): Promise<{ registers: number; codes: ReadonlyMap<string, Uint8Array> }> {
  const folder = mkdtempSync(join(tmpdir(), "alpha-ptx-"))
  try {
    let next = 0
    const assembled = new Map<string, Assembled>()
    const work = async () => {
      for (let kernel = kernels[next++]; kernel !== undefined; kernel = kernels[next++])
        assembled.set(kernel.name, await assemble(ptxas, folder, kernel))
    }
    await Promise.all(Array.from({ length: availableParallelism() }, work))
    const codes = new Map([...assembled].map(([name, { code }]) => [name, code]))
    return { registers: Math.max(...assembled.values().map(({ registers }) => registers)), codes }
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/**
 * Machine code of all kernels by name. What is in the pack of the build before, `file`, under the same text, assembler and checks is taken from there;
 * returns how many were assembled.
 */
export async function ptxCodes(
  ptxas: string,
  kernels: readonly Assembly[],
  file: string,
): Promise<{ assembled: number; codes: ReadonlyMap<string, Uint8Array> }> {
  const version = Bun.spawnSync([ptxas, "--version"]).stdout
  const by = new Bun.CryptoHasher("sha256")
    .update(version)
    .update(readFileSync(import.meta.path))
    .update(readFileSync(join(import.meta.dir, "build-ptx-room.ts")))
    .digest("hex")
  const stamp = `${file}.by`
  const isAlike = existsSync(file) && existsSync(stamp) && readFileSync(stamp, "utf8") === by
  if (!isAlike) rmSync(file, { force: true }) // so that no build that is cut short leaves codes under the wrong stamp
  const before = isAlike ? lastPtxPack(file) : new Map<string, PtxEntry>()
  const known = kernels.flatMap(({ name, text }) => {
    const { text: old, code } = before.get(name) ?? {}
    return old === text && code !== undefined ? [[name, code] as const] : []
  })
  const missing = kernels.filter(({ name }) => !known.some(([other]) => other === name))
  const { codes } = await assemblePtx(ptxas, missing)
  if (!isAlike) writeFileSync(stamp, by)
  return { assembled: missing.length, codes: new Map([...known, ...codes]) }
}
