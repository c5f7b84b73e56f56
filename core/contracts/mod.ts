/**
 * What plugins and transports implement, and what they are given: types, checks and errors alone. Importing it loads
 * no tokenizer, no file format and no shader.
 *
 * @module
 */

export * from "./channel.ts";
export * from "./check_number.ts";
export * from "./clock.ts";
export * from "./codec.ts";
export * from "./errors.ts";
export * from "./links.ts";
export * from "./micro_batches.ts";
export * from "./model_shape.ts";
export * from "./plain_text.ts";
export * from "./ports.ts";
export * from "./pruner.ts";
export * from "./time_limit.ts";
