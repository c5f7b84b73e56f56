/**
 * How likely a model finds given continuations, as EleutherAI's lm-evaluation-harness counts it: what choice tasks
 * compare.
 *
 * B sequences of a batch, T tokens of a sequence.
 *
 * @module
 */

import type { EncodedRequest } from "../data/choice_tasks.ts";
import type { GenerationModel } from "./greedy.ts";
import { embedTokens, targetLogProbabilities, type TokenBatch } from "../model/loss.ts";
import { Tape } from "../model/tape.ts";

/** Options of `logLikelihoods`. */
export interface LikelihoodOptions {
  /** B, sequences computed side by side. @default {16} */
  readonly batch?: number;
  /** Most tokens that the model is given; longer sequences lose their start. @default {the model's positions} */
  readonly maxLength?: number;
  /** Ends the computation with an error. */
  readonly signal?: AbortSignal | undefined;
  /** Called after each batch with how many requests are done. */
  onProgress?(done: number): void;
}

/** Lengths are padded to multiples of this, so that tensors of few sizes are used again and again. */
const LENGTH_STEP = 16;

/** A request as a sequence of which all but the last token are given to the model. */
export interface ScoredSequence {
  /** The last T + 1 tokens of context and continuation. */
  readonly tokens: readonly number[];
  /** Index in `tokens` of the first one that is scored, at least 1. */
  readonly first: number;
}

/**
 * Cuts a request to the last `maxLength` + 1 tokens, of which the model is given all but the last.
 *
 * @throws {RangeError} If there is no token to begin with or none to score, those to score do not fit, or a token is not
 * in the vocabulary.
 */
export function scoredSequence(
  { context, continuation }: EncodedRequest,
  maxLength: number,
  vocabulary: number,
): ScoredSequence {
  if (context.length === 0) throw noLikelihood("the context must have at least one token", 0);
  if (continuation.length === 0 || continuation.length > maxLength) {
    throw noLikelihood(`the continuation must have 1 to ${maxLength} tokens`, continuation.length);
  }
  const tokens = [...context, ...continuation].slice(-(maxLength + 1));
  // The last one is never given to the model, which would look.
  const alien = tokens.find((token) => !(Number.isInteger(token) && token >= 0 && token < vocabulary));
  if (alien !== undefined) {
    throw noLikelihood(`tokens must be in the vocabulary (below ${vocabulary})`, alien);
  }
  return { tokens, first: tokens.length - continuation.length };
}

function noLikelihood(rule: string, value: number): RangeError {
  return new RangeError(`Cannot compute a likelihood as ${rule}: current value is ${value}`);
}

/** Sequences side by side, padded at the end to `length`, with the tokens to score as targets. */
export function scoredBatch(sequences: readonly ScoredSequence[], length: number): TokenBatch {
  const batch = sequences.length;
  const tokens = new Uint32Array(batch * length);
  const targets = new Uint32Array(batch * length);
  const mask = new Float32Array(batch * length);
  sequences.forEach((sequence, row) => {
    const start = row * length;
    tokens.set(sequence.tokens.slice(0, -1), start);
    targets.set(sequence.tokens.slice(1), start);
    mask.fill(1, start + sequence.first - 1, start + sequence.tokens.length - 1);
  });
  return { tokens, targets, mask, batch, length };
}

/**
 * Computes the log-likelihood of each continuation given its context: the sum of the natural logarithms of the
 * probabilities of its tokens, in double precision. Padding and what else is in a batch make no difference.
 *
 * Where the layers are on another machine, `TokenSession.logLikelihood` does it for one request at a time.
 *
 * @param model The model, with or without head modules.
 * @param requests Tokens, from `encodeRequest`.
 * @param options B, most tokens, progress.
 * @returns One number for each request, at most 0. Shape [requests].
 * @throws {RangeError} If a request has no token in its context or none to score, more than fit are to be scored, a
 * token is not in the vocabulary, or an option is out of range.
 * @throws The signal's reason, if it is aborted.
 *
 * @example
 * ```ts ignore
 * import { choiceAccuracy } from "@edgetuner/core/evaluation";
 * import { encodeRequest, logLikelihoods } from "@edgetuner/core";
 *
 * const requests = questions.flatMap((q) => q.requests).map((r) => encodeRequest(tokenizer, r));
 * const likelihoods = await logLikelihoods({ engine, layers, ends, heads: null }, requests);
 * ```
 */
export async function logLikelihoods(
  model: GenerationModel,
  requests: readonly EncodedRequest[],
  options: LikelihoodOptions = {},
): Promise<number[]> {
  const { engine, layers, ends, heads } = model;
  const { positions, vocabulary } = ends.shape;
  const { batch: size = 16, maxLength = positions } = options;
  for (
    const [name, value, most] of [["batch", size, Infinity], ["maxLength", maxLength, positions]] as const
  ) {
    if (!Number.isInteger(value) || value < 1 || value > most) {
      throw new RangeError(
        `Cannot compute likelihoods as '${name}' must be an integer of at least 1${
          most === Infinity ? "" : ` and at most ${most}`
        }: current value is ${value}`,
      );
    }
  }
  const sequences = requests.map((request) => scoredSequence(request, maxLength, vocabulary));
  // Those of like length together; the longest first, so that too large a batch fails at once.
  const order = [...sequences.keys()].sort((i, j) =>
    sequences[j]!.tokens.length - sequences[i]!.tokens.length || i - j
  );
  const found: number[] = Array(requests.length).fill(0);
  await heads?.beginStep({
    step: 0,
    mode: "evaluate",
    mask: new Uint8Array(layers.shape.layers * layers.shape.heads),
  });
  for (let at = 0; at < order.length; at += size) {
    options.signal?.throwIfAborted();
    const picked = order.slice(at, at + size);
    const longest = sequences[picked[0]!]!.tokens.length - 1;
    const length = Math.min(positions, Math.ceil(longest / LENGTH_STEP) * LENGTH_STEP);
    const batch = scoredBatch(picked.map((i) => sequences[i]!), length);
    using tape = new Tape(engine, { training: false });
    const hidden = await layers.forward(
      tape,
      tape.variable(embedTokens(ends, batch), { needsGradient: false }),
      batch,
      heads,
    );
    const values = await targetLogProbabilities(ends, hidden.value, batch);
    let place = 0;
    for (const i of picked) {
      const { tokens, first } = sequences[i]!;
      for (const end = place + tokens.length - first; place < end; place++) found[i]! += values[place]!;
    }
    options.onProgress?.(at + picked.length);
  }
  return found;
}
