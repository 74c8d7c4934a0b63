/** The Worker: owns the device and runs one job after another, and a server beside them. */
import { AlphaError, EXIT } from "./base-error.ts"
import { type Opened, openDevice } from "./device.ts"
import { doctor } from "./engine-doctor.ts"
import { evaluateModel } from "./engine-eval.ts"
import { generate } from "./engine-generate.ts"
import { Inbox } from "./engine-inbox.ts"
import type { DeviceChoice, JobName, Jobs, MessageOf, Reply, Request, Telling } from "./engine-protocol.ts"
import { serve } from "./engine-serve.ts"
import { Sharing } from "./engine-share.ts"
import type { Device } from "./program.ts"
import { type StopFlag, train } from "./train.ts"

declare const self: Worker

type Runs = {
  readonly [N in JobName]: (
    input: Jobs[N]["input"],
    device: Device,
    flag: StopFlag,
    emit: (event: Jobs[N]["event"]) => void,
    inbox: Inbox<MessageOf<N>>,
    sharing: Sharing,
  ) => Promise<Jobs[N]["result"]>
}
const RUNS: Runs = {
  train: (input, device, flag, emit, _inbox, { pause }) => train(input, device, flag, emit, pause),
  generate,
  eval: evaluateModel,
  doctor,
  serve,
}
const sharing = new Sharing()

let queue = Promise.resolve()

/** Devices stay open, so that what one job keeps there (a model, its cache) is there for the next. */
const opened = new Map<string, Opened>()

/** What jobs were told and have not taken yet. */
const inboxes = new Map<number, Inbox<MessageOf<JobName>>>()

self.onmessage = ({ data }: MessageEvent<Request | Telling>) => {
  if ("message" in data) {
    inboxes.get(data.id)?.push(data.message)
    return
  }
  inboxes.set(data.id, new Inbox())
  // A server runs beside the other jobs, which let it have the device.
  const done = data.job === "serve" ? answer(data) : queue.then(() => answer(data))
  const ended = done.finally(() => inboxes.delete(data.id))
  if (data.job !== "serve") queue = ended
}

async function answer({ id, job, input, where, stop }: Request): Promise<void> {
  const reply = (body: Reply) => self.postMessage(body)
  const cells = new Int32Array(stop)
  try {
    const device = deviceFor(where, (note) => reply({ id, note }))
    const flag: StopFlag = {
      get stopped() {
        return Atomics.load(cells, 0) !== 0
      },
    }
    const run = RUNS[job] as (
      input: unknown,
      device: Device,
      flag: StopFlag,
      emit: (event: Jobs[JobName]["event"]) => void,
      inbox: Inbox<MessageOf<JobName>>,
      sharing: Sharing,
    ) => Promise<Jobs[JobName]["result"]>
    const result = await run(input, device, flag, (event) => reply({ id, event }), inboxes.get(id) ?? new Inbox(), sharing)
    reply({ id, result })
  } catch (error) {
    const known = error instanceof AlphaError ? error : undefined
    const { message, stack } = error as Error
    reply({ id, error: { message, hint: known?.hint, code: known?.code ?? EXIT.failure, stack: known === undefined ? stack : undefined } })
  }
}

/** The device that a job asks for; `tell` hears what auto chose, once. */
function deviceFor({ device, threads, debugGpu = false }: DeviceChoice, tell: (note: string) => void): Device {
  const key = `${device} ${threads} ${debugGpu}`
  const known = opened.get(key)
  if (known !== undefined) return known.device
  const made = openDevice(device, threads, debugGpu)
  opened.set(key, made)
  if (made.choice !== undefined) tell(made.choice)
  return made.device
}
