/** Sockets piece by piece: lines out of what arrives, and what the system does not take at once kept until it does. */

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

export class Outbox {
  readonly #unsent: Uint8Array[] = []

  send(socket: { write(bytes: Uint8Array): number }, bytes: Uint8Array): void {
    this.#unsent.push(bytes)
    this.drain(socket)
  }

  /** Called when the socket takes more. */
  drain(socket: { write(bytes: Uint8Array): number }): void {
    for (let part = this.#unsent[0]; part !== undefined; part = this.#unsent[0]) {
      const sent = Math.max(0, socket.write(part))
      if (sent < part.length) {
        this.#unsent[0] = part.subarray(sent)
        return
      }
      this.#unsent.shift()
    }
  }
}
