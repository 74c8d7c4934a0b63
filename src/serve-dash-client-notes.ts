/** Notes and tags of a run, changed in place. */
import type { RunSummary } from "./db.ts"
import { complain, make, Refusal, send } from "./serve-dash-client-dom.ts"

/** Asks the server for the change; says what it refused. */
async function save(run: RunSummary, part: { notes?: string; tags?: readonly string[] }): Promise<RunSummary | undefined> {
  try {
    const changed = await send<RunSummary>("PATCH", `/api/runs/${encodeURIComponent(run.id)}`, part)
    complain(undefined)
    return changed
  } catch (error) {
    const mayNot = error instanceof Refusal && (error.status === 401 || error.status === 403)
    complain(mayNot ? new Refusal("notes and tags are changed with the admin key (ALPHA_ADMIN_KEY)", error.status, true) : error)
    return undefined
  }
}

/** Tags with a cross each, and a field for another. */
export function tagsOf(run: RunSummary): HTMLElement {
  const place = make("span", { name: "tags" })
  const draw = (tags: readonly string[]) => {
    const set = async (next: readonly string[]) => {
      const changed = await save(run, { tags: next })
      if (changed !== undefined) draw(changed.tags)
    }
    const chips = tags.map((tag) => {
      const remove = make("button", { type: "button", text: "×", "aria-label": `Remove tag ${tag}` })
      remove.addEventListener("click", () => void set(tags.filter((one) => one !== tag)))
      return make("span", { name: "chip" }, tag, remove)
    })
    const field = make("input", { placeholder: "+ tag", "aria-label": "Add a tag", size: 6, maxLength: 50 })
    field.addEventListener("keydown", (event) => {
      const tag = field.value.trim().replaceAll(/[\s,]+/g, "-")
      if (event.key !== "Enter" || tag === "" || tags.includes(tag)) return
      void set([...tags, tag])
    })
    place.replaceChildren(...chips, field)
  }
  draw(run.tags)
  return place
}

/** The notes as a text; a click makes it a field that is saved when it is left, Escape leaves it as it was. */
export function notesOf(run: RunSummary): HTMLElement {
  const place = make("div", { name: "notes" })
  const show = (notes: string) => {
    const button = make("button", {
      type: "button",
      name: notes === "" ? "none" : "",
      text: notes || "Add a note",
      "aria-label": "Change the notes",
    })
    button.addEventListener("click", () => edit(notes))
    place.replaceChildren(button)
  }
  const edit = (notes: string) => {
    const field = make("textarea", { value: notes, rows: Math.max(2, notes.split("\n").length), "aria-label": "Notes" })
    const told = make("span", { name: "meta", text: "saved when you leave the field · Esc drops the change" })
    let isDropped = false
    field.addEventListener("blur", async () => {
      if (isDropped || field.value === notes) return show(notes)
      told.textContent = "saving …"
      const changed = await save(run, { notes: field.value })
      if (changed === undefined) told.textContent = "not saved"
      else show(changed.notes)
    })
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") isDropped = true
      if (event.key === "Escape" || (event.key === "Enter" && (event.ctrlKey || event.metaKey))) field.blur()
    })
    place.replaceChildren(field, told)
    field.focus()
  }
  show(run.notes)
  return place
}
