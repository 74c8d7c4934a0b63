/** What changed from one text to the next, word by word. */

/** Words of longer texts are not compared. */
const MOST_WORDS = 600

/** Words of `text` with whether they are also in `before`, in the same order (longest common subsequence). */
export function changes(before: string, text: string): { readonly word: string; readonly isNew: boolean }[] {
  const wordsOf = (one: string): string[] => one.match(/\s*\S+|\s+$/g) ?? []
  const [a, b] = [wordsOf(before), wordsOf(text)]
  if (a.length > MOST_WORDS || b.length > MOST_WORDS) return [{ word: text, isNew: false }]
  const width = b.length + 1
  const common = new Uint16Array((a.length + 1) * width)
  const at = (i: number, j: number) => common[i * width + j] as number
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      common[i * width + j] = a[i]?.trim() === b[j]?.trim() ? at(i + 1, j + 1) + 1 : Math.max(at(i + 1, j), at(i, j + 1))
  const told: { word: string; isNew: boolean }[] = []
  for (let i = 0, j = 0; j < b.length; ) {
    const word = b[j] as string
    if (i < a.length && a[i]?.trim() === word.trim()) {
      told.push({ word, isNew: false })
      i++
      j++
    } else if (i < a.length && at(i + 1, j) >= at(i, j + 1)) i++
    else {
      told.push({ word, isNew: true })
      j++
    }
  }
  return told
}
