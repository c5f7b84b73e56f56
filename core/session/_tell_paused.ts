/**
 * Telling devices that nothing is asked of them for now.
 *
 * @module
 */

import type { RunMember } from "./run_member.ts";

/**
 * Tells devices that nothing is asked of them, so that they wait on.
 *
 * @param members The devices.
 * @param telling Those that have not taken the last word of it yet, kept from call to call: they get no more.
 */
export function tellPaused(members: readonly RunMember[], telling: Map<RunMember, Promise<void>>): void {
  for (const member of members) {
    if (telling.has(member)) continue;
    const told = member.peer.send("paused").catch(() => {}).finally(() => telling.delete(member));
    telling.set(member, told);
  }
}
