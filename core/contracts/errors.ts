/**
 * Errors that callers catch. Everything else that is wrong with an argument is a built-in
 * `TypeError` (wrong type or shape), `RangeError` (out of range) or `SyntaxError` (unparsable).
 *
 * Messages state the action, then the rule, then the current value.
 *
 * @module
 */

/**
 * A frame broke the protocol: malformed, oversized, out of order or of the wrong shape. The peer that sent it is closed.
 *
 * @category Errors
 */
export class ProtocolError extends Error {
  /** Always `"ProtocolError"`. */
  override readonly name = "ProtocolError";
}

/**
 * A peer refused or was refused: wrong version, wrong model, wrong token, no place left.
 *
 * @category Errors
 */
export class HandshakeError extends Error {
  /** Always `"HandshakeError"`. */
  override readonly name = "HandshakeError";
}

/**
 * A channel could not be opened, or ended while something was still expected from it.
 *
 * @category Errors
 */
export class ChannelClosedError extends Error {
  /** Always `"ChannelClosedError"`. */
  override readonly name = "ChannelClosedError";
}

/**
 * A wait reached its limit.
 *
 * @category Errors
 */
export class DeadlineError extends Error {
  /** Always `"DeadlineError"`. */
  override readonly name = "DeadlineError";
}

/**
 * A plugin returned something its contract does not allow.
 *
 * @category Errors
 */
export class PluginError extends Error {
  /** Always `"PluginError"`. */
  override readonly name = "PluginError";
}

/**
 * Training cannot go on, as a loss, a norm or a weight is not a finite number any more.
 *
 * @category Errors
 */
export class TrainingError extends Error {
  /** Always `"TrainingError"`. */
  override readonly name = "TrainingError";
  /**
   * Which device sent the number, in words, where that is another one: what this party has learnt is good. `null` if
   * the run as a whole diverged.
   */
  readonly device: string | null;

  /** Says what was not finite, and whose it was. */
  constructor(message: string, options: ErrorOptions & { readonly device?: string | null } = {}) {
    super(message, options);
    this.device = options.device ?? null;
  }
}

/**
 * A file of a model or an adapter is unreadable or does not fit.
 *
 * @category Errors
 */
export class ModelFileError extends Error {
  /** Always `"ModelFileError"`. */
  override readonly name = "ModelFileError";
}

/**
 * The saved state of a run is unreadable, or it is not of the run that is to go on.
 *
 * @category Errors
 */
export class RunStateError extends Error {
  /** Always `"RunStateError"`. */
  override readonly name = "RunStateError";
}

/**
 * A line of data is not as its format says, or a file of data holds nothing that can be used.
 *
 * @category Errors
 */
export class DataFormatError extends Error {
  /** Always `"DataFormatError"`. */
  override readonly name = "DataFormatError";
}

/**
 * A file or folder could not be written: the disk is full, for example, or another program uses it. What was there before is still whole.
 *
 * @category Errors
 */
export class SaveError extends Error {
  /** Always `"SaveError"`. */
  override readonly name = "SaveError";
}

/** A text cannot be generated, or its likelihood computed, as what the model gives is not finite. */
export class GenerationError extends Error {
  /** Always `"GenerationError"`. */
  override readonly name = "GenerationError";
}

/**
 * A download failed for good: refused, missing, or not what it should be. What came so far is kept for the next try.
 *
 * @category Errors
 */
export class DownloadError extends Error {
  /** Always `"DownloadError"`. */
  override readonly name = "DownloadError";
}

/** A server could not listen. */
export class ListenError extends Error {
  /** Always `"ListenError"`. */
  override readonly name = "ListenError";
  /** Code of the system, such as `EADDRINUSE`; empty if it gave none. */
  readonly code: string;

  /**
   * Says what was wrong.
   *
   * @param hostname Address.
   * @param port Port.
   * @param cause What the system said.
   */
  constructor(hostname: string, port: number, cause: Error) {
    const { code = "" } = cause as { readonly code?: string };
    const inUse = code === "EADDRINUSE";
    super(
      inUse
        ? `Cannot listen as port ${port} of ${hostname} must be free: it is in use`
        : `Cannot listen on ${hostname}:${port}: ${cause.message}`,
      { cause },
    );
    this.code = code;
  }
}
