/**
 * Downloads with a progress bar that can be interrupted and go on.
 *
 * @module
 */

import { defaultCache, environmentVariable, pullDataset, pullModel, type PullOptions } from "@edgetuner/core";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import { type FlagValues, ProgramEnd, text, UsageError } from "../flags/flags.ts";
import { Interrupts } from "../process/interrupts.ts";
import { bytes, ProgressBar } from "../output/progress.ts";
import { INTERRUPTED } from "../process/supervisor.ts";

/** Flags of programs that download. */
export const PULL_FLAGS = {
  revision: text("NAME", "", "branch, tag or commit of the model, as @NAME behind it [main]"),
  cache: text("DIR", defaultCache(), "where downloads go; or EDGETUNER_CACHE"),
  token: { ...COMMON_FLAGS.token, help: "for models that need one; or HF_TOKEN" },
  endpoint: text("URL", "", "another hub of the same kind; or HF_ENDPOINT"),
};

/** Brings models and data sets. */
export interface Puller {
  /** Brings a model; its folder. */
  model(id: string): Promise<string>;
  /** Brings a data set; its folder. */
  dataset(name: string): Promise<string>;
}

/**
 * Runs what downloads. Ctrl-C says how to go on and ends the program.
 *
 * @throws {UsageError} If the revision is named twice.
 */
export async function pulling<T>(
  flags: FlagValues<typeof PULL_FLAGS>,
  run: (puller: Puller) => Promise<T>,
): Promise<T> {
  using interrupts = new Interrupts();
  // One bar over all files of a download; its total comes with the first bytes.
  const bars: ProgressBar[] = [];
  const options = (): PullOptions => {
    let bar: ProgressBar | null = null;
    return {
      cache: flags.cache,
      token: flags.token || environmentVariable("HF_TOKEN"),
      endpoint: flags.endpoint || undefined,
      signal: interrupts.signal,
      onWait: () => console.error("Another program is pulling the same; waiting for it."),
      onProgress(done, total, file) {
        if (bar === null) bars.push(bar = new ProgressBar(total ?? 0));
        if (total !== null) bar.draw(done, `${bytes(done)} of ${bytes(total)}  ${file}`);
      },
    };
  };
  const endBar = () => bars.at(-1)?.end();
  const drawn = async (folder: Promise<string>) => {
    const path = await folder;
    endBar();
    return path;
  };
  try {
    return await run({
      model(id) {
        if (flags.revision !== "" && id.includes("@")) {
          throw new UsageError(
            `Cannot pull as the revision must be named once: current values are "${id}" and --revision ${flags.revision}`,
          );
        }
        return drawn(pullModel(flags.revision === "" ? id : `${id}@${flags.revision}`, options()));
      },
      dataset: (name) => drawn(pullDataset(name, options())),
    });
  } catch (error) {
    endBar();
    if (!interrupts.asked) throw error;
    console.error("Interrupted; the same command goes on where it stopped.");
    throw new ProgramEnd(INTERRUPTED);
  }
}
