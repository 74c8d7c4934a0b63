/** What the main thread and the engine's Worker say to each other. */

import type { DoctorEvent, DoctorJob, DoctorReport } from "./engine-doctor.ts"
import type { EvalEvent, EvalJob, EvalReport } from "./engine-eval.ts"
import type { GenerateEvent, GenerateJob, GenerateReport } from "./engine-generate.ts"
import type { Summary, TrainEvent, TrainJob } from "./train.ts"

/** Where a job runs. */
export interface DeviceChoice {
  readonly device: string
  readonly threads: number | undefined
}

/** Every job: what it is given, what it tells on the way, what it returns. */
export interface Jobs {
  readonly train: { readonly input: TrainJob; readonly event: TrainEvent; readonly result: Summary }
  readonly generate: { readonly input: GenerateJob; readonly event: GenerateEvent; readonly result: GenerateReport }
  readonly eval: { readonly input: EvalJob; readonly event: EvalEvent; readonly result: EvalReport }
  readonly doctor: { readonly input: DoctorJob; readonly event: DoctorEvent; readonly result: DoctorReport }
}
export type JobName = keyof Jobs

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
