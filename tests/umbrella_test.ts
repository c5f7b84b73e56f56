import { assertEquals } from "@std/assert";
import * as core from "@edgetuner/core";
import * as kernels from "@edgetuner/kernels";
import * as plugins from "@edgetuner/plugins";
import * as transport from "@edgetuner/transport";
import * as server from "@edgetuner/transport/server";
import * as umbrella from "../mod.ts";
import * as umbrellaServer from "../server.ts";

Deno.test("the umbrella package exports every value of its members, and nothing else", () => {
  const members = [core, kernels, plugins, transport].flatMap((m) => Object.keys(m));
  assertEquals(Object.keys(umbrella).sort(), members.sort());
  assertEquals(Object.keys(umbrellaServer).sort(), Object.keys(server).sort());
});
