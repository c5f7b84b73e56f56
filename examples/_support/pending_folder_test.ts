import { assertEquals } from "@std/assert";
import { PendingFolder } from "./pending_folder.ts";

async function tree(folder: string): Promise<Record<string, unknown>> {
  const found: Record<string, unknown> = {};
  for await (const { name, isDirectory } of Deno.readDir(folder)) {
    found[name] = isDirectory
      ? await tree(`${folder}/${name}`)
      : await Deno.readTextFile(`${folder}/${name}`);
  }
  return found;
}

Deno.test("a pending folder gets its place whole, or nothing of it stays", async () => {
  const folder = await Deno.makeTempDir();
  try {
    {
      await using pending = await PendingFolder.create(`${folder}/out/`);
      await Deno.writeTextFile(`${pending.path}/a`, "damaged");
    }
    assertEquals(await tree(folder), {});
    await Deno.mkdir(`${folder}/out.partial`);
    await Deno.writeTextFile(`${folder}/out.partial/left`, "of an interrupted program");
    {
      await using pending = await PendingFolder.create(`${folder}/out`);
      await Deno.writeTextFile(`${pending.path}/a`, "1");
      assertEquals(await tree(folder), { "out.partial": { a: "1" } });
      await pending.keep();
    }
    assertEquals(await tree(folder), { out: { a: "1" } });
    {
      await using pending = await PendingFolder.create(`${folder}/out`);
      await Deno.writeTextFile(`${pending.path}/a`, "2");
      await Deno.writeTextFile(`${pending.path}/b`, "3");
      await pending.keep();
    }
    assertEquals(await tree(folder), { out: { a: "2", b: "3" } });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
