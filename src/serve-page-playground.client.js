/** The playground in the browser: streams answers into one or two panes, and shows how likely each token was. */

const $ = (id) => document.getElementById(id)
const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "max_tokens"]
const PLACEHOLDERS = {
  chat: "Message (Enter sends, Shift+Enter breaks the line, Esc stops)",
  completion: "Text to continue (Ctrl+Enter sends, Esc stops)",
}

let mode = "chat"
let models = []
const panes = []

/** An element with a class, a text and children. */
function make(tag, { name = "", text, ...rest } = {}, ...children) {
  const element = Object.assign(document.createElement(tag), rest)
  if (name) element.className = name
  if (text !== undefined) element.textContent = text
  element.append(...children)
  return element
}

/** One model with its conversation. */
class Pane {
  constructor(index) {
    this.turns = []
    this.running = undefined
    this.select = make("select")
    this.select.setAttribute("aria-label", index === 0 ? "Model" : "Second model")
    this.log = make("div", { name: "log", tabIndex: 0 })
    this.log.setAttribute("role", "log")
    this.log.setAttribute("aria-label", `Answers ${index + 1}`)
    this.root = make("section", { name: "pane" }, make("div", { name: "model" }, this.select), this.log)
    this.fill()
    if (index > 0) this.select.selectedIndex = Math.min(index, Math.max(0, this.select.length - 1))
    this.draw()
  }

  /** The models to choose from; the choice stays where it can. */
  fill() {
    const chosen = this.select.value || new URLSearchParams(location.search).get("model")
    this.select.replaceChildren(...models.map(({ id }) => make("option", { value: id, text: id })))
    if (models.some(({ id }) => id === chosen)) this.select.value = chosen
  }

  get last() {
    return this.turns.at(-1)
  }

  draw() {
    const hint = mode === "chat" ? "Write a message below." : "Write the beginning of a text below; the model continues it."
    this.log.replaceChildren(...(this.turns.length === 0 ? [make("p", { name: "hint", text: hint })] : this.turns.map((turn) => turn.root)))
  }

  say(role, content) {
    const turn = new Turn(role, content)
    this.turns.push(turn)
    this.draw()
    this.log.scrollTop = this.log.scrollHeight
    return turn
  }

  /** Streams the answer to what was said last. */
  async answer(seed) {
    const controller = new AbortController()
    this.running = controller
    refresh()
    const body = this.request(seed)
    const turn = this.say("assistant", "")
    turn.begin()
    const started = performance.now()
    let finish
    let tokens = 0
    try {
      const response = await fetch(mode === "chat" ? "/v1/chat/completions" : "/v1/completions", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(body),
        signal: controller.signal,
      })
      if (!response.ok) throw await refusal(response)
      for await (const event of events(response.body)) {
        if (event.error) throw new Error(event.error.message)
        if (event.usage) tokens = event.usage.completion_tokens
        const [choice] = event.choices
        if (!choice) continue
        finish = choice.finish_reason ?? finish
        const isNear = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 80
        turn.add(choice.text ?? choice.delta?.content ?? "", scored(choice.logprobs))
        if (isNear) this.log.scrollTop = this.log.scrollHeight
      }
      if (finish === undefined) throw new Error("the connection broke before the answer ended")
    } catch (error) {
      if (controller.signal.aborted) finish = "stopped"
      else turn.fail(error instanceof TypeError ? "the server cannot be reached: it ended, or the network did" : error.message)
    } finally {
      const seconds = (performance.now() - started) / 1000
      const facts = [finish, tokens && `${tokens} tokens`, tokens && `${(tokens / seconds).toFixed(1)} tokens/s`, `seed ${seed}`]
      turn.end(facts.filter(Boolean).join(" · "))
      this.running = undefined
      refresh()
    }
  }

  request(seed) {
    const settings = Object.fromEntries(NUMBERS.filter((name) => $(name).value !== "").map((name) => [name, Number($(name).value)]))
    const stop = $("stop_text").value
    const shared = {
      model: this.select.value,
      stream: true,
      stream_options: { include_usage: true },
      ...settings,
      seed,
      ...(stop ? { stop } : {}),
    }
    const wants = $("probabilities").checked
    if (mode === "completion") return { ...shared, prompt: this.last.content, ...(wants ? { logprobs: 5 } : {}) }
    const system = $("system").value.trim()
    const said = this.turns.filter(({ failed }) => !failed).map(({ role, content }) => ({ role, content }))
    return {
      ...shared,
      messages: [...(system ? [{ role: "system", content: system }] : []), ...said],
      ...(wants ? { logprobs: true, top_logprobs: 5 } : {}),
    }
  }

  async again(seed) {
    if (this.last?.role === "assistant") this.turns.pop()
    if (this.last) await this.answer(seed)
  }
}

/** One message, or a prompt and its continuation. */
class Turn {
  constructor(role, content) {
    this.role = role
    this.content = content
    this.failed = false
    this.tokens = []
    this.said = make("div", { name: "said", text: content })
    this.meta = make("div", { name: "meta" })
    const isPrompt = mode === "completion" && role === "user"
    const who = mode === "completion" ? "" : role === "user" ? "You" : "Model"
    this.root = make(
      "article",
      { name: `turn ${isPrompt ? "prompt" : role}` },
      make("div", { name: "who", text: who }),
      this.said,
      this.meta,
    )
  }

  begin() {
    this.said.classList.add("cursor")
    this.said.setAttribute("aria-busy", "true")
  }

  add(text, tokens) {
    this.content += text
    if (tokens.length === 0) {
      this.said.append(text)
      return
    }
    for (const token of tokens) {
      // Part of a character: its bytes stand in the list of alternatives.
      const span = make("span", { name: "tok", text: token.token.startsWith("bytes:") ? "\ufffd" : token.token })
      const share = Math.exp(token.logprob)
      // Red for unlikely, green for likely tokens.
      span.style.background = `hsl(${Math.round(share * 130)} 55% 30% / ${0.85 - share * 0.45})`
      span.title = `${percent(share)}`
      const index = this.tokens.push({ ...token, span }) - 1
      span.addEventListener("click", () => this.choose(index))
      this.said.append(span)
    }
    this.said.tabIndex = 0
    this.said.setAttribute("aria-label", "Tokens; arrow keys show the alternatives of each")
    this.said.onkeydown = (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
      if (step === undefined) return
      event.preventDefault()
      this.choose(Math.max(0, Math.min(this.tokens.length - 1, (this.chosen ?? -1) + step)))
    }
  }

  /** Shows what else could have come instead of a token. */
  choose(index) {
    if (this.chosen !== undefined) this.tokens[this.chosen].span.classList.remove("chosen")
    this.chosen = index
    const { token, span, top } = this.tokens[index]
    span.classList.add("chosen")
    const rows = top.map((one) => {
      const share = Math.exp(one.logprob)
      const bar = make("span", { name: "share" })
      bar.style.width = `${Math.max(1, share * 100)}%`
      const row = make("div", { name: one.token === token ? "picked" : "" })
      row.append(
        make("span", { name: "name", text: JSON.stringify(one.token).slice(1, -1) }),
        make("span", {}, bar),
        make("span", { text: percent(share) }),
      )
      return row
    })
    this.view?.remove()
    this.view = make("div", { name: "alternatives" }, make("h3", { text: `Token ${index + 1} of ${this.tokens.length}` }), ...rows)
    this.view.setAttribute("aria-live", "polite")
    this.said.after(this.view)
  }

  fail(message) {
    this.failed = true
    const box = make("div", { name: "error", text: message })
    box.setAttribute("role", "alert")
    this.meta.before(box)
  }

  end(facts) {
    this.said.classList.remove("cursor")
    this.said.removeAttribute("aria-busy")
    this.meta.textContent = facts
  }
}

const percent = (share) => `${(share * 100).toFixed(share < 0.01 ? 2 : 1)} %`

/** Tokens with their log-probabilities and alternatives, most likely first, from either form. */
function scored(logprobs) {
  if (!logprobs) return []
  if (logprobs.content) return logprobs.content.map(({ token, logprob, top_logprobs }) => ({ token, logprob, top: top_logprobs }))
  return logprobs.tokens.map((token, i) => ({
    token,
    logprob: logprobs.token_logprobs[i],
    top: Object.entries(logprobs.top_logprobs[i])
      .map(([name, logprob]) => ({ token: name, logprob }))
      .sort((a, b) => b.logprob - a.logprob),
  }))
}

/** The events of a stream as objects. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader()
  let rest = ""
  for (;;) {
    const { value, done } = await reader.read()
    if (done) return
    const parts = (rest + value).split("\n\n")
    rest = parts.pop()
    for (const part of parts) {
      const data = part.startsWith("data: ") ? part.slice(6) : undefined
      if (data !== undefined && data !== "[DONE]") yield JSON.parse(data)
    }
  }
}

/** What a status other than 200 says. */
async function refusal(response) {
  if (response.status === 401) $("login").hidden = false
  const told = await response.json().catch(() => undefined)
  return new Error(told?.error?.message ?? `the server answered ${response.status}`)
}

const isRunning = () => panes.some(({ running }) => running)

/** Buttons by what can be done now. */
function refresh() {
  const busy = isRunning()
  $("send").disabled = busy
  $("stop").disabled = !busy
  $("again").disabled = busy || !panes.some(({ turns }) => turns.length > 0)
  $("clear").disabled = busy
  for (const id of ["chat", "completion", "compare"]) $(id).disabled = busy
}

function nextSeed() {
  if ($("vary").checked) $("seed").value = String(crypto.getRandomValues(new Uint32Array(1))[0])
  return Number($("seed").value || 0)
}

async function send() {
  const text = $("prompt").value
  if (isRunning() || (mode === "chat" && text.trim() === "")) return
  if (mode === "chat") $("prompt").value = ""
  const seed = nextSeed()
  await Promise.all(
    panes.map((pane) => {
      if (mode === "completion") pane.turns = []
      pane.say("user", text)
      return pane.answer(seed)
    }),
  )
}

async function again() {
  if (isRunning()) return
  const seed = nextSeed()
  await Promise.all(panes.map((pane) => pane.again(seed)))
}

function stop() {
  for (const { running } of panes) running?.abort()
}

function clear() {
  for (const pane of panes) {
    pane.turns = []
    pane.draw()
  }
  refresh()
  $("prompt").focus()
}

function setMode(next) {
  if (mode === next) return
  mode = next
  for (const id of ["chat", "completion"]) {
    $(id).setAttribute("aria-selected", String(id === mode))
    $(id).tabIndex = id === mode ? 0 : -1
  }
  $("prompt").placeholder = PLACEHOLDERS[mode]
  $("prompt").setAttribute("aria-label", mode === "chat" ? "Message" : "Text to continue")
  $("system_label").hidden = mode !== "chat"
  clear()
}

function setPanes(count) {
  while (panes.length < count) panes.push(new Pane(panes.length))
  panes.length = count
  $("panes").replaceChildren(...panes.map(({ root }) => root))
  $("panes").classList.toggle("two", count === 2)
  refresh()
}

let isUp
/** Whether the server is there and ready; the list of models when it comes back. */
async function look() {
  let state = "unreachable"
  try {
    const response = await fetch("/ready", { cache: "no-store" })
    state = (await response.json()).status
  } catch {
    // Unreachable.
  }
  $("dot").className = `dot ${state === "ready" ? "ready" : state === "loading" ? "" : "failed"}`
  $("state").textContent = state
  if (state === "ready" && isUp !== true) await loadModels()
  isUp = state === "ready"
}

async function loadModels() {
  const response = await fetch("/v1/models")
  $("login").hidden = response.status !== 401
  $("logout").hidden = response.headers.get("x-alpha-key") !== "cookie"
  if (!response.ok) return
  models = (await response.json()).data
  for (const pane of panes) pane.fill()
  const room = models[0]?.max_model_len
  // What a person set stays; half of a small context is left for the prompt.
  if (room && $("max_tokens").value === $("max_tokens").defaultValue) $("max_tokens").value = String(Math.min(200, Math.floor(room / 2)))
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault()
  void send()
})
$("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.isComposing) return
  if (mode === "chat" ? event.shiftKey : !(event.ctrlKey || event.metaKey)) return
  event.preventDefault()
  void send()
})
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && isRunning()) stop()
})
for (const id of ["chat", "completion"]) {
  $(id).addEventListener("click", () => setMode(id))
  $(id).addEventListener("keydown", (event) => {
    if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return
    const other = id === "chat" ? "completion" : "chat"
    setMode(other)
    $(other).focus()
  })
}
$("compare").addEventListener("change", () => setPanes($("compare").checked ? 2 : 1))
$("stop").addEventListener("click", stop)
$("again").addEventListener("click", () => void again())
$("clear").addEventListener("click", clear)
if (matchMedia("(max-width: 760px)").matches) $("sampler").open = false

setPanes(1)
await look()
setInterval(look, 3000)
$("prompt").focus()
