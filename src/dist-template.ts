/** Ready files that start ranks: scripts and manifests per launcher. */

export interface TemplateOptions {
  readonly nodes: number
  readonly gpus: number
  readonly run: string
  readonly data: string
}

/** The command that every rank runs: accumSteps micro-batches per step, one per rank; a start after a failure goes on from the last checkpoint. */
const train = ({ nodes, gpus, run, data }: TemplateOptions, indent: string): string =>
  ["alpha train", `--data=${quoted(data)}`, `--run=${quoted(run)}`, "--resume=or-start", `--accumSteps=${nodes * gpus}`].join(
    ` \\\n${indent}`,
  )

/** One word of a shell. */
const quoted = (text: string): string => (/^[\w./:@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`)

const TEMPLATES = {
  torchrun: (o: TemplateOptions) => `#!/usr/bin/env bash
# Run this on each of the ${o.nodes} hosts; HEAD is one of them. torchrun starts the ranks again after a failure.
set -euo pipefail
HEAD=\${HEAD:?the name of one host, the same on all}
exec torchrun --nnodes=${o.nodes} --nproc-per-node=${o.gpus} --max-restarts=3 \\
  --rdzv-backend=c10d --rdzv-endpoint="$HEAD:29400" --rdzv-id=${quoted(o.run)} --no-python -- \\
  ${train(o, "  ")}
`,
  slurm: (o: TemplateOptions) => `#!/usr/bin/env bash
#SBATCH --job-name=${o.run.replace(/[^\w.-]/g, "_")}
#SBATCH --nodes=${o.nodes}
#SBATCH --ntasks-per-node=${o.gpus}
#SBATCH --gpus-per-node=${o.gpus}
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@120
# Two minutes before the time limit Slurm signals the ranks: they save one checkpoint and end, and the job goes back into the queue.
set -uo pipefail
srun --kill-on-bad-exit=1 ${train(o, "  ")}
code=$?
status=$(sed -n 's/.*"status":"\\([a-z_]*\\)".*/\\1/p' runs/${quoted(o.run)}/events.jsonl | tail -1)
if [ "$code" = 0 ] && [ "$status" = stopped ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
`,
  mpirun: (o: TemplateOptions) => `#!/usr/bin/env bash
# hosts.txt: one line per host, "name slots=${o.gpus}". SIGTERM to this script stops the run after a checkpoint.
set -euo pipefail
mpirun -n ${o.nodes * o.gpus} --hostfile hosts.txt --map-by ppr:${o.gpus}:node --bind-to none \\
  ${train(o, "  ")} &
job=$!
# mpirun hands SIGUSR1 on at once; its own way with SIGTERM leaves a rank one second.
trap 'kill -USR1 "$job"' TERM INT
until wait "$job"; do
  code=$?
  kill -0 "$job" 2>/dev/null || exit "$code"
done
`,
  jobset: (o: TemplateOptions) => `# kubectl apply -f this; IMAGE holds alpha, CLAIM is a volume that all pods can write.
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: ${kubernetesName(o.run)}
spec:
  failurePolicy:
    maxRestarts: 3
  network:
    enableDNSHostnames: true
  replicatedJobs:
    - name: workers
      replicas: 1
      template:
        spec:
          completionMode: Indexed
          completions: ${o.nodes}
          parallelism: ${o.nodes}
          backoffLimit: 0
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: 120
              containers:
                - name: alpha
                  image: IMAGE
                  workingDir: /work
                  command: ["/bin/sh", "-c"]
                  args:
                    - |
                      exec ${train(o, "                        ")} \\
                        --gpus=${o.gpus}
                  env:
                    - { name: WORLD_SIZE, value: "${o.nodes}" }
                    - { name: MASTER_ADDR, value: ${kubernetesName(o.run)}-workers-0-0.${kubernetesName(o.run)} }
                    - { name: MASTER_PORT, value: "29400" }
                  resources:
                    limits: { nvidia.com/gpu: ${o.gpus} }
                  volumeMounts:
                    - { name: work, mountPath: /work }
                    - { name: shm, mountPath: /dev/shm }
              volumes:
                - name: work
                  persistentVolumeClaim: { claimName: CLAIM }
                - name: shm
                  emptyDir: { medium: Memory }
`,
  skypilot: (
    o: TemplateOptions,
  ) => `# sky jobs launch this; before that: sky volumes apply a volume that all nodes can write. A bucket does not do: checkpoints need links and appends.
name: ${kubernetesName(o.run)}
num_nodes: ${o.nodes}
resources:
  accelerators: H200:${o.gpus}
  job_recovery: { max_restarts_on_errors: 3 }
volumes: { /work: alpha-runs }
run: |
  cd /work
  exec ${train(o, "    ")} \\
    --gpus=${o.gpus}
`,
  dstack: (
    o: TemplateOptions,
  ) => `# dstack apply -f this; /mnt/shared of the fleet's nodes is storage that all of them mount: it holds alpha, the data and the run.
type: task
name: ${kubernetesName(o.run)}
nodes: ${o.nodes}
resources:
  gpu: H200:${o.gpus}
  shm_size: 16GB
retry: { on_events: [error, interruption], duration: 24h }
volumes: [{ instance_path: /mnt/shared, path: /work }]
commands:
  - cd /work
  - >-
    exec ${train(o, "      ").replaceAll(" \\\n", "\n")}
      --gpus=${o.gpus}
`,
} as const

/** Lower-case letters, digits and dashes. */
const kubernetesName = (text: string): string =>
  text
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-+|-+$/g, "") || "alpha"

export type Launcher = keyof typeof TEMPLATES
export const LAUNCHERS = Object.keys(TEMPLATES) as Launcher[]

/** The file for one launcher. */
export const launchTemplate = (launcher: Launcher, options: TemplateOptions): string => TEMPLATES[launcher](options)
