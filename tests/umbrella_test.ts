import { assert, assertEquals } from "@std/assert";
import * as core from "@edgetuner/core";
import * as contracts from "@edgetuner/core/contracts";
import * as evaluation from "@edgetuner/core/evaluation";
import * as kernels from "@edgetuner/kernels";
import * as plugins from "@edgetuner/plugins";
import * as transport from "@edgetuner/transport";
import * as control from "@edgetuner/transport/control";
import * as nats from "@edgetuner/transport/nats";
import * as server from "@edgetuner/transport/server";
import { findUndocumented } from "../.ci/umbrella.ts";
import * as umbrellaContracts from "../contracts.ts";
import * as umbrellaControl from "../control.ts";
import * as umbrellaCore from "../core.ts";
import * as umbrellaEvaluation from "../evaluation.ts";
import * as umbrellaKernels from "../kernels.ts";
import * as umbrella from "../mod.ts";
import * as umbrellaNats from "../nats.ts";
import * as umbrellaPlugins from "../plugins.ts";
import * as umbrellaServer from "../server.ts";
import * as umbrellaTransport from "../transport.ts";

Deno.test("each entry point of the umbrella package has all values of its member", () => {
  for (
    const [own, member] of [
      [umbrellaContracts, contracts],
      [umbrellaControl, control],
      [umbrellaCore, core],
      [umbrellaEvaluation, evaluation],
      [umbrellaKernels, kernels],
      [umbrellaPlugins, plugins],
      [umbrellaNats, nats],
      [umbrellaServer, server],
      [umbrellaTransport, transport],
    ] as const
  ) {
    assertEquals(Object.keys(own).sort(), Object.keys(member).sort());
  }
});

Deno.test("mod.ts has about 80 names, which are those of its members", () => {
  const values = new Map<string, unknown>(
    [core, kernels, plugins, transport].flatMap((m) => Object.entries(m)),
  );
  for (const [name, value] of Object.entries(umbrella)) assertEquals(value, values.get(name), name);
  assert(Object.keys(umbrella).length > 50);
});

Deno.test("the check of mod.ts finds names without a description or an example, and names that are not there", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const entry = `${folder}/mod.ts`;
    await Deno.writeTextFile(
      entry,
      "/**\n * One.\n *\n * @category A\n */\nexport const one = 1;\n\nexport const two = 2;\n" +
        "/**\n * Three.\n *\n * @example\n * ```ts\n * export {};\n * ```\n */\nexport const three = 3;\n",
    );
    const found = await findUndocumented(entry, ["one", "three", "four"]);
    assertEquals(found.map((line) => line.split(" ").slice(0, 3).join(" ")), [
      "Cannot find four",
      "Cannot export one",
      "Cannot export two",
      "Cannot export two",
      "Cannot export three",
    ]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
