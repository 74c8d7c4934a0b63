/** Sends one file to a machine, in requests that continue where an earlier one broke. */
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
}

/** How often a request may fail before the file is given up; one that gets further counts anew. */
const TRIES = 4

/** Sends what is missing of a file of which the machine has `have` bytes. Throws HostError; what came stays there for the next time. */
export async function sendBlob(host: FleetHost, blob: Blob, owner: LockOwner, have: number, { onProgress, signal }: SendOptions) {
  const work = { sentBytes: 0, resumedBytes: have, requests: 0 }
  let isRepeated = false
  for (let offset = have, failures = 0; ; ) {
    const end = Math.min(offset + CHUNK, blob.bytes)
    const answer = await remote(host, uploadScript(host, blob, owner, offset, end), {
      stdin: pieces(blob.path, offset, end, onProgress),
      signal,
    })
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

/** The bytes of a file from `start` to `end`, in pieces that ssh takes at its own pace. */
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
