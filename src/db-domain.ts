/** Domains: the kinds of data that runs train on, each with what its runs came to. */
import { basename, dirname } from "node:path"
import { PRESETS } from "./config.ts"
import type { DomainSummary, RunSummary } from "./db-types.ts"

type Settings = Readonly<Record<string, { readonly value?: unknown } | undefined>>

/** Settings in a run's config.json. */
export const settingsOf = (record: unknown): Settings => ((record ?? {}) as { config?: Settings }).config ?? {}

/** A preset that stands for a kind of data, else the name of the data without its directory and ending; null where a record tells neither. */
export function domainOf(record: unknown): string | null {
  const { preset, data } = settingsOf(record)
  const name = preset?.value
  if (typeof name === "string" && Object.hasOwn(PRESETS, name) && PRESETS[name]!.isDomain === true) return name
  if (typeof data?.value !== "string" || data.value === "") return null
  const path = /[*?[{]/.test(basename(data.value)) ? dirname(data.value) : data.value
  return basename(path).replace(/(?<=.)\.[^.]*$/, "") || null
}

/** All domains of `runs`, the one trained on last first. */
export function domainsOf(runs: readonly RunSummary[]): DomainSummary[] {
  const groups = Map.groupBy(
    runs.filter(({ domain }) => domain !== null),
    ({ domain }) => domain as string,
  )
  const all = [...groups].map(([id, own]): DomainSummary => {
    const newest = own.reduce((a, b) => (b.updatedAt > a.updatedAt ? b : a))
    const best = own.filter(({ bestValLoss }) => bestValLoss !== null).toSorted((a, b) => a.bestValLoss! - b.bestValLoss!)[0]
    return {
      id,
      runs: own.length,
      running: own.filter(({ state }) => state === "running").length,
      tokens: own.reduce((sum, { tokens }) => sum + tokens, 0),
      loss: newest.loss,
      bestValLoss: best?.bestValLoss ?? null,
      bestRun: best?.name ?? null,
      updatedAt: newest.updatedAt,
    }
  })
  return all.toSorted((a, b) => b.updatedAt - a.updatedAt)
}
