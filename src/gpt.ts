/** GPT models: the forward pass, parameters, files and generation, for the layers above. */
export {
  loadTrainer,
  loadWeights,
  readChatTemplate,
  readCheckpointFile,
  readConfig,
  saveCheckpoint,
  verifyCheckpoint,
  writtenHash,
} from "./gpt-checkpoint.ts"
export { exactClass, familyOf, type TokenIds } from "./gpt-family.ts"
export {
  type Cache,
  cacheBytesPerToken,
  copyName,
  type Dropout,
  gptHidden,
  gptLogits,
  gptLoss,
  type Pass,
  type Precision,
} from "./gpt-forward.ts"
export { type Choice, chunkSize, createGenerator, type Generator, type Sampling } from "./gpt-generate.ts"
export { ggufObstacle, writeGguf } from "./gpt-gguf.ts"
export { checkpointPath, listCheckpoints, modelDirectory, modelPath, recoverCheckpoints, retain, setLink } from "./gpt-keep.ts"
export { initialise, type LoadedModel, loadModel, loadParameters, loadSteps, refreshCopies } from "./gpt-load.ts"
export { countParams, flopsPerToken, type ParamSpec, paramSpecs } from "./gpt-params.ts"
export { type NamedTensor, readSafetensors, type StoredTensor } from "./gpt-safetensors.ts"
export {
  type Adjustment,
  type Alternatives,
  GENERATED,
  type Row,
  Step,
  type StepModel,
  type StepResult,
  type StepShape,
} from "./gpt-step.ts"
export { generateText } from "./gpt-text.ts"
export { namedWeights, weightFiles } from "./gpt-weights.ts"
