import { Invitations } from "@edgetuner/transport/server";
import { inviteOf } from "@edgetuner/transport/control";
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { InviteDesk } from "./invites.ts";

/** A desk with lines that are typed, and what it says. */
function deskOf(typed: readonly string[], address = "https://192.168.1.20:8787") {
  const said: string[] = [];
  const events: Record<string, unknown>[] = [];
  const removed: string[] = [];
  const invitations = new Invitations();
  const run = {
    run: "real",
    devices: [{ name: "tablet", id: "01234567", capacity: 1, data: false, range: null, connected: true }],
    remove: (device: string) => removed.push(device) > 0 && device === "01234567",
  };
  const desk = new InviteDesk({
    ...{ run, invitations, address },
    say: (line) => said.push(line),
    emit: (event) => events.push(event),
  });
  const lines = [...typed];
  return {
    ...{ desk, said, events, removed, invitations },
    follow: () => desk.follow({ next: () => Promise.resolve(lines.shift() ?? null) }),
  };
}

const ASKING = { id: "a".repeat(32), key: "k".repeat(43) };

Deno.test("an invite is shown as an address and as a QR code that fits a terminal", async () => {
  const { desk, said, events } = deskOf([]);
  using _ = desk;
  await desk.invite();
  const address = events[0]!["address"] as string;
  assert(inviteOf(address) !== null && address.startsWith("https://192.168.1.20:8787/device/#"));
  assertStringIncludes(said[0]!, `for 10 minutes; open it or scan it there\n  ${address}`);
  const rows = said[1]!.split("\n");
  assert(
    rows.every((row) => row.length === rows[0]!.length && row.length <= 60),
    `${rows[0]!.length} columns`,
  );
  assert(/^[█▀▄ \n]+$/.test(said[1]!));
});

Deno.test("an invite that others cannot use says so", async () => {
  for (
    const [address, note] of [
      ["http://127.0.0.1:8787", "--host 0.0.0.0"],
      ["https://[::1]:8787", "--host 0.0.0.0"],
      ["http://192.168.1.20:8787", "--tls self-signed"],
    ] as const
  ) {
    const { desk, said } = deskOf([], address);
    using _ = desk;
    await desk.invite();
    assertStringIncludes(said[2]!, note);
  }
  const { desk, said } = deskOf([]);
  using _ = desk;
  await desk.invite();
  assertEquals(said.length, 2);
});

Deno.test("lines approve, refuse and remove devices, and say what they do not understand", async () => {
  const { desk, said, events, removed, invitations, follow } = deskOf([
    ...["", "approve 1", "refuse  2 ", "approve 9", "remove tablet", "remove nobody", "invite", "hello"],
  ]);
  using _ = desk;
  for (const name of ["phone", "stranger"]) {
    await invitations.redeem(inviteOf(await invitations.invite("real"))!, { name, ...ASKING });
  }
  const code = invitations.requests("real")[0]!.code;
  assertEquals(said.splice(0), [
    `phone asks to join; its page shows the code ${code}. Type: approve 1, or refuse 1`,
    `stranger asks to join; its page shows the code ${code}. Type: approve 2, or refuse 2`,
  ]);
  await follow();
  assertEquals(invitations.requests("real").map(({ state }) => state), ["approved", "refused"]);
  assertEquals(removed, ["01234567", "nobody"]);
  const [, , ...rest] = said;
  assertEquals(rest.slice(0, 3), ["There is no request 9", "tablet is removed", "There is no device nobody"]);
  assertStringIncludes(rest[3]!, "#invite=");
  assertEquals(rest.at(-1), "Type: approve N, refuse N, remove DEVICE, or invite for another invite");
  assertEquals(events.map(({ type, state }) => state ?? type), [
    ...["waiting", "waiting", "approved", "refused", "invite"],
  ]);
});
