import { assertEquals, assertMatch } from "@std/assert";
import { reachable } from "./addresses.ts";

const INTERFACES = [
  { family: "IPv4", address: "127.0.0.1" },
  { family: "IPv4", address: "192.0.2.7" },
  { family: "IPv6", address: "::1" },
  { family: "IPv6", address: "2001:db8::7" },
  { family: "IPv6", address: "fe80::1" },
] as const;

Deno.test("an address to copy is never that of all interfaces, and IPv6 stands in brackets", () => {
  const of = (host: string) => reachable(host, 8787, INTERFACES).addresses;
  const v4 = ["192.0.2.7:8787", "127.0.0.1:8787"];
  const all = ["192.0.2.7:8787", "[2001:db8::7]:8787", "127.0.0.1:8787", "[::1]:8787"];
  for (const host of ["0.0.0.0", "0"]) assertEquals(of(host), v4, host);
  for (const host of ["::", "[::]", "::0", "0:0:0:0:0:0:0:0"]) assertEquals(of(host), all, host);
  assertEquals(of("::1"), ["[::1]:8787"]);
  assertEquals(of("[2001:db8::7]"), ["[2001:db8::7]:8787"]);
  assertEquals(of("edge.example"), ["edge.example:8787"]);
});

Deno.test("where Deno may not ask for interfaces the address is this machine's own, and a note says how to see more", () => {
  const { addresses, note } = reachable("0.0.0.0", 1, null);
  assertEquals(addresses, ["127.0.0.1:1"]);
  assertMatch(note, /--allow-sys=networkInterfaces/);
});

Deno.test("what is found on this machine can be connected to", async () => {
  using listener = Deno.listen({ hostname: "0.0.0.0", port: 0 });
  const { addresses } = reachable("0.0.0.0", listener.addr.port);
  for (const address of addresses) {
    const [hostname, port] = address.split(":");
    const [near, far] = await Promise.all([
      Deno.connect({ hostname: hostname!, port: Number(port) }),
      listener.accept(),
    ]);
    near.close();
    far.close();
  }
});
