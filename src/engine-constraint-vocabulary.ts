/** The tokens of a model as a tree of texts, laid out in the order in which it is walked. */
import type { Tokenizer } from "./token.ts"

/** A node is a beginning that tokens share: 0 is the empty one, children follow their parent. */
export interface Vocabulary {
  /** Words of a mask: a bit per id of the model. */
  readonly words: number
  /** Bits in use. */
  readonly size: number
  /** Of each node: its last byte, the bytes before it, the node after all that begin with it. */
  readonly byte: Uint8Array
  readonly depth: Uint16Array
  readonly after: Int32Array
  /** Tokens that are exactly the text of node n: ids[starts[n] … starts[n + 1]). */
  readonly starts: Int32Array
  readonly ids: Int32Array
  /** Ids that the tokenizer knows. */
  readonly known: number
  /** Text of a token; empty for special ones. */
  readonly bytes: (id: number) => Uint8Array
}

/** Special tokens and those that stand for unknown text are in no text. */
export function vocabularyOf(tokenizer: Tokenizer, vocabSize: number): Vocabulary {
  const tokens: { id: number; bytes: Uint8Array }[] = []
  for (let id = 0; id < Math.min(vocabSize, tokenizer.vocabSize); id++) {
    const bytes = tokenizer.tokenBytes(id)
    if (bytes.length > 0 && id !== tokenizer.unknown) tokens.push({ id, bytes })
  }
  tokens.sort((a, b) => Buffer.compare(a.bytes, b.bytes) || a.id - b.id)
  const most = 1 + tokens.reduce((sum, { bytes }) => sum + bytes.length, 0)
  const [byte, depth, after] = [new Uint8Array(most), new Uint16Array(most), new Int32Array(most)]
  const starts = new Int32Array(most + 1)
  const ids = Int32Array.from(tokens, ({ id }) => id)
  /** Nodes of the token at hand, by depth. */
  const open = [0]
  let count = 1
  let before: Uint8Array = new Uint8Array()
  const close = (to: number) => {
    while (open.length > to + 1) after[open.pop()!] = count
  }
  tokens.forEach(({ bytes }, i) => {
    let same = 0
    while (same < before.length && same < bytes.length && before[same] === bytes[same]) same++
    close(same)
    for (let d = same; d < bytes.length; d++) {
      byte[count] = bytes[d]!
      depth[count] = d
      starts[count] = i
      open.push(count++)
    }
    starts[count] = i + 1
    before = bytes
  })
  close(0)
  after[0] = count
  starts[count] = ids.length
  return {
    words: Math.ceil(vocabSize / 32),
    size: vocabSize,
    byte: byte.slice(0, count),
    depth: depth.slice(0, count),
    after: after.slice(0, count),
    starts: starts.slice(0, count + 1),
    ids,
    known: tokenizer.vocabSize,
    bytes: textsOf(tokens),
  }
}

/** Texts by id, in one piece of memory, so that the tokenizer can go. */
function textsOf(tokens: readonly { readonly id: number; readonly bytes: Uint8Array }[]): (id: number) => Uint8Array {
  const all = new Uint8Array(tokens.reduce((sum, { bytes }) => sum + bytes.length, 0))
  const ends = new Int32Array(2 * (1 + tokens.reduce((most, { id }) => Math.max(most, id), 0)))
  let at = 0
  for (const { id, bytes } of tokens) {
    all.set(bytes, at)
    ends[2 * id] = at
    at += bytes.length
    ends[2 * id + 1] = at
  }
  return (id) => all.subarray(ends[2 * id] ?? 0, ends[2 * id + 1] ?? 0)
}
