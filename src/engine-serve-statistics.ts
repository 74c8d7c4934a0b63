/** What the serve job tells of itself: slots, models, counters. */
import type { Counters } from "./engine-serve-counters.ts"
import type { Models } from "./engine-serve-models.ts"
import type { ModelStatistics, ServeStatistics, SlotFacts } from "./engine-serve-protocol.ts"

export function statistics(models: Models, counters: Counters): ServeStatistics {
  const now = performance.now()
  const slots: SlotFacts[] = []
  const rows: ModelStatistics[] = []
  for (const { entry, instance, isCurrent } of models.turns()) {
    const { facts, pool, running, paused } = instance.resident
    for (const sequence of running) {
      slots.push({
        id: sequence.request.id,
        model: facts.key,
        client: sequence.client,
        phase: sequence.phase,
        promptTokens: sequence.request.prompt.length,
        computedTokens: sequence.computed,
        completionTokens: sequence.said,
        pages: sequence.pages,
        runningMs: now - sequence.started,
      })
    }
    rows.push({
      key: facts.key,
      fingerprint: facts.fingerprint,
      running: running.length,
      waiting: paused.length + (isCurrent ? entry.queue.count : 0),
      pagesTotal: pool.count,
      pagesUsed: pool.used,
      pagesCached: pool.kept,
      bytes: facts.bytes,
    })
  }
  const queues = [...models.entries.values()].map(({ queue }) => queue)
  return {
    ...counters,
    finished: { ...counters.finished },
    failed: { ...counters.failed },
    running: slots.length,
    waiting: queues.reduce((sum, { count }) => sum + count, 0),
    waitingTokens: queues.reduce((sum, { tokens }) => sum + tokens, 0),
    slots,
    models: rows,
  }
}
