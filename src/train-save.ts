/** The checkpoint of a run, and what becomes of older ones. */
import { checkpointPath, retain, setLink, writtenHash } from "./gpt.ts"
import type { Session } from "./train-session.ts"
import { saveState } from "./train-state.ts"
import { momentSizes } from "./train-step.ts"

/** Writes the checkpoint of the current step, moves the links, deletes what retention lets go; ranks but the first give what only they have. */
export function checkpoint(s: Session): void {
  const { job, prepared, state, whole, trainer, ranks } = s
  if (job.values.keepCheckpoints === 0) return
  const moment = (name: string, length: number) => ranks?.collect(state, name, length) ?? (state.read(name) as Float32Array)
  ranks?.requireSameWeights(state, prepared.model, trainer.step)
  if (ranks !== undefined && ranks.rank > 0) {
    for (const [name, length] of momentSizes(whole.program)) moment(name, length)
    s.saved = trainer.step
    return
  }
  const began = performance.now()
  const path = checkpointPath(job.directory, trainer.step)
  const bytes = saveState(path, state, whole, {
    moment,
    model: prepared.model,
    precision: job.values.precision,
    ids: prepared.ids,
    tokenizerJson: prepared.tokenizerJson,
    chatTemplate: prepared.chatTemplate,
    trainer,
  })
  const best = trainer.best?.step === trainer.step
  if (best) setLink(job.directory, "best", path)
  setLink(job.directory, "last", path)
  retain(job.directory, { keepLast: job.values.keepCheckpoints, keepEvery: job.values.keepEvery })
  s.saved = trainer.step
  const sha256 = writtenHash(path, "model.safetensors")
  s.emit({ type: "checkpoint", step: trainer.step, path, bytes, sha256, best, ms: performance.now() - began })
}
