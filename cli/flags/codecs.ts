/**
 * Codecs by name, or from modules of the user's own: one for all tensors of a run, or one for each.
 *
 * @module
 */

import {
  builtInCodecs,
  type CodecNames,
  codecNames,
  codecsText,
  CODED_TENSORS,
  type CodedTensor,
  findCodec,
  HandshakeError,
  PluginError,
  type WireCodec,
} from "@edgetuner/core";
import { UsageError } from "./flags.ts";
import { moduleOf } from "./modules.ts";
import { didYouMean } from "./suggest.ts";
import { isolatedCodec, type PluginHost } from "../process/plugin_host.ts";

/** Which codecs; plain data, so that it can go to a worker. */
export interface CodecChoice {
  /** Their names, for the run settings: `int8`, or `f16,delta=int4`. */
  readonly name: string;
  /** URLs of the modules that make those that are not built in. */
  readonly modules: readonly string[];
}

/**
 * A codec flag as a choice: the name of a built-in codec, or a path or URL of a module; or several for single tensors,
 * as in `e=f16,x=int8,delta=my_codec.ts`.
 *
 * @throws {UsageError} If it is neither.
 * @throws {PluginError} If a module does not finish loading.
 */
export async function codecChoice(flag: string): Promise<CodecChoice> {
  const modules: string[] = [];
  const nameOf = async (given: string): Promise<string> => {
    if (builtIn().includes(given)) return given;
    const module = moduleOf("codec", given, builtIn());
    const [codec, host] = await loadCodec(module);
    host[Symbol.dispose]();
    if (!modules.includes(module)) modules.push(module);
    return codec.name;
  };
  const given = namesOf(flag);
  const of = new Map<CodedTensor, string>();
  const rest = await nameOf(given.rest);
  for (const [tensor, name] of given.of) of.set(tensor, await nameOf(name));
  return { name: codecsText({ rest, of }), modules };
}

/**
 * The codecs that the default exports of modules make, each in a worker of its own.
 *
 * @param limitMs Longest time for a call of a codec, in milliseconds; a call that takes longer is a `PluginError`.
 * @throws {UsageError} If a module does not load or export a factory, or what that makes is no codec.
 * @throws {PluginError} If a module does not finish loading.
 */
export async function codecsOf(modules: readonly string[], limitMs?: number): Promise<WireCodec[]> {
  const codecs: WireCodec[] = [];
  for (const module of modules) codecs.push((await loadCodec(module, limitMs))[0]);
  return codecs;
}

/**
 * What a codec flag adds to the built-in codecs: nothing, or the codecs of its modules, each in a worker of its own.
 *
 * @param limitMs Longest time for a call of a codec, in milliseconds.
 * @throws {UsageError} If it names what is neither a built-in codec nor a module of one.
 * @throws {PluginError} If a module does not finish loading.
 */
export async function codecsFor(flag: string, limitMs: number): Promise<WireCodec[]> {
  return await codecsOf(
    codecFiles(flag).map((given) => moduleOf("codec", given, builtIn())),
    limitMs,
  );
}

/** What a codec flag names that is not built in, as it was given: paths and addresses of modules. */
export function codecFiles(flag: string): string[] {
  const { rest, of } = namesOf(flag);
  return [...new Set([rest, ...of.values()])].filter((given) => !builtIn().includes(given));
}

/** What a flag names, with what may have been meant. */
function namesOf(flag: string): CodecNames {
  // A path may have commas and equals signs.
  if (isFile(flag)) return { rest: flag, of: new Map() };
  try {
    return codecNames(flag);
  } catch (cause) {
    if (!(cause instanceof HandshakeError)) throw cause;
    const strange = flag.split(",").map((part) => part.split("=")).find(([tensor, name]) =>
      name !== undefined && !CODED_TENSORS.includes(tensor as CodedTensor)
    )?.[0];
    const meant = strange === undefined ? "" : didYouMean(strange, CODED_TENSORS);
    throw new UsageError(`${cause.message}${meant} (--codec)`, { cause });
  }
}

function isFile(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}

function builtIn(): string[] {
  return builtInCodecs().map(({ name }) => name);
}

async function loadCodec(module: string, limitMs?: number): Promise<readonly [WireCodec, PluginHost]> {
  try {
    const others = builtIn().join(", ");
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
