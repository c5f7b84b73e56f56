/**
 * Lists the edge servers that announce themselves in this network.
 *
 * @module
 */

import { joinAddresses } from "../discovery/announcement.ts";
import { findServers, MAX_FOUND } from "../discovery/find.ts";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import { DISCOVER_FLAGS, interfaceAddress } from "../flags/discovery_flags.ts";
import { readFlags } from "../flags/flags.ts";
import type { Call } from "../process/invocation.ts";
import { inCallForm } from "../process/places.ts";

const FLAGS = {
  ...DISCOVER_FLAGS,
  json: { ...COMMON_FLAGS.json, help: "print JSON in place of the list" },
};

const PROGRAM = {
  name: "discover",
  about: "Lists the edge servers that announce themselves in this network (edgetuner serve --announce).",
  examples: ["edgetuner discover", "edgetuner discover --wait 10 --json"],
};

/** Runs the command; 1 if nobody was found. */
export async function run(call: Call): Promise<number> {
  const flags = readFlags(PROGRAM, FLAGS, call);
  const address = interfaceAddress("--interface", flags.interface);
  const found = await findServers({ waitMs: flags.wait * 1000, address });
  if (flags.json) {
    const servers = found.map((server) => ({
      run: server.run,
      addresses: joinAddresses(server),
      fingerprint: server.fingerprint,
    }));
    console.log(JSON.stringify(servers, null, 1));
  } else {
    for (const server of found) {
      console.log(`Run ${server.run}`);
      for (const at of joinAddresses(server)) console.log(`  ${at}`);
      if (server.fingerprint !== "") console.log(`  fingerprint ${server.fingerprint}`);
    }
    if (found.length === MAX_FOUND) console.log(`These are the first ${MAX_FOUND}: others may be there.`);
  }
  if (found.length > 0) return 0;
  console.error(
    inCallForm(
      `No edge server announced itself within ${flags.wait} s. It must run with --announce (edgetuner serve --host 0.0.0.0 --announce) in the same network; elsewhere use the address that it prints: edgetuner join --server ADDRESS`,
      call.form,
    ),
  );
  return 1;
}
