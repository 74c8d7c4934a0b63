/** What the main thread and the engine's Worker say to each other. */

import type { DoctorEvent, DoctorJob, DoctorReport } from "./engine-doctor.ts"
import type { EvalEvent, EvalJob, EvalReport } from "./engine-eval.ts"
import type { GenerateEvent, GenerateJob, GenerateReport } from "./engine-generate.ts"
import type { ServeEvent, ServeJob, ServeMessage, ServeReport } from "./engine-serve-protocol.ts"
import type { Summary, TrainEvent, TrainJob } from "./train.ts"

/** Where a job runs. */
export interface DeviceChoice {
  readonly device: string
  readonly threads: number | undefined
  /** A GPU checks every launch. */
  readonly debugGpu?: boolean
}

/** Every job: what it is given, what it tells on the way, what it returns; what it can be told while it runs. */
export interface Jobs {
  readonly train: { readonly input: TrainJob; readonly event: TrainEvent; readonly result: Summary }
  readonly generate: { readonly input: GenerateJob; readonly event: GenerateEvent; readonly result: GenerateReport }
  readonly eval: { readonly input: EvalJob; readonly event: EvalEvent; readonly result: EvalReport }
  readonly doctor: { readonly input: DoctorJob; readonly event: DoctorEvent; readonly result: DoctorReport }
  readonly serve: { readonly input: ServeJob; readonly event: ServeEvent; readonly result: ServeReport; readonly message: ServeMessage }
}
export type JobName = keyof Jobs
export type MessageOf<N extends JobName> = N extends JobName ? (Jobs[N] extends { readonly message: infer M } ? M : never) : never

export interface RunningJob<N extends JobName> {
  readonly result: Promise<Jobs[N]["result"]>
  /** Reaches the job at its next safe point; in order; lost when the job has ended. */
  tell(message: MessageOf<N>): void
  /** Asks the job to end at the next safe point. */
  stop(): void
}

/** The engine as the main thread sees it. */
export interface Engine {
  /** Starts a job; `onEvent` is called in order, `onNote` for what the user should know once (the device that auto chose). */
  start<N extends JobName>(
    job: N,
    input: Jobs[N]["input"],
    where: DeviceChoice,
    listen: { onEvent?: (event: Jobs[N]["event"]) => void; onNote?: (note: string) => void },
  ): RunningJob<N>
  close(): void
}

/** For a job that was started with the same id. */
export interface Telling {
  readonly id: number
  readonly message: MessageOf<JobName>
}

export interface Request {
  readonly id: number
  readonly job: JobName
  readonly input: Jobs[JobName]["input"]
  readonly where: DeviceChoice
  /** One i32: not 0 asks the job to end at the next safe point. */
  readonly stop: SharedArrayBuffer
}

export type Reply =
  | { readonly id: number; readonly event: Jobs[JobName]["event"] }
  | { readonly id: number; readonly note: string }
  | { readonly id: number; readonly result: Jobs[JobName]["result"] }
  | {
      readonly id: number
      readonly error: {
        readonly message: string
        readonly hint: string | undefined
        readonly code: number
        readonly stack: string | undefined
      }
    }
