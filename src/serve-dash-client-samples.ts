/** Samples of one prompt over the steps, with what changed from one to the next. */
import type { JournalRow } from "./db.ts"
import { count, empty, make, NONE } from "./serve-dash-client-dom.ts"
import { change, current } from "./serve-dash-client-view.ts"
import { changes } from "./serve-dash-client-words.ts"

/** The newest step first. */
export function samples(rows: readonly JournalRow[]): HTMLElement {
  const prompts = [...new Set(rows.map(({ prompt }) => String(prompt)))]
  if (prompts.length === 0) return empty("No samples", "alpha train --sampleInterval=N writes them every N steps.")
  const { prompt: chosen, diff } = current()
  const index = Math.min(prompts.length - 1, chosen)
  const tabs = prompts.map((prompt, i) => {
    const button = make("button", { type: "button", text: prompt.trim() === "" ? "(no prompt)" : prompt.slice(0, 60), title: prompt })
    button.setAttribute("aria-pressed", String(i === index))
    button.addEventListener("click", () => change({ prompt: i }))
    return button
  })
  const box = make("input", { type: "checkbox", checked: diff })
  box.addEventListener("change", () => change({ diff: box.checked }))
  const told = rows.filter(({ prompt }) => String(prompt) === prompts[index])
  const articles = told.map(({ step, text }, i) => {
    const before = told[i - 1]
    const words = diff && before !== undefined ? changes(String(before.text), String(text)) : [{ word: String(text), isNew: false }]
    return make(
      "article",
      { name: "sample" },
      make("h3", { text: `Step ${step === undefined ? NONE : count(step)}` }),
      make(
        "p",
        {},
        make("span", { name: "prompt", text: prompts[index] ?? "" }),
        ...words.flatMap(({ word, isNew }) => (isNew ? [word.match(/^\s*/)?.[0], make("mark", { text: word.trimStart() })] : [word])),
      ),
    )
  })
  return make(
    "div",
    {},
    make(
      "div",
      { name: "axes" },
      make("div", { name: "segments wrap", role: "group", "aria-label": "Prompt" }, ...tabs),
      make("label", { name: "check" }, box, "mark what changed since the step before"),
      make("span", { name: "tip", text: `${told.length} steps, the newest first` }),
    ),
    ...articles.toReversed(),
  )
}
