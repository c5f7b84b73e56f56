"""A LoRA step in PyTorch on the processor, as a process: `system_torch.py FOLDER`, where step.ts wrote the model."""

import json
import resource
import sys
import time

import torch
import torch.nn.functional as F

MARK = "@report "


def report(**line):
    print(MARK + json.dumps(line), flush=True)


def load(folder):
    with open(f"{folder}/index.json") as file:
        index = json.load(file)
    tensors = {}
    for name, shape in index["tensors"].items():
        data = torch.frombuffer(bytearray(open(f"{folder}/{name}", "rb").read()), dtype=torch.float32)
        tensors[name] = data.reshape(shape)
    return index, tensors


class Model:
    def __init__(self, index, tensors):
        self.shape, self.weights = index["shape"], tensors
        self.scale = index["alpha"] / index["rank"]
        self.tokens = torch.tensor(index["tokens"]).reshape(self.shape["batch"], self.shape["length"])
        self.targets = torch.tensor(index["targets"])
        self.lora = [name for name in tensors if name.startswith("lora.")]
        for name in self.lora:
            tensors[name].requires_grad_()
        adam = index["adam"]
        self.optimizer = torch.optim.Adam(
            [tensors[name] for name in self.lora],
            lr=adam["learningRate"],
            betas=(adam["beta1"], adam["beta2"]),
            eps=adam["epsilon"],
        )

    def norm(self, x, name):
        w = self.weights
        size, epsilon = (x.shape[-1],), self.shape["layer_norm_epsilon"]
        return F.layer_norm(x, size, w[f"{name}.weight"], w[f"{name}.bias"], epsilon)

    def linear(self, x, name):
        w = self.weights
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    def delta(self, x, layer, target):
        w = self.weights
        return self.scale * (x @ w[f"lora.{layer}.{target}.a"].T) @ w[f"lora.{layer}.{target}.b"].T

    def heads(self, x):
        batch, length, width = x.shape
        return x.reshape(batch, length, self.shape["n_head"], -1).transpose(1, 2)

    def layer(self, h, i):
        x = self.norm(h, f"h.{i}.ln_1")
        q, k, v = self.linear(x, f"h.{i}.attn.c_attn").chunk(3, dim=-1)
        q, v = q + self.delta(x, i, "q"), v + self.delta(x, i, "v")
        mixed = F.scaled_dot_product_attention(self.heads(q), self.heads(k), self.heads(v), is_causal=True)
        h = h + self.linear(mixed.transpose(1, 2).reshape(h.shape), f"h.{i}.attn.c_proj")
        inner = F.gelu(self.linear(self.norm(h, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc"), approximate="tanh")
        return h + self.linear(inner, f"h.{i}.mlp.c_proj")

    def step(self):
        w = self.weights
        h = w["wte.weight"][self.tokens] + w["wpe.weight"][: self.shape["length"]]
        for i in range(self.shape["n_layer"]):
            h = self.layer(h, i)
        logits = self.norm(h, "ln_f") @ w["wte.weight"].T
        loss = F.cross_entropy(logits.flatten(0, 1), self.targets)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def main():
    try:
        begun = time.perf_counter()
        model = Model(*load(sys.argv[1]))
        about = f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads"
        report(kind="ready", about=about, ms=1000 * (time.perf_counter() - begun))
        for _ in sys.stdin:
            before, used = time.perf_counter(), time.process_time()
            loss = model.step()
            ms = 1000 * (time.perf_counter() - before)
            report(kind="step", loss=loss, ms=ms, processorMs=1000 * (time.process_time() - used))
        report(kind="end", peakBytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    except Exception as error:  # whatever it is, the other systems go on
        report(kind="failed", error=f"{type(error).__name__}: {error}")
        raise


main()
