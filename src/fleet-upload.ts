/** Sends one file to a machine, in requests that continue where an earlier one broke. */
import { closeSync, openSync, readFileSync, readSync } from "node:fs"
import { withFile } from "./base-file.ts"
import { verified } from "./fleet-answer.ts"
import type { FleetHost } from "./fleet-config.ts"
import type { LockOwner } from "./fleet-lock.ts"
import { HostError } from "./fleet-parallel.ts"
import { type Blob, CHUNK, SCRIPT, uploadScript } from "./fleet-release.ts"
import { remote } from "./fleet-ssh.ts"

interface SendOptions {
  /** Bytes of the file that are there. */
  readonly onProgress: (done: number) => void
  readonly signal: AbortSignal | undefined
  /** Bytes in a request. */
  readonly chunk?: number
}

/** How often a request may fail before the file is given up; one that gets further counts anew. */
const TRIES = 4

/** Sends what is missing of a file of which the machine has `have` bytes. Throws HostError; what came stays there for the next time. */
export async function sendBlob(
  host: FleetHost,
  blob: Blob,
  owner: LockOwner,
  have: number,
  { onProgress, signal, chunk = CHUNK }: SendOptions,
) {
  const work = { sentBytes: 0, resumedBytes: have, requests: 0 }
  let isRepeated = false
  for (let offset = have, failures = 0; ; ) {
    const end = Math.min(offset + chunk, blob.bytes)
    const script = uploadScript(host, blob, owner, offset, end)
    const answer = await withBytes(blob, offset, end, onProgress, (source) => remote(host, script, { ...source, signal }))
    work.requests++
    if (answer.code === 0) {
      work.sentBytes += end - offset
      if (end === blob.bytes) return work
      offset = end
      failures = 0
      continue
    }
    if (answer.code === SCRIPT.corrupt) {
      if (isRepeated || offset === 0) {
        throw new HostError("failed", `${blob.path} arrives changed: was it written to while it was sent?`, { hint: "deploy again" })
      }
      // What an earlier deploy had left was not this file.
      isRepeated = true
      work.resumedBytes = 0
      offset = 0
      continue
    }
    const broke = answer.unreachable !== undefined || answer.code === SCRIPT.short
    if (signal?.aborted || ++failures === TRIES || (!broke && answer.code !== SCRIPT.offset)) {
      throw answer.code === SCRIPT.short
        ? new HostError("unreachable", `the connection to ${host.name} breaks while sending`)
        : verifiedError(answer)
    }
    if (answer.code === SCRIPT.offset) offset = Math.min(Number(/^have=(\d+)$/m.exec(answer.stdout)?.[1] ?? 0), blob.bytes)
    else await Bun.sleep(500 * 2 ** failures)
  }
}

function verifiedError(answer: Parameters<typeof verified>[0]): unknown {
  try {
    verified(answer, "sending")
  } catch (error) {
    return error
  }
  return new Error("a failed request has no error")
}

/** What goes to ssh's standard input: the open file itself where all of its rest is sent, else a stream of the part. */
type Source = { readonly stdinFile: number } | { readonly stdin: ReadableStream<Uint8Array> }

/** Opens bytes `start` to `end` of the file, does `work` with them, and tells meanwhile how far they were read. */
async function withBytes<T>(
  { path, bytes }: Blob,
  start: number,
  end: number,
  onProgress: (done: number) => void,
  work: (source: Source) => Promise<T>,
): Promise<T> {
  if (end < bytes) return await work({ stdin: pieces(path, start, end, onProgress) })
  const file = withFile("read", path, () => openSync(path, "r"))
  // The position is shared with ssh. It is moved by reading: there is no call to seek.
  const skip = new Uint8Array(1 << 20)
  for (let at = 0; at < start; ) at += readSync(file, skip, 0, Math.min(skip.length, start - at), null) || start
  const timer = setInterval(() => onProgress(position(file) ?? start), 200)
  try {
    const answer = await work({ stdinFile: file })
    onProgress(position(file) ?? end)
    return answer
  } finally {
    clearInterval(timer)
    closeSync(file)
  }
}

/** How far an open file has been read; undefined where the system does not tell. */
function position(file: number): number | undefined {
  try {
    const found = /^pos:\s*(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${file}`, "utf8"))?.[1]
    return found === undefined ? undefined : Number(found)
  } catch {
    return undefined
  }
}

/** A part of a file in pieces that ssh takes at its own pace. */
function pieces(path: string, start: number, end: number, onProgress: (done: number) => void): ReadableStream<Uint8Array> {
  const file = Bun.file(path)
  let at = start
  return new ReadableStream({
    async pull(controller) {
      if (at >= end) {
        controller.close()
        return
      }
      const piece = new Uint8Array(await file.slice(at, Math.min(at + (1 << 20), end)).arrayBuffer())
      if (piece.length === 0) {
        controller.close() // the file became shorter: the machine's check tells
        return
      }
      at += piece.length
      onProgress(at)
      controller.enqueue(piece)
    },
  })
}
