import { assert, assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import { deviceIdIn } from "./device_id_file.ts";

Deno.test("deviceIdIn() makes an id once, also where several ask at once or the file was cut short", async () => {
  const root = await Deno.makeTempDir();
  try {
    const folder = `${root}/a device/state`;
    const ids = await Promise.all([deviceIdIn(folder), deviceIdIn(folder), deviceIdIn(folder)]);
    const id = await deviceIdIn(folder);
    assertMatch(id, /^[0-9a-f]{32}$/);
    assert(ids.includes(id));
    assertEquals(await deviceIdIn(folder), id);
    assertNotEquals(await deviceIdIn(`${root}/another`), id);
    await Deno.writeTextFile(`${folder}/device_id`, id.slice(0, 5));
    const other = await deviceIdIn(folder);
    assertMatch(other, /^[0-9a-f]{32}$/);
    assertEquals(await deviceIdIn(folder), other);
    assertEquals((await Array.fromAsync(Deno.readDir(folder))).map((f) => f.name), ["device_id"]);
  } finally {
    await Deno.remove(root, { recursive: true });
  }
});
