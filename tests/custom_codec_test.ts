import bf16Codec from "../examples/custom_codec.ts";
import { testCodec } from "./conformance/codec_suite.ts";

testCodec({ create: () => bf16Codec(), bound: (v) => Math.abs(v) * 2 ** -8 + 1e-40 });
