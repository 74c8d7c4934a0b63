/** What one job has to itself: a name in the kernel's abstract sockets, which goes with the process that holds it. */
import { connect, createServer, type Server } from "node:net"
import { AlphaError, EXIT } from "./base-error.ts"

/** Longest that a holder takes to say who it is. */
const ANSWER_MS = 2000

const address = (slot: string): string =>
  `\0alpha-slot/${slot.length > 80 ? new Bun.CryptoHasher("sha256").update(slot).digest("hex") : slot}`

export interface Slot {
  release(): void
}

/** Takes `slot` for `holder`; a text is who has it already. Nothing is left behind by a process that dies. */
export async function takeSlot(slot: string, holder: string): Promise<Slot | string> {
  const server = createServer((socket) => {
    socket.on("error", () => {})
    socket.end(holder)
  })
  const taken = await listen(server, address(slot))
  if (!taken) return await holderOf(slot)
  server.unref()
  return { release: () => void server.close() }
}

/** Takes all of `slots`, or none: then it throws and names who holds one. */
export async function takeSlots(slots: readonly string[], holder: string): Promise<Slot> {
  const held: Slot[] = []
  const release = () => {
    for (const one of held) one.release()
  }
  for (const slot of slots) {
    const one = await takeSlot(slot, holder)
    if (typeof one !== "string") {
      held.push(one)
      continue
    }
    release()
    throw new AlphaError(`${slotName(slot)} is taken by ${one}`, { hint: "wait for it, stop it, or start with --force", code: EXIT.busy })
  }
  return { release }
}

/** For people: the processor's slot is one for each deploy directory. */
export const slotName = (slot: string): string => (slot.startsWith("cpu:") ? "the CPU" : slot)

function listen(server: Server, path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => (error.code === "EADDRINUSE" ? resolve(false) : reject(error)))
    server.listen(path, () => resolve(true))
  })
}

function holderOf(slot: string): Promise<string> {
  return new Promise((resolve) => {
    let text = ""
    const socket = connect(address(slot))
    const end = () => resolve(text === "" ? "another process" : text)
    socket.setTimeout(ANSWER_MS, () => socket.destroy())
    socket.on("data", (bytes) => {
      text += bytes.toString()
    })
    socket.on("error", end)
    socket.on("close", end)
  })
}
