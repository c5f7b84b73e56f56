/**
 * Tokenizers that GGUF files bring along: byte-level BPE as GPT-2 has it. Others cut words by rules that
 * the file only names, or merge by scores.
 *
 * @module
 */

import { type Tokenizer, tokenizerFromJson } from "../data/tokenizer.ts";
import { CheckpointError } from "../contracts/errors.ts";
import { showValue } from "../contracts/plain_text.ts";
import { GgufFile } from "../files/gguf.ts";

/** Types of tokens that are matched whole: control and user-defined. */
const WHOLE = [3, 4];

/**
 * Reads the tokenizer of a GGUF file.
 *
 * @param path The file.
 * @throws {CheckpointError} If it has none, or none that can be read here; the message says what to give instead.
 */
export async function loadGgufTokenizer(path: string): Promise<Tokenizer> {
  const { metadata } = await GgufFile.open(path);
  const field = (name: string) => metadata[`tokenizer.ggml.${name}`];
  const refuse = (rule: string, value: unknown): never => {
    throw new CheckpointError(
      `Cannot use the tokenizer in ${path} as ${rule}: current value is ${
        showValue(value)
      }; give the model's tokenizer.json instead, beside the file or by name`,
    );
  };
  if (field("model") !== "gpt2") refuse('tokenizer.ggml.model must be "gpt2"', field("model"));
  if (field("pre") !== "gpt-2") refuse('tokenizer.ggml.pre must be "gpt-2"', field("pre"));
  const list = (name: string): readonly unknown[] => {
    const value = field(name);
    return Array.isArray(value) ? value : refuse(`tokenizer.ggml.${name} must be a list`, value);
  };
  const tokens = list("tokens").map(String);
  const types = field("token_type") === undefined ? [] : list("token_type").map(Number);
  const eos = Number(field("eos_token_id") ?? -1);
  if (tokens[eos] === undefined) refuse("tokenizer.ggml.eos_token_id must be a token", field("eos_token_id"));
  // Byte-level BPE has no token before a text unless the file says so.
  const bos = field("add_bos_token") === true ? Number(field("bos_token_id") ?? -1) : null;
  if (bos !== null && tokens[bos] === undefined) {
    refuse(
      "tokenizer.ggml.bos_token_id must be a token where add_bos_token is true",
      field("bos_token_id"),
    );
  }
  const whole = tokens.keys().filter((id) => id === eos || id === bos || WHOLE.includes(types[id] ?? 1));
  const byteLevel = { type: "ByteLevel", trim_offsets: true, use_regex: true };
  return tokenizerFromJson({
    version: "1.0",
    added_tokens: Array.from(whole, (id) => ({ id, content: tokens[id], special: true, normalized: false })),
    normalizer: null,
    pre_tokenizer: { ...byteLevel, add_prefix_space: false },
    post_processor: null,
    decoder: { ...byteLevel, add_prefix_space: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: "",
      end_of_word_suffix: "",
      fuse_unk: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: list("merges").map(String),
    },
  }, { eos: tokens[eos]!, ...(bos === null ? {} : { bos: tokens[bos]! }), name: path });
}
