import { assertEquals } from "@std/assert";
import { sha256 } from "./sha256.ts";

Deno.test("sha256() is the same in pieces, as a whole, and without node's hashes", async () => {
  // FIPS 180-2, appendix B.1.
  const abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
  const bytes = new TextEncoder().encode("abc");
  assertEquals(await sha256([bytes]), abc);
  assertEquals(await sha256([bytes.subarray(0, 1), bytes.subarray(1)], null), abc);
  const values = Float32Array.from({ length: 1000 }, (_, i) => Math.sin(i));
  const room = new Float32Array(300);
  /** All pieces in the same place. */
  function* pieces() {
    for (let at = 0; at < values.length; at += room.length) {
      const part = values.subarray(at, at + room.length);
      room.set(part);
      yield room.subarray(0, part.length);
    }
  }
  const whole = await sha256([values]);
  assertEquals(await sha256(pieces()), whole);
  assertEquals(await sha256(pieces(), null), whole);
  assertEquals(await sha256([], null), await sha256([]));
});
