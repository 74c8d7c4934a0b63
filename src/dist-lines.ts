/** Lines out of the pieces in which a socket delivers them. */

export class Lines {
  #rest = ""
  readonly #decoder = new TextDecoder()

  /** The lines that this piece ends, without their newline. */
  push(bytes: Uint8Array): string[] {
    const lines = (this.#rest + this.#decoder.decode(bytes, { stream: true })).split("\n")
    this.#rest = lines.pop() ?? ""
    return lines
  }
}
