/**
 * What a peer is given: what to send, what to expect, and its limits.
 *
 * @module
 */

import type { WireTensor } from "./frame.ts";
import type { ByteLedger } from "./ledger.ts";
import type { FrameKind, MetaOf, Side } from "./messages.ts";

/** What is sent: with `meta` where the kind has fields that must be there. */
export type Outgoing<K extends FrameKind = FrameKind> =
  & OutgoingEnvelope
  & (Record<never, never> extends MetaOf<K> ? { readonly meta?: MetaOf<K> } : { readonly meta: MetaOf<K> });

/** What may be sent with every kind of frame. */
export interface OutgoingEnvelope {
  /** Step. @default {0} */
  readonly step?: number;
  /** Layer. @default {0} */
  readonly layer?: number;
  /** Micro-batch. @default {0} */
  readonly microBatch?: number;
  /** Tensors. @default {[]} */
  readonly tensors?: readonly WireTensor[];
}

/** What is expected next in a lane. */
export interface Expectation {
  /** Step that the frame must carry. */
  readonly step?: number;
  /** Layer that the frame must carry. */
  readonly layer?: number;
  /** Micro-batch that the frame must carry. @default {0} */
  readonly microBatch?: number;
  /** Shapes that the frame's tensors must have; `null` for a length that may be anything. */
  readonly shapes?: readonly (readonly (number | null)[])[];
}

/** Options of a peer. */
export interface PeerOptions {
  /** Longest wait for a frame, in milliseconds. @default {120000} */
  readonly timeoutMs?: number | undefined;
  /** Ends every wait. */
  readonly signal?: AbortSignal | undefined;
  /** Counts what is sent and received. @default {a new one} */
  readonly ledger?: ByteLedger | undefined;
  /**
   * Most bytes of memory of frames that may wait in a lane before they are asked for; a single frame may always
   * wait. An honest peer is two frames ahead at most, so the default fits frames of 128 MiB: X of 8192
   * tokens at d = 4096. @default {268435456}
   */
  readonly maxQueuedBytes?: number | undefined;
  /**
   * What the other side is. It may then send only what such a side sends; and until the welcome only small
   * frames of the handshake, 16 KiB in all.
   *
   * @default {either, with no handshake to wait for}
   */
  readonly remote?: Side | undefined;
  /** Called with true when the run is paused, and with false when it goes on. */
  onPause?(paused: boolean): void;
}
