import { Invitations } from "@edgetuner/transport/server";
import { inviteOf } from "@edgetuner/transport/control";
import { assert, assertEquals } from "@std/assert";
import { until } from "../../tests/support/until.ts";
import { keepRequests } from "./kept_requests.ts";

Deno.test("an edge server that is started anew knows the devices that it let in, of this run alone", async () => {
  const stateFolder = await Deno.makeTempDir();
  const path = `${stateFolder}/invited.json`;
  const before = new Invitations();
  await keepRequests(before, { run: "real", stateFolder });
  const device = { name: "phone", id: "a".repeat(32), key: "k".repeat(43) };
  const redeemed = await before.redeem(inviteOf(await before.invite("real"))!, device);
  assert(typeof redeemed === "object");
  before.answer("1", "approved");
  const written = async () => await Deno.readTextFile(path).catch(() => "");
  await until(async () => (await written()).includes("approved"), "the file");
  assert(!(await written()).includes(redeemed.joinKey));
  if (Deno.build.os !== "windows") assertEquals((await Deno.stat(path)).mode! & 0o777, 0o600);
  const states = async (run: string) => {
    const after = new Invitations();
    await keepRequests(after, { run, stateFolder });
    return after.requests(run).map(({ state }) => state);
  };
  assertEquals([await states("real"), await states("other")], [["approved"], []]);
  for (const text of ["[{]", "{}", '[{"run":"real"}]']) {
    await Deno.writeTextFile(path, text);
    assertEquals(await states("real"), [], text);
  }
  await keepRequests(new Invitations(), { run: "real", stateFolder: null });
  await Deno.remove(stateFolder, { recursive: true });
});
