/**
 * Pruners and codecs from modules of the user's own, each in a worker. One that never returns, that ends its worker,
 * or whose module never finishes loading is a `PluginError` within a limit, and the program goes on: it tells all
 * devices, and saves what was learnt. Deno's `terminate()` does not stop a worker that loops without an end, so such
 * a plugin takes a processor until the process ends, which is soon after.
 *
 * @module
 */

import { receiveMessageOnPort } from "node:worker_threads";
import {
  type CodecStream,
  PluginError,
  ProtocolError,
  type Pruner,
  type PrunerState,
  type WireCodec,
} from "@edgetuner/core";
import { UsageError } from "../flags/flags.ts";
import { isInterrupted } from "./interrupts.ts";
import type {
  Description,
  FromPlugin,
  PluginAnswer,
  PluginFailure,
  PluginKind,
  StreamName,
  ToPlugin,
} from "./plugin_worker.ts";

/** Longest time for a call of a plugin where nothing else is said, in milliseconds. */
export const PLUGIN_LIMIT_MS = 120_000;
/** Longest time for loading a module, in milliseconds: it may have much to bring. */
const LOAD_LIMIT_MS = 30_000;
/** Longest name of a plugin in messages, in characters. */
const MAX_NAME = 200;
/** How often a wait without the event loop looks whether the user wants to end, in milliseconds. */
const LOOK_MS = 100;

/**
 * Longest time for a call of a plugin in a run, in milliseconds: less than the parties wait for each other, so that
 * they hear what was wrong.
 */
export function pluginLimit(stepLimitMs: number): number {
  return Math.ceil(0.75 * stepLimitMs);
}

/** Which plugin, and how long a call of it may take. */
export interface PluginOptions {
  /** What the module makes. */
  readonly kind: PluginKind;
  /** Address of the module; its default export is the factory. */
  readonly module: string;
  /** Argument of the factory. */
  readonly options?: unknown;
  /** What else the flag may be, for the message to who gave it. */
  readonly others: string;
  /** Longest time for a call, in milliseconds. @default {120000} */
  readonly limitMs?: number | undefined;
  /** Longest time for loading the module and making the plugin, in milliseconds. @default {30000} */
  readonly loadLimitMs?: number | undefined;
}

/** An error of a plugin's own, of a class that others know. */
function errorOf({ name, message }: PluginFailure): Error {
  if (name === "RangeError") return new RangeError(message);
  if (name === "ProtocolError") return new ProtocolError(message);
  if (name === "PluginError") return new PluginError(message);
  return Object.assign(new Error(message), { name });
}

/** A plugin in its worker. */
export class PluginHost implements Disposable {
  readonly #options: PluginOptions;
  readonly #worker: Worker;
  readonly #port: MessagePort;
  readonly #flag = new Int32Array(new SharedArrayBuffer(4));
  readonly #waiting = new Map<number, PromiseWithResolvers<unknown>>();
  readonly #limitMs: number;
  #name: string;
  #calls = 0;
  /** Where answers lie. */
  #memory = new SharedArrayBuffer(0);
  /** Why no more calls can be made. */
  #failure: PluginError | null = null;

  private constructor(options: PluginOptions) {
    this.#options = options;
    this.#limitMs = options.limitMs ?? PLUGIN_LIMIT_MS;
    this.#name = options.module.slice(0, MAX_NAME);
    const { port1, port2 } = new MessageChannel();
    this.#port = port1;
    this.#worker = new Worker(import.meta.resolve("./plugin_worker.ts"), { type: "module" });
    this.#worker.onmessage = ({ data }: MessageEvent<FromPlugin>) => this.#hear(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#end(`keep its worker running: ${event.message}`);
    };
    const { kind, module, options: given } = options;
    this.#worker.postMessage(
      { type: "load", kind, module, options: given, port: port2, flag: this.#flag } satisfies ToPlugin,
      [port2],
    );
  }

  /**
   * Loads a plugin.
   *
   * @returns The plugin, and what it says of itself.
   * @throws {UsageError} If the module does not load, exports no factory, or what that makes is no such plugin.
   * @throws {PluginError} If it takes too long.
   */
  static async load<D extends Description>(options: PluginOptions): Promise<[PluginHost, D]> {
    const host = new PluginHost(options);
    const { kind, module, others } = options;
    try {
      const description = await host.#answer(0, "load", options.loadLimitMs ?? LOAD_LIMIT_MS) as D;
      host.#name = description.name.slice(0, MAX_NAME);
      return [host, description];
    } catch (cause) {
      host[Symbol.dispose]();
      const { name, message } = cause as Error;
      if (name === "LoadError") {
        throw new UsageError(
          `Cannot use the ${kind} as it must be ${others} or a module that loads: "${module}" does not (${message})`,
        );
      }
      if (name === "NoFactoryError") {
        throw new UsageError(
          `Cannot use the ${kind} as the default export of ${module} must be a function: it is ${message}`,
        );
      }
      throw cause;
    }
  }

  /**
   * Calls a method and waits without holding up the event loop.
   *
   * @throws {PluginError} If it takes too long or the plugin failed.
   */
  call(method: string, args: readonly unknown[]): Promise<unknown> {
    if (this.#failure !== null) return Promise.reject(this.#failure);
    const id = ++this.#calls;
    const answer = this.#answer(id, method, this.#limitMs);
    this.#worker.postMessage({ type: "call", id, method, args, memory: null } satisfies ToPlugin);
    return answer;
  }

  /**
   * Calls a method and holds the thread up until it has answered: for what must be an ordinary function.
   *
   * @param options Memory of the arguments that is moved, and the bytes of an array that is expected back.
   * @throws {PluginError} If it takes too long, the plugin failed, or the user wants to end the program.
   */
  callSync(
    method: string,
    args: readonly unknown[],
    { move = [], bytes = 0 }: { readonly move?: Transferable[]; readonly bytes?: number } = {},
  ): unknown {
    if (this.#failure !== null) throw this.#failure;
    const id = ++this.#calls;
    Atomics.store(this.#flag, 0, 0);
    if (this.#memory.byteLength < bytes) this.#memory = new SharedArrayBuffer(2 * bytes);
    const memory = this.#memory;
    this.#worker.postMessage({ type: "call", id, method, args, memory } satisfies ToPlugin, move);
    const until = performance.now() + this.#limitMs;
    while (Atomics.load(this.#flag, 0) === 0) {
      const left = until - performance.now();
      if (left <= 0) throw this.#end(this.#late(method, this.#limitMs));
      if (isInterrupted()) throw this.#end(`${method} before the program was interrupted: it has not`);
      Atomics.wait(this.#flag, 0, 0, Math.min(left, LOOK_MS));
    }
    const received = receiveMessageOnPort(this.#port as never) as { message: PluginAnswer } | undefined;
    if (received === undefined) throw this.#end(`${method} without failing beside it: it did not`);
    const { message } = received;
    if ("error" in message) throw errorOf(message.error);
    if ("value" in message) return message.value;
    const { buffer } = new Uint8Array(memory, 0, message.bytes).slice();
    return message.array === "Uint8Array" ? new Uint8Array(buffer) : new Float32Array(buffer);
  }

  /** A stream of a codec has gone: its state can go too. */
  forget(stream: number): void {
    if (this.#failure === null) this.#worker.postMessage({ type: "forget", stream } satisfies ToPlugin);
  }

  /** Ends the worker. */
  [Symbol.dispose](): void {
    if (this.#failure === null) this.#end("be in use: it is not any more");
  }

  #late(method: string, ms: number): string {
    return `${method} within ${ms} ms: it took longer`;
  }

  async #answer(id: number, method: string, ms: number): Promise<unknown> {
    const waiting = Promise.withResolvers<unknown>();
    this.#waiting.set(id, waiting);
    const timer = setTimeout(() => this.#end(this.#late(method, ms)), ms);
    try {
      return await waiting.promise;
    } finally {
      clearTimeout(timer);
      this.#waiting.delete(id);
    }
  }

  #hear(data: FromPlugin): void {
    if (data.type === "failed") this.#end(`do nothing but answer its calls: ${data.message}`);
    else if ("error" in data) this.#waiting.get(data.id)?.reject(errorOf(data.error));
    else if ("value" in data) this.#waiting.get(data.id)?.resolve(data.value);
  }

  #end(rule: string): PluginError {
    this.#failure ??= new PluginError(`Cannot go on as ${this.#options.kind} "${this.#name}" must ${rule}`);
    this.#worker.terminate();
    this.#port.close();
    for (const { reject } of this.#waiting.values()) reject(this.#failure);
    return this.#failure;
  }
}

/**
 * A pruner in a worker of its own, which ends with the process if it is not disposed.
 *
 * @throws {UsageError} If the module does not load or export a factory.
 * @throws {PluginError} If what it makes is no pruner, or it takes too long.
 */
export async function isolatedPruner(options: Omit<PluginOptions, "kind">): Promise<Pruner & Disposable> {
  const [host, description] = await PluginHost.load<
    Pick<Pruner, "name" | "needs" | "deployable" | "prunedFade">
  >(
    { ...options, kind: "pruner" },
  );
  return {
    ...description,
    init: (context) => host.callSync("init", [context]),
    decide: (input, state, context) =>
      host.call("decide", [input, state, context]) as ReturnType<Pruner<PrunerState>["decide"]>,
    [Symbol.dispose]: () => host[Symbol.dispose](),
  };
}

/**
 * A codec in a worker of its own. What travels is copied there and back.
 *
 * @returns The codec, and the worker, which ends with the process if it is not disposed.
 * @throws {UsageError} If the module does not load or export a factory.
 * @throws {PluginError} If it takes too long.
 * @throws {TypeError} If what it makes is no codec.
 */
export async function isolatedCodec(
  options: Omit<PluginOptions, "kind">,
): Promise<readonly [WireCodec, PluginHost]> {
  const [host, { name }] = await PluginHost.load<Pick<WireCodec, "name">>({ ...options, kind: "codec" });
  const lengths = new Map<string, number>();
  const ids = new WeakMap<CodecStream, number>();
  const gone = new FinalizationRegistry((id: number) => host.forget(id));
  let streams = 0;
  const nameOf = (stream: CodecStream): StreamName => {
    let id = ids.get(stream);
    if (id === undefined) {
      ids.set(stream, id = ++streams);
      gone.register(stream, id);
    }
    const { direction, kind, layer, microBatch, tensor } = stream;
    return { id, direction, kind, layer, microBatch, tensor };
  };
  const codec: WireCodec = {
    name,
    byteLength(shape) {
      const key = shape.join();
      let length = lengths.get(key);
      if (length === undefined) {
        length = host.callSync("byteLength", [[...shape]]) as number;
        if (lengths.size >= 1000) lengths.clear();
        lengths.set(key, length);
      }
      return length;
    },
    encode(values, shape, stream) {
      const copy = values.slice();
      const bytes = codec.byteLength(shape);
      const move = [copy.buffer];
      return host.callSync("encode", [copy, [...shape], nameOf(stream)], { move, bytes }) as Uint8Array;
    },
    decode(bytes, shape, stream) {
      const copy = bytes.slice();
      const move = [copy.buffer];
      const options = { move, bytes: 4 * shape.reduce((a, b) => a * b, 1) };
      return host.callSync("decode", [copy, [...shape], nameOf(stream)], options) as Float32Array;
    },
  };
  return [codec, host];
}
