/**
 * Flags of the demo: those of an edge server and its devices together.
 *
 * @module
 */

import { CONNECTION_FLAGS } from "../../flags/connection.ts";
import { COMMON_FLAGS } from "../../flags/common_flags.ts";
import { fitting, type FlagValues, text, toggle } from "../../flags/flags.ts";
import { MODEL_FLAG, TOKENIZER_FLAG } from "../../flags/model_flags.ts";
import { PRUNER_FLAGS } from "../../flags/pruners.ts";
import { PROGRESS_FLAGS, RUN_FLAGS, STATE_FLAGS } from "../../flags/run_flags.ts";
import { TOTAL_RANK_FLAG, TUNING_FLAGS } from "../../flags/tuning_flags.ts";
import { CONNECT_WAITS, RUN_WAITS } from "../../flags/waiting_flags.ts";
import { WEIGHTS_FLAG } from "../../flags/weights_flag.ts";
import { assetPath } from "../../process/places.ts";
import { DATA_FLAGS, EPOCHS_FLAG } from "../training_data.ts";
import { PLAN_FLAGS } from "../training_plan.ts";

/** Flags of long runs that go to the edge server as they are. */
export const PASSED_RUN_FLAGS = { accumulate: RUN_FLAGS.accumulate, "clip-norm": RUN_FLAGS["clip-norm"] };

/** Its flags. */
export const FLAGS = {
  persona: toggle(
    "give a chat model another voice, a lighthouse keeper's or that of --data, and ask it --test before and after",
  ),
  ...TUNING_FLAGS,
  ...TOTAL_RANK_FLAG,
  ...PASSED_RUN_FLAGS,
  "state-every": RUN_FLAGS["state-every"],
  "state-seconds": RUN_FLAGS["state-seconds"],
  resume: {
    ...STATE_FLAGS.resume,
    help: "go on with the run in --out, or whose --out this is; other flags as before",
  },
  model: MODEL_FLAG,
  tokenizer: TOKENIZER_FLAG,
  ...WEIGHTS_FLAG,
  data: COMMON_FLAGS.data,
  ...DATA_FLAGS,
  ...EPOCHS_FLAG,
  ...PLAN_FLAGS,
  valid: { ...COMMON_FLAGS.valid, default: assetPath("restaurant/valid.txt"), help: "validation data" },
  "keep-best": {
    ...PLAN_FLAGS["keep-best"],
    help: "also save the adapter with the best validation loss, as adapter-best",
  },
  test: { ...COMMON_FLAGS.test, help: "data whose prompts are continued before and after" },
  prompts: {
    ...COMMON_FLAGS.prompts,
    help: "how many of them, from the first on; the three longest are shown",
  },
  capacities: COMMON_FLAGS.capacities,
  batch: fitting({ ...COMMON_FLAGS.batch, help: "sequences per step, or per part of a step" }),
  length: fitting(COMMON_FLAGS.length),
  ...PRUNER_FLAGS,
  tau: fitting({ ...PRUNER_FLAGS.tau, default: 0.9 }),
  eta: fitting({ ...PRUNER_FLAGS.eta, default: 0.6 }),
  codec: COMMON_FLAGS.codec,
  "no-overlap": COMMON_FLAGS["no-overlap"],
  "micro-batches": COMMON_FLAGS["micro-batches"],
  bandwidth: CONNECTION_FLAGS.bandwidth,
  latency: CONNECTION_FLAGS.latency,
  link: CONNECTION_FLAGS.link,
  ...CONNECT_WAITS,
  ...RUN_WAITS,
  "join-timeout": { ...RUN_WAITS["join-timeout"], default: 120 },
  transport: text("NAME", "ws", "how frames travel", ["ws", "http"]),
  webgpu: COMMON_FLAGS.webgpu,
  port: { ...COMMON_FLAGS.port, default: 0, help: "port of the edge server; 0 = any free one" },
  out: { ...COMMON_FLAGS.out, default: "runs/demo", help: "folder for the adapter" },
  ...PROGRESS_FLAGS,
  metrics: COMMON_FLAGS.metrics,
  report: COMMON_FLAGS.report,
};

/** A chat of the shipped voice. */
const voice = (name: string): string => assetPath(`lighthouse/${name}.jsonl`);

/** The same with `--persona`: thirty chats, three times, in about five minutes on two cores with a model of 135 M. */
export const PERSONA_FLAGS: typeof FLAGS = {
  ...FLAGS,
  data: { ...FLAGS.data, default: voice("train") },
  valid: { ...FLAGS.valid, default: voice("valid") },
  test: { ...FLAGS.test, default: voice("questions") },
  prompts: { ...FLAGS.prompts, default: 3 },
  steps: { ...FLAGS.steps, default: 40 },
  batch: { ...FLAGS.batch, default: 2, fits: false },
  "base-weights": { ...FLAGS["base-weights"], default: "int8" },
  "pad-to-multiple-of": { ...FLAGS["pad-to-multiple-of"], default: 8 },
  out: { ...FLAGS.out, default: "runs/persona" },
};

/** Most tokens of an answer in another voice. */
export const ANSWER_TOKENS = 48;

/** Their values. */
export type DemoFlags = FlagValues<typeof FLAGS>;
