import { assert, assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import { deviceIdIn, deviceKeyIn } from "./device_id_file.ts";
import { isProven, newDeviceKey, newNonce, proveDevice } from "./device_key.ts";

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

Deno.test("deviceKeyIn() makes a key once, for its owner alone to read; it proves its id, and no other", async () => {
  const root = await Deno.makeTempDir();
  try {
    const folder = `${root}/state`;
    const key = await deviceKeyIn(folder);
    assertEquals(await deviceKeyIn(folder), key);
    if (Deno.build.os !== "windows") {
      assertEquals((await Deno.stat(`${folder}/device_key`)).mode! & 0o777, 0o600);
    }
    const [id, nonce] = ["1".repeat(32), newNonce()];
    const proof = await proveDevice(key, id, nonce);
    assert(await isProven(key.publicKey, { id, nonce, proof }));
    const other = await newDeviceKey();
    for (
      const [publicKey, said] of [
        [other.publicKey, { id, nonce, proof }],
        [key.publicKey, { id: "2".repeat(32), nonce, proof }],
        [key.publicKey, { id, nonce: newNonce(), proof }],
        [key.publicKey, { id, nonce, proof: "p".repeat(86) }],
        ["no key", { id, nonce, proof }],
      ] as const
    ) assertEquals(await isProven(publicKey, said), false);
    await Deno.writeTextFile(`${folder}/device_key`, '{"publicKey":');
    assertNotEquals(await deviceKeyIn(folder), key);
  } finally {
    await Deno.remove(root, { recursive: true });
  }
});
