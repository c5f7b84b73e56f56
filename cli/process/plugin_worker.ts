/**
 * The worker that a plugin's module runs in: whatever it does there, the program goes on. See `plugin_host.ts`.
 *
 * @module
 */

import {
  checkCodec,
  checkPruner,
  type CodecStream,
  type Pruner,
  type PrunerContext,
  type PrunerInput,
  type WireCodec,
} from "@edgetuner/core";

/** What a module makes. */
export type PluginKind = "pruner" | "codec";

/** A codec's stream without its state, which stays in the worker. */
export type StreamName = Omit<CodecStream, "state"> & { readonly id: number };

/** What the worker hears. */
export type ToPlugin =
  | {
    readonly type: "load";
    readonly kind: PluginKind;
    readonly module: string;
    readonly options: unknown;
    /** Answers of calls that are waited for without the event loop. */
    readonly port: MessagePort;
    /** Set to 1 once such an answer is there, to 2 if the plugin failed beside its calls. */
    readonly flag: Int32Array<SharedArrayBuffer>;
  }
  | {
    readonly type: "call";
    readonly id: number;
    readonly method: string;
    readonly args: readonly unknown[];
    /** Where the bytes of an answer go that is waited for without the event loop; `null` for other calls. */
    readonly memory: SharedArrayBuffer | null;
  }
  | { readonly type: "forget"; readonly stream: number };

/** An error, as it travels. */
export interface PluginFailure {
  readonly name: string;
  readonly message: string;
}

/** The answer to a call, or to loading, which is call 0. */
export type PluginAnswer =
  & { readonly type: "answer"; readonly id: number }
  & (
    | { readonly value: unknown }
    | { readonly error: PluginFailure }
    /** The value lies in the call's memory. */
    | { readonly array: "Float32Array" | "Uint8Array"; readonly bytes: number }
  );

/** What the worker says. */
export type FromPlugin = PluginAnswer | { readonly type: "failed"; readonly message: string };

/** What loading gives. */
export type Description =
  | Pick<Pruner, "name" | "needs" | "deployable" | "prunedFade">
  | Pick<WireCodec, "name">;

const scope = self as unknown as {
  onmessage: ((event: MessageEvent<ToPlugin>) => void) | null;
  postMessage(message: FromPlugin): void;
  close: () => void;
};

let methods: Readonly<Record<string, (...args: never[]) => unknown>> = {};
let port: MessagePort | null = null;
let flag: Int32Array<SharedArrayBuffer> | null = null;
const streams = new Map<number, CodecStream>();

function raise(value: number): void {
  if (flag === null) return;
  Atomics.store(flag, 0, value);
  Atomics.notify(flag, 0);
}

/** The plugin failed where no call can tell. */
function fail(what: string): void {
  scope.postMessage({ type: "failed", message: what });
  raise(2);
}

function failureOf(cause: unknown): PluginFailure {
  return cause instanceof Error
    ? { name: cause.name, message: cause.message }
    : { name: "Error", message: String(cause) };
}

/** Deno takes 0.3 s for a megabyte that comes over a port and is not waited for by the event loop. */
function inMemory(id: number, value: unknown, memory: SharedArrayBuffer): PluginAnswer | null {
  const isArray = value instanceof Float32Array || value instanceof Uint8Array;
  if (!isArray || value.byteLength > memory.byteLength) return null;
  new Uint8Array(memory).set(new Uint8Array(value.buffer, value.byteOffset, value.byteLength));
  const array = value instanceof Uint8Array ? "Uint8Array" : "Float32Array";
  return { type: "answer", id, array, bytes: value.byteLength };
}

function answer(message: PluginAnswer, { sync }: { readonly sync: boolean }): void {
  const send = (answer: PluginAnswer) => sync ? port!.postMessage(answer) : scope.postMessage(answer);
  try {
    send(message);
  } catch (cause) {
    // Such as a state that holds functions.
    const { message: text } = failureOf(cause);
    send({
      type: "answer",
      id: message.id,
      error: { name: "TypeError", message: `it must return plain data: ${text}` },
    });
  }
  if (sync) raise(1);
}

async function load({ kind, module, options }: Extract<ToPlugin, { type: "load" }>): Promise<Description> {
  let factory: unknown;
  try {
    factory = (await import(module)).default;
  } catch (cause) {
    throw Object.assign(new Error(failureOf(cause).message), { name: "LoadError" });
  }
  if (typeof factory !== "function") {
    throw Object.assign(new Error(typeof factory), { name: "NoFactoryError" });
  }
  const made: unknown = factory(options);
  if (kind === "pruner") {
    checkPruner(made);
    methods = {
      init: (context: PrunerContext) => made.init(context),
      decide: (input: PrunerInput, state: unknown, context: PrunerContext) =>
        made.decide(input, state, context),
    };
    const { name, needs, deployable, prunedFade } = made;
    return {
      name,
      needs: [...needs],
      ...(deployable === undefined ? {} : { deployable }),
      ...(prunedFade === undefined ? {} : { prunedFade }),
    };
  }
  checkCodec(made);
  methods = {
    byteLength: (shape: number[]) => made.byteLength(shape),
    encode: (values: Float32Array, shape: number[], stream: StreamName) =>
      made.encode(values, shape, streamOf(stream)),
    decode: (bytes: Uint8Array, shape: number[], stream: StreamName) =>
      made.decode(bytes, shape, streamOf(stream)),
  };
  return { name: made.name };
}

function streamOf({ id, ...name }: StreamName): CodecStream {
  let stream = streams.get(id);
  if (stream === undefined) streams.set(id, stream = { ...name, state: undefined });
  return stream;
}

addEventListener("unhandledrejection", (event) => {
  event.preventDefault();
  fail(`it threw "${failureOf(event.reason).message}"`);
});
addEventListener("error", (event) => {
  event.preventDefault();
  fail(`it threw "${event.message}"`);
});
const close = scope.close.bind(scope);
scope.close = () => {
  fail("it closed its worker");
  close();
};
Deno.exit = () => {
  fail("it wanted to end the process");
  throw new Error("a plugin must not end the process");
};

scope.onmessage = ({ data }) => {
  if (data.type === "forget") return void streams.delete(data.stream);
  if (data.type === "load") {
    ({ port, flag } = data);
    load(data).then(
      (value) => answer({ type: "answer", id: 0, value }, { sync: false }),
      (cause) => answer({ type: "answer", id: 0, error: failureOf(cause) }, { sync: false }),
    );
    return;
  }
  const { id, method, args, memory } = data;
  const sync = memory !== null;
  const settle = (result: { readonly value: unknown } | { readonly error: PluginFailure }) =>
    answer({ type: "answer", id, ...result }, { sync });
  try {
    const value = methods[method]!(...args as never[]);
    if (sync) return answer(inMemory(id, value, memory) ?? { type: "answer", id, value }, { sync: true });
    if (!(value instanceof Promise)) return settle({ value });
    value.then((value) => settle({ value }), (cause) => settle({ error: failureOf(cause) }));
  } catch (cause) {
    settle({ error: failureOf(cause) });
  }
};
