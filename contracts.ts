/**
 * What pruners, codecs and transports implement, and what they are given: types, checks and errors alone. It loads
 * no tokenizer, no file format and no shader.
 *
 * @module
 */

export * from "@edgetuner/core/contracts";
