/**
 * Whether this browser can take part, and if not, why and what helps.
 *
 * @module
 */

/** Why a device cannot take part. */
export class CannotTakePart extends Error {
  override readonly name = "CannotTakePart";
  /** What helps. */
  readonly help: string;

  /**
   * Says so.
   *
   * @param why Why.
   * @param help What helps.
   */
  constructor(why: string, help: string) {
    super(why);
    this.help = help;
  }
}

/**
 * Checks what the browser has, before anything is asked of it.
 *
 * @throws {CannotTakePart} If something is missing.
 */
export function requireBrowser(): void {
  if (!globalThis.isSecureContext) {
    throw new CannotTakePart(
      "This page has no secure connection, and browsers give the GPU to secure pages alone.",
      "Open it by an https:// address: the host starts edgetuner serve with --tls self-signed, or with --cert and --key. On the machine of the server itself http://localhost works too.",
    );
  }
  if ((navigator as { gpu?: GPU }).gpu === undefined) {
    throw new CannotTakePart(
      "This browser has no WebGPU.",
      "Use a current Chrome, Edge or Samsung Internet, or Safari 26 and newer. On Linux, Chrome needs chrome://flags/#enable-unsafe-webgpu on some machines.",
    );
  }
  if (typeof indexedDB === "undefined" || navigator.storage === undefined) {
    throw new CannotTakePart(
      "This browser keeps nothing for pages, as private windows of some browsers do.",
      "Open the page in an ordinary window.",
    );
  }
}

/**
 * In words for people, what an error of the GPU means.
 *
 * @param error What was thrown while the engine started.
 */
export function explainGpu(error: unknown): CannotTakePart {
  const { name, message } = error as Error;
  if (name === "NoAdapterError") {
    return new CannotTakePart(
      "This browser finds no graphics processor that it may use.",
      "Turn hardware acceleration on in the browser's settings, update the graphics driver, or use another browser.",
    );
  }
  return new CannotTakePart(
    `The graphics processor could not be opened: ${message}`,
    "Close other tabs, and try again.",
  );
}

/**
 * Checks that there is memory for what a device would hold.
 *
 * @param needed Bytes of GPU memory that are needed.
 * @param adapter Limits of the adapter.
 * @throws {CannotTakePart} If there is too little.
 */
export function requireMemory(
  needed: number,
  { maxBufferSize }: { readonly maxBufferSize: number },
): void {
  const { deviceMemory } = navigator as { deviceMemory?: number };
  // Tabs get about a quarter of a phone's memory.
  const there = deviceMemory === undefined ? Infinity : deviceMemory * 2 ** 30 / 4;
  if (needed > there) {
    throw new CannotTakePart(
      `This device has too little memory: its part would take ${megabytes(needed)} MB, and a tab gets about ${
        megabytes(there)
      } MB here.`,
      "Take part with a smaller share, or close other tabs and programs.",
    );
  }
  if (needed / 4 > maxBufferSize) {
    throw new CannotTakePart(
      `The graphics processor of this device gives at most ${megabytes(maxBufferSize)} MB at a time.`,
      "Take part with a smaller share.",
    );
  }
}

function megabytes(bytes: number): number {
  return Math.round(bytes / 1e6);
}
