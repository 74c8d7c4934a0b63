/** What a running job was told and has not taken yet. */
export class Inbox<M> {
  #messages: M[] = []
  #wake: (() => void) | undefined

  push(message: M): void {
    this.#messages.push(message)
    this.#wake?.()
  }

  get isEmpty(): boolean {
    return this.#messages.length === 0
  }

  /** All messages since the last call, in order. */
  take(): M[] {
    const messages = this.#messages
    if (messages.length > 0) this.#messages = []
    return messages
  }

  /** Resolves when there is a message, at the latest after `ms`. */
  async arrival(ms: number): Promise<void> {
    if (this.#messages.length > 0) return
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms)
      this.#wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
    this.#wake = undefined
  }
}
