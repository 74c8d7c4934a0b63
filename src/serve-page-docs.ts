/** The /docs page, made from the route and field tables. */
import { FIELDS } from "./serve-fields.ts"
import type { Row, Rows } from "./serve-shape.ts"

const escaped = (text: string): string => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/"/g, "&quot;")

const STATUS_WORDS: Readonly<Record<Row["status"], string>> = {
  honoured: "honoured",
  neutral: "only as shown",
  refused: "400",
}

/** Default of a row in words. */
function usual({ default: value, required, status }: Row): string {
  if (required) return "required"
  if (status === "refused" || value === undefined) return ""
  return `default ${JSON.stringify(value)}`
}

function fieldRow(name: string, row: Row): string {
  const about = [row.doc, usual(row)]
    .filter((part) => part !== "")
    .map(escaped)
    .join("<br>")
  const mark = row.extension ? ' <span class="tag" title="not in OpenAI\'s API">extension</span>' : ""
  return `<tr class="${row.status}"><th scope="row"><code>${escaped(name)}</code>${mark}</th><td>${escaped(row.shape.words)}</td><td><span class="status">${STATUS_WORDS[row.status]}</span></td><td>${about}</td></tr>`
}

function endpoint(name: string, rows: Rows): string {
  const id = name.replace(/\W+/g, "-")
  const body = Object.entries(rows)
    .map(([field, row]) => fieldRow(field, row))
    .join("\n")
  return `<section id="${id}"><h2><code>${escaped(name)}</code></h2><div class="wide"><table><thead><tr><th>field</th><th>value</th><th>status</th><th>what it does</th></tr></thead><tbody>
${body}
</tbody></table></div></section>`
}

/** The whole page; the same for everyone. */
export function docsPage(): string {
  const names = Object.keys(FIELDS)
  const links = names.map((name) => `<li><a href="#${name.replace(/\W+/g, "-")}"><code>${escaped(name)}</code></a></li>`).join("")
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>alpha API</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="/assets/page.css"></head>
<body class="docs"><header><a class="brand" href="/">alpha</a><nav><a href="/">Playground</a><a href="/training">Training</a><a href="/docs" aria-current="page">API</a></nav></header>
<main><h1>API</h1>
<p>Every field of a request is honoured, or answered 400 with its name in <code>error.param</code>. <b>Only as shown</b>: other values are 400.
A field that is not listed is 400. Errors are <code>{"error": {"message", "type", "param", "code"}}</code>.
The same request to the same checkpoint on the same device has the same answer, byte for byte, whatever else runs; send another <code>seed</code> for another one.</p>
<ul class="toc">${links}</ul>
${Object.entries(FIELDS)
  .map(([name, rows]) => endpoint(name, rows))
  .join("\n")}
</main></body></html>
`
}
