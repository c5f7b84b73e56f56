/**
 * Devices that are invited to a run: invites, requests to join, and the keys that approved devices join with.
 *
 * @module
 */

import type { JoinRequestJson, RequestState } from "../control/types.ts";
import type { InvitedDevice } from "../_invited.ts";
import { milliseconds } from "../_options.ts";
import { digestOf, newSecret, OneTimeSecrets, type Shown } from "./_one_time.ts";

/** Options of {@linkcode Invitations}. */
export interface InvitationsOptions {
  /** How long an invite is good, in milliseconds. @default {600000} */
  readonly lifetimeMs?: number;
  /** True to let in every device that has an invite, without asking. @default {false} */
  readonly approveAll?: boolean;
  /** Path of the page of devices, which invites lead to. @default {"/device/"} */
  readonly page?: string;
  /** The clock, in milliseconds. @default {performance.now} */
  readonly now?: () => number;
}

/** A device that asks to join. */
export interface AskingDevice {
  /** Name for people. */
  readonly name: string;
  /** Its id: 32 hexadecimal digits. */
  readonly id: string;
  /** Its public key: Ed25519 in base64url. */
  readonly key: string;
}

/** A request as it is kept while the server is away: without a secret. */
export interface KeptRequest extends AskingDevice {
  /** Name of the run. */
  readonly run: string;
  /** Digest of the key to join with. */
  readonly digest: string;
  /** What became of it. */
  readonly state: RequestState;
}

/** A request to join. */
interface JoinRequest extends AskingDevice {
  readonly number: string;
  readonly run: string;
  readonly code: string;
  readonly since: number;
  readonly digest: string;
  state: RequestState;
}

/** Invites that are kept. */
const MOST_INVITES = 256;
/** Requests that are kept, those that are over too: the oldest of these go first. */
const MOST_REQUESTS = 1024;

/**
 * What the host and a device compare, so that the host lets in the device that it means: 8 digits of its key's digest.
 *
 * @param key Public key of the device.
 */
export async function deviceCode(key: string): Promise<string> {
  const digest = (await digestOf(key)).slice(0, 8);
  return `${digest.slice(0, 4)}-${digest.slice(4)}`;
}

/**
 * Keeps invites, requests to join and join keys. Only digests of secrets are kept.
 *
 * @category Control
 */
export class Invitations {
  readonly #options: InvitationsOptions;
  readonly #now: () => number;
  readonly #invites: OneTimeSecrets<string>;
  readonly #requests = new Map<string, JoinRequest>();
  readonly #byKey = new Map<string, JoinRequest>();
  readonly #listeners = new Set<(request: JoinRequestJson) => void>();
  #count = 0;
  /** How long an invite is good, in milliseconds. */
  readonly lifetimeMs: number;

  /**
   * Without invites at first.
   *
   * @param options How long invites are good, and whether devices are asked for.
   * @throws {RangeError} If a time is out of range.
   */
  constructor(options: InvitationsOptions = {}) {
    this.#options = options;
    this.lifetimeMs = milliseconds("lifetimeMs", options.lifetimeMs, 600_000);
    this.#now = options.now ?? (() => performance.now());
    this.#invites = new OneTimeSecrets({ most: MOST_INVITES, now: this.#now });
  }

  /**
   * Makes an invite for one device: what stands behind the address of the server. The secret is in its fragment, which
   * browsers send nobody.
   *
   * @param run Name of the run.
   */
  async invite(run: string): Promise<string> {
    return `${this.#options.page ?? "/device/"}#invite=${await this.#invites.add(run, this.lifetimeMs)}`;
  }

  /** The run that an invite is for; it stays as it is. */
  async look(invite: string): Promise<Shown<string>> {
    return await this.#invites.look(invite);
  }

  /**
   * Redeems an invite: the device may ask to join.
   *
   * @param invite The secret of the invite.
   * @param device Who asks.
   * @returns The request and the key to join with, once the host approves; else what is wrong with the invite.
   */
  async redeem(
    invite: string,
    device: AskingDevice,
  ): Promise<
    { readonly request: JoinRequestJson; readonly joinKey: string } | Exclude<Shown<string>["state"], "good">
  > {
    const [code, joinKey] = [await deviceCode(device.key), newSecret(32)];
    const digest = await digestOf(joinKey);
    const shown = await this.#invites.take(invite);
    if (shown.state !== "good") return shown.state;
    const { name, id, key } = device;
    const state = this.#options.approveAll === true ? "approved" : "waiting";
    const request = this.#add({ name, id, key, digest, run: shown.value, state }, code);
    this.#tell(request);
    return { request: this.#jsonOf(request), joinKey };
  }

  /** Requests of a run, to be kept while the server is away. */
  kept(run: string): readonly KeptRequest[] {
    return [...this.#requests.values()].filter((one) => one.run === run).map((
      { name, id, key, digest, state },
    ) => ({ run, name, id, key, digest, state }));
  }

  /** Takes in requests that were kept: whoever was approved needs no other invite. */
  async restore(requests: readonly KeptRequest[]): Promise<void> {
    for (const request of requests) {
      if (!this.#byKey.has(request.digest)) this.#add(request, await deviceCode(request.key));
    }
  }

  #add(kept: KeptRequest, code: string): JoinRequest {
    const { name, id, key, digest, run, state } = kept;
    const number = String(++this.#count);
    const request: JoinRequest = { name, id, key, digest, run, state, code, number, since: this.#now() };
    this.#requests.set(number, request);
    this.#byKey.set(digest, request);
    this.#forgetOld();
    return request;
  }

  /** The request of whoever shows a join key; `null` for another token. */
  async ofKey(token: string): Promise<JoinRequestJson | null> {
    const request = this.#byKey.get(await digestOf(token));
    return request === undefined ? null : this.#jsonOf(request);
  }

  /** The device that a join key lets in; `null` if it does not, or not yet. */
  async letIn(token: string): Promise<InvitedDevice | null> {
    const request = this.#byKey.get(await digestOf(token));
    if (request?.state !== "approved") return null;
    const { run, id, key } = request;
    return { run, id, key };
  }

  /** Requests of a run, in order of asking. */
  requests(run: string): readonly JoinRequestJson[] {
    return [...this.#requests.values()].filter((one) => one.run === run).map((one) => this.#jsonOf(one));
  }

  /**
   * Answers a request.
   *
   * @param number Its number.
   * @param state What becomes of it. A device that was approved may be removed, and one that was refused approved.
   * @returns The request as it is now; `null` if there is none of that number, or its device was removed.
   */
  answer(number: string, state: "approved" | "refused"): JoinRequestJson | null {
    const request = this.#requests.get(number);
    if (request === undefined || request.state === "removed") return null;
    this.#setState(request, state);
    return this.#jsonOf(request);
  }

  /**
   * A device was removed from a run: its keys let it in no more.
   *
   * @returns False if it never asked to join.
   */
  remove(run: string, device: string): boolean {
    const own = [...this.#requests.values()].filter((request) =>
      request.run === run && [request.id, request.id.slice(0, 8)].includes(device)
    );
    for (const request of own) this.#setState(request, "removed");
    return own.length > 0;
  }

  /**
   * Calls a listener with each request that comes or changes from now on.
   *
   * @returns A function that ends it.
   */
  subscribe(listener: (request: JoinRequestJson) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /**
   * Waits until a request is no longer in a state.
   *
   * @param number Its number.
   * @param options The state; the longest wait; what ends it.
   */
  async changed(
    number: string,
    { state, limitMs, signal }: {
      readonly state: RequestState;
      readonly limitMs: number;
      readonly signal?: AbortSignal | undefined;
    },
  ): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const unsubscribe = this.subscribe((request) => request.request === number && resolve());
    signal?.addEventListener("abort", () => resolve(), { once: true });
    const timer = setTimeout(resolve, limitMs);
    if (this.#requests.get(number)?.state === state && signal?.aborted !== true) await promise;
    clearTimeout(timer);
    unsubscribe();
  }

  #setState(request: JoinRequest, state: RequestState): void {
    if (request.state === state) return;
    request.state = state;
    this.#tell(request);
  }

  #tell(request: JoinRequest): void {
    const json = this.#jsonOf(request);
    for (const listener of this.#listeners) listener(json);
  }

  #jsonOf({ number, run, name, id, code, state, since }: JoinRequest): JoinRequestJson {
    const seconds = Math.floor((this.#now() - since) / 1000);
    return { request: number, run, name, device: id.slice(0, 8), code, state, seconds };
  }

  #forgetOld(): void {
    for (const [number, { state, digest }] of this.#requests) {
      if (this.#requests.size <= MOST_REQUESTS) return;
      if (state === "approved") continue;
      this.#requests.delete(number);
      this.#byKey.delete(digest);
    }
  }
}
