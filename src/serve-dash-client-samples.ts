/** Samples of one prompt over the steps, with what changed from one to the next. */
import type { JournalRow } from "./db.ts"
import { count, empty, make, NONE, swatch } from "./serve-dash-client-dom.ts"
import { change, current } from "./serve-dash-client-view.ts"
import { changes } from "./serve-dash-client-words.ts"

/** Prompts to choose from; the view holds the choice. */
function promptBar(prompts: readonly string[], ...rest: HTMLElement[]): { bar: HTMLElement; prompt: string } {
  const index = Math.min(prompts.length - 1, current().prompt)
  const buttons = prompts.map((prompt, i) => {
    const button = make("button", { type: "button", text: prompt.trim() === "" ? "(no prompt)" : prompt.slice(0, 60), title: prompt })
    button.setAttribute("aria-pressed", String(i === index))
    button.addEventListener("click", () => change({ prompt: i }))
    return button
  })
  const choice = make("div", { name: "segments wrap", role: "group", "aria-label": "Prompt" }, ...buttons)
  return { bar: make("div", { name: "axes" }, choice, ...rest), prompt: prompts[index] as string }
}

const promptsOf = (rows: readonly JournalRow[]): string[] => [...new Set(rows.map(({ prompt }) => String(prompt)))]

function article(title: (Node | string)[], prompt: string, words: readonly (Node | string | undefined)[]): HTMLElement {
  return make(
    "article",
    { name: "sample" },
    make("h3", {}, ...title),
    make("p", {}, make("span", { name: "prompt", text: prompt }), ...words),
  )
}

/** One run's, the newest step first. */
export function samples(rows: readonly JournalRow[]): HTMLElement {
  const prompts = promptsOf(rows)
  if (prompts.length === 0) return empty("No samples", "alpha train --sampleInterval=N writes them every N steps.")
  const { diff } = current()
  const box = make("input", { type: "checkbox", checked: diff })
  box.addEventListener("change", () => change({ diff: box.checked }))
  const tip = make("span", { name: "tip" })
  const { bar, prompt } = promptBar(prompts, make("label", { name: "check" }, box, "mark what changed since the step before"), tip)
  const told = rows.filter((row) => String(row.prompt) === prompt)
  tip.textContent = `${told.length} steps, the newest first`
  const articles = told.map(({ step, text }, i) => {
    const before = told[i - 1]
    const words = diff && before !== undefined ? changes(String(before.text), String(text)) : [{ word: String(text), isNew: false }]
    return article(
      [`Step ${step === undefined ? NONE : count(step)}`],
      prompt,
      words.flatMap(({ word, isNew }) => (isNew ? [word.match(/^\s*/)?.[0], make("mark", { text: word.trimStart() })] : [word])),
    )
  })
  return make("div", {}, bar, ...articles.toReversed())
}

/** The newest text of several runs for one prompt, side by side. */
export function newestSamples(
  runs: readonly { readonly label: string; readonly index: number; readonly rows: readonly JournalRow[] }[],
): HTMLElement {
  const prompts = promptsOf(runs.flatMap(({ rows }) => rows))
  if (prompts.length === 0) return empty("No samples", "alpha train --sampleInterval=N writes them every N steps.")
  const { bar, prompt } = promptBar(prompts)
  const articles = runs.map(({ label, index, rows }) => {
    const row = rows.findLast((one) => String(one.prompt) === prompt)
    const title = [swatch(index), `${label}, ${row?.step === undefined ? "no sample" : `step ${count(row.step)}`}`]
    return article(title, prompt, [row === undefined ? NONE : String(row.text)])
  })
  return make("div", {}, bar, make("div", { name: "beside" }, ...articles))
}
