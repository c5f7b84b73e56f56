/**
 * The certificate of an edge server: one that was given, or one that is made and kept.
 *
 * @module
 */

import "reflect-metadata";
import { X509Certificate } from "node:crypto";
import { dirname } from "node:path";
import {
  BasicConstraintsExtension,
  PemConverter,
  SubjectAlternativeNameExtension,
  X509CertificateGenerator,
} from "@peculiar/x509";
import { writeWhole } from "@edgetuner/core";
import { type FlagValues, text, UsageError } from "../flags/flags.ts";
import { reachable } from "../output/addresses.ts";

/** Flags of those who serve TLS. */
export const TLS_FLAGS = {
  cert: text("FILE", "", "serve TLS with this certificate, PEM; with --key"),
  key: text("FILE", "", "private key of --cert, PEM"),
  tls: {
    ...text(
      "HOW",
      "",
      "serve TLS with a certificate that is made, kept in runs/tls, and whose fingerprint is printed",
    ),
    choices: ["", "self-signed"],
  },
};

/** A certificate. */
export interface Certificate {
  readonly cert: string;
  readonly key: string;
  /** SHA-256 of one that was made here; empty otherwise. */
  readonly fingerprint: string;
}

/** Where the certificate that was made is kept, with its key, seen from where a program is started. */
export const KEPT = "runs/tls/self_signed.pem";
const DAY_MS = 86_400_000;
const VALID_DAYS = 365;
const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };

/**
 * The certificate to serve with; `null` without TLS.
 *
 * @param kept Where the one that is made is kept.
 * @throws {UsageError} If flags do not fit together, or a file cannot be read or is none.
 */
export async function certificateOf(
  { cert, key, tls, host, "allow-host": names = "" }: FlagValues<typeof TLS_FLAGS> & {
    readonly host: string;
    readonly "allow-host"?: string;
  },
  kept: string = KEPT,
): Promise<Certificate | null> {
  if (tls !== "" && (cert !== "" || key !== "")) {
    throw new UsageError("Cannot use --tls self-signed as --cert and --key take its place");
  }
  if ((cert === "") !== (key === "")) {
    throw new UsageError("Cannot use one of --cert and --key without the other");
  }
  const more = names.split(",").map((name) => name.trim()).filter((name) => name !== "");
  if (tls !== "") return await selfSigned([host, ...more], kept);
  if (cert === "") return null;
  const given = { cert: await read("--cert", cert), key: await read("--key", key), fingerprint: "" };
  let certificate: X509Certificate;
  try {
    certificate = new X509Certificate(given.cert);
  } catch {
    throw new UsageError(`Cannot serve TLS as --cert must be a certificate as PEM: ${cert} is not`);
  }
  if (Date.parse(certificate.validTo) < Date.now()) {
    throw new UsageError(
      `Cannot serve TLS as --cert must be valid: ${cert} has expired on ${certificate.validTo}`,
    );
  }
  try {
    // Finds out whether they belong together.
    Deno.listenTls({ hostname: "127.0.0.1", port: 0, cert: given.cert, key: given.key }).close();
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) return given;
    throw new UsageError(
      `Cannot serve TLS as --key must be the private key of --cert: ${(error as Error).message}`,
    );
  }
  return given;
}

async function read(flag: string, path: string): Promise<string> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    throw new UsageError(`Cannot read ${flag} ${path}: ${(error as Error).message}`);
  }
}

/** The certificate that is kept; a new one if it is about to expire, or lacks an address. */
async function selfSigned(
  [host, ...more]: readonly [string, ...string[]],
  path: string,
): Promise<Certificate> {
  const hosts = [
    ...more,
    ...reachable(host, 1).addresses.map((address) => address.replace(/:1$/, "").replace(/^\[(.*)\]$/, "$1")),
    ...["127.0.0.1", "::1", "localhost"],
  ];
  const kept = await Deno.readTextFile(path).catch(() => "");
  const [cert = "", key = ""] = kept.split(/(?=-----BEGIN PRIVATE KEY-----)/);
  if (key !== "") {
    const certificate = new X509Certificate(cert);
    const isNamed = hosts.every((name) =>
      isAddress(name) ? certificate.checkIP(name) : certificate.checkHost(name)
    );
    if (isNamed && Date.parse(certificate.validTo) - Date.now() > 7 * DAY_MS) {
      return { cert, key, fingerprint: certificate.fingerprint256 };
    }
  }
  const made = await generate([...new Set(hosts)]);
  await Deno.mkdir(dirname(path), { recursive: true });
  await writeWhole(path, made.cert + made.key, { isSecret: true });
  return made;
}

/** True if a host is an address and no name. */
function isAddress(host: string): boolean {
  return host.includes(":") || /^[\d.]+$/.test(host);
}

async function generate(hosts: readonly string[]): Promise<Certificate> {
  const keys = await crypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"]) as CryptoKeyPair;
  const made = await X509CertificateGenerator.createSelfSigned({
    serialNumber: crypto.getRandomValues(new Uint8Array(8)).map((byte) => byte & 0x7f | 1).toHex(),
    name: "CN=edgetuner",
    notBefore: new Date(Date.now() - DAY_MS),
    notAfter: new Date(Date.now() + VALID_DAYS * DAY_MS),
    signingAlgorithm: ALGORITHM,
    keys,
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new SubjectAlternativeNameExtension(
        hosts.map((value) => ({ type: isAddress(value) ? "ip" as const : "dns" as const, value })),
      ),
    ],
  });
  const cert = `${made.toString("pem")}\n`;
  const key = `${
    PemConverter.encode(await crypto.subtle.exportKey("pkcs8", keys.privateKey), "PRIVATE KEY")
  }\n`;
  return { cert, key, fingerprint: new X509Certificate(cert).fingerprint256 };
}
