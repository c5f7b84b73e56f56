/**
 * The worker that packs what the browser keeps of a run, as a file to take away.
 *
 * @module
 */

import { opfsStore } from "../shared/stores.ts";
import { downloadOf } from "./download.ts";
import type { FromWorker } from "./messages.ts";
import { keptHeads } from "./slot.ts";

/** What is asked for. */
interface Wanted {
  /** Name of the store. */
  readonly store: string;
  readonly form: "peft" | "heads";
}

addEventListener("message", async ({ data: { store, form } }: MessageEvent<Wanted>) => {
  const say = (message: FromWorker) => postMessage(message);
  try {
    const learnt = await opfsStore(store);
    const base = (await keptHeads(learnt))?.base ?? null;
    say({ type: "file", ...await downloadOf(learnt, form, base) });
  } catch (error) {
    say({ type: "failed", what: (error as Error).message });
  }
});
