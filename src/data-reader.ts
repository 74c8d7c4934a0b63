/** Random access to little-endian u16 or i32 ids in a file: memory-mapped or by positioned reads. */

import { closeSync, openSync, readSync } from "node:fs"
import { AlphaError, EXIT } from "./base-error.ts"
import { withFile } from "./base-file.ts"
import type { TokenReader } from "./data-types.ts"

/** Where the ids lie in a file. */
export interface TokenLayout {
  /** Bytes per id: 2 unsigned, 4 signed. */
  width: 2 | 4
  /** Bytes before the first id. */
  offset: number
  /** Number of ids. */
  length: number
}

/** Bytes mapped at a time. Bun.mmap refuses files of more than 4 GiB, typed arrays views of 2 GiB; smaller for tests. */
const SEGMENT = 2 ** 30

/**
 * Reads by mapping the file, for files that only this program writes: a mapped file that someone shortens kills the process (SIGBUS).
 * Bun maps read-write only, so a file without write permission is read by position instead: the same ids.
 */
export function mappedReader(path: string, layout: TokenLayout, segment = SEGMENT): TokenReader {
  const { width, offset, length } = layout
  const end = offset + length * width
  const views: (Uint16Array | Int32Array)[] = []
  try {
    for (let at = 0; at < end; at += segment) {
      const bytes = Bun.mmap(path, { offset: at, size: Math.min(segment, end - at) } as Parameters<typeof Bun.mmap>[1])
      const count = Math.floor(bytes.byteLength / width)
      views.push(
        width === 2 ? new Uint16Array(bytes.buffer, bytes.byteOffset, count) : new Int32Array(bytes.buffer, bytes.byteOffset, count),
      )
    }
  } catch {
    return positionedReader(path, layout)
  }
  const perView = segment / width
  const first = offset / width
  return {
    length,
    read(at, into) {
      checkRange(path, length, at, into)
      for (let done = 0; done < into.length; ) {
        const element = first + at + done
        const from = element % perView
        const part = Math.min(into.length - done, perView - from)
        into.set(views[Math.floor(element / perView)]!.subarray(from, from + part), done)
        done += part
      }
    },
    close() {
      views.length = 0
    },
  }
}

/** Reads by pread(2): a file shortened meanwhile is an error that names it. */
export function positionedReader(path: string, { width, offset, length }: TokenLayout): TokenReader {
  const file = withFile("read", path, () => openSync(path, "r"))
  let scratch = new Uint8Array(1 << 16)
  return {
    length,
    read(at, into) {
      checkRange(path, length, at, into)
      const bytes = into.length * width
      if (scratch.length < bytes) scratch = new Uint8Array(bytes)
      withFile("read", path, () => {
        for (let done = 0; done < bytes; ) {
          const count = readSync(file, scratch, done, bytes - done, offset + at * width + done)
          if (count === 0) throw shortened(path, offset + at * width + bytes)
          done += count
        }
      })
      into.set(width === 2 ? new Uint16Array(scratch.buffer, 0, into.length) : new Int32Array(scratch.buffer, 0, into.length))
    },
    close: () => closeSync(file),
  }
}

function shortened(path: string, needed: number): AlphaError {
  return new AlphaError(`data ${path}: the file became shorter than ${needed} bytes while it was read`, {
    hint: "data must not change during a run; restore the file and resume",
    code: EXIT.data,
  })
}

function checkRange(path: string, length: number, at: number, into: Int32Array): void {
  if (at < 0 || at + into.length > length) throw new RangeError(`${path}: tokens ${at} to ${at + into.length} of ${length}`)
}
