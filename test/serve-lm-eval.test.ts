/** EleutherAI's lm-eval against a running `alpha serve`, beside the same model in transformers, where a Python that has both is there (PYTHON names one). */
import { afterAll, expect } from "bun:test"
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { uniform } from "../src/base-random.ts"
import { testWith } from "./require.ts"
import { workFolder } from "./serve-fake.ts"
import { sampleText } from "./support.ts"

const python = process.env.PYTHON ?? "python3"
const isThere = (what: string) => Bun.spawnSync([python, "-c", `import ${what}`]).success
const has = Bun.which(python) !== null && isThere("lm_eval") && isThere("torch, transformers, accelerate")
const work = workFolder()
afterAll(() => work.remove())

/** The same task through HTTP and in the process: each choice's log-likelihood and whether it is the greedy continuation, and a generation. */
const PROGRAM = `
import json, sys
url, model, tasks = sys.argv[1:]
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
def scores(**how):
    out = simple_evaluate(tasks=["places", "goes-on"], task_manager=TaskManager(include_path=tasks), log_samples=True, bootstrap_iters=0, **how)
    rows = sorted(out["samples"]["places"], key=lambda row: row["doc_id"])
    texts = sorted(out["samples"]["goes-on"], key=lambda row: row["doc_id"])
    return {"accuracy": out["results"]["places"]["acc,none"], "choices": [r for row in rows for r in row["filtered_resps"]], "texts": [row["filtered_resps"][0] for row in texts]}
http = f"base_url={url}/v1/completions,model=last,tokenizer={model},max_length=128,num_concurrent=8"
print(json.dumps([scores(model="local-completions", model_args=http, batch_size=4), scores(model="hf", model_args=f"pretrained={model},dtype=float32", device="cpu")]))
`
const task = (folder: string, name: string, rest: string): void =>
  writeFileSync(
    join(folder, `${name}.yaml`),
    `task: ${name}\ndataset_path: json\ndataset_kwargs:\n  data_files: ${join(folder, "rows.jsonl")}\ntest_split: train\ndoc_to_text: "{{question}}"\n${rest}`,
  )

interface Scores {
  readonly accuracy: number
  /** Log-likelihood, and whether it is the greedy continuation. */
  readonly choices: readonly (readonly [number, boolean])[]
  readonly texts: readonly string[]
}

testWith("python-lm-eval", has ? undefined : `${python} has no packages lm_eval, torch, transformers and accelerate`)(
  "lm-eval finds the same log-likelihoods and texts through HTTP as with transformers",
  async () => {
    const cli = [process.execPath, join(import.meta.dir, "../src/cli.ts")]
    writeFileSync(join(work.path, "text.txt"), sampleText(50_000))
    const flags = [
      "--vocabSize=280",
      "--nLayer=2",
      "--nHead=2",
      "--nEmbd=64",
      "--context=64",
      "--batch=8",
      "--steps=60",
      "--sampleInterval=none",
    ]
    const trained = Bun.spawnSync([...cli, "train", "--data=text.txt", "--run=tiny", "--device=cpu", ...flags], { cwd: work.path })
    expect(trained.exitCode).toBe(0)
    const model = join(work.path, "runs", "tiny", "last")
    const tasks = join(work.path, "tasks")
    mkdirSync(tasks)
    const words = (i: number, draw: number, most: number) =>
      Array.from(
        { length: 1 + Math.floor(uniform(1, draw, i, 99) * most) },
        (_, at) => ["the", "sea", "whale", "and", "ship"][Math.floor(uniform(1, draw, i, at) * 5)],
      ).join(" ")
    const rows = Array.from({ length: 40 }, (_, i) => ({
      question: words(i, 1, 12),
      choices: [2, 3, 4].map((draw) => ` ${words(i, draw, 4)}`),
      label: i % 3,
    }))
    writeFileSync(join(tasks, "rows.jsonl"), rows.map((row) => `${JSON.stringify(row)}\n`).join(""))
    task(
      tasks,
      "places",
      'output_type: multiple_choice\ndoc_to_choice: "{{choices}}"\ndoc_to_target: label\nmetric_list:\n  - metric: acc\n',
    )
    task(
      tasks,
      "goes-on",
      'output_type: generate_until\ndoc_to_target: ""\ngeneration_kwargs:\n  until: ["zzz"]\n  max_gen_toks: 12\n  do_sample: false\nmetric_list:\n  - metric: bypass\n',
    )
    const server = Bun.spawn([...cli, "serve", "--json", "--port=0", "--device=cpu", `--model=${model}`], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "inherit",
    })
    const { url } = JSON.parse(new TextDecoder().decode((await server.stdout.getReader().read()).value)) as { url: string }
    const child = Bun.spawn([python, "-c", PROGRAM, url, model, tasks], {
      env: { ...process.env, HF_HUB_OFFLINE: "1", HF_DATASETS_CACHE: join(work.path, "cache") },
      stdout: "pipe",
      stderr: "pipe",
    })
    const [out, error] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
    server.kill()
    await server.exited
    if ((await child.exited) !== 0) throw new Error(error)
    const [http, local] = JSON.parse(out.trimEnd().split("\n").at(-1)!) as [Scores, Scores]
    expect(http.choices.length).toBe(120)
    const far = Math.max(...http.choices.map(([value], i) => Math.abs(Number(value) - Number(local.choices[i]![0]))))
    expect(far).toBeLessThan(1e-3)
    expect(http.choices.map(([, greedy]) => greedy)).toEqual(local.choices.map(([, greedy]) => greedy))
    expect(http.accuracy).toBe(local.accuracy)
    expect(http.texts).toEqual(local.texts)
    console.log(`lm-eval: 120 log-likelihoods at most ${far.toExponential(1)} apart, 40 texts equal`)
  },
  300_000,
)
