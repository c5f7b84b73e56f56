/**
 * Scores of generated texts and of chosen answers, equal to those of the tools that papers report: BLEU, NIST,
 * METEOR, ROUGE-L, CIDEr of the E2E challenge; accuracy of the lm-evaluation-harness. Apart from the main entry
 * point, so that those who do not score load none of it.
 *
 * N instances of a corpus.
 *
 * @module
 */

export { bleu, type BleuOptions, type BleuResult, nist } from "./bleu.ts";
export { choiceAccuracy, type ChoiceScores, type MeanWithError, type ScoredChoice } from "./choice.ts";
export { cider } from "./cider.ts";
export type { Corpus, ScoreWithSegments } from "./corpus.ts";
export {
  type DecodedInstance,
  type DecodeOptions,
  decodePredictions,
  e2eFiles,
  type EncodedPrediction,
  numberedFiles,
  type TextFiles,
} from "./decode.ts";
export {
  loadCorpus,
  loadCorpusOf,
  parseNumberedReferences,
  parsePredictions,
  parseReferences,
} from "./files.ts";
export { meteor } from "./meteor.ts";
export {
  loadMeteorData,
  type MeteorData,
  type MeteorFolders,
  parseFunctionWords,
  parseMeteorSynonyms,
  parsePrefixes,
  parseWordNet,
  type Synonyms,
} from "./meteor_data.ts";
export { mtevalTokens } from "./mteval_tokens.ts";
export { ptbTokens } from "./ptb_tokens.ts";
export { rougeL } from "./rouge_l.ts";
export { type CorpusScores, scoreCorpus, type ScoreOptions, type Scores } from "./scores.ts";
