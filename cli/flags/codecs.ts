/**
 * Codecs by name, or from a module of the user's own.
 *
 * @module
 */

import { builtInCodecs, findCodec, PluginError, type WireCodec } from "@edgetuner/core";
import { UsageError } from "./flags.ts";
import { moduleOf } from "./modules.ts";
import { isolatedCodec, type PluginHost } from "../process/plugin_host.ts";

/** Which codec; plain data, so that it can go to a worker. */
export interface CodecChoice {
  /** Its name, for the run settings. */
  readonly name: string;
  /** URL of the module that makes it; `null` for built-in ones. */
  readonly module: string | null;
}

/**
 * A codec flag as a choice: the name of a built-in codec, or a path or URL of a module.
 *
 * @throws {UsageError} If it is neither.
 * @throws {PluginError} If the module does not finish loading.
 */
export async function codecChoice(flag: string): Promise<CodecChoice> {
  const names = codecNames();
  if (names.includes(flag)) return { name: flag, module: null };
  const module = moduleOf("codec", flag, names);
  const [codec, host] = await loadCodec(module);
  host[Symbol.dispose]();
  return { name: codec.name, module };
}

/**
 * The codec that a module's default export makes, in a worker of its own; none without a module.
 *
 * @param limitMs Longest time for a call of the codec, in milliseconds; a call that takes longer is a `PluginError`.
 * @throws {UsageError} If the module does not load or export a factory, or what that makes is no codec.
 * @throws {PluginError} If the module does not finish loading.
 */
export async function codecsOf(module: string | null, limitMs?: number): Promise<WireCodec[]> {
  return module === null ? [] : [(await loadCodec(module, limitMs))[0]];
}

/**
 * What a codec flag adds to the built-in codecs: nothing, or the codec of a module, in a worker of its own.
 *
 * @param limitMs Longest time for a call of the codec, in milliseconds.
 * @throws {UsageError} If it is neither a built-in codec nor a module of one.
 * @throws {PluginError} If the module does not finish loading.
 */
export async function codecsFor(flag: string, limitMs: number): Promise<WireCodec[]> {
  const names = codecNames();
  return names.includes(flag) ? [] : await codecsOf(moduleOf("codec", flag, names), limitMs);
}

function codecNames(): string[] {
  return builtInCodecs().map(({ name }) => name);
}

async function loadCodec(module: string, limitMs?: number): Promise<readonly [WireCodec, PluginHost]> {
  try {
    const others = codecNames().join(", ");
    const [codec, host] = await isolatedCodec({ module, others, limitMs });
    try {
      findCodec(codec.name, [codec]); // its name may be one that a run cannot have, such as a built-in one's
    } catch (cause) {
      host[Symbol.dispose]();
      throw cause;
    }
    return [codec, host];
  } catch (cause) {
    if (cause instanceof UsageError || cause instanceof PluginError) throw cause;
    throw new UsageError(`${(cause as Error).message} (the codec is of ${module})`, { cause });
  }
}
