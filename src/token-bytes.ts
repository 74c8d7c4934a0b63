/** The byte-level alphabet: every byte as one printable character, as vocabulary files write tokens (openai/gpt-2 encoder.py). */

/** Character of each byte: itself when it prints in Latin-1, else U+0100 onwards in the order of the bytes. */
export const byteCharacters: readonly string[] = (() => {
  let next = 0x100
  return Array.from({ length: 256 }, (_, byte) => {
    const prints = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad)
    return String.fromCharCode(prints ? byte : next++)
  })
})()

/** Byte by character code; −1 for characters that are not in the alphabet. All of them are below U+0180. */
const characterBytes = new Int16Array(0x180).fill(-1)
byteCharacters.forEach((character, byte) => {
  characterBytes[character.charCodeAt(0)] = byte
})

/** Bytes in the order of their characters: the order of ids 0 to 255 in GPT-2 and in Hugging Face's trainer. */
export const alphabetOrder: readonly number[] = [...byteCharacters.keys()].sort((a, b) =>
  byteCharacters[a]! < byteCharacters[b]! ? -1 : 1,
)

/** Bytes [start, end) in the byte-level alphabet. */
export function toByteLevel(bytes: ArrayLike<number>, start = 0, end = bytes.length): string {
  let text = ""
  for (let i = start; i < end; i++) text += byteCharacters[bytes[i]!]!
  return text
}

/** The bytes that `text` stands for; undefined when a character is not in the alphabet. */
export function fromByteLevel(text: string): Uint8Array | undefined {
  const bytes = new Uint8Array(text.length)
  for (let i = 0; i < text.length; i++) {
    const byte = characterBytes[text.charCodeAt(i)] ?? -1
    if (byte < 0) return undefined
    bytes[i] = byte
  }
  return bytes
}
