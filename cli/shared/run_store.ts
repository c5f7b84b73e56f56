/**
 * Where an edge server keeps what runs did, for its dashboard.
 *
 * @module
 */

import { dirname } from "node:path";
import { RunStore } from "@edgetuner/transport/server";
import { text } from "../flags/flags.ts";
import { NEWEST } from "../flags/run_flags.ts";

/** The word for no store. */
const NONE = "none";
/** Name of the file where none is named. */
const FILE = "runs.sqlite";

/** The flag that says where. */
export const STORE_FLAG = {
  store: text(
    "FILE",
    "",
    `SQLite file that keeps what runs did, for the dashboard; else ${FILE} in the folder of --state; ${NONE} for none`,
  ),
};

/**
 * Opens the run store.
 *
 * @param flags Where it is, and the folders of states.
 * @param onFault Called once if it can take no more.
 * @returns The store; `null` if there is to be none.
 * @throws {RunStoreError} If the file is no run store, or broken, or of a newer version.
 */
export async function openRunStore(
  { store, state, resume }: { readonly store: string; readonly state: string; readonly resume: string },
  onFault: (sentence: string) => void,
): Promise<RunStore | null> {
  // A run that goes on from a folder that it names keeps its states there.
  const folder = resume === "" || resume === NEWEST ? state : resume;
  if (store === NONE || store === "" && folder === "") return null;
  const path = store === "" ? `${folder}/${FILE}` : store;
  await Deno.mkdir(dirname(path), { recursive: true });
  return RunStore.open(path, { onFault });
}
