/** `alpha doctor`: what the machine has, and whether every operation, or a golden run, comes out right on it. */
import { buildInfo } from "./base-build.ts"
import { EXIT } from "./base-error.ts"
import { columns, formatBytes, formatCount, Progress } from "./base-term.ts"
import type { Invocation } from "./cli-command.ts"
import { goldenText } from "./cli-doctor-golden.ts"
import type { DOCTOR, DoctorConfig } from "./config.ts"
import { deviceNames, vulkanText } from "./device.ts"
import { type Engine, type Jobs, startEngine } from "./engine.ts"

type DoctorReport = Jobs["doctor"]["result"]

/** Checks the device that was asked for, or all there are; with --golden the one that auto chooses. Exit code 1 when anything is wrong. */
export async function run({ config, json, print }: Invocation<DoctorConfig, typeof DOCTOR>): Promise<number> {
  const { golden, precision } = config
  const names = config.device === "auto" && golden === undefined ? deviceNames() : [config.device]
  const engine = startEngine()
  const reports: DoctorReport[] = []
  try {
    for (const name of names) reports.push(await examine(engine, name, config, json))
  } finally {
    engine.close()
  }
  const [first] = reports as [DoctorReport]
  const ok = reports.every((report) => report.ok)
  if (golden !== undefined) {
    const { device, golden: rows } = first
    print({ ok, golden, device, precision, rows }, () => goldenText(`golden run ${golden} on ${device} in ${precision}`, rows))
  } else {
    const devices = reports.map(({ machine: _, golden: __, ...report }) => report)
    print({ ok, build: buildInfo(), machine: first.machine, devices }, () => text(reports, first))
  }
  return ok ? EXIT.ok : EXIT.failure
}

async function examine(engine: Engine, device: string, { golden, precision, threads }: DoctorConfig, json: boolean): Promise<DoctorReport> {
  let progress: Progress | undefined
  const onEvent = ({ done, total }: { done: number; total: number }) => {
    if (json) return
    const unit = golden === undefined ? "operations" : "steps"
    progress ??= new Progress({
      label: golden === undefined ? `check ${device}` : "replay",
      total,
      format: (n) => `${formatCount(n)} ${unit}`,
    })
    progress.update(done)
  }
  const onNote = (note: string) => void (json || process.stderr.write(`${note}\n`))
  try {
    return await engine.start("doctor", { golden, precision }, { device, threads }, { onEvent, onNote }).result
  } finally {
    progress?.finish()
  }
}

function text(reports: readonly DoctorReport[], { machine }: DoctorReport): string {
  const { version, commit, target, compiler, bun } = buildInfo()
  const levels: Record<string, string> = { v4: "AVX-512", v3: "AVX2 and FMA", base: "the processor family's least" }
  const lowered = machine.isa === machine.best_isa ? "" : `; the processor has ${machine.best_isa}, ALPHA_ISA lowers it`
  const facts = [
    ["alpha", `${version}, commit ${commit}, ${target}, bun ${bun}, ${compiler}`],
    ["processor", `${machine.processor}, ${machine.cores} cores`],
    ["kernels", `${machine.isa} (${levels[machine.isa]})${machine.amx ? ", matrix products on AMX" : ""}${lowered}`],
    ...(process.env.ALPHA_NATIVE_LIBRARY ? [["library", process.env.ALPHA_NATIVE_LIBRARY]] : []),
    ["memory", `${formatBytes(machine.memory_bytes)}, ${formatBytes(machine.memory_free_bytes)} free`],
    ["system", `${machine.system}${machine.glibc === null ? "" : `, glibc ${machine.glibc}`}`],
    ["vulkan", vulkanText()],
    ["devices", reports.map(({ device }) => device).join(", ")],
  ]
  return [columns(facts), ...reports.map(deviceText), verdict(reports)].join("\n\n")
}

function deviceText({ device, description, speed, ops }: DoctorReport): string {
  const rate = (value: number, unit: string) => `${formatCount(value)}${unit}`
  const measured = speed && [
    `reads memory at ${rate(speed.read_bytes_per_s, "B/s")}`,
    `matrix products f32 ${rate(speed.f32_flops, "FLOP/s")}, bf16 ${rate(speed.bf16_flops, "FLOP/s")} (measured briefly)`,
  ]
  const cells = ops.map((row) => [row.op, String(row.cases), !row.ok ? "WRONG" : `${Math.round(100 * row.worst)} %`])
  const half = Math.ceil(cells.length / 2)
  const pairs = Array.from({ length: half }, (_, i) => [...(cells[i] as string[]), "", ...(cells[half + i] ?? [])])
  const head = ["operation", "cases", "error, of what is allowed"]
  return [`${device}: ${description}`, ...(measured ?? []), columns([[...head, "", ...head], ...pairs], [1, 2, 5, 6])].join("\n")
}

function verdict(reports: readonly DoctorReport[]): string {
  const wrong = reports.flatMap(({ device, ops }) =>
    ops
      .filter(({ ok }) => !ok)
      .map(({ op, worst, error }) => `  ${op} on ${device}: ${error ?? `${worst.toPrecision(3)} times the error that is allowed`}`),
  )
  if (wrong.length > 0) return ["WRONG: do not trust results of this machine; please report this", ...wrong].join("\n")
  const ops = reports.reduce((sum, report) => sum + report.ops.length, 0)
  const cases = reports.reduce((sum, report) => sum + report.ops.reduce((all, row) => all + row.cases, 0), 0)
  return `right: ${ops} operations, ${cases} cases, all within the error that is allowed`
}
