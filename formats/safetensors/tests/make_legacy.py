#!/usr/bin/env python3
"""Makes tests/legacy/: sparse-bitmask and sparse-24-bitmask models by compressed-tensors' own encoder, and the dense models
that its own decoder makes of them.

    pip install 'compressed-tensors==0.14.*' 'transformers<5' torch safetensors
    python formats/safetensors/tests/make_legacy.py

- bitmask/: two shards, the pieces of one weight in both; names without `.weight`, as since January 2025.
- old-names.safetensors: the same encoder, given names with `.weight`, as its caller did before.
- 24/: one file in a folder, 2:4.
"""

import json
import shutil
from pathlib import Path

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.config import SparsityCompressionConfig
from safetensors.torch import save_file

OUT = Path(__file__).parent / "legacy"


def weight(shape, dtype, keep, generator):
    """A weight of which about a share is not zero; a −0.0, which the encoder drops, among them."""
    value = torch.randn(shape, generator=generator)
    value[torch.rand(shape, generator=generator) > keep] = 0
    value.view(-1)[1] = -0.0
    return value.to(dtype)


def two_of_four(shape, dtype, generator):
    value = torch.randn(shape, generator=generator).view(-1, 4)
    value.scatter_(1, value.abs().topk(2, dim=1, largest=False).indices, 0)
    return value.view(shape).to(dtype)


def encoder(form, structure):
    config = SparsityCompressionConfig.load_from_registry(
        form, format=form, global_sparsity=0.5, sparsity_structure=structure
    )
    return BaseCompressor.load_from_registry(form, config=config), config.model_dump()


def config_json(config):
    """As llm-compressor saved it: the sparsity beside an empty quantisation."""
    return json.dumps(
        {
            "architectures": ["TestForCausalLM"],
            "hidden_size": 24,
            "quantization_config": {
                "config_groups": {},
                "format": "dense",
                "quant_method": "compressed-tensors",
                "quantization_status": "compressed",
                "sparsity_config": config,
            },
            "torch_dtype": "bfloat16",
        },
        indent=2,
        default=str,
    )


def decoded(compressor, small):
    return {k: v.contiguous() for k, v in compressor.decompress_from_state_dict(small)}


def check(dense, back):
    assert dense.keys() == back.keys(), (dense.keys(), back.keys())
    for name, value in dense.items():
        same = back[name].to(torch.float32) == value.to(torch.float32)
        assert back[name].dtype == value.dtype and bool(same.all()), name


def write(folder, shards, config):
    folder.mkdir(parents=True)
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards):
        save_file(shard, folder / name, metadata={"format": "pt"})
    total = sum(t.numel() * t.element_size() for shard in shards for t in shard.values())
    places = {key: name for name, shard in zip(names, shards) for key in shard}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    if config:
        (folder / "config.json").write_text(config)


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    generator = torch.Generator().manual_seed(4)
    dense = {
        "lm_head.weight": weight((11, 24), torch.float32, 0.3, generator),
        "model.embed_tokens.weight": weight((13, 24), torch.bfloat16, 0.5, generator),
        "model.layers.0.bias": torch.randn(24, generator=generator).to(torch.bfloat16),
        "model.layers.0.conv.weight": weight((3, 2, 2, 5), torch.float16, 0.4, generator),
        "model.layers.0.fp8.weight": weight((5, 16), torch.float32, 0.4, generator).to(torch.float8_e4m3fn),
        "model.layers.0.q_proj.weight": weight((9, 17), torch.bfloat16, 0.2, generator),
        "model.layers.0.zero.weight": torch.zeros((3, 8), dtype=torch.bfloat16),
        "model.norm.scale": torch.ones(24, dtype=torch.bfloat16),
    }
    compressor, config = encoder("sparse-bitmask", "unstructured")
    small = compressor.compress(dense)
    back = decoded(compressor, small)
    check(dense, back)
    # The pieces of q_proj in both shards.
    second = {"model.layers.0.q_proj.bitmask", "model.layers.0.q_proj.shape", "model.layers.0.q_proj.row_offsets"}
    second |= {k for k in small if k.startswith(("lm_head", "model.layers.0.fp8", "model.norm"))}
    shards = [{k: v for k, v in small.items() if (k in second) == late} for late in (False, True)]
    write(OUT / "bitmask", shards, config_json(config))
    home = {k: int(k.startswith(("lm_head", "model.layers.0.fp8", "model.norm"))) for k in back}
    write(OUT / "bitmask.dense", [{k: v for k, v in back.items() if home[k] == i} for i in (0, 1)], None)

    old = {}
    for name, value in dense.items():
        old |= compressor.compress_weight(name, value) if name.endswith(".weight") else {name: value}
    assert "lm_head.weight.bitmask" in old
    save_file(old, OUT / "old-names.safetensors")
    save_file(back, OUT / "old-names.dense.safetensors")

    compressor, config = encoder("sparse-24-bitmask", "2:4")
    dense = {
        "model.layers.0.k_proj.weight": two_of_four((6, 20), torch.float16, generator),
        "model.layers.0.o_proj.bias": torch.randn(6, generator=generator).to(torch.float16),
        "model.layers.0.o_proj.weight": two_of_four((4, 8), torch.bfloat16, generator),
    }
    small = {}
    for name, value in dense.items():
        small |= compressor.compress_weight(name, value) if value.dim() == 2 else {name: value}
    back = decoded(compressor, small)
    check(dense, back)
    (OUT / "24").mkdir()
    save_file(small, OUT / "24" / "model.safetensors", metadata={"format": "pt"})
    (OUT / "24" / "config.json").write_text(config_json(config))
    save_file(back, OUT / "24.dense.safetensors", metadata={"format": "pt"})


main()
