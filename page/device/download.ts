/**
 * What a browser keeps of a run, as files to take away.
 *
 * @module
 */

import { type ByteStore, readAdapter, withZeroHeads } from "@edgetuner/core/device";
import { type ModelFamily, peftFiles, toPeft } from "@edgetuner/core/device_more";
import type { RunAbout } from "@edgetuner/transport";
import { zipSync } from "fflate";

/**
 * Packs what is kept.
 *
 * @param learnt Where it is kept.
 * @param form `heads` for the files that `edgetuner export` joins with those of the other devices; `peft` for an
 * adapter that works by itself: heads of other devices change nothing in it.
 * @param base What the model is; `null` if it is not known.
 */
export async function downloadOf(
  learnt: ByteStore,
  form: "peft" | "heads",
  base: RunAbout["base"],
): Promise<{ readonly name: string; readonly bytes: Uint8Array<ArrayBuffer> }> {
  const [weights, config] = await Promise.all([learnt.read("heads.safetensors"), learnt.read("heads.json")]);
  if (weights === null || config === null) throw new Error("This browser keeps no heads.");
  if (form === "heads") {
    const files = { "adapter_model.safetensors": weights, "adapter_config.json": config };
    return { name: "edgetuner-heads.zip", bytes: zip(files) };
  }
  const adapter = withZeroHeads(await readAdapter(weights));
  if (base === null) throw new Error("This browser does not know what model the heads are for.");
  const peft = toPeft(adapter, base.family as ModelFamily, base.kvHeads);
  return { name: "edgetuner-peft.zip", bytes: zip(Object.fromEntries(await peftFiles(peft))) };
}

/** Weights are no smaller when they are packed. */
function zip(files: Readonly<Record<string, Uint8Array>>): Uint8Array<ArrayBuffer> {
  // The same files give the same bytes.
  return zipSync(files, { level: 0, mtime: new Date("2026-01-01T00:00:00") }) as Uint8Array<ArrayBuffer>;
}
