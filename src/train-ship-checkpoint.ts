/** Ships a checkpoint in chunks that go on where they stopped; the optimizer's state only where that is asked for. */
import { open, readdir, stat } from "node:fs/promises"
import { join } from "node:path"
import { sha256File } from "./base-file.ts"

export interface CheckpointToShip {
  readonly path: string
  readonly step: number
  readonly best: boolean
}

/** Sends a request to the server; throws what it refused. */
export type Post = (path: string, body: object | Uint8Array<ArrayBuffer>, headers?: Readonly<Record<string, string>>) => Promise<unknown>

/** Below the body limit that servers have by default. */
const CHUNK_BYTES = 512 << 10
/** Twice the weights or more, and of use only to a trainer that goes on from there. */
const OPTIMIZER = /^trainer\.safetensors$/

/** Ships it whole. Throws where the server refuses or is gone, and where retention took the checkpoint meanwhile (ENOENT). */
export async function shipCheckpoint(
  run: string,
  { path, step, best }: CheckpointToShip,
  withOptimizer: boolean,
  post: Post,
): Promise<void> {
  const names = (await readdir(path)).filter((name) => withOptimizer || !OPTIMIZER.test(name)).sort()
  const files: { name: string; bytes: number; sha256: string }[] = []
  for (const name of names) {
    const { size } = await stat(join(path, name))
    if (size > 0) files.push({ name, bytes: size, sha256: await sha256File(join(path, name)) })
  }
  const told = (await post("/api/upload", { run, step, best, files })) as {
    upload: string
    received: Record<string, number>
    done: boolean
  }
  if (told.done) return
  for (const { name, bytes } of files) {
    const file = await open(join(path, name), "r")
    try {
      for (let offset = told.received[name] ?? 0; offset < bytes; ) {
        const piece = new Uint8Array(Math.min(CHUNK_BYTES, bytes - offset))
        const { bytesRead } = await file.read(piece, 0, piece.length, offset)
        const headers = { "x-upload-id": told.upload, "x-upload-file": name, "x-upload-offset": String(offset) }
        const { received } = (await post("/api/upload/chunk", piece.subarray(0, bytesRead), headers)) as { received: number }
        if (!(received > offset)) throw new Error(`${name}: the server took none of a chunk`)
        offset = received
      }
    } finally {
      await file.close()
    }
  }
  await post("/api/upload/assemble", { upload: told.upload })
}
