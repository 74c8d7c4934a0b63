/** A job's log as a stream of frames, from any offset on. */
import { closeSync, existsSync, fstatSync, openSync, readSync } from "node:fs"
import { AlphaError, EXIT } from "./base-error.ts"
import { withFile } from "./base-file.ts"
import { type Frame, frameHead, MARK } from "./fleet-frame.ts"
import { logPath, readRecord } from "./fleet-host.ts"
import { isLive, jobReport } from "./fleet-host-state.ts"

const PIECE = 256 << 10
const LOOK_MS = 200
/** A silence as long as this has a beat in it, so that the reader knows a dead connection from a quiet job. */
const BEAT_MS = 5000

export interface LogRequest {
  readonly name: string
  /** First byte; undefined: the last `lines` lines. */
  readonly from: number | undefined
  readonly lines: number
  /** The log that was read before: another one is refused. */
  readonly id: string | undefined
  /** Goes on until the job ends. */
  readonly follow: boolean
}

/** Sends the log; `write` resolves when the bytes are on their way. */
export async function sendLog(root: string, request: LogRequest, write: (bytes: Uint8Array) => Promise<void>): Promise<void> {
  const { name, follow } = request
  const { id } = readRecord(root, name)
  if (request.id !== undefined && request.id !== id) {
    throw new AlphaError(`the log of ${name} is another one than before: the job was started anew`, { code: EXIT.data })
  }
  const path = logPath(root, name)
  const file = existsSync(path) ? withFile("read", path, () => openSync(path, "r")) : undefined
  const size = () => (file === undefined ? 0 : fstatSync(file).size)
  const send = (frame: Frame) => write(frame.kind === "data" ? Buffer.concat([frameHead(frame), frame.bytes]) : frameHead(frame))
  const piece = new Uint8Array(PIECE)
  let at = request.from ?? (file === undefined ? 0 : lineStart(file, size(), request.lines))
  let beatAt = Date.now()
  try {
    await write(new TextEncoder().encode(MARK))
    await send({ kind: "file", id, size: size() })
    if (at > size()) throw new AlphaError(`${path} has ${size()} bytes, fewer than the ${at} that were read before`, { code: EXIT.data })
    for (;;) {
      // Asked before the last look: what the job wrote before it ended is there.
      const { state } = jobReport(root, name)
      for (let count = 1; count > 0; ) {
        count = file === undefined ? 0 : readSync(file, piece, 0, PIECE, at)
        if (count === 0) break
        await send({ kind: "data", offset: at, bytes: piece.subarray(0, count) })
        at += count
        beatAt = Date.now()
      }
      if (!follow || !isLive(state)) return await send({ kind: "end", state })
      if (Date.now() - beatAt > BEAT_MS) {
        beatAt = Date.now()
        await send({ kind: "beat" })
      }
      await Bun.sleep(LOOK_MS)
    }
  } finally {
    if (file !== undefined) closeSync(file)
  }
}

/** Offset at which the last `lines` lines begin. */
function lineStart(file: number, size: number, lines: number): number {
  const piece = new Uint8Array(PIECE)
  let found = 0
  for (let end = size; end > 0; ) {
    const start = Math.max(0, end - PIECE)
    const count = readSync(file, piece, 0, end - start, start)
    for (let i = count - 1; i >= 0; i--) {
      // The line break at the very end closes the last line; it begins none.
      if (piece[i] === 10 && start + i !== size - 1 && ++found === lines) return start + i + 1
    }
    end = start
  }
  return lines === 0 ? size : 0
}
