/**
 * Devices that the host has let in, kept beside the state of the run: an edge server that was started anew knows them.
 *
 * @module
 */

import * as v from "valibot";
import { writeWhole } from "@edgetuner/core";
import type { Invitations } from "@edgetuner/transport/server";

const FILE = "invited.json";

const REQUESTS = v.array(v.strictObject({
  run: v.string(),
  name: v.string(),
  id: v.string(),
  key: v.string(),
  digest: v.string(),
  state: v.picklist(["waiting", "approved", "refused", "removed"]),
}));

/**
 * Takes in the requests of a run that were kept, and keeps what comes from now on.
 *
 * @param invitations Invites and requests.
 * @param run The run, and the folder of its states.
 */
export async function keepRequests(
  invitations: Invitations,
  { run, stateFolder }: { readonly run: string; readonly stateFolder: string | null },
): Promise<void> {
  if (stateFolder === null) return;
  const path = `${stateFolder}/${FILE}`;
  await invitations.restore((await readRequests(path)).filter((request) => request.run === run));
  // One after the other: the last one stays.
  let writing: Promise<unknown> = Promise.resolve();
  invitations.subscribe(() => {
    // Without it devices need another invite after the edge server was started anew, and nothing else.
    writing = writing.then(() =>
      writeWhole(path, `${JSON.stringify(invitations.kept(run))}\n`, { isSecret: true })
    ).catch(() => {});
  });
}

async function readRequests(path: string): Promise<v.InferOutput<typeof REQUESTS>> {
  try {
    const { success, output } = v.safeParse(REQUESTS, JSON.parse(await Deno.readTextFile(path)));
    return success ? output : [];
  } catch {
    return []; // none, or cut short
  }
}
