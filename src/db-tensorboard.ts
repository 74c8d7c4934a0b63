/** TensorBoard's event files: records with masked CRC-32C around protocol buffers, written by hand. */

/** One step's numbers and texts by tag. */
export interface TensorboardRow {
  readonly step: number
  /** Milliseconds since 1970. */
  readonly time: number
  readonly scalars: Readonly<Record<string, number>>
  /** Markdown that the text plugin shows. */
  readonly texts?: Readonly<Record<string, string>>
}

/** Tags of the journals' columns; TensorBoard groups its charts by what stands before the slash. */
const TAGS: Readonly<Record<string, string>> = {
  loss: "loss/train",
  val_loss: "loss/val",
  perplexity: "val/perplexity",
  bits_per_byte: "val/bits_per_byte",
  lr: "train/lr",
  gradNorm: "train/grad_norm",
  tokens: "train/tokens",
  skipped: "train/skipped",
  tokens_per_s: "speed/tokens_per_s",
  ms_per_step: "speed/ms_per_step",
  mfu: "speed/mfu",
  data_ms: "speed/data_ms",
  submit_ms: "speed/submit_ms",
  wait_ms: "speed/wait_ms",
  gpu_memory_bytes: "gpu/memory_bytes",
  gpu_utilisation: "gpu/utilisation",
  gpu_power_w: "gpu/power_w",
  gpu_temperature_c: "gpu/temperature_c",
  gpu_sm_mhz: "gpu/sm_mhz",
  gpu_memory_mhz: "gpu/memory_mhz",
}

/** Name that TensorBoard finds below its --logdir. `started`: milliseconds since 1970. */
export function tensorboardFileName(started: number, host: string): string {
  const safe = host.replace(/[^A-Za-z0-9._-]/g, "_") || "host"
  return `events.out.tfevents.${String(Math.floor(started / 1000)).padStart(10, "0")}.${safe}`
}

/**
 * Rows of metrics.jsonl and samples.jsonl as rows of an event file. A row without a `time` of its own (number of milliseconds, or ISO text) has
 * `started` + its `elapsed_s`, or the time of the row before it. A number that JSON could not write (null) is NaN.
 */
export function* tensorboardRows(rows: Iterable<Readonly<Record<string, unknown>>>, started: number): Generator<TensorboardRow> {
  const next = tensorboardReader(started)
  for (const row of rows) {
    const made = next(row)
    if (made !== undefined) yield made
  }
}

/** The same, a row at a time. */
export function tensorboardReader(started: number): (row: Readonly<Record<string, unknown>>) => TensorboardRow | undefined {
  let time = started
  const prompts: unknown[] = []
  return (row) => {
    if (typeof row.step !== "number") return undefined
    const own = typeof row.time === "string" ? Date.parse(row.time) : row.time
    if (typeof own === "number" && Number.isFinite(own)) time = own
    else if (typeof row.elapsed_s === "number") time = started + row.elapsed_s * 1000
    const scalars: Record<string, number> = {}
    for (const [column, tag] of Object.entries(TAGS)) {
      const value = row[column]
      if (typeof value === "number") scalars[tag] = value
      else if (value === null) scalars[tag] = Number.NaN
    }
    if (row.type !== "sample") return { step: row.step, time, scalars }
    // The same prompt has the same tag at every step, so that its slider shows how the answer changes.
    if (!prompts.includes(row.prompt)) prompts.push(row.prompt)
    const text = fenced(`${String(row.prompt ?? "")}${String(row.text ?? "")}`)
    return { step: row.step, time, scalars: {}, texts: { [`samples/${prompts.indexOf(row.prompt) + 1}`]: text } }
  }
}

/** Text as it is, in Markdown: a fence longer than any in it. */
function fenced(text: string): string {
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map(([run]) => run.length))
  const fence = "`".repeat(longest + 1)
  return `${fence}\n${text}\n${fence}`
}

/** The bytes of an event file, one record at a time: its version, then one record per row that has something to say. */
export function* tensorboardFile(rows: Iterable<TensorboardRow>, started: number): Generator<Uint8Array> {
  yield tensorboardVersion(started)
  for (const row of rows) yield* tensorboardRecords(row)
}

/** What a file begins with. */
export const tensorboardVersion = (started: number): Uint8Array => record(concat([double(1, started / 1000), text(3, "brain.Event:2")]))

export function* tensorboardRecords(row: TensorboardRow): Generator<Uint8Array> {
  const values = [
    ...Object.entries(row.scalars).map(([tag, value]) => bytes(1, concat([text(1, tag), float(2, value)]))),
    ...Object.entries(row.texts ?? {}).map(([tag, value]) => bytes(1, textValue(tag, value))),
  ]
  if (values.length > 0) yield record(concat([double(1, row.time / 1000), varintField(2, row.step), bytes(5, concat(values))]))
}

/** Summary.Value of the text plugin: a string tensor of shape (1), with its metadata (tensor = 8, metadata = 9). */
function textValue(tag: string, value: string): Uint8Array {
  const STRING = 7
  const shape = bytes(2, varintField(1, 1)) // TensorShapeProto.dim.size
  const tensor = concat([varintField(1, STRING), bytes(2, shape), text(8, value)])
  const TENSOR_CLASS = 2
  const metadata = concat([bytes(1, text(1, "text")), varintField(4, TENSOR_CLASS)])
  return concat([text(1, tag), bytes(8, tensor), bytes(9, metadata)])
}

/** A TFRecord: length (u64), its masked CRC, the data, its masked CRC; all little-endian. */
export function record(data: Uint8Array): Uint8Array {
  const out = new Uint8Array(8 + 4 + data.length + 4)
  const view = new DataView(out.buffer)
  view.setBigUint64(0, BigInt(data.length), true)
  view.setUint32(8, masked(crc32c(out.subarray(0, 8))), true)
  out.set(data, 12)
  view.setUint32(12 + data.length, masked(crc32c(data)), true)
  return out
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1
  return value
})

/** CRC-32C (Castagnoli), RFC 3720 appendix B.4. */
export function crc32c(data: Uint8Array): number {
  let crc = 0xffffffff
  for (const byte of data) crc = (crc >>> 8) ^ (CRC_TABLE[(crc ^ byte) & 255] as number)
  return (crc ^ 0xffffffff) >>> 0
}

/** Records hold the CRC rotated and offset, so that the CRC of data that holds CRCs stays useful. */
const masked = (crc: number): number => (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0

// Protocol buffers: a field is its number and wire type as a varint, then its content.
const VARINT = 0
const FIXED64 = 1
const LENGTH = 2
const FIXED32 = 5

function varint(value: number): Uint8Array {
  const out: number[] = []
  let rest = Math.max(0, Math.floor(value))
  for (; rest > 127; rest = Math.floor(rest / 128)) out.push((rest % 128) | 128)
  return Uint8Array.from([...out, rest])
}

const key = (field: number, wire: number): Uint8Array => varint(field * 8 + wire)
const varintField = (field: number, value: number): Uint8Array => concat([key(field, VARINT), varint(value)])
const bytes = (field: number, data: Uint8Array): Uint8Array => concat([key(field, LENGTH), varint(data.length), data])
const text = (field: number, value: string): Uint8Array => bytes(field, new TextEncoder().encode(value))

function double(field: number, value: number): Uint8Array {
  return concat([key(field, FIXED64), new Uint8Array(Float64Array.of(value).buffer)])
}

function float(field: number, value: number): Uint8Array {
  return concat([key(field, FIXED32), new Uint8Array(Float32Array.of(value).buffer)])
}

function concat(parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.length
  }
  return out
}
