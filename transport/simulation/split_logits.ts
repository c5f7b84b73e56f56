/**
 * Logits of a model whose head modules are divided over devices, by a whole run inside this process.
 *
 * V vocabulary.
 *
 * @module
 */

import {
  type Adapter,
  type BaseLayers,
  type DataSide,
  type DecodingSession,
  DEFAULT_OPTIMIZER,
  EdgeServer,
  type EdgeServerOptions,
  type EmbeddingAndHead,
  runUserDevice,
  type UserDeviceOptions,
} from "@edgetuner/core";
import type { Pruner } from "@edgetuner/core/contracts";
import { inProcessTransport } from "../in_process.ts";

/** What runs in {@linkcode splitLogits}. */
export interface SplitLogitsOptions {
  /** The engine of the base model and of all devices. */
  readonly engine: EdgeServerOptions["engine"];
  /** The base model's layers: the edge server's. */
  readonly layers: BaseLayers;
  /** Its embedding, final norm and LM head: the data device's. */
  readonly ends: EmbeddingAndHead;
  /** Head modules of every head. */
  readonly adapter: Adapter;
  /** Frozen projections, where the head modules ask for such from the base model: see `baseProjections`. */
  readonly projections?: EdgeServerOptions["projections"];
  /** Devices that the heads are divided over; at most as many as there are heads. @default {2} */
  readonly devices?: number;
  /** Tokens of each text, at least one. */
  readonly samples: readonly (readonly number[])[];
  /** Longest wait of a party for another, in milliseconds. @default {120000} */
  readonly timeoutMs?: number;
  /** Called as each text has gone through the model. */
  readonly onText?: () => void;
}

/** Keeps every head; nothing is trained. */
const KEEP_ALL: Pruner = {
  name: "none",
  needs: [],
  init: () => null,
  decide: (_input, state, { layers, heads }) => [{ mask: new Uint8Array(layers * heads) }, state],
};

/**
 * Runs texts through a split model: an edge server with the layers, devices with some heads each, and a data
 * device that asks for the logits after every token. All frames are those of a run over a network.
 *
 * @param options Model, head modules, texts.
 * @returns Logits of each text, [its tokens, V].
 * @throws {ModelFileError} If the adapter lacks a head or does not fit the model.
 * @throws {RangeError} If a text is empty or does not fit the model, or devices is not a positive integer.
 *
 * @example
 * ```ts ignore
 * const logits = await splitLogits({ engine, layers, ends, adapter, devices: 3, samples: [[5, 8, 1]] });
 * ```
 */
export async function splitLogits(options: SplitLogitsOptions): Promise<Float32Array[]> {
  const { engine, layers, ends, adapter, devices = 2, samples, timeoutMs = 120_000 } = options;
  const { heads } = layers.shape;
  if (!Number.isInteger(devices) || devices < 1) {
    throw new RangeError(
      `Cannot split the model as devices must be a positive integer: current value is ${devices}`,
    );
  }
  const count = Math.min(devices, heads);
  const server = new EdgeServer({
    ...{ engine, base: layers, pruner: KEEP_ALL, devices: count, projections: options.projections },
    fingerprint: adapter.fingerprint,
    settings: { lora: adapter.lora, optimizer: DEFAULT_OPTIMIZER, steps: 1, seed: 0, task: "generate" },
    timeoutMs,
    joinTimeoutMs: timeoutMs,
  });
  const { transport, listener } = inProcessTransport();
  await using _listener = listener;
  const logits: Float32Array[] = [];
  const failed: unknown[] = [];
  const join = async (name: string, role: Partial<UserDeviceOptions>): Promise<void> => {
    try {
      const channel = await transport.connect();
      void server.join((await listener.accept())!);
      const { modules, error } = await runUserDevice({
        ...{ engine, channel, name, capacity: 1, timeoutMs, joinTimeoutMs: timeoutMs, task: "generate" },
        ...role,
      });
      modules?.[Symbol.dispose]();
      if (error !== null) throw error;
    } catch (error) {
      failed.push(error);
      server.stop("a party has failed"); // nobody will come in its place
    }
  };
  const running = server.start().catch((error: unknown) => void failed.push(error));
  const parts = Array.from({ length: count }, (_, i) => {
    const [first, end] = [Math.floor(i * heads / count), Math.floor((i + 1) * heads / count)];
    return join(`device ${i}`, { adapter: someHeads(adapter, first, end) });
  });
  const data: DataSide = {
    ends,
    loss: { labelSmoothing: 0 },
    fingerprint: adapter.fingerprint,
    next: () => null,
    async generate(session) {
      for (const sample of samples) {
        logits.push(await readThrough(session, sample));
        options.onText?.();
      }
    },
  };
  await Promise.all([...parts, join("data device", { capacity: 0, data }), running]);
  if (failed.length > 0) throw failed[0]; // what comes after the first one follows from it
  return logits;
}

/** Logits after every token of a text, one pass each. */
async function readThrough(session: DecodingSession, tokens: readonly number[]): Promise<Float32Array> {
  const { vocabulary } = session;
  const all = new Float32Array(tokens.length * vocabulary);
  all.set(await session.start(tokens.slice(0, 1)));
  for (let i = 1; i < tokens.length; i++) all.set(await session.append([tokens[i]!], [0]), i * vocabulary);
  return all;
}

/** Heads from `first` to before `end` of an adapter, as a device saves them. */
function someHeads(adapter: Adapter, first: number, end: number): Adapter {
  const arrays = [...adapter.arrays].filter(([name]) => {
    const head = Number(/\.head(\d+)\./.exec(name)?.[1]);
    return head >= first && head < end;
  });
  return { ...adapter, arrays: new Map(arrays) };
}
