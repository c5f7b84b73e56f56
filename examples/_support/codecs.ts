/**
 * Codecs by name, or from a module of the user's own.
 *
 * @module
 */

import { builtInCodecs, checkCodec, findCodec, type WireCodec } from "@edgetuner/core";
import { UsageError } from "./flags.ts";
import { moduleAddress } from "./places.ts";

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
 */
export async function codecChoice(flag: string): Promise<CodecChoice> {
  if (builtInCodecs().some((codec) => codec.name === flag)) return { name: flag, module: null };
  const module = moduleAddress(flag);
  return { name: (await codecsOf(module))[0]!.name, module };
}

/**
 * The codec that a module's default export makes; none without a module.
 *
 * @throws {UsageError} If the module does not load or export a factory, or what that makes is no codec.
 */
export async function codecsOf(module: string | null): Promise<WireCodec[]> {
  if (module === null) return [];
  let factory: unknown;
  try {
    factory = (await import(module)).default;
  } catch (cause) {
    throw new UsageError(
      `Cannot use the codec as it must be ${
        builtInCodecs().map((codec) => codec.name).join(", ")
      } or a module that loads: "${module}" does not (${(cause as Error).message})`,
    );
  }
  if (typeof factory !== "function") {
    throw new UsageError(
      `Cannot use the codec as the default export of ${module} must be a function: it is ${typeof factory}`,
    );
  }
  try {
    const codec: unknown = factory();
    checkCodec(codec);
    findCodec(codec.name, [codec]); // its name may be one that a run cannot have, such as a built-in one's
    return [codec];
  } catch (cause) {
    throw new UsageError(`${(cause as Error).message} (the codec is of ${module})`, { cause });
  }
}
