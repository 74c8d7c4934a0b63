/** What a run starts from: tokenizer, data, model, checkpoint. */
import { existsSync } from "node:fs"
import { join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { MODEL, type ModelConfig, modelFields, resolveModel, type TrainInput } from "./config.ts"
import { chatTemplate, type DataProgress, endOfTextName, type OpenedData, openData, openText, type TextStream } from "./data.ts"
import type { JoinWorld } from "./dist.ts"
import { modelDirectory, readCheckpointFile, readConfig, type TokenIds } from "./gpt.ts"
import { gpt2Tokenizer, loadTokenizer, parseTokenizer, saveTokenizer, type Tokenizer, tokenizerHash, trainTokenizer } from "./token.ts"
import type { Emit } from "./train-metrics.ts"
import { CACHE, type RunRecord } from "./train-run.ts"
import { type StopFlag, stopIfAsked } from "./train-stop.ts"

/** One call of the trainer. */
export interface TrainJob {
  readonly values: TrainInput
  /** Every value with its origin, seed, commit and version, for the run's record. */
  readonly record: Omit<RunRecord, "dataHash" | "tokenizerHash" | "device">
  /** Directory of the run. */
  readonly directory: string
  /** Continue from the run's last checkpoint. */
  readonly resume: boolean
  /** Where this process is one of several ranks. */
  readonly dist?: JoinWorld | undefined
  /** Whether alerts go to a webhook from this process; a server leaves them to it then. */
  readonly hasWebhook?: boolean
}

export interface Prepared {
  readonly tokenizer: Tokenizer | undefined
  readonly tokenizerJson: string | undefined
  readonly tokenizerHash: string | undefined
  readonly chatTemplate: string | undefined
  readonly ids: TokenIds
  readonly data: OpenedData
  readonly model: ModelConfig
  /** Checkpoint to resume from. */
  readonly checkpoint: string | undefined
  /** Model directory whose weights start the run. */
  readonly init: string | undefined
  readonly samplePrompts: readonly string[]
}

/**
 * Opens everything a run needs, in the order in which errors are cheapest to have. Throws Stopped at the next sign of progress when it is asked to.
 * `tokenizerJson`: the tokenizer that another rank has chosen.
 */
export async function prepare(job: TrainJob, flag: StopFlag, tell: Emit, tokenizerJson?: string): Promise<Prepared> {
  const emit: Emit = (event) => {
    stopIfAsked(flag)
    tell(event)
  }
  const { values, directory } = job
  const last = join(directory, "last")
  const checkpoint = job.resume && existsSync(last) ? last : undefined // a run that ended before its first checkpoint starts anew
  const init = values.init === undefined ? undefined : modelDirectory(values.init, values.runsDir)
  const cacheDir = join(values.runsDir, CACHE)
  const onProgress = (progress: DataProgress) => emit({ type: "progress", ...progress })
  const text = await openText(trainingData(values), cacheDir, onProgress)
  const tokenizer = tokenizerJson === undefined ? await chooseTokenizer(job, text, checkpoint ?? init, emit) : parseTokenizer(tokenizerJson)
  const data = await openData({
    data: trainingData(values),
    valData: values.valData,
    valFraction: values.valFraction,
    tokenizer,
    vocabSize: tokenizer?.vocabSize ?? values.vocabSize,
    context: values.context,
    cacheDir,
    workers: values.threads ?? navigator.hardwareConcurrency,
    seed: values.seed,
    documentBoundaries: values.documentBoundaries,
    maskPrompt: values.maskPrompt,
    onProgress,
    onNote: (message) => emit({ type: "note", step: 0, level: "warn", message }),
  })
  const source = checkpoint ?? init
  const known = source === undefined ? undefined : readConfig(source)
  const model = chooseModel(job, tokenizer, known?.model, source)
  const json = tokenizer?.toJson()
  const end = tokenizer === undefined ? undefined : endOfTextName(tokenizer)
  const isChat = text !== undefined && text.specials.length > 0
  const eos = tokenizer?.special.get(isChat ? "<|end|>" : (end ?? ""))
  return {
    tokenizer,
    tokenizerJson: json,
    tokenizerHash: tokenizer === undefined ? undefined : tokenizerHash(tokenizer),
    chatTemplate: isChat ? chatTemplate : undefined,
    ids: known?.ids ?? (eos === undefined ? {} : { bos: eos, eos }),
    data,
    model,
    checkpoint,
    init,
    samplePrompts: samplePrompts(values, tokenizer, data, emit),
  }
}

/** What is trained on. Throws where the configuration names nothing. */
export function trainingData({ data }: Pick<TrainInput, "data">): string {
  if (data !== undefined) return data
  throw new AlphaError("train: no data given", { hint: "alpha train --data=book.txt (or --data=random --vocabSize=N)", code: EXIT.usage })
}

const END_OF_TEXT = "<|endoftext|>"

/** The artifact if it exists, else the checkpoint's or initial model's tokenizer, else GPT-2's or one learned from the text, saved as the artifact. */
async function chooseTokenizer(
  job: TrainJob,
  text: TextStream | undefined,
  source: string | undefined,
  emit: Emit,
): Promise<Tokenizer | undefined> {
  const { values } = job
  const artifact = values.tokenizerArtifacts
  const kept = source === undefined ? undefined : readCheckpointFile(source, "tokenizer.json")
  if (artifact !== undefined && existsSync(artifact)) return loadTokenizer(artifact)
  if (kept !== undefined) return parseTokenizer(kept)
  if (text === undefined) return undefined
  const special = [...text.specials, ...values.specialTokens]
  const tokenizer =
    values.tokenizer === "gpt2"
      ? gpt2Tokenizer(special)
      : learnTokenizer(values.tokenizer, job, await seen(values, text, emit), special, emit)
  if (artifact !== undefined) saveTokenizer(tokenizer, artifact)
  return tokenizer
}

/**
 * The text a tokenizer learns from. A BPE never sees what is held out, which would make its bits per byte look better than they are; it
 * has a token for every byte and loses nothing. char and word must know every character or word there is, or evaluation would be refused.
 */
async function seen(values: TrainInput, text: TextStream, emit: Emit): Promise<TextStream> {
  const { tokenizer, valData, valFraction, documentBoundaries } = values
  if (tokenizer !== "bpe" || valData !== undefined || valFraction === 0) return text
  return await text.training(valFraction, documentBoundaries ? END_OF_TEXT : undefined, (progress) =>
    emit({ type: "progress", ...progress }),
  )
}

function learnTokenizer(
  kind: "bpe" | "char" | "word",
  { values, record }: TrainJob,
  text: TextStream,
  special: readonly string[],
  emit: Emit,
): Tokenizer {
  const bpe = kind === "bpe"
  return trainTokenizer(
    {
      kind,
      ...(bpe ? { pattern: values.splitPattern, fewer: !asksForSize(record) } : {}),
      ...(values.vocabSize === undefined ? {} : { vocabSize: values.vocabSize }),
      special: [...(bpe ? [END_OF_TEXT] : []), ...special],
      onProgress: ({ phase, done, total }) =>
        emit({ type: "progress", label: phase === "read" ? "count words" : "learn tokens", done, total: total ?? text.bytes }),
    },
    text.texts(values.documentBoundaries ? [...text.specials, END_OF_TEXT] : text.specials),
  )
}

/** Whether the vocabulary's size was asked for; a preset's is for long texts, and a short one gives what it has. */
function asksForSize({ config }: TrainJob["record"]): boolean {
  const origin = config.vocabSize?.origin as { layer?: string } | undefined
  return origin !== undefined && !["default", "preset"].includes(String(origin.layer))
}

/** Model fields that loaded weights leave free: sizes that may grow or shrink to the data, what matters in training only, how weights began. */
const FREE: ReadonlySet<string> = new Set(["vocabSize", "blockSize", "dropout", "initStd", "residualScaling"])

/** The configured model; where weights are loaded, their model with the run's own context and dropout. */
function chooseModel(
  { values, record }: TrainJob,
  tokenizer: Tokenizer | undefined,
  known: ModelConfig | undefined,
  source: string | undefined,
): ModelConfig {
  const vocabSize = tokenizer?.vocabSize ?? values.vocabSize ?? known?.vocabSize
  if (vocabSize === undefined) {
    throw new AlphaError(`data ${values.data}: the number of different tokens is not known`, {
      hint: "add --vocabSize=N or --tokenizerArtifacts",
      code: EXIT.usage,
    })
  }
  for (const field of Object.keys(MODEL) as (keyof ModelConfig)[]) {
    if (known !== undefined && !FREE.has(field) && values[field] !== known[field]) {
      throw new AlphaError(`${source} has ${field} ${known[field]}, the configuration says ${values[field]}`, {
        hint: `leave --${field} out, or start a new run without those weights`,
        code: EXIT.usage,
      })
    }
  }
  if (known === undefined) {
    const least = asksForSize(record) ? (values.vocabSize ?? 0) : 0
    return resolveModel({ ...modelFields(values), vocabSize: Math.max(vocabSize, least) })
  }
  if (vocabSize > known.vocabSize) {
    throw new AlphaError(`the tokenizer has ${vocabSize} tokens, ${source} only ${known.vocabSize}`, {
      hint: "use the model's own tokenizer",
      code: EXIT.usage,
    })
  }
  if (known.position === "learned" && values.context > known.blockSize) {
    throw new AlphaError(`context ${values.context} is longer than the ${known.blockSize} learned positions of ${source}`, {
      hint: `set --context=${known.blockSize} or less`,
      code: EXIT.usage,
    })
  }
  return { ...known, dropout: values.dropout }
}

/** The given prompts that this vocabulary can write, without which a run goes on all the same; else the first words of the held-out text. */
function samplePrompts(values: TrainInput, tokenizer: Tokenizer | undefined, data: OpenedData, emit: Emit): readonly string[] {
  if (tokenizer === undefined || values.sampleInterval === undefined) return []
  const given = values.samplePrompts.filter((prompt) => isWritable(prompt, tokenizer, emit))
  if (given.length > 0) return given
  const held = data.val ?? data.train
  const ids = new Int32Array(Math.min(held.tokens, 16))
  held.read(0, ids)
  const words = tokenizer.decode(ids.map((id) => (id < 0 ? -1 - id : id)))
  return [words]
}

function isWritable(prompt: string, tokenizer: Tokenizer, emit: Emit): boolean {
  try {
    tokenizer.encode(prompt)
    return true
  } catch (error) {
    if (!(error instanceof AlphaError)) throw error
    emit({ type: "note", step: 0, level: "warn", message: `samplePrompts ${JSON.stringify(prompt)} is left out: ${error.message}` })
    return false
  }
}
