/**
 * What an edge server says of itself in its network, as records of multicast DNS, and how it is read. Anybody may
 * answer there, so what comes is taken only in the very form that is written here.
 *
 * @module
 */

import { isIP } from "node:net";

/** What an edge server says of itself. */
export interface Announcement {
  /** The run. */
  readonly run: string;
  /** `HOST:PORT`, ready for an address: IPv6 in brackets. */
  readonly addresses: readonly string[];
  readonly isTls: boolean;
  /** SHA-256 of a certificate that the server made; empty without one. */
  readonly fingerprint: string;
  /** Random characters that the proof is made with. */
  readonly salt: string;
  /** Shows who has the token that its server has it too, see {@linkcode proofOf}. */
  readonly proof: string;
}

/** The kind of service, as multicast DNS names it. */
export const SERVICE = "_edgetuner._tcp.local";
/** Version of the form. */
const VERSION = "1";
/** Most addresses of one edge server. */
export const MAX_ADDRESSES = 16;
/** Most texts of a record that are looked at. */
const MAX_TEXTS = MAX_ADDRESSES + 8;
/** How long others may keep what was announced, in seconds. */
const TTL_SECONDS = 60;

/** A record of DNS, as the library of multicast DNS reads and writes them. */
export interface DnsRecord {
  readonly name: string;
  readonly type: string;
  readonly ttl?: number;
  readonly flush?: boolean;
  readonly data: unknown;
}

/** The form of each field. */
const FORMS = {
  run: /^[\w.-]{1,48}$/,
  fingerprint: /^(?:[0-9A-F]{2}(?::[0-9A-F]{2}){31})?$/,
  salt: /^[\w-]{22}$/,
  proof: /^[\w-]{22}$/,
};

/**
 * The records of an announcement.
 *
 * @param isLeaving True to take back what was announced. @default {false}
 */
export function recordsOf(announcement: Announcement, { isLeaving = false } = {}): DnsRecord[] {
  const { run, addresses, isTls, fingerprint, salt, proof } = announcement;
  const ttl = isLeaving ? 0 : TTL_SECONDS;
  const instance = `${run}.${SERVICE}`;
  const target = `edgetuner-${run}.local`;
  const parts = addresses.map((address) => splitAddress(address)!);
  return [
    { name: SERVICE, type: "PTR", ttl, data: instance },
    { name: instance, type: "SRV", ttl, flush: true, data: { port: parts[0]?.port ?? 0, target } },
    {
      ...{ name: instance, type: "TXT", ttl, flush: true },
      data: [
        ...[`v=${VERSION}`, `run=${run}`, `tls=${Number(isTls)}`, `fp=${fingerprint}`],
        ...[`salt=${salt}`, `proof=${proof}`, ...addresses.slice(0, MAX_ADDRESSES).map((at) => `at=${at}`)],
      ],
    },
    ...parts.slice(0, MAX_ADDRESSES).map(({ host }) => ({
      ...{ name: target, type: isIP(host) === 6 ? "AAAA" : "A", ttl, flush: true, data: host },
    })),
  ];
}

/** Host and port of `HOST:PORT`, where the host is an address; `null` otherwise. */
export function splitAddress(text: string): { readonly host: string; readonly port: number } | null {
  const [, v6, v4, digits] = /^(?:\[([0-9a-f:.]{2,45})\]|([0-9.]{7,15})):(\d{1,5})$/i.exec(text) ?? [];
  const host = v6 ?? v4;
  const port = Number(digits);
  if (host === undefined || isIP(host) !== (v6 === undefined ? 4 : 6) || port < 1 || port > 65_535) {
    return null;
  }
  return { host, port };
}

/**
 * What a record announces; `null` if it is none of ours, or not in its form.
 *
 * @param record A record from anywhere.
 */
export function announcementOf(record: DnsRecord): Announcement | null {
  const { name, type, data } = record;
  if (type !== "TXT" || typeof name !== "string" || !name.toLowerCase().endsWith(`.${SERVICE}`)) return null;
  const texts = (Array.isArray(data) ? data : [data]).slice(0, MAX_TEXTS);
  const fields = new Map<string, string>();
  const addresses: string[] = [];
  for (const bytes of texts) {
    const text = typeof bytes === "string" ? bytes : bytes instanceof Uint8Array ? DECODER.decode(bytes) : "";
    const at = text.indexOf("=");
    const [key, value] = [text.slice(0, at), text.slice(at + 1)];
    if (key !== "at") fields.set(key, value);
    else if (addresses.length < MAX_ADDRESSES && splitAddress(value) !== null) addresses.push(value);
  }
  const found = {
    ...{ run: fields.get("run") ?? "", fingerprint: fields.get("fp") ?? "" },
    ...{ salt: fields.get("salt") ?? "", proof: fields.get("proof") ?? "" },
  };
  const isGood = fields.get("v") === VERSION && ["0", "1"].includes(fields.get("tls") ?? "") &&
    addresses.length > 0 &&
    Object.entries(FORMS).every(([key, form]) => form.test(found[key as keyof typeof FORMS]));
  return isGood ? { ...found, addresses, isTls: fields.get("tls") === "1" } : null;
}

const DECODER = new TextDecoder();

/** Work for each guess of a token, for those who listen. */
const ITERATIONS = 200_000;
const PROOF_BITS = 128;

/**
 * What shows whoever has the token that the one who announces has it too. Without it a device would show its token to
 * anybody who answers. The token does not follow from it but by guessing, and each guess takes some work.
 *
 * @param announcement All but the proof.
 * @param token The token of devices.
 */
export async function proofOf(announcement: Omit<Announcement, "proof">, token: string): Promise<string> {
  const { run, addresses, isTls, fingerprint, salt } = announcement;
  const encode = (text: string) => new TextEncoder().encode(text);
  const key = await crypto.subtle.importKey("raw", encode(token), "PBKDF2", false, ["deriveBits"]);
  // In whatever order the addresses are.
  const about = [salt, run, isTls, fingerprint, addresses.toSorted()];
  const all = encode(JSON.stringify(["edgetuner announces", VERSION, ...about]));
  const options = { name: "PBKDF2", hash: "SHA-256", salt: all, iterations: ITERATIONS };
  const bits = new Uint8Array(await crypto.subtle.deriveBits(options, key, PROOF_BITS));
  return bits.toBase64({ alphabet: "base64url", omitPadding: true });
}

/** An announcement with a salt and a proof of its own. */
export async function announcementWith(
  token: string,
  { run, addresses, isTls, fingerprint }: Omit<Announcement, "salt" | "proof">,
): Promise<Announcement> {
  const salt = crypto.getRandomValues(new Uint8Array(16)).toBase64({
    alphabet: "base64url",
    omitPadding: true,
  });
  const all = { run, addresses: addresses.slice(0, MAX_ADDRESSES), isTls, fingerprint, salt };
  return { ...all, proof: await proofOf(all, token) };
}

/** True if the one who announces has the token. */
export async function isProven(announcement: Announcement, token: string): Promise<boolean> {
  return await proofOf(announcement, token) === announcement.proof;
}

/** Addresses at which devices join, in the order of the announcement. */
export function joinAddresses({ addresses, isTls }: Announcement): string[] {
  return addresses.map((address) => `ws${isTls ? "s" : ""}://${address}/join/ws`);
}
