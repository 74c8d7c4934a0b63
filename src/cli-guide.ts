/** The README's sections that `alpha help` shows. */
import readme from "../README.md" with { type: "text" }

/** Section `title` of the README for a terminal: what stands in code blocks is indented, marks of headings and blocks are gone. */
export function guide(title: string): string {
  const section = readme.split(/^## /m).find((part) => part.startsWith(`${title}\n`)) ?? title
  let isCode = false
  const lines = section
    .trimEnd()
    .split("\n")
    .flatMap((line) => {
      if (!line.startsWith("```")) return [isCode ? `  ${line}` : line.replace(/^### /, "")]
      isCode = !isCode
      return []
    })
  return lines.join("\n")
}
