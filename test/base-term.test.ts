import { expect, test } from "bun:test"
import { createLog, jsonLine, textLine } from "../src/base-log.ts"
import {
  columns,
  displayWidth,
  fit,
  formatBytes,
  formatCount,
  formatDuration,
  LiveLine,
  Progress,
  sparkline,
  wrap,
} from "../src/base-term.ts"

/** A stream that keeps what is written to it. */
function screen(isTTY: boolean, width = 60) {
  const written: string[] = []
  return { isTTY, columns: width, write: (text: string) => written.push(text), written }
}

test("counts, bytes and durations read as people write them", () => {
  const counts = [0, 7, 999, 1000, 1_234_567, 999_499, 999_500, 124_439_808, 12.345, 0.5, -2500]
  expect(counts.map(formatCount)).toEqual(["0", "7", "999", "1.00K", "1.23M", "999K", "1.00M", "124M", "12.3", "0.500", "-2.50K"])
  expect([0, 1023, 1024, 1536, 5 * 2 ** 30, 2 ** 20 - 1].map(formatBytes)).toEqual([
    "0 B",
    "1023 B",
    "1.00 KiB",
    "1.50 KiB",
    "5.00 GiB",
    "1.00 MiB",
  ])
  const durations = [0.25, 9.99, 850, 12_345, 59_949, 59_950, 65_000, 3_599_400, 7_380_000, 100 * 3_600_000, Number.POSITIVE_INFINITY]
  expect(durations.map(formatDuration)).toEqual([
    ...["0.25 ms", "10 ms", "850 ms", "12.3 s", "59.9 s", "1m 00s", "1m 05s", "59m 59s", "2h 03m", "4d 04h", "?"],
  ])
})

test("fit pads and cuts by what the terminal shows", () => {
  expect(fit("abc", 5)).toBe("abc  ")
  expect(fit("abcdef", 4)).toBe("abc…")
  expect(fit("日本語", 5)).toBe("日本…")
  expect(fit("日本語", 4)).toBe("日… ")
  for (const text of ["abcdef", "日本語x", "e\u0301e\u0301e\u0301e\u0301", "👩‍👩‍👧‍👦👩‍👩‍👧‍👦"]) expect(displayWidth(fit(text, 3))).toBe(3)
})

test("wrap breaks at spaces and keeps long words whole", () => {
  expect(wrap("one two three four", 9)).toEqual(["one two", "three", "four"])
  expect(wrap("a verylongword b", 5)).toEqual(["a", "verylongword", "b"])
  expect(wrap("", 5)).toEqual([""])
})

test("columns align, also to the right", () => {
  expect(
    columns(
      [
        ["a", "1"],
        ["bcd", "100"],
      ],
      [1],
    ),
  ).toBe("a      1\nbcd  100")
})

test("a sparkline spans its values, averages groups and leaves gaps", () => {
  expect(sparkline([0, 1, 2, 3, 4, 5, 6, 7])).toBe("▁▂▃▄▅▆▇█")
  expect(sparkline([5, 5])).toBe("▁▁")
  expect(sparkline([0, 0, 10, 10], 2)).toBe("▁█")
  expect(sparkline([1, Number.NaN, 2])).toBe("▁ █")
  expect(sparkline([])).toBe("")
})

test("a live line is redrawn on a terminal and absent elsewhere", () => {
  const terminal = screen(true, 10)
  const line = new LiveLine(terminal)
  line.show("12345678901234")
  line.print("note")
  line.clear()
  expect(terminal.written).toEqual(["\r12345678…\x1b[K", "\r\x1b[Knote\n12345678…", "\r\x1b[K"])
  const pipe = screen(false)
  const plain = new LiveLine(pipe)
  plain.show("12%")
  plain.print("note")
  plain.clear()
  expect(pipe.written).toEqual(["note\n"])
})

test("a progress bar shows amount, rate and time left; plain lines every ten seconds without a terminal", () => {
  let clock = 0
  const options = { label: "encode", total: 4 * 2 ** 20, format: formatBytes, now: () => clock }
  const terminal = new Progress({ ...options, screen: screen(true, 100) })
  clock = 2000
  terminal.update(2 ** 20)
  expect(terminal.text()).toBe("encode: █████░░░░░░░░░░░░░░░  25% 1.00 MiB of 4.00 MiB, 512 KiB/s, 6.0 s left")
  clock = 0
  const pipe = screen(false)
  const progress = new Progress({ ...options, screen: pipe })
  for (clock = 1000; clock <= 20_000; clock += 1000) progress.update(clock * 100)
  progress.finish()
  expect(pipe.written).toEqual([
    "encode:  23% 977 KiB of 4.00 MiB, 97.7 KiB/s, 31.9 s left\n",
    "encode:  47% 1.91 MiB of 4.00 MiB, 97.7 KiB/s, 21.9 s left\n",
    "encode: 1.91 MiB in 21.0 s, 93.0 KiB/s\n",
  ])
  clock = 0
  const open = new Progress({ label: "read", now: () => clock, screen: screen(false) })
  clock = 500
  open.update(1000)
  expect(open.text()).toBe("read: 1.00K, 2.00K/s")
  for (const [steps, line] of [
    [[100], "check: 100\n"],
    [[50, 100], "check: 100 in 600 ms, 167/s\n"],
  ] as const) {
    clock = 0
    const done = screen(false)
    const whole = new Progress({ label: "check", total: 100, now: () => clock, screen: done })
    for (const step of steps) {
      whole.update(step)
      clock += 600
    }
    clock = 90_000 // what came later was other work
    whole.finish()
    expect(done.written).toEqual([line])
  }
})

test("log events are text for people and JSON for programs, in one line each", () => {
  const time = new Date("2026-01-02T03:04:05.006Z")
  expect(jsonLine(time, "info", "checkpoint", { step: 5, path: "a\nb" })).toBe(
    '{"time":"2026-01-02T03:04:05.006Z","level":"info","event":"checkpoint","step":5,"path":"a\\nb"}',
  )
  expect(textLine(time, "warn", "skip", { step: 5, path: "a b", reason: "nan" })).toMatch(
    /^\d\d:04:05 warn skip step=5 path="a b" reason=nan$/,
  )
  const pipe = screen(false)
  const log = createLog({ screen: pipe, least: "warn", now: () => time })
  log("info", "quiet")
  log("error", "loud", { code: 3 })
  expect(pipe.written).toEqual(['{"time":"2026-01-02T03:04:05.006Z","level":"error","event":"loud","code":3}\n'])
})
