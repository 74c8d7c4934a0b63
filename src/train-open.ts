/** Opens what a run starts from: data, model, programs, on ranks in turn; memory is counted and the device tried before anything else. */
import type { Device } from "./program.ts"
import { checkFits, memoryOf } from "./train-fit.ts"
import type { Emit } from "./train-metrics.ts"
import { type Prepared, prepare, type TrainJob } from "./train-prepare.ts"
import { computesLike, type Ranks } from "./train-ranks.ts"
import { smokeTest } from "./train-smoke.ts"
import { planRun, type RunPlans } from "./train-step.ts"
import { type StopFlag, Stopped } from "./train-stop.ts"

/** Data, model and programs of a run; ranks open them in turn, and make sure that they have the same. Throws where memory is too small. */
export async function openRun(
  job: TrainJob,
  device: Device,
  flag: StopFlag,
  emit: Emit,
  ranks: Ranks | undefined,
): Promise<{ prepared: Prepared; plans: RunPlans }> {
  const prepared =
    ranks === undefined
      ? await prepare(job, flag, emit)
      : await ranks.inTurn(
          (known: { tokenizerJson: string | undefined } | undefined) => prepare(job, flag, emit, known?.tokenizerJson),
          ({ tokenizerJson }) => ({ tokenizerJson }),
        )
  if (ranks !== undefined) {
    const { data, tokenizerHash, model } = prepared
    ranks.requireSame({ dataHash: data.train.hash, valHash: data.val?.hash, tokenizerHash }, "give every rank the same data")
    ranks.requireSame(
      { device: computesLike(device) },
      "ranks need like processors; where these differ, ALPHA_ISA=v3 on all uses what they share",
    )
    ranks.requireSame({ ...model }, "the run began with another model: leave --resume out, or use its settings on every rank")
    if (job.values.shardOptimizer) ranks.shardParameters(prepared.model)
  }
  const evaluates = prepared.data.val !== undefined && job.values.evalInterval !== undefined
  const plans = planRun(prepared.model, job.values, evaluates, ranks?.sharing)
  const memory = memoryOf(job, prepared, device, plans, ranks?.sharing)
  if (job.values.dryRun) {
    emit(memory)
    throw new Stopped("nothing was trained (--dryRun)", true)
  }
  checkFits(memory)
  for (const plan of [plans.micro, plans.update]) if (plan !== undefined) device.begin?.(plan)
  smokeTest(device, job.values.failOnSmokeTest, emit)
  return { prepared, plans }
}
