/** The full-screen view of runs: asks a store now and again, and draws what it answers. */
import { load } from "./tui-load.ts"
import type { RunSource } from "./tui-remote.ts"
import { FullScreen } from "./tui-screen.ts"
import { initialState, press, type State } from "./tui-state.ts"
import type { Style } from "./tui-style.ts"
import { frame } from "./tui-view.ts"

export { drawFleet, type FleetSource, watchFleet } from "./tui-fleet.ts"
export { type FleetRow, type FleetState, fleetFrame, initialFleet, pressFleet } from "./tui-fleet-view.ts"
export { createRemoteStore, type RunSource } from "./tui-remote.ts"
export { createStyle, type Style } from "./tui-style.ts"

export interface View {
  readonly store: RunSource
  /** Where the runs come from, in words. */
  readonly source: string
  readonly style: Style
  /** Keys pressed before anything is drawn, such as ["enter", "tab"]. */
  readonly keys: readonly string[]
}

/** One frame, as the lines that a terminal of this size would show. Throws what the store throws. */
export async function drawOnce({ store, source, style, keys }: View, width: number, height: number): Promise<string[]> {
  let state = await load(initialState(source, Date.now()), store, width * 2)
  if (state.error !== undefined) throw state.cause
  for (const key of keys) state = { ...state, ...(press(state, key) ?? state) }
  state = await load(state, store, width * 2)
  return frame(state, width, height, style)
}

/** Shows the runs until a key or `stopped` ends it. The terminal is then as it was. */
export async function watchRuns(view: View, refreshMs: number, stopped: Promise<unknown>): Promise<void> {
  const end = Promise.withResolvers<void>()
  let state: State = initialState(view.source, Date.now())
  const screen = new FullScreen({ onKey, onResize: draw })
  let timer: ReturnType<typeof setTimeout> | undefined
  let isLoading = false
  let isStale = false

  function draw(): void {
    try {
      screen.draw(frame(state, screen.width, screen.height, view.style))
    } catch (error) {
      end.reject(error)
    }
  }

  function onKey(key: string): void {
    if (key === "ctrl-z") {
      screen.suspend()
      return
    }
    if (key === "ctrl-l") screen.forget()
    const after = press(state, key, Math.max(1, screen.height - 6))
    if (after === undefined) {
      end.resolve()
      return
    }
    const isOther = after !== state
    state = after
    draw()
    if (isOther) void refresh()
  }

  /** One question at a time; keys pressed meanwhile are followed by another. What they changed stays: only the answer is taken over. */
  async function refresh(): Promise<void> {
    if (isLoading) {
      isStale = true
      return
    }
    clearTimeout(timer)
    isLoading = true
    do {
      isStale = false
      const { runs, details, error, now } = await load(state, view.store, screen.width * 2)
      state = { ...state, runs, details, error, now }
      draw()
    } while (isStale)
    isLoading = false
    timer = setTimeout(() => void refresh().catch(end.reject), refreshMs)
  }

  screen.open()
  try {
    for (const key of view.keys) onKey(key)
    draw()
    void refresh().catch(end.reject)
    await Promise.race([end.promise, stopped])
  } finally {
    clearTimeout(timer)
    screen.close()
  }
}
