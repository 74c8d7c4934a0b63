/** Chunks in, encoded chunks out in the same order, by several workers. */

import { AlphaError } from "./base-error.ts"
import type { Chunk } from "./data-chunk.ts"
import { byteLengthsOf, type EncodedChunk, type EncodeSetup, encodeChunk, RowError } from "./data-encode.ts"
import { blocksOf } from "./data-scan.ts"
import type { WorkerReply, WorkerRequest } from "./data-worker.ts"
import type { Tokenizer } from "./token.ts"

/** A chunk with its ids. */
export interface Encoded {
  chunk: Chunk
  encoded: EncodedChunk
}

/**
 * Encodes `chunks` in order. With workers ≤ 1 in this thread; otherwise each worker holds at most two chunks, so memory stays bounded.
 * The ids do not depend on the number of workers: a chunk is encoded alone.
 */
export async function* encodeAll(
  chunks: AsyncIterable<Chunk>,
  tokenizer: Tokenizer,
  setup: EncodeSetup,
  workers: number,
): AsyncGenerator<Encoded> {
  if (workers <= 1) {
    const byteLengths = byteLengthsOf(tokenizer)
    for await (const chunk of chunks) {
      const encode = async () => encodeChunk(tokenizer, byteLengths, chunk.kind, chunk.bytes, setup)
      yield { chunk, encoded: await encode().catch((error) => placed(error, chunk)) }
    }
    return
  }
  const json = tokenizer.toJson()
  const pool = Array.from({ length: workers }, () => startWorker(json, setup))
  try {
    const waiting: { chunk: Chunk; reply: Promise<EncodedChunk> }[] = []
    let next = 0
    const settle = async (): Promise<Encoded> => {
      const { chunk, reply } = waiting.shift()!
      return { chunk, encoded: await reply.catch((error) => placed(error, chunk)) }
    }
    for await (const chunk of chunks) {
      const reply = pool[next++ % workers]!.encode(chunk)
      reply.catch(() => {}) // reported in its turn by settle
      waiting.push({ chunk, reply })
      if (waiting.length >= 2 * workers) yield await settle()
    }
    while (waiting.length > 0) yield await settle()
  } finally {
    for (const worker of pool) worker.stop()
  }
}

/** Throws `error` again with the file and the line, or the byte in the file instead of in the chunk. */
async function placed(error: unknown, { piece, offset }: Chunk): Promise<never> {
  if (!(error instanceof AlphaError)) throw error
  const { name, path } = piece.source
  let message = `data ${name}: ${error.message.replace(/^text: /, "").replace(/(?<=byte offset )\d+/, (at) => `${offset + Number(at)}`)}`
  if (error instanceof RowError) {
    let line = error.line + 1
    for await (const block of blocksOf(path, 0, offset)) for (const byte of block) if (byte === 10) line++
    message = `data ${name} line ${line}: ${error.message}`
  }
  throw new AlphaError(message, { hint: error.hint, code: error.code, cause: error })
}

interface PoolWorker {
  encode(chunk: Chunk): Promise<EncodedChunk>
  stop(): void
}

/** Starts one worker. The compiled binary embeds data-worker.ts as an entry point of its own (build.ts). */
function startWorker(tokenizer: string, setup: EncodeSetup): PoolWorker {
  const worker = new Worker(new URL("./data-worker.ts", import.meta.url))
  const calls: { resolve(encoded: EncodedChunk): void; reject(error: Error): void }[] = []
  let failure: Error | undefined
  worker.onmessage = ({ data }: MessageEvent<WorkerReply>) => {
    const call = calls.shift()
    if ("encoded" in data) call?.resolve(data.encoded)
    else {
      const error = new AlphaError(data.error.message, data.error)
      call?.reject(data.error.line === undefined ? error : new RowError(data.error.line, error))
    }
  }
  worker.onerror = ({ message }) => {
    failure = new AlphaError(`the tokenising worker failed: ${message}`)
    for (const call of calls.splice(0)) call.reject(failure)
  }
  const post = (request: WorkerRequest, transfer: ArrayBuffer[] = []) => worker.postMessage(request, transfer)
  post({ tokenizer, setup })
  return {
    encode: ({ kind, bytes }) =>
      new Promise((resolve, reject) => {
        if (failure) return reject(failure)
        calls.push({ resolve, reject })
        post({ kind, bytes }, [bytes.buffer])
      }),
    stop: () => worker.terminate(),
  }
}
