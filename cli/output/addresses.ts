/**
 * Addresses to copy: those at which others reach what listens here.
 *
 * @module
 */

/** A network interface, as Deno tells of it. */
type Interface = Pick<Deno.NetworkInterfaceInfo, "family" | "address">;

/** Where something that listens is reached. */
export interface Reachable {
  /** `HOST:PORT`, ready for an address: IPv6 in brackets. Those that other machines reach come first. */
  readonly addresses: readonly string[];
  /** What people should know of them; empty if there is nothing. */
  readonly note: string;
}

/**
 * The addresses at which others reach what listens here: of all interfaces where it listens on all of them.
 *
 * @param host What it was told to listen on.
 * @param port Its port.
 * @param interfaces The machine's interfaces; `null` where Deno may not ask.
 */
export function reachable(
  host: string,
  port: number,
  interfaces: readonly Interface[] | null = networkInterfaces(),
): Reachable {
  const bare = host.replace(/^\[(.*)\]$/, "$1");
  // All others that mean every interface, such as `::0` and `0`, are one of these as a URL has them.
  const isAll = ["0.0.0.0", "[::]"].includes(asUrlHost(bare));
  if (!isAll) return { addresses: [`${urlHost(bare)}:${port}`], note: "" };
  const isV6 = bare.includes(":");
  if (interfaces === null) {
    return {
      addresses: [`127.0.0.1:${port}`],
      note:
        "Other machines need an address of this one in its place: --allow-sys=networkInterfaces shows them",
    };
  }
  const found = interfaces
    // Addresses of one link only work with the name of an interface of whoever connects.
    .filter(({ family, address }) => (isV6 || family === "IPv4") && !/^fe[89ab]/i.test(address))
    .map(({ address }) => address);
  const own = (address: string) => Number(address.startsWith("127.") || address === "::1");
  const sorted = [...new Set(found)].sort((a, b) =>
    own(a) - own(b) || Number(a.includes(":")) - Number(b.includes(":"))
  );
  return { addresses: sorted.map((address) => `${urlHost(address)}:${port}`), note: "" };
}

/** A host as an address has it. */
function urlHost(host: string): string {
  return host.includes(":") ? `[${host}]` : host;
}

/** A host as `URL` understands it; as it is where that does not. */
function asUrlHost(host: string): string {
  try {
    return new URL(`http://${urlHost(host)}`).hostname;
  } catch {
    return host;
  }
}

/** The machine's interfaces; `null` where Deno may not ask. */
function networkInterfaces(): readonly Interface[] | null {
  const permission = { name: "sys", kind: "networkInterfaces" } as const;
  return Deno.permissions.querySync(permission).state === "granted" ? Deno.networkInterfaces() : null;
}
