/**
 * How byte-level vocabularies cut texts into words before they merge: GGUF files only name it.
 *
 * @module
 */

/** How texts are cut, by the name in `tokenizer.ggml.pre`. */
export interface PreTokenizer {
  /** Patterns, one after the other: each cuts the pieces that the ones before it left. GPT-2's own if none is given. */
  readonly patterns?: readonly string[];
  /** Ends with GPT-2's own pattern. */
  readonly thenGpt2?: boolean;
  /** Words that are tokens are taken whole, whatever the merges would make of them. */
  readonly wordsFirst?: boolean;
  /** Whether a token begins texts unless the file says so. */
  readonly bos?: boolean;
  /** Texts get composed letters first. */
  readonly composes?: boolean;
}

const ENGLISH = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const REST = "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/** Words with the character before them, digits in groups of so many, signs with line breaks after them. */
function words(digits: string, signs = "[\\r\\n]*", letter = "\\p{L}", others = "\\p{L}\\p{N}"): string {
  return `${ENGLISH}|[^\\r\\n\\p{L}\\p{N}]?${letter}+|${digits}| ?[^\\s${others}]+${signs}|${REST}`;
}

/** Words in which capitals come first, as they are written. */
function casedWords(digits: string, ending: string): string {
  const upper = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]";
  const lower = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]";
  const before = "[^\\r\\n\\p{L}\\p{N}]?";
  return `${before}${upper}*${lower}+${ending}|${before}${upper}+${lower}*${ending}|${digits}` +
    `| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|${REST}`;
}

const GPT2: PreTokenizer = {};
const DIGITS: PreTokenizer = { patterns: ["\\p{N}"], thenGpt2: true };
const LLAMA3: PreTokenizer = { patterns: [words("\\p{N}{1,3}")] };
const QWEN2: PreTokenizer = { patterns: [words("\\p{N}")], composes: true };
const HAN_AND_KANA = "[\\u4e00-\\u9fa5\\u3040-\\u309f\\u30a0-\\u30ff]+";
const DEEPSEEK3: PreTokenizer = {
  patterns: [
    "\\p{N}{1,3}",
    HAN_AND_KANA,
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+" +
    `| ?[\\p{P}\\p{S}]+[\\r\\n]*|${REST}`,
  ],
};
const DEEPSEEK_CODER: PreTokenizer = {
  patterns: [
    "[\\r\\n]",
    "\\s?\\p{L}+",
    "\\s?\\p{P}+",
    "[\\u4e00-\\u9fa5\\u0800-\\u4e00\\uac00-\\ud7ff]+",
    "\\p{N}",
  ],
};
const GPT4O: PreTokenizer = { patterns: [casedWords("\\p{N}{1,3}", `${ENGLISH}?`)] };

const named = (pre: PreTokenizer, ...names: readonly string[]): [string, PreTokenizer][] =>
  names.map((name) => [name, pre]);

/** The ones that are known. */
export const PRE_TOKENIZERS: ReadonlyMap<string, PreTokenizer> = new Map([
  ...named(GPT2, "gpt-2", "phi-2", "mpt", "olmo", "exaone4", "gigachat", "a.x-4.0", "mellum", "trillion"),
  ...named(DIGITS, "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"),
  ...named(
    { ...LLAMA3, wordsFirst: true, bos: true },
    "llama-bpe",
    "llama3",
    "llama-v3",
    "falcon3",
    "falcon-h1",
  ),
  ...named({ ...LLAMA3, wordsFirst: true, bos: true }, "pixtral", "midm-2.0", "lfm2"),
  ...named(LLAMA3, "dbrx", "smaug-bpe", "glm4", "chatglm-bpe"),
  ...named(QWEN2, "qwen2", "deepseek-r1-qwen", "kormo", "megrez"),
  ...named({ ...QWEN2, composes: false }, "stablelm2", "hunyuan", "solar-open", "grok-2"),
  ...named({
    patterns: [words("\\p{N}", "[\\r\\n]*", "[\\p{L}\\p{M}]", "\\p{L}\\p{M}\\p{N}")],
    composes: true,
  }, "qwen35"),
  ...named({ patterns: [casedWords("\\p{N}", "")], wordsFirst: true, bos: true }, "tekken"),
  ...named(GPT4O, "gpt-4o", "llama4", "kanana2"),
  ...named(DEEPSEEK3, "deepseek-v3", "hunyuan-dense", "joyai-llm"),
  ...named(DEEPSEEK_CODER, "deepseek-coder"),
]);
