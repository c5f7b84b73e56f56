/**
 * Trusting one certificate, by its fingerprint.
 *
 * @module
 */

import { X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import { connect } from "node:tls";
import { ChannelClosedError, HandshakeError, plainText, type Transport } from "@edgetuner/core";
import { UsageError } from "./flags.ts";

/** Longest time to see a certificate, in milliseconds. */
const LOOK_MS = 10_000;

/**
 * A transport that trusts the certificate with a fingerprint and no other. It looks at the certificate each time it
 * connects.
 *
 * @param url Where to connect.
 * @param fingerprint SHA-256 of the certificate, as hexadecimal digits with or without colons.
 * @param make Makes the transport that trusts these certificates.
 * @throws {UsageError} If it is no fingerprint, or the address has no TLS.
 */
export function pinned(
  url: URL,
  fingerprint: string,
  make: (caCerts: readonly string[]) => Transport,
): Transport {
  requireFingerprint(url, fingerprint);
  const { name, flags } = make([]);
  return {
    name,
    flags,
    connect: async (options = {}) => {
      const certificate = await pinnedCertificate(url, fingerprint, options.signal);
      return await named(make([certificate])).connect(options);
    },
  };
}

/** The fingerprint that is wanted, in capitals without colons. */
function requireFingerprint(url: URL, fingerprint: string): string {
  const wanted = fingerprint.replaceAll(":", "").toUpperCase();
  if (!/^[0-9A-F]{64}$/.test(wanted)) {
    throw new UsageError(
      `--fingerprint must be the SHA-256 of a certificate, 64 hexadecimal digits: current value is "${fingerprint}"`,
    );
  }
  if (!["wss:", "https:"].includes(url.protocol)) {
    throw new UsageError(
      `Cannot use --fingerprint as the address must begin with wss or https: it begins with ${url.protocol}`,
    );
  }
  return wanted;
}

/**
 * The certificate at an address, if it has the fingerprint and is valid: PEM.
 *
 * @param url Where to look.
 * @param fingerprint SHA-256 of the certificate, as hexadecimal digits with or without colons.
 * @param signal Ends the looking.
 * @throws {UsageError} If it is no fingerprint, or the address has no TLS.
 * @throws {HandshakeError} If it is another certificate, or not valid now.
 */
export async function pinnedCertificate(
  url: URL,
  fingerprint: string,
  signal: AbortSignal | undefined,
): Promise<string> {
  const wanted = requireFingerprint(url, fingerprint);
  const certificate = new X509Certificate(await look(url, signal));
  const found = certificate.fingerprint256;
  const host = url.hostname.replace(/^\[(.*)\]$/, "$1");
  const isNamed = isIP(host) === 0 ? certificate.checkHost(host) : certificate.checkIP(host);
  const why = found.replaceAll(":", "") !== wanted
    ? `the certificate must have it: the one at ${url.host} has ${found}`
    : Date.parse(certificate.validTo) < Date.now()
    ? `the certificate must be valid: it has expired on ${certificate.validTo}`
    : Date.parse(certificate.validFrom) > Date.now()
    ? `the certificate must be valid: it is so from ${certificate.validFrom} on`
    : isNamed === undefined
    ? `the certificate must be for ${host}, and is for ${
      plainText(certificate.subjectAltName ?? "nothing", 200)
    }; the edge server adds names and addresses with --allow-host`
    : "";
  if (why !== "") throw new HandshakeError(`Cannot trust --fingerprint ${fingerprint} as ${why}`);
  return certificate.toString();
}

/** A transport whose errors of certificates name the flag, and are not tried again. */
export function named(transport: Transport): Transport {
  return {
    ...transport,
    connect: async (options) => {
      try {
        return await transport.connect(options);
      } catch (error) {
        const { message } = error as Error;
        if (!/certificate/i.test(message)) throw error;
        throw new HandshakeError(
          `${message}; trust one that the system does not know with --fingerprint, which the edge server prints`,
          { cause: error },
        );
      }
    },
  };
}

/** The certificate that is shown at an address. */
async function look(url: URL, signal: AbortSignal | undefined): Promise<Uint8Array> {
  signal?.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>();
  const host = url.hostname.replace(/^\[(.*)\]$/, "$1");
  const socket = connect({ host, port: Number(url.port || 443), rejectUnauthorized: false }, () => {
    const { raw } = socket.getPeerCertificate();
    if (raw === undefined) {
      reject(new ChannelClosedError(`Cannot connect to ${url.href}: it shows no certificate`));
    } else resolve(raw);
  });
  const fail = (why: string) => reject(new ChannelClosedError(`Cannot connect to ${url.href}: ${why}`));
  socket.on("error", (error: Error) => fail(error.message));
  const timer = setTimeout(() => fail(`no certificate within ${LOOK_MS} ms`), LOOK_MS);
  const abort = () => reject(signal?.reason);
  signal?.addEventListener("abort", abort, { once: true });
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
    socket.destroy();
  }
}
