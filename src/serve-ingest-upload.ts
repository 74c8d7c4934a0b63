/** Checkpoints that trainers ship: a manifest, chunks at their offsets, and a directory that appears whole once every hash is right. */
import { existsSync, mkdirSync, readFileSync, readlinkSync, rmSync, statfsSync, statSync } from "node:fs"
import { open } from "node:fs/promises"
import { join } from "node:path"
import { publishDirectory, readJson, sha256, sha256File, writeAtomic } from "./base-file.ts"
import { checkpointPath, retain, setLink } from "./gpt.ts"
import type { Call } from "./serve-context.ts"
import { ApiError, badField } from "./serve-error.ts"
import { type RemoteRun, RUN_ID } from "./serve-ingest-store.ts"

interface Manifest {
  readonly run: string
  readonly step: number
  readonly best: boolean
  readonly files: readonly { readonly name: string; readonly bytes: number; readonly sha256: string }[]
}

/** What a checkpoint directory may hold. */
const FILE = /^[A-Za-z0-9][\w.-]{0,80}\.(json|safetensors|jinja|txt|model)$/
const SHA = /^[0-9a-f]{64}$/
const UPLOAD = /^([A-Za-z0-9][\w-]{0,63})\.(\d{1,12})\.([0-9a-f]{32})$/
const MOST_FILES = 64
const MOST_BYTES = 2 ** 40
/** Checkpoints kept of a run whose settings do not say how many. */
const KEPT = 5
/** Kept free on the disk beside what is announced. */
const SPARE_BYTES = 2 ** 28

/** Uploads under a chunk or an assembly: the second of two at once is told to wait. */
const busy = new Set<string>()

/** POST /api/upload { run, step, best, files: [{ name, bytes, sha256 }] } → { upload, received: bytes by file, done }. The same manifest goes on where it stopped. */
export async function upload(call: Call): Promise<Response> {
  const manifest = readManifest(await call.json())
  const run = call.context.remote.get(manifest.run)
  const content = JSON.stringify(manifest)
  const id = `${manifest.run}.${manifest.step}.${sha256(content).slice(0, 32)}`
  if (isPublished(run, id)) return Response.json({ upload: id, received: {}, done: true })
  const folder = staging(run, id)
  if (!existsSync(manifestPath(run, id))) {
    const total = manifest.files.reduce((sum, { bytes }) => sum + bytes, 0)
    const { bavail, bsize } = statfsSync(run.directory)
    if (total + SPARE_BYTES > bavail * bsize) throw new ApiError(507, `no room for ${total} bytes`, { code: "no_space" })
    mkdirSync(folder, { recursive: true })
    writeAtomic(manifestPath(run, id), content)
  }
  const received = Object.fromEntries(manifest.files.map(({ name }) => [name, sizeOf(join(folder, name))]))
  return Response.json({ upload: id, received, done: false })
}

/** POST /api/upload/chunk with x-upload-id, x-upload-file, x-upload-offset → { received }. Bytes that are here already are not written again. */
export async function uploadChunk(call: Call): Promise<Response> {
  const header = (name: string) => call.http.req.header(name) ?? ""
  const { run, manifest, id } = find(call, header("x-upload-id"))
  const file = manifest.files.find(({ name }) => name === header("x-upload-file"))
  if (file === undefined) throw badField("x-upload-file", "expected a file of the manifest")
  const offset = Number(header("x-upload-offset") || Number.NaN)
  if (!Number.isSafeInteger(offset) || offset < 0) throw badField("x-upload-offset", "expected a byte offset")
  return alone(id, async () => {
    if (isPublished(run, id)) throw new ApiError(409, `upload ${id}: it is complete`, { code: "complete" })
    const bytes = await call.http.req.arrayBuffer().catch((error: Error) => {
      throw error instanceof ApiError ? error : new ApiError(499, "the client is gone", { code: "cancelled" })
    })
    if (offset + bytes.byteLength > file.bytes)
      throw new ApiError(413, `${file.name} has ${file.bytes} bytes in the manifest`, { code: "too_many_bytes" })
    const path = join(staging(run, id), file.name)
    const have = sizeOf(path)
    if (offset > have) throw new ApiError(409, `${file.name}: ${have} bytes are here, not ${offset}`, { code: "gap" })
    const fresh = new Uint8Array(bytes).subarray(have - offset)
    if (have - offset < bytes.byteLength) {
      const out = await open(path, "a")
      try {
        await out.appendFile(fresh)
      } finally {
        await out.close()
      }
    }
    return Response.json({ received: sizeOf(path) })
  })
}

/** POST /api/upload/assemble { upload } → { done }. A file whose hash is wrong is thrown away, to be sent again. */
export async function uploadAssemble(call: Call): Promise<Response> {
  const body = (await call.json()) as { upload?: unknown } | null
  const { run, manifest, id } = find(call, typeof body?.upload === "string" ? body.upload : "")
  const target = checkpointPath(run.directory, manifest.step)
  return alone(id, async () => {
    if (isPublished(run, id)) {
      // A kill may have come between the checkpoint and its links; an old message that is sent again moves none back.
      for (const name of linksOf(manifest))
        if (existsSync(target) && linkedStep(run, name) < manifest.step) setLink(run.directory, name, target)
      return Response.json({ done: true })
    }
    const folder = staging(run, id)
    for (const { name, bytes, sha256: expected } of manifest.files) {
      const path = join(folder, name)
      const have = sizeOf(path)
      if (have !== bytes) throw new ApiError(409, `${name}: ${have} of ${bytes} bytes are here`, { code: "incomplete" })
      if ((await sha256File(path)) === expected) continue
      rmSync(path)
      throw new ApiError(422, `${name}: the SHA-256 of its bytes is another than the manifest's`, { code: "wrong_hash" })
    }
    if (existsSync(target)) rmSync(target, { recursive: true })
    publishDirectory(folder, target)
    for (const name of linksOf(manifest)) setLink(run.directory, name, target)
    retain(run.directory, keptCheckpoints(run))
    return Response.json({ done: true })
  })
}

/** As many as the trainer keeps. */
function keptCheckpoints(run: RemoteRun): { keepLast: number; keepEvery?: number } {
  const { config } = readJson(join(run.directory, "config.json")) as { config?: Record<string, { value?: unknown } | undefined> }
  const number = (name: string) => (Number.isSafeInteger(config?.[name]?.value) ? (config?.[name]?.value as number) : undefined)
  const keepEvery = number("keepEvery")
  return { keepLast: Math.max(1, number("keepCheckpoints") ?? KEPT), ...(keepEvery === undefined ? {} : { keepEvery }) }
}

function readManifest(body: unknown): Manifest {
  const { run, step, best, files } = (typeof body === "object" && body !== null ? body : {}) as Partial<Record<keyof Manifest, unknown>>
  if (typeof run !== "string" || !RUN_ID.test(run)) throw badField("run", "expected a run's id")
  if (!Number.isSafeInteger(step) || (step as number) < 0 || (step as number) > 1e12) throw badField("step", "expected a step")
  if (!Array.isArray(files) || files.length === 0 || files.length > MOST_FILES) throw badField("files", `expected 1 to ${MOST_FILES} files`)
  const rows = files.map((file: unknown, i) => {
    const { name, bytes, sha256: hash } = (typeof file === "object" && file !== null ? file : {}) as Record<string, unknown>
    if (typeof name !== "string" || !FILE.test(name)) throw badField(`files[${i}].name`, "expected a file of a checkpoint, without a path")
    if (!Number.isSafeInteger(bytes) || (bytes as number) < 1 || (bytes as number) > MOST_BYTES)
      throw badField(`files[${i}].bytes`, "expected a number of bytes")
    if (typeof hash !== "string" || !SHA.test(hash)) throw badField(`files[${i}].sha256`, "expected 64 hexadecimal digits")
    return { name, bytes: bytes as number, sha256: hash }
  })
  if (new Set(rows.map(({ name }) => name)).size < rows.length) throw badField("files", "expected every name once")
  return { run, step: step as number, best: best === true, files: rows }
}

/** The upload that an id names. Throws 400 and 404. */
function find(call: Call, id: string): { run: RemoteRun; manifest: Manifest; id: string } {
  const parts = UPLOAD.exec(id)
  if (parts === null) throw badField("upload", "expected the id that /api/upload answered")
  const run = call.context.remote.get(parts[1] as string)
  const path = manifestPath(run, id)
  if (!existsSync(path)) throw new ApiError(404, `upload ${id}: announce it first`, { code: "upload_not_found" })
  return { run, manifest: JSON.parse(readFileSync(path, "utf8")) as Manifest, id }
}

const staging = (run: RemoteRun, id: string): string => join(run.directory, "uploads", id)
const manifestPath = (run: RemoteRun, id: string): string => join(run.directory, "uploads", `${id}.json`)
const sizeOf = (path: string): number => statSync(path, { throwIfNoEntry: false })?.size ?? 0

/** Whether this upload became a checkpoint, which retention may have taken since. */
const isPublished = (run: RemoteRun, id: string): boolean => existsSync(manifestPath(run, id)) && !existsSync(staging(run, id))

const linksOf = ({ best }: Manifest): readonly ("best" | "last")[] => (best ? ["best", "last"] : ["last"])

/** Step of the checkpoint that a link names; −1 where there is none. */
function linkedStep(run: RemoteRun, name: "best" | "last"): number {
  try {
    return Number(/(\d+)$/.exec(readlinkSync(join(run.directory, name)))?.[1] ?? -1)
  } catch {
    return -1
  }
}

async function alone<T>(id: string, work: () => Promise<T>): Promise<T> {
  if (busy.has(id))
    throw new ApiError(409, `upload ${id}: another request is writing it`, { code: "busy", headers: { "retry-after-ms": "500" } })
  busy.add(id)
  try {
    return await work()
  } finally {
    busy.delete(id)
  }
}
