/**
 * What an edge server measures of its devices' links and of their work, for pruners that know what a mask costs.
 *
 * @module
 */

/**
 * A device with heads, as its answers of the last steps show it: a question with n kept heads is answered after about
 * `roundTripSeconds` + n * `secondsPerHead`. All of it is measured at the edge server.
 */
export interface DeviceLink {
  /**
   * Seconds of a question and its answer, however little travels: the round trip, and what any answer takes the device.
   * Mean of the ways forward and back.
   */
  readonly roundTripSeconds: number;
  /** Seconds that each kept head of a layer adds to an answer: transfer both ways, and the device's compute. */
  readonly secondsPerHead: {
    /** On the way forward. */
    readonly forward: number;
    /** On the way back. */
    readonly backward: number;
  };
  /**
   * Bytes a second to and from the device, if transfer is all that a head takes. The edge server cannot tell a device's
   * compute from its link: the true bandwidth is at least this. `null` until it is known.
   */
  readonly bytesPerSecond: { readonly down: number; readonly up: number } | null;
}

/** What the edge server has measured so far. */
export interface LinkStatistics {
  /** Of each device with heads, in order of their heads; `null` while nothing is known of it. */
  readonly devices: readonly (DeviceLink | null)[];
  /** Bytes of tensors that a kept head of a layer puts on the wire in a training step. */
  readonly bytesPerHead: { readonly down: number; readonly up: number };
  /** Bytes around them in a layer for each device with a kept head in it: the envelopes of its frames. */
  readonly bytesPerDevice: number;
  /** The last training step: seconds from the end of the step before it, and bytes of all frames. */
  readonly lastStep: { readonly seconds: number; readonly bytes: number };
}
