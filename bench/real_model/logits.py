#!/usr/bin/env python3
"""Logits of transformers for a GGUF model, with PEFT's adapter if one is named.

    python3 logits.py MODEL.gguf TOKENS OUT [ADAPTER]

TOKENS are ids with commas between them; OUT becomes float32 numbers [tokens, vocabulary].
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    model_path, tokens, out, *adapter = sys.argv[1:]
    path = Path(model_path)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter[0])
    model.eval()
    ids = torch.tensor([[int(token) for token in tokens.split(",")]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0].float()
    Path(out).write_bytes(logits.numpy().tobytes())


if __name__ == "__main__":
    main()
