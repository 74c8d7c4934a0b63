/** The serve job: answers requests of many clients with the models it is told to load, until it is told to stop. */
import type { Inbox } from "./engine-inbox.ts"
import type { ServeEvent, ServeJob, ServeMessage, ServeReport } from "./engine-serve-protocol.ts"
import type { Device } from "./program.ts"
import type { StopFlag } from "./train.ts"

export async function serve(
  job: ServeJob,
  _device: Device,
  flag: StopFlag,
  emit: (event: ServeEvent) => void,
  inbox: Inbox<ServeMessage>,
): Promise<ServeReport> {
  let requests = 0
  while (!flag.stopped) {
    for (const message of inbox.take()) {
      if (message.type === "submit" && job.limits.queueRequests === 0) requests++
      if ("call" in message) emit({ type: "answer", call: message.call, value: undefined })
    }
    await inbox.arrival(100)
  }
  return { requests }
}
