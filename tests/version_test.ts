/**
 * One version, in all places that say one.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { versions } from "../cli/output/report.ts";

Deno.test("the packages, the command and the changelog say the same version", async () => {
  const read = (path: string) => Deno.readTextFile(new URL(`../${path}`, import.meta.url));
  const root = JSON.parse(await read("deno.json"));
  for (const member of root.workspace as string[]) {
    assertEquals(JSON.parse(await read(`${member}/deno.json`)).version, root.version, member);
  }
  assertEquals(versions().edgetuner, root.version);
  const [newest] = (await read("CHANGELOG.md")).match(/^## .*$/m)!;
  assertMatch(newest, /^## \d+\.\d+\.\d+ \(\d{4}-\d{2}-\d{2}\)$/);
  assertEquals(newest.split(" ")[1], root.version);
});
