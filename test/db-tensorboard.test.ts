import { expect, test } from "bun:test"
import { spawnSync } from "node:child_process"
import { mkdtempSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { crc32c, record, tensorboardFile, tensorboardFileName, tensorboardRows } from "../src/db-tensorboard.ts"
import { testWith } from "./require.ts"

test("CRC-32C of RFC 3720's vectors", () => {
  const known: [Uint8Array, number][] = [
    [new Uint8Array(32), 0x8a9136aa],
    [new Uint8Array(32).fill(255), 0x62a8ab43],
    [Uint8Array.from({ length: 32 }, (_, i) => i), 0x46dd794e],
    [Uint8Array.from({ length: 32 }, (_, i) => 31 - i), 0x113fdb5c],
    [new TextEncoder().encode("123456789"), 0xe3069283],
  ]
  for (const [data, crc] of known) expect(crc32c(data)).toBe(crc)
})

test("a record frames its data with length and masked checksums", () => {
  // Length 24 and its checksum 0x224b7fa3: the first bytes of every TensorFlow 2 event file.
  const data = record(new Uint8Array(24))
  expect(Buffer.from(data.subarray(0, 12)).toString("hex")).toBe("1800000000000000a37f4b22")
  expect(data.length).toBe(8 + 4 + 24 + 4)
})

test("the first record is the file's version, byte by byte", () => {
  const [first] = [...tensorboardFile([], 1_600_000_000_000)]
  const body = Buffer.from(first!.subarray(12, -4))
  expect(body.toString("hex")).toBe(`090000000084d7d7411a0d${Buffer.from("brain.Event:2").toString("hex")}`)
})

test("a scalar's event, byte by byte", () => {
  const [, event] = [...tensorboardFile([{ step: 300, time: 1_600_000_000_000, scalars: { a: 1.5 } }], 0)]
  // wall_time (1, double), step (2, varint 300), summary (5) { value (1) { tag (1) "a", simple_value (2, float) 1.5 } }
  expect(Buffer.from(event!.subarray(12, -4)).toString("hex")).toBe(
    "090000000084d7d741" + "10ac02" + "2a0a" + "0a08" + "0a0161" + "150000c03f",
  )
})

const ROWS = [
  { type: "step", step: 1, loss: 4.25, lr: 0.001, gradNorm: null, elapsed_s: 0.5 },
  { type: "eval", step: 2, val_loss: 3.5 },
  { type: "note", message: "no step" },
  { type: "sample", step: 2, prompt: "Once", text: " upon ``` a time" },
  { type: "step", step: 3, loss: 4, time: "2020-09-13T12:26:50.000Z" },
  { type: "sample", step: 3, prompt: "Once", text: " more" },
]

test("journal rows become tags, times and texts", () => {
  const rows = [...tensorboardRows(ROWS, 1_600_000_000_000)]
  expect(rows).toEqual([
    { step: 1, time: 1_600_000_000_500, scalars: { "loss/train": 4.25, "train/lr": 0.001, "train/grad_norm": Number.NaN } },
    { step: 2, time: 1_600_000_000_500, scalars: { "loss/val": 3.5 } },
    { step: 2, time: 1_600_000_000_500, scalars: {}, texts: { "samples/1": "````\nOnce upon ``` a time\n````" } },
    { step: 3, time: 1_600_000_010_000, scalars: { "loss/train": 4 } },
    { step: 3, time: 1_600_000_010_000, scalars: {}, texts: { "samples/1": "```\nOnce more\n```" } },
  ])
})

test("the name is one that TensorBoard looks for", () => {
  expect(tensorboardFileName(1_600_000_000_999, "a host")).toBe("events.out.tfevents.1600000000.a_host")
})

const python = process.env.PYTHON ?? "python3"
const reader = spawnSync(python, ["-c", "import tensorboard"])
const missing = reader.status === 0 ? undefined : "no Python with the package tensorboard (PYTHON names one)"

testWith("tensorboard", missing)(
  "TensorBoard's own reader finds every scalar and text",
  () => {
    const dir = mkdtempSync(join(tmpdir(), "tb-"))
    const file = join(dir, tensorboardFileName(1_600_000_000_000, "here"))
    writeFileSync(file, Buffer.concat([...tensorboardFile(tensorboardRows(ROWS, 1_600_000_000_000), 1_600_000_000_000)]))
    const script = `
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
a = EventAccumulator(sys.argv[1]); a.Reload()
tags = a.Tags()
scalars = {t: [[e.step, e.wall_time, e.value] for e in a.Scalars(t)] for t in tags["scalars"] if t != "train/grad_norm"}
texts = {t: [[e.step, e.tensor_proto.string_val[0].decode()] for e in a.Tensors(t)] for t in tags["tensors"] if t.startswith("samples")}
plugin = a.SummaryMetadata("samples/1").plugin_data.plugin_name
print(json.dumps([scalars, texts, plugin, tags["scalars"]]))
`
    const { stdout, stderr } = spawnSync(python, ["-c", script, dir], { encoding: "utf8" })
    const [scalars, texts, plugin, tags] = JSON.parse(stdout.trim().split("\n").at(-1) || `["", "", ${JSON.stringify(stderr)}]`)
    expect(plugin).toBe("text")
    expect(scalars["loss/train"]).toEqual([
      [1, 1_600_000_000.5, 4.25],
      [3, 1_600_000_010, 4],
    ])
    expect(scalars["loss/val"]).toEqual([[2, 1_600_000_000.5, 3.5]])
    expect(tags).toContain("train/grad_norm")
    expect(texts["samples/1"]).toEqual([
      [2, "````\nOnce upon ``` a time\n````"],
      [3, "```\nOnce more\n```"],
    ])
  },
  300_000,
)
