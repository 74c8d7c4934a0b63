/** Added tokens: the ones matched in the text before it is split, special ones among them. */

/** A row of `added_tokens` in tokenizer.json. */
export interface AddedToken {
  id: number
  content: string
  /** Special tokens are matched on request; the others always. */
  special: boolean
  /** Matched in the normalised text rather than in the raw text. */
  normalized: boolean
}

/** One match: bytes [start, end) are the token `id`. */
export interface Match {
  start: number
  end: number
  id: number
}

/** Finds tokens in bytes: the leftmost, and of those the longest. */
export class AddedMatcher {
  /** Candidates by first byte, longest first. */
  readonly #byFirst: ({ bytes: Uint8Array; id: number }[] | undefined)[] = new Array(256)
  readonly #isFirst = new Uint8Array(256)

  constructor(tokens: readonly AddedToken[]) {
    for (const token of tokens) {
      const bytes = new TextEncoder().encode(token.content)
      const first = bytes[0]!
      this.#isFirst[first] = 1
      const candidates = [...(this.#byFirst[first] ?? []), { bytes, id: token.id }]
      this.#byFirst[first] = candidates.sort((a, b) => b.bytes.length - a.bytes.length)
    }
  }

  /** The first match in bytes [from, to). */
  find(bytes: Uint8Array, from: number, to: number): Match | undefined {
    for (let i = from; i < to; i++) {
      if (this.#isFirst[bytes[i]!] === 0) continue
      for (const candidate of this.#byFirst[bytes[i]!]!) {
        const end = i + candidate.bytes.length
        if (end <= to && candidate.bytes.every((byte, j) => bytes[i + j] === byte)) return { start: i, end, id: candidate.id }
      }
    }
    return undefined
  }
}

/** Matchers for raw and for normalised text, with and without the special tokens; undefined where there is nothing to match. */
export class AddedMatchers {
  readonly #matchers: (AddedMatcher | undefined)[]

  constructor(tokens: readonly AddedToken[]) {
    this.#matchers = [0, 1, 2, 3].map((key) => {
      const wanted = tokens.filter((token) => token.normalized === (key & 1) > 0 && (!token.special || (key & 2) > 0))
      return wanted.length > 0 ? new AddedMatcher(wanted) : undefined
    })
  }

  matcher(normalized: boolean, special: boolean): AddedMatcher | undefined {
    return this.#matchers[(normalized ? 1 : 0) + (special ? 2 : 0)]
  }
}

/** Calls `onToken` and `onGap` over bytes [from, to) in order; gaps are never empty. */
export function splitAdded(
  matcher: AddedMatcher | undefined,
  bytes: Uint8Array,
  from: number,
  to: number,
  onGap: (start: number, end: number) => void,
  onToken: (id: number) => void,
): void {
  while (from < to) {
    const match = matcher?.find(bytes, from, to)
    if (from < (match?.start ?? to)) onGap(from, match?.start ?? to)
    if (match === undefined) return
    onToken(match.id)
    from = match.end
  }
}
