import { expect, test } from "bun:test"
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { countJournal, JournalReader, JournalWriter, readJournal, rewindJournal } from "../src/db.ts"

const folder = () => mkdtempSync(join(tmpdir(), "journal-"))

function write(path: string, rows: readonly object[]): void {
  const writer = new JournalWriter(path)
  for (const row of rows) writer.append(row)
  writer.close()
}

test("a journal torn at every byte loses its torn row alone, and goes on counting", () => {
  const whole = join(folder(), "metrics.jsonl")
  write(
    whole,
    [1, 2, 3, 4].map((step) => ({ type: "step", step, text: "é\n", time: step })),
  )
  const bytes = readFileSync(whole)
  const path = join(folder(), "metrics.jsonl")
  for (let cut = 0; cut <= bytes.length; cut++) {
    const left = bytes.subarray(0, cut)
    const sound = left.filter((byte) => byte === 10).length
    writeFileSync(path, left)
    expect(readJournal(path).length).toBe(sound)
    write(path, [{ type: "step", step: 9, time: 9 }])
    const rows = readJournal(path)
    expect(rows.map(({ seq }) => seq)).toEqual(Array.from({ length: sound + 1 }, (_, seq) => seq))
    expect(rows.map(({ step }) => step)).toEqual([1, 2, 3, 4].slice(0, sound).concat(9))
    expect(JSON.parse(readFileSync(path, "utf8").trimEnd().split("\n").at(-1)!).seq).toBe(sound)
  }
})

test("zeros and half a row at the end, as a crash of the machine leaves them, are cut off", () => {
  const path = join(folder(), "events.jsonl")
  write(path, [{ type: "start", time: 1 }])
  writeFileSync(path, Buffer.concat([readFileSync(path), Buffer.alloc(100_000), Buffer.from('\n{"type":\n')]))
  write(path, [{ type: "summary", time: 2 }])
  expect(readFileSync(path, "utf8")).toBe('{"seq":0,"time":1,"type":"start"}\n{"seq":1,"time":2,"type":"summary"}\n')
})

test("journals of older versions are numbered by their lines, and their times are read", () => {
  const path = join(folder(), "events.jsonl")
  writeFileSync(path, '{"time":"1970-01-01T00:00:01.000Z","type":"start"}\n{"type":"note"}\n')
  write(path, [{ type: "summary", time: 5 }])
  expect(readJournal(path)).toEqual([
    { seq: 0, time: 1000, type: "start" },
    { seq: 1, time: 0, type: "note" },
    { seq: 2, time: 5, type: "summary" },
  ])
})

test("a reader goes on where it was, and from the cut on after the run was resumed earlier", () => {
  const path = join(folder(), "metrics.jsonl")
  const reader = new JournalReader(path)
  expect(reader.read()).toEqual({ rows: [], rewound: undefined })
  write(
    path,
    [1, 2, 3].map((step) => ({ type: "step", step })),
  )
  expect(reader.read().rows.map(({ step }) => step)).toEqual([1, 2, 3])
  write(path, [{ type: "step", step: 4 }])
  expect(reader.read()).toMatchObject({ rows: [{ seq: 3, step: 4 }], rewound: undefined })
  rewindJournal(path, 2)
  write(
    path,
    [3, 4, 5].map((step) => ({ type: "step", step, again: true })),
  )
  const { rows, rewound } = reader.read()
  expect(rewound).toBe(2)
  expect(rows.map(({ seq, step }) => [seq, step])).toEqual([
    [2, 3],
    [3, 4],
    [4, 5],
  ])
})

test("a reader begins at any row, and says where a journal was cut back, however far", () => {
  const path = join(folder(), "metrics.jsonl")
  write(
    path,
    Array.from({ length: 9000 }, (_, i) => ({ type: "step", step: i, text: "x".repeat((i * 7919) % 90) })),
  )
  for (const seq of [0, 1, 63, 4500, 8999]) {
    expect(readJournal(path, { after: seq - 1, limit: 2 }).map((row) => row.seq)).toEqual([seq, seq + 1].slice(0, 9000 - seq))
    expect(new JournalReader(path, seq).read(1).rows[0]!.seq).toBe(seq)
  }
  expect(readJournal(path, { after: 9000 })).toEqual([])
  expect(countJournal(path)).toBe(9000)
  const beyond = new JournalReader(path, 9500)
  expect(beyond.read()).toEqual({ rows: [], rewound: 9000 })
  const atEnd = new JournalReader(path, 9000)
  expect(atEnd.read()).toEqual({ rows: [], rewound: undefined })
  const reader = new JournalReader(path)
  reader.read()
  const resumed = new JournalReader(path, reader.place)
  for (const [step, from] of [
    [8000, 8001],
    [7999, 8000],
    [10, 0],
  ] as const) {
    rewindJournal(path, step)
    expect(reader.read(0).rewound).toBe(from)
    write(path, [{ type: "step", step: step + 1, again: step }])
    expect(reader.read().rows.at(-1)).toMatchObject({ seq: step + 1, again: step })
  }
  expect(resumed.read()).toMatchObject({ rewound: 0 })
  expect(beyond.read().rows.length).toBe(12)
})
