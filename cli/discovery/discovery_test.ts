import { assert, assertEquals, assertRejects } from "@std/assert";
import { createSocket } from "node:dgram";
import { type Announcement, announcementOf, announcementWith, recordsOf, SERVICE } from "./announcement.ts";
import { announce } from "./announce.ts";
import { findOwnServer, findServers, MAX_FOUND } from "./find.ts";
import { openMulticast } from "./multicast.ts";
import { until } from "../../tests/support/until.ts";

/** The interface of this machine alone. */
const address = "127.0.0.1";
const TOKEN = "the-token-of-this-test";
const FINGERPRINT = Array.from({ length: 32 }, (_, i) => (i + 16).toString(16).toUpperCase()).join(":");
/** One for each test, as all share the port of multicast DNS. */
const newRun = () => crypto.randomUUID().slice(0, 8);

function announcement(run: string, token = TOKEN): Promise<Announcement> {
  return announcementWith(token, {
    ...{ run, addresses: ["192.0.2.7:8787", "[2001:db8::7]:8787"], isTls: true, fingerprint: FINGERPRINT },
  });
}

/** Sends any bytes to the group of multicast DNS. */
async function rawSocket() {
  const socket = createSocket("udp4");
  await new Promise<void>((bound) => socket.bind(0, address, bound));
  socket.setMulticastInterface(address);
  return {
    send: (bytes: Uint8Array) => new Promise((sent) => socket.send(bytes, 5353, "224.0.0.251", sent)),
    [Symbol.asyncDispose]: () => new Promise<void>((closed) => socket.close(closed)),
  };
}

Deno.test("an edge server that announces itself is found with run, addresses and fingerprint", async () => {
  const run = newRun();
  await using _announced = await announce(await announcement(run), address);
  const found = await findServers({ waitMs: 5000, address, isEnough: (server) => server.run === run });
  const { addresses, isTls, fingerprint } = found.find((server) => server.run === run)!;
  assertEquals(addresses, ["192.0.2.7:8787", "[2001:db8::7]:8787"]);
  assertEquals({ isTls, fingerprint }, { isTls: true, fingerprint: FINGERPRINT });
});

Deno.test("the token of devices is in no record that is announced", async () => {
  const records = recordsOf(await announcement(newRun()));
  assertEquals(JSON.stringify(records).includes(TOKEN), false);
});

Deno.test("a device takes the edge server that has its token, not another one of the same run", async () => {
  const run = newRun();
  const [own, copied] = await Promise.all([announcement(run), announcement(run)]);
  await using _stranger = await announce(await announcement(run, "a-guessed-token"), address);
  // Somebody who has seen the announcement says it with an address of his own.
  await using _thief = await announce({ ...copied, addresses: ["192.0.2.66:8787"] }, address);
  await using _own = await announce(own, address);
  const found = await findOwnServer({ token: TOKEN, fingerprint: "", waitMs: 5000, address });
  assertEquals(found?.addresses, own.addresses);
});

Deno.test("a device that names a fingerprint takes no edge server with another one", async () => {
  await using _own = await announce(await announcement(newRun()), address);
  const fingerprint = "00".repeat(32);
  assertEquals(await findOwnServer({ token: TOKEN, fingerprint, waitMs: 500, address }), null);
  const lower = FINGERPRINT.replaceAll(":", "").toLowerCase();
  assert(await findOwnServer({ token: TOKEN, fingerprint: lower, waitMs: 5000, address }) !== null);
});

Deno.test("an edge server that ends takes its announcement back", async () => {
  const run = newRun();
  const announced = await announce(await announcement(run), address);
  const found = findServers({ waitMs: 1500, address });
  const first = await findServers({ waitMs: 5000, address, isEnough: (server) => server.run === run });
  assertEquals(first.some((server) => server.run === run), true);
  await announced[Symbol.asyncDispose]();
  assertEquals((await found).some((server) => server.run === run), false);
});

Deno.test("announcements that are not in their form are none", async () => {
  const good = recordsOf(await announcement("run-1")).find(({ type }) => type === "TXT")!;
  const texts = good.data as string[];
  const read = (data: unknown) => announcementOf({ ...good, data });
  const swap = (key: string, value: string) =>
    texts.map((text) => text.startsWith(`${key}=`) ? `${key}=${value}` : text);
  assertEquals(read(texts)?.run, "run-1");
  const bad: readonly (readonly [string, string])[] = [
    ["run", "\x1b[2J run"],
    ["run", "a".repeat(49)],
    ["run", "a\nb"],
    ["fp", "AB:CD"],
    ["v", "2"],
    ["tls", "yes"],
    ["proof", ""],
    ["salt", "x"],
  ];
  for (const [key, value] of bad) assertEquals(read(swap(key, value)), null, `${key}=${value}`);
  const places = [
    "evil.example:80",
    "1.2.3.4:0",
    "1.2.3.4:99999",
    "1.2.3.4:80/x",
    "[::1:80",
    "1.2.3.400:1",
    "x@1.2.3.4:1",
  ];
  for (const place of places) assertEquals(read([...swap("at", place)]), null, place);
  for (const data of [null, 7, [], [7, null, {}], new Uint8Array(300), "x"]) assertEquals(read(data), null);
  const many = [...texts.slice(0, 6), ...Array.from({ length: 500 }, (_, i) => `at=10.0.0.1:${i + 1}`)];
  assertEquals(read(many)!.addresses.length, 16);
});

Deno.test("a flood of announcements and of bytes that are none keeps nobody longer than asked", async () => {
  const run = newRun();
  await using socket = await openMulticast(address);
  await using noise = await rawSocket();
  await using _own = await announce(await announcement(run), address);
  const one = await announcement("flood");
  const begin = performance.now();
  const search = findServers({ waitMs: 1000, address });
  for (let i = 0; i < 2 * MAX_FOUND; i++) {
    await socket.respond(recordsOf({ ...one, run: `flood-${i}` }));
    await noise.send(crypto.getRandomValues(new Uint8Array(1 + i % 500)));
  }
  // A name that points to itself, and a message that promises more than it has.
  for (
    const bytes of [[0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0xc0, 12], [
      0,
      0,
      0x84,
      0,
      255,
      255,
      255,
      255,
      0,
      0,
      0,
      0,
    ]]
  ) {
    await noise.send(new Uint8Array(bytes));
  }
  const found = await search;
  assertEquals(found.length, MAX_FOUND);
  assert(performance.now() - begin < 5000);
});

Deno.test("whoever asks all the time gets an answer a second", async () => {
  const run = newRun();
  await using socket = await openMulticast(address);
  let answers = 0;
  socket.onResponse(({ answers: records }) => {
    if (records.some(({ data }) => data === `${run}.${SERVICE}`)) answers++;
  });
  await using _announced = await announce(await announcement(run), address);
  const end = performance.now() + 1500;
  await until(() => {
    socket.query({ name: SERVICE, type: "PTR" });
    return performance.now() > end;
  }, "the end of the time");
  assert(answers >= 1 && answers <= 3, `${answers}`);
});

Deno.test("a search that is ended ends at once", async () => {
  const abort = new AbortController();
  const search = findServers({ waitMs: 60_000, address, signal: abort.signal });
  abort.abort(new DOMException("interrupted", "AbortError"));
  await assertRejects(() => search, DOMException, "interrupted");
});
