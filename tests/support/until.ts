/**
 * Waiting in tests: for a condition, never for a time that is hoped to be long enough.
 *
 * @module
 */

/**
 * Waits until something is there.
 *
 * @param get Looks for it; `null`, `undefined` and `false` mean that it is not there yet.
 * @param what What is waited for, for the error.
 * @param limitMs When to give up. Long, as the machine may be busy: it is reached only by a test that fails.
 * @returns What `get` gave.
 * @throws {Error} At the limit.
 */
export async function until<T>(
  get: () => T | Promise<T>,
  what: string,
  limitMs = 30_000,
): Promise<Exclude<T, null | undefined | false>> {
  for (const end = performance.now() + limitMs;;) {
    const found = await get();
    if (found !== null && found !== undefined && found !== false) {
      return found as Exclude<T, null | undefined | false>;
    }
    if (performance.now() > end) {
      throw new Error(`Cannot go on as this must come within ${limitMs} ms: ${what}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/**
 * Lets everything happen that can happen by itself: a few turns of the event loop, with its timers. What has not
 * happened then does not happen without a cause. For tests that something does *not* come.
 */
export async function settled(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setTimeout(resolve, 1));
}

/**
 * Stands for something slow: a link, a server, a device. A test does not wait for what it does itself by this.
 *
 * @param ms How long it takes.
 * @param signal Ends it early, without an error.
 */
export async function takes(ms: number, signal?: AbortSignal): Promise<void> {
  if (signal?.aborted) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  signal?.addEventListener("abort", () => resolve(), { once: true });
  await promise;
  clearTimeout(timer);
}
