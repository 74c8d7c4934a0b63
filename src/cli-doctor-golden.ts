/** The distances of a golden run as a table. */
import { columns } from "./base-term.ts"
import type { Jobs } from "./engine.ts"

type Row = Jobs["doctor"]["result"]["golden"][number]

/** One line for logits, one for all losses, one per tensor with its gradient and final weight; key biases apart. Ends with the verdict. */
export function goldenText(title: string, rows: readonly Row[]): string {
  const of = (kind: Row["kind"]) => rows.filter((row) => row.kind === kind)
  const losses = of("loss")
  const worst = losses.reduce((most, row) => (row.far <= most.far ? most : row))
  const whole = [...of("logits").map((row) => line("logits", row)), line(`${losses.length} losses, worst at ${worst.name}`, worst)]
  const wrong = rows.filter((row) => !row.ok)
  const worstShare = Math.max(...rows.map(({ far, limit }) => (limit === undefined ? 0 : far / limit)))
  return [
    title,
    "",
    columns([["", "distance", "limit"], ...whole], [1, 2]),
    "",
    table(["relative L2", "gradient", "limit", "final weight", "limit"], of("gradient"), of("weight")),
    ...keyBiases(of("keyGradient"), of("keyWeight")),
    ...(rows.some((row) => row.limit === undefined)
      ? ["", "–: shown, not judged; no distance of PyTorch's in bf16 is recorded for weights after training"]
      : []),
    "",
    wrong.length === 0
      ? `right: all ${rows.length} distances are within their limits, the worst at ${percent(worstShare)} of its`
      : `WRONG: ${wrong.length} of ${rows.length} distances are beyond their limits: ${wrong.map(({ kind, name }) => `${kind} ${name}`).join(", ")}`,
  ].join("\n")
}

function keyBiases(gradients: readonly Row[], weights: readonly Row[]): string[] {
  if (gradients.length === 0) return []
  const note = "key biases: their true gradient is 0, so this is rounding noise, in absolute numbers"
  return ["", note, table(["largest difference", "gradient", "limit", "final weight", "limit"], gradients, weights)]
}

/** Gradients and weights have the same tensors in the same order. */
function table(head: readonly string[], gradients: readonly Row[], weights: readonly Row[]): string {
  const lines = gradients.map((row, i) => [...line(row.name, row), ...line("", weights[i] as Row).slice(1)])
  return columns([head, ...lines], [1, 2, 3, 4])
}

const line = (name: string, { far, limit, ok }: Row): string[] => [
  name,
  `${ok ? "" : "WRONG "}${short(far)}`,
  limit === undefined ? "–" : short(limit),
]

const short = (value: number): string => value.toExponential(1)

const percent = (share: number): string => `${Math.round(100 * share)} %`
