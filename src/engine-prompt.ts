/** Prompts as people give them → token ids, with the model's chat template and the tokens its tokenizer puts around a text. */
import { AlphaError, EXIT } from "./base-error.ts"
import { type ChatMessage, chatTemplate, encodeChat } from "./data.ts"
import { type LoadedModel, readCheckpointFile } from "./gpt.ts"
import type { Tokenizer } from "./token.ts"

/** A text to continue, ids to continue, or a conversation to answer. */
export type Prompt = { readonly text: string } | { readonly ids: readonly number[] } | { readonly messages: readonly ChatMessage[] }

/** Reads prompts for one model. */
export type PromptReader = (prompt: Prompt) => Promise<readonly number[]>

/** The reader gives at least one id, all of the model's vocabulary, and throws AlphaError where the model cannot read the prompt. */
export function promptReader(loaded: LoadedModel, tokenizer: Tokenizer | undefined): PromptReader {
  const { before, after } = surroundings(loaded.tokenizerJson)
  const encode = async (prompt: Prompt): Promise<readonly number[]> => {
    if ("ids" in prompt) return prompt.ids
    if (tokenizer === undefined) throw noTokenizer(loaded)
    if ("messages" in prompt) return Array.from(await encodeMessages(prompt.messages, loaded, tokenizer))
    return [...before, ...tokenizer.encode(prompt.text, { special: true }), ...after]
  }
  return async (prompt) => {
    const ids = await encode(prompt)
    const bad = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= loaded.model.vocabSize)
    if (bad !== undefined) {
      throw new AlphaError(`prompt: token id ${bad} is not below vocabSize ${loaded.model.vocabSize} of ${loaded.directory}`, {
        code: EXIT.data,
      })
    }
    if (ids.length > 0) return ids
    const first = loaded.ids.bos ?? [loaded.ids.eos ?? []].flat()[0]
    if (first !== undefined) return [first]
    throw new AlphaError("the prompt is empty, and the model has no token that begins a text", {
      hint: "give at least one character",
      code: EXIT.usage,
    })
  }
}

function noTokenizer({ directory }: LoadedModel): AlphaError {
  return new AlphaError(`the prompt is text, but ${directory} has no tokenizer.json`, {
    hint: "give token ids: --prompt=ids:1,2,3, or a jsonl file with a field ids",
    code: EXIT.usage,
  })
}

/** A conversation and the opening of the assistant's answer. In our own template no message can forge a special token. */
async function encodeMessages(messages: readonly ChatMessage[], loaded: LoadedModel, tokenizer: Tokenizer): Promise<ArrayLike<number>> {
  if (loaded.chatTemplate === undefined) {
    throw new AlphaError(`${loaded.directory} has no chat template`, {
      hint: "it was not made for conversations; continue a text: alpha infer --prompt=…",
      code: EXIT.data,
    })
  }
  if (loaded.chatTemplate === chatTemplate) return encodeChat(tokenizer, messages, { prompt: true }).ids
  return tokenizer.encode(await renderTemplate(loaded.chatTemplate, messages, loaded.directory), { special: true })
}

/** Text of a conversation by a Jinja template, with the variables that transformers gives it. */
async function renderTemplate(template: string, messages: readonly ChatMessage[], directory: string): Promise<string> {
  const { Template } = await import("@huggingface/jinja")
  const config = JSON.parse(readCheckpointFile(directory, "tokenizer_config.json") ?? "{}") as Record<string, unknown>
  const special = Object.fromEntries(
    ["bos_token", "eos_token", "pad_token", "unk_token"].flatMap((name) => {
      const token = config[name] as string | { content?: string } | null | undefined
      const content = typeof token === "string" ? token : token?.content
      return content === undefined ? [] : [[name, content]]
    }),
  )
  try {
    return new Template(template).render({ messages, add_generation_prompt: true, ...special })
  } catch (error) {
    throw new AlphaError(`the chat template of ${directory} refuses this conversation: ${(error as Error).message}`, {
      code: EXIT.data,
      cause: error,
    })
  }
}

/** Ids that the tokenizer's own post-processor puts before and after a text: the begin-of-text token of Llama models. */
export function surroundings(tokenizerJson: string | undefined): { before: number[]; after: number[] } {
  const post =
    tokenizerJson === undefined ? undefined : (JSON.parse(tokenizerJson) as { post_processor?: PostProcessor | null }).post_processor
  const template = [post, ...(post?.processors ?? [])].find((processor) => processor?.type === "TemplateProcessing")
  const pieces = template?.single ?? []
  const at = pieces.findIndex((piece) => "Sequence" in piece)
  const idsOf = (part: readonly Piece[]) =>
    part.flatMap((piece) => ("SpecialToken" in piece ? (template?.special_tokens?.[piece.SpecialToken.id]?.ids ?? []) : []))
  return { before: idsOf(pieces.slice(0, Math.max(0, at))), after: idsOf(pieces.slice(at + 1)) }
}

type Piece = { readonly SpecialToken: { readonly id: string } } | { readonly Sequence: unknown }
interface PostProcessor {
  readonly type?: string
  readonly processors?: readonly PostProcessor[]
  readonly single?: readonly Piece[]
  readonly special_tokens?: Readonly<Record<string, { readonly ids: readonly number[] }>>
}
