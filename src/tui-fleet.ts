/** The live view of machines: each is asked again and again, and what it answered last is drawn. */

import { type FleetRow, type FleetState, fleetFrame, initialFleet, pressFleet } from "./tui-fleet-view.ts"
import { FullScreen } from "./tui-screen.ts"
import type { Style } from "./tui-style.ts"

/** A machine and how it is asked. */
export interface FleetSource {
  readonly name: string
  readonly ask: () => Promise<FleetRow>
}

const replaced = (state: FleetState, row: FleetRow): FleetState => ({
  ...state,
  rows: state.rows.map((old) => (old.name === row.name ? row : old)),
})

/** One frame, when every machine has answered. */
export async function drawFleet(sources: readonly FleetSource[], style: Style, width: number, height: number): Promise<string[]> {
  const rows = await Promise.all(sources.map(({ ask }) => ask()))
  return fleetFrame({ ...initialFleet([]), rows }, width, height, style)
}

/** Shows the machines until a key or `stopped` ends it. One that does not answer keeps no other waiting. */
export async function watchFleet(
  sources: readonly FleetSource[],
  style: Style,
  refreshMs: number,
  stopped: Promise<unknown>,
): Promise<void> {
  const end = Promise.withResolvers<void>()
  let state = initialFleet(sources.map(({ name }) => name))
  let isOver = false
  const screen = new FullScreen({ onKey, onResize: draw })

  function draw(): void {
    if (!isOver) screen.draw(fleetFrame(state, screen.width, screen.height, style))
  }

  function onKey(key: string): void {
    if (key === "ctrl-z") {
      screen.suspend()
      return
    }
    if (key === "ctrl-l") screen.forget()
    const after = pressFleet(state, key)
    if (after === undefined) end.resolve()
    else state = after
    draw()
  }

  async function watch({ ask }: FleetSource): Promise<void> {
    while (!isOver) {
      state = replaced(state, await ask())
      draw()
      await Promise.race([Bun.sleep(refreshMs), end.promise])
    }
  }

  screen.open()
  try {
    draw()
    for (const source of sources) void watch(source).catch(end.reject)
    await Promise.race([end.promise, stopped])
  } finally {
    isOver = true
    screen.close()
  }
}
