/**
 * The data device of a run that only generates: the layers are at the edge server, the heads on other devices.
 *
 * @module
 */

import {
  loadEmbeddingAndHead,
  runUserDevice,
  type Tokenizer,
  type TokenSession,
  warmUp,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import { codecsFor } from "../flags/codecs.ts";
import { INTERRUPTED } from "../process/supervisor.ts";
import { pluginLimit } from "../process/plugin_host.ts";
import { CONNECTION_FLAGS, openLink } from "../flags/connection.ts";
import type { FlagValues } from "../flags/flags.ts";
import { MODEL_FLAG, TOKENIZER_FLAG } from "../flags/model_flags.ts";
import { loadGpu } from "../flags/webgpu.ts";
import { runWaits } from "../flags/waiting_flags.ts";
import { baseWeightsOf, WEIGHTS_FLAG } from "../flags/weights_flag.ts";
import { openTold } from "./opened_model.ts";

/** Flags of programs that can work through the split. */
export const SPLIT_FLAGS = {
  model: MODEL_FLAG,
  ...WEIGHTS_FLAG,
  tokenizer: TOKENIZER_FLAG,
  webgpu: COMMON_FLAGS.webgpu,
  ...CONNECTION_FLAGS,
  codec: { ...COMMON_FLAGS.codec, help: "--connect: module of a codec that the run may use" },
};

/** The model of a run, as the device that generates has it. */
export interface SplitModel {
  /** Reads and makes tokens. */
  readonly tokenizer: Tokenizer;
  /** Tokens that the model can be given. */
  readonly positions: number;
  /** V: tokens that it can be given are below. */
  readonly vocabulary: number;
  /** Fingerprint of the model. */
  readonly fingerprint: string;
}

/**
 * Joins the run at `--connect` and works with the model that its parties make up.
 *
 * @param name What the device is called, with something random behind it.
 * @param prepare Called before joining, with what this device has of the model, so that nobody waits for work that can
 * be done alone.
 * @param use Called with what `prepare` returned once all are there; the signal says when the run is over.
 * @returns What was prepared, all bytes on the wire, and why the edge server ended the run, empty if it did not.
 * @throws What ended the run.
 */
export async function throughSplit<T>(
  flags: FlagValues<typeof SPLIT_FLAGS> & { readonly connect: string },
  name: string,
  prepare: (model: SplitModel) => T,
  use: (session: TokenSession, prepared: T, ended: AbortSignal) => Promise<void>,
): Promise<{ readonly prepared: T; readonly bytes: number; readonly reason: string }> {
  const link = await openLink(`${name}.ts`, flags, flags.connect, "--connect");
  const { model, tokenizer } = await openTold(flags.model, flags);
  using engine = await Engine.create({ gpu: await loadGpu(flags.webgpu) });
  const baseWeights = baseWeightsOf(flags);
  using ends = loadEmbeddingAndHead(engine, model, { baseWeights });
  const { positions, vocabulary } = ends.shape;
  const prepared = prepare({ tokenizer, positions, vocabulary, fingerprint: model.fingerprint });
  const codecs = await codecsFor(flags.codec, pluginLimit(runWaits(flags).timeoutMs));
  await warmUp(engine, { ends });
  const { error, reason, ledger } = await runUserDevice({
    engine,
    channel: await link.connect((line) => console.error(line)),
    name: `${name}-${crypto.randomUUID().slice(0, 4)}`,
    capacity: 0,
    task: "generate",
    ...runWaits(flags),
    codecs,
    data: {
      ends,
      loss: { labelSmoothing: 0 },
      fingerprint: model.fingerprint,
      next: () => null,
      onAway: (heads) => console.error(awayText(heads)),
      generate: (session, ended) => use(session, prepared, ended),
    },
  });
  if (error !== null) throw error;
  return { prepared, bytes: ledger.totalBytes, reason };
}

/** Whose heads are missing in what is generated. */
function awayText(heads: readonly number[]): string {
  if (heads.length === 0) return "All heads are there again";
  const one = heads.length === 1;
  return `${one ? "Head" : "Heads"} ${heads.join(", ")} ${
    one ? "is" : "are"
  } away: what follows is generated without ${one ? "it" : "them"}`;
}

/**
 * Says that the edge server has ended the run, if that is what it did.
 *
 * @param code What the program ends with otherwise.
 * @returns The exit code.
 */
export function tellOver(reason: string, code: number): number {
  if (reason === "") return code;
  console.error(`The edge server has ended the run: ${reason}`);
  return INTERRUPTED;
}
