/** What several tests need: the program, shared files, waiting, ports, distances, bf16. */
import { existsSync, readFileSync } from "node:fs"
import { createServer } from "node:net"
import { join } from "node:path"

const SHARED = join(import.meta.dir, "../../shared")

/** Path of a file in the folder beside the checkout, or undefined where it is not there. */
export function shared(path: string): string | undefined {
  const full = join(SHARED, path)
  return existsSync(full) ? full : undefined
}

const BINARY = join(import.meta.dir, "../alpha")
const isBuilt = (process.env.ALPHA_REQUIRE ?? "").split(",").includes("binary") && existsSync(BINARY)

/** The program, for a process of its own: the binary where `npm test` has just built it, which starts in half the time, else from source. */
export const PROGRAM: readonly string[] = isBuilt ? [BINARY] : [process.execPath, "--no-env-file", join(import.meta.dir, "../src/cli.ts")] // as in the binary, Bun itself must not read .env files

/** Longest wait for anything: far beyond what a busy machine takes, below the limit of a test, so that it is named. */
export const PATIENCE_MS = 240_000

/** Waits for something that must come, and gives it; how long it takes is nobody's business. */
export async function until<T>(what: string, find: () => T | Promise<T>, everyMs = 20): Promise<NonNullable<T>> {
  for (const latest = Date.now() + PATIENCE_MS; ; await Bun.sleep(everyMs)) {
    const found = await find()
    if (found) return found
    if (Date.now() > latest) throw new Error(`${what}: it does not come`)
  }
}

/**
 * A free port for a server that is started later. It lies below those that the system hands out by itself: between this call and that start
 * no other process gets it by asking for any port, or for its own end of a connection.
 */
export async function freePort(): Promise<number> {
  const range = "/proc/sys/net/ipv4/ip_local_port_range"
  const first = existsSync(range) ? Number.parseInt(readFileSync(range, "utf8"), 10) : 32_768
  for (;;) {
    const port = first < 12_000 ? 0 : 10_000 + Math.floor(Math.random() * (first - 10_000))
    const server = createServer()
    const free = await new Promise<number | undefined>((resolve) => {
      server.once("error", () => resolve(undefined))
      server.listen(port, () => resolve((server.address() as { port: number }).port))
    })
    if (free === undefined) continue
    await new Promise((resolve) => server.close(resolve))
    return free
  }
}

/** ‖a − b‖ / ‖b‖; 0 when both are zero, ∞ when one holds a NaN. */
export function relativeL2(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let far = 0
  let norm = 0
  for (let i = 0; i < b.length; i++) {
    far += ((a[i] as number) - (b[i] as number)) ** 2
    norm += (b[i] as number) ** 2
  }
  if (Number.isNaN(far) || a.length !== b.length) return Number.POSITIVE_INFINITY
  return far === 0 ? 0 : Math.sqrt(far / Math.max(norm, 1e-30))
}

/** Round to nearest even bf16 bits. */
export function toBf16(values: ArrayLike<number>): Uint16Array {
  const floats = Float32Array.from(values)
  const bits = new Uint32Array(floats.buffer)
  return Uint16Array.from(bits, (u, i) => (Number.isNaN(floats[i]) ? 0x7fc0 : (u + 0x7fff + ((u >>> 16) & 1)) >>> 16))
}

export function fromBf16(bits: Uint16Array): Float64Array {
  const words = Uint32Array.from(bits, (b) => b << 16)
  return Float64Array.from(new Float32Array(words.buffer))
}

/** Reproducible text of `length` characters in lines of simple words: something a small model learns from. */
export function sampleText(length: number): string {
  const words = ["the", "sea", "was", "calm", "and", "a", "whale", "rose", "from", "its", "deep", "green", "bed", "to", "look", "at", "us"]
  let text = ""
  for (let i = 0, x = 1; text.length < length; i++) {
    x = (x * 48271) % 2147483647
    text += words[x % words.length] + (i % 9 === 8 ? ".\n" : " ")
  }
  return text.slice(0, length)
}
