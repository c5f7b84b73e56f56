/**
 * Brokers with TLS, keys and credentials, as people set them up.
 */

import { nkeys } from "@nats-io/nats-core";
import { ChannelClosedError, HandshakeError } from "@edgetuner/core";
import { natsListener, type NatsOptions, natsTransport } from "@edgetuner/transport/nats";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { UsageError } from "../../cli/flags/flags.ts";
import { natsCredentials, natsTrust } from "../../cli/flags/nats_flags.ts";
import { certificateOf } from "../../cli/shared/tls.ts";
import { pattern, within } from "../conformance/transport_suite.ts";
import { NatsServer } from "../support/nats_server.ts";

const FLAGS = { "nats-creds": "", "nats-nkey": "", "nats-ca": "" };
type Key = ReturnType<typeof nkeys.createUser>;

/** A certificate as `--tls self-signed` makes it. */
async function certificate(folder: string) {
  const flags = { cert: "", key: "", tls: "self-signed", host: "127.0.0.1" };
  return (await certificateOf(flags, `${folder}/self_signed.pem`))!;
}

/** A run's frame goes there and back. */
async function exchange(options: NatsOptions): Promise<void> {
  await using listener = await natsListener(options);
  await using device = await natsTransport(options).connect();
  await using edge = await listener.accept();
  await within(device.send(pattern(300_000)), "send");
  assertEquals(await within(edge!.receive(), "receive"), pattern(300_000));
  await within(edge!.send(pattern(10)), "send");
  assertEquals(await within(device.receive(), "receive"), pattern(10));
}

const base64url = (bytes: Uint8Array) => bytes.toBase64({ alphabet: "base64url", omitPadding: true });
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
const bytesOf = (words: string) => new TextEncoder().encode(words);

/** What a broker's operator says of an account, or an account of a user. */
function claim(
  issuer: Key,
  subject: Key,
  { type, name }: { readonly type: string; readonly name: string },
): string {
  const part = (value: unknown) => base64url(bytesOf(JSON.stringify(value)));
  const own = type === "account" ? { limits: LIMITS } : type === "user" ? LIMITS : {};
  const nats = { type, version: 2, ...own };
  const body = `${part({ typ: "JWT", alg: "ed25519-nkey" })}.${
    part({
      ...{ jti: crypto.randomUUID(), iat: Math.floor(Date.now() / 1000), name, nats },
      ...{ iss: issuer.getPublicKey(), sub: subject.getPublicKey() },
    })
  }`;
  return `${body}.${base64url(issuer.sign(bytesOf(body)))}`;
}

const LIMITS = {
  subs: -1,
  data: -1,
  payload: -1,
  imports: -1,
  exports: -1,
  wildcards: true,
  conn: -1,
  leaf: -1,
};

Deno.test({
  name: "a broker with TLS: frames go to the certificate that is trusted, and to no other",
  // The client of the broker leaves timers of attempts to connect behind.
  ...{ sanitizeOps: false, sanitizeResources: false },
  async fn() {
    const folder = await Deno.makeTempDir();
    const { cert, key } = await certificate(folder);
    await using broker = await NatsServer.start({ tls: { cert, key } });
    const url = broker.url("a-run");
    assert(url.startsWith("nats+wss://"));
    await Deno.writeTextFile(`${folder}/ca.pem`, cert);
    await exchange({ url, ...await natsTrust({ ...FLAGS, "nats-ca": `${folder}/ca.pem` }) });
    await assertRejects(
      () => natsTransport({ url, connectTimeoutMs: 3000 }).connect(),
      ChannelClosedError,
      "Cannot connect to the broker",
    );
    await assertRejects(
      () => natsTransport({ url: url.replace("wss", "ws"), connectTimeoutMs: 1000 }).connect(),
      ChannelClosedError,
    );
    await Deno.writeTextFile(`${folder}/none.pem`, "nothing");
    await assertRejects(
      () => natsTrust({ ...FLAGS, "nats-ca": `${folder}/none.pem` }),
      UsageError,
      "--nats-ca",
    );
    await Deno.remove(folder, { recursive: true });
  },
});

Deno.test({
  name: "a broker that wants an nkey or credentials gets them from their files, and no message has them",
  ...{ sanitizeOps: false, sanitizeResources: false },
  async fn() {
    const folder = await Deno.makeTempDir();
    const [operator, account, user, stranger] = [
      ...[nkeys.createOperator(), nkeys.createAccount(), nkeys.createUser(), nkeys.createUser()],
    ] as const;
    const seed = text(user!.getSeed());
    await using byKey = await NatsServer.start({
      more: `authorization { users: [ { nkey: "${user!.getPublicKey()}" } ] }`,
    });
    const url = byKey.url("a-run");
    await Deno.writeTextFile(`${folder}/seed`, `${seed}\n`);
    const nkey = await natsCredentials({ ...FLAGS, "nats-nkey": `${folder}/seed` });
    await exchange({ url, credentials: nkey! });
    for (const wrong of [text(stranger!.getSeed()), `${seed.slice(0, -3)}AAA`, "hush-hush"]) {
      const error = await natsTransport({ url, credentials: { nkey: wrong } }).connect().catch((e) => e);
      assert(error instanceof HandshakeError, String(error));
      assertEquals(error.message.includes(wrong), false);
    }

    const resolver = claim(operator!, account!, { type: "account", name: "home" });
    await using byCreds = await NatsServer.start({
      more:
        `operator: "${claim(operator!, operator!, { type: "operator", name: "op" })}"\nresolver: MEMORY\n` +
        `resolver_preload: { ${account!.getPublicKey()}: "${resolver}" }`,
    });
    const jwt = claim(account!, user!, { type: "user", name: "attic" });
    await Deno.writeTextFile(
      `${folder}/user.creds`,
      `-----BEGIN NATS USER JWT-----\n${jwt}\n------END NATS USER JWT------\n\n` +
        `-----BEGIN USER NKEY SEED-----\n${seed}\n------END USER NKEY SEED------\n`,
    );
    const creds = await natsCredentials({ ...FLAGS, "nats-creds": `${folder}/user.creds` });
    await exchange({ url: byCreds.url("a-run"), credentials: creds! });
    await assertRejects(() => natsTransport({ url: byCreds.url("a-run") }).connect(), HandshakeError);
    await assertRejects(
      () => natsCredentials({ ...FLAGS, "nats-nkey": "a", "nats-creds": "b" }),
      UsageError,
      "together",
    );
    await Deno.remove(folder, { recursive: true });
  },
});
