/** Checkpoints in a table, each with the button that has the server answer with it, or the command that does. */
import type { CheckpointRow } from "./db.ts"
import { ago, bytes, complain, figure, make, moment, NONE, Refusal, send } from "./serve-dash-client-dom.ts"

export const CHECKPOINT_HEAD = ["Step", "", ">Size", ">Loss", ">Validation", "SHA-256", "Written", ""]

/** A text that a click copies. */
function copied(text: string, shown = text): HTMLElement {
  const button = make("button", { type: "button", name: "copy", title: `Copy ${text}` }, make("code", { text: shown }))
  button.addEventListener("click", async () => {
    // Pages that came over plain HTTP from another machine have no clipboard.
    await navigator.clipboard?.writeText(text).then(
      () => button.classList.add("copied"),
      () => {},
    )
    setTimeout(() => button.classList.remove("copied"), 1200)
  })
  return button
}

/** Has the server load the checkpoint; where it may not, the command that serves it. */
function serveIt(run: string, { step, path }: CheckpointRow): HTMLElement {
  const model = `${run}@${step}`
  const command = `alpha serve --model=${run}/checkpoints/${path.split("/").at(-1)}`
  const place = make("span", { name: "serve" })
  const button = make("button", { type: "button", text: "Serve it", "aria-label": `Serve ${model}` })
  button.addEventListener("click", async () => {
    button.disabled = true
    button.textContent = "loading …"
    try {
      await send("POST", "/v1/load", { model })
      place.replaceChildren(make("a", { href: `/?model=${encodeURIComponent(model)}`, text: "served: try it" }))
      complain(undefined)
    } catch (error) {
      const mayNot = error instanceof Refusal && (error.status === 401 || error.status === 403)
      place.replaceChildren(copied(command))
      complain(
        mayNot
          ? new Refusal("loading a model here takes the admin key; the command beside the checkpoint serves it without", error.status, true)
          : error,
      )
    }
  })
  place.append(button)
  return place
}

export function checkpointCells(run: string, row: CheckpointRow): (Node | string)[] {
  const { step, bytes: size, loss, valLoss, sha256, best, time } = row
  return [
    String(step),
    best ? make("span", { name: "badge running", text: "best" }) : "",
    bytes(size),
    figure(loss),
    figure(valLoss),
    sha256 === null ? NONE : copied(sha256, sha256.slice(0, 12)),
    make("span", { text: ago(time), title: moment(time) }),
    serveIt(run, row),
  ]
}
